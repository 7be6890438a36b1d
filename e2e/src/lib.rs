//! The real binary `kube-proxy` on a node made of network namespaces, and questions to it with real sockets.
//!
//! - [`Proxy`]: the binary, on a directory of manifests that tests and the demo edit.
//! - [`Workload`]: a pod whose servers say who they are.
//! - [`Probe`]: who asks what, and what is to come of it.
//! - [`Traffic`]: a steady stream of connections, to see whether a change costs any.
//! - [`Sender`]: a UDP flow that never pauses, to see where a change leads it.
//!
//! The tests are in `tests/it`, the demo in `src/bin/demo`. Both need root.

mod api_server;
mod forwarder;
mod manifests;
mod probe;
mod proxy;
mod sender;
mod settings;
mod traffic;
mod workload;

pub use api_server::ApiServer;
pub use manifests::Manifests;
pub use probe::{Destination, Expected, Host, Probe, Seen, Source, answers};
pub use proxy::{PATIENCE, Proxy};
pub use sender::Sender;
pub use settings::{Pods, Settings};
pub use traffic::{SetWhenDropped, Traffic};
pub use workload::Workload;

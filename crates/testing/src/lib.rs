//! What tests, the demo and benches need around the proxy. Nothing here is part of the product.
//!
//! - [`netns`]: hosts made of network namespaces, and a small cluster of them.
//! - [`traffic`]: servers and clients with real sockets, to see who answers and whose address they see.
//! - [`api`]: a fake Kubernetes API server, with faults to switch on.
//! - [`crowd`]: an API server for thousands of clients under a paused clock.
//! - [`deprived`]: tests that must not change the network.
//! - [`http`]: a client for the proxy's own servers.
//! - [`metrics`]: a strict reader of the proxy's metrics.
//! - [`objects`]: Kubernetes objects, built in one line each.
//! - [`scale`]: many Services at once.
//!
//! Errors are [`anyhow::Error`]: tests only print them.

mod children;

pub mod api;
pub mod crowd;
pub mod deprived;
pub mod http;
pub mod metrics;
pub mod netns;
pub mod objects;
pub mod scale;
pub mod traffic;

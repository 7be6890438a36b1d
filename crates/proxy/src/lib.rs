//! The kube-proxy binary: wiring, the sync loop, HTTP servers and what is to be known of the node.
//!
//! A source (the API server or a directory of manifests) sends updates to the `Syncer`, which owns the state. For each
//! family it has a `Table`, which compiles changes into transactions and has them committed on a thread of their own.
//! Beside it run two HTTP servers. [`run`] puts all this together; `main.rs` adds the command line and the exit code.

mod asides;
mod cleanup;
mod clock;
mod commit;
mod conflicts;
mod events;
mod fastpath;
mod flags;
mod flows;
mod http;
mod initialize;
mod live;
mod localhost;
mod node;
mod pacer;
mod pods;
mod reload;
mod repairs;
mod run;
mod service_health;
mod source;
mod syncer;
mod sysctls;
mod table;

pub use cleanup::cleanup;
pub use flags::Flags;
pub use initialize::initialize;
pub use run::run;

//! The Kubernetes API, or a directory of manifests, as one stream of [`model::Update`]s.
//!
//! [`watch_api`] and [`watch_node`] list and watch; [`watch_directory`] reads files and follows their changes. Both read the same objects
//! and convert them with the same code, which is total: whatever an object contains, every other object, and every other
//! field of the same object, counts as if nothing were wrong. What is wrong is a [`Problem`], told once through the
//! [`Reporter`].
//!
//! Tracing targets of kube itself (`kube_client`, `kube_runtime`) repeat, less clearly, what is logged here: a
//! subscriber does well to leave them out.

mod api;
mod client;
mod convert;
mod directory;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod intern;
mod lenient;
mod problem;
mod requests;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod slim;
mod token;
mod watch;

pub use api::{watch_api, watch_node};
pub use client::{ApiServer, ClientError};
pub use directory::{DirectoryError, node_in_directory, watch_directory};
pub use problem::{BURST, Event, Problem, Reporter};
pub use watch::{DirectoryWatch, WatchError};

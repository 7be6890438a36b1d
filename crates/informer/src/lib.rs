//! Kubernetes API and manifest directory as one stream of model updates.

mod client;
mod convert;
mod intern;
mod lenient;
mod problem;
mod slim;

pub use client::{ApiServer, ClientError};
pub use problem::{BURST, Problem, Reporter};

//! Metrics, health state and logging.
//!
//! Nothing here serves HTTP or runs a loop: [`Metrics`] and [`Health`] are told what happened, and say it when asked.

mod health;
pub mod logging;
mod metrics;

pub use health::{Health, HealthReport, Moment};
pub use metrics::{FullSync, InterfaceSync, Invalidation, Metrics, MetricsError, Slis, SyncKind};

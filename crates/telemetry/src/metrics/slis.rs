//! What `/metrics/slis` shows: service level indicators, in a registry of their own.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::process::StartTime;
use super::register::Register;
use super::{MetricsError, text};

/// How the health checks of the metrics server ended, and when the process started (contract §9).
#[derive(Debug)]
pub struct Slis {
    registry: Registry,
    last: IntGaugeVec,
    total: IntCounterVec,
}

impl Slis {
    /// No check was made so far.
    ///
    /// # Errors
    /// A metric has a malformed name: a mistake in this program, found at its start.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        registry.register(Box::new(StartTime::new()))?;
        let register = Register::new(&registry);
        Ok(Self {
            last: register.gauges_by(
                "kubernetes_healthcheck",
                "[STABLE] 1 if a health check passed when it was last made, 0 if it failed",
                &["name", "type"],
            )?,
            total: register.counters_by(
                "kubernetes_healthchecks_total",
                "[STABLE] Health checks that were made, by how they ended",
                &["name", "type", "status"],
            )?,
            registry,
        })
    }

    /// `/healthz` was asked, and its only check, named `ping`, passed: that it answers at all.
    pub fn answered(&self) {
        self.last.with_label_values(&["ping", "healthz"]).set(1);
        self.total.with_label_values(&["ping", "healthz", "success"]).inc();
    }

    /// Forgets all checks.
    pub fn reset(&self) {
        self.last.reset();
        self.total.reset();
    }

    /// All of it in the text format of Prometheus.
    pub fn render(&self) -> String {
        text(&self.registry)
    }
}

//! Metrics of NodePorts on localhost (KEP-6032).

use model::Family;
use prometheus::{IntCounterVec, IntGaugeVec};

use super::register::Register;
use super::{FAMILY, Metrics, MetricsError};

#[derive(Debug)]
pub(super) struct Localhost {
    listeners: IntGaugeVec,
    failures: IntCounterVec,
}

impl Localhost {
    pub(super) fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            listeners: register.gauges(
                "kubeproxy_nftables_localhost_nodeport_listeners",
                "[ALPHA] NodePorts that are listened on at localhost",
                FAMILY,
            )?,
            failures: register.counters(
                "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total",
                "[ALPHA] Times that a NodePort could not be listened on at localhost; each is tried again",
                FAMILY,
            )?,
        })
    }
}

impl Metrics {
    /// NodePorts of this family are to answer on localhost.
    pub fn localhost_wanted(&self, family: Family) {
        self.localhost.listeners.with_label_values(&[family.label()]).set(0);
        self.localhost.failures.with_label_values(&[family.label()]).inc_by(0);
    }

    /// One more NodePort is listened on at localhost.
    pub fn localhost_listener_opened(&self, family: Family) {
        self.localhost.listeners.with_label_values(&[family.label()]).inc();
    }

    /// One NodePort less is listened on at localhost.
    pub fn localhost_listener_closed(&self, family: Family) {
        self.localhost.listeners.with_label_values(&[family.label()]).dec();
    }

    /// A NodePort could not be listened on at localhost.
    pub fn localhost_listener_failed(&self, family: Family) {
        self.localhost.failures.with_label_values(&[family.label()]).inc();
    }
}

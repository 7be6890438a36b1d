//! Metrics of the fast path.

use std::time::Duration;

use model::Family;
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::register::{self, Register};
use super::{FAMILY, Metrics, MetricsError, gauge};

#[derive(Debug)]
pub(super) struct FastPath {
    enabled: IntGaugeVec,
    devices: IntGaugeVec,
    flows: IntGaugeVec,
    offloads: IntCounterVec,
    misses: IntCounterVec,
    dry_run: IntCounterVec,
    invalidated: IntCounterVec,
    interface_syncs: IntCounterVec,
    interface_sync_duration: HistogramVec,
}

/// How a look at the node's network devices ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceSync {
    /// The kernel has the devices that it should have.
    Done,
    /// A device went or came while it was being told; it was tried again.
    Raced,
    /// It has not, and will be told again.
    Failed,
}

/// Why a connection was taken out of a flowtable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalidation {
    /// Its endpoint is gone, or, of UDP, does not serve any more.
    Endpoint,
    /// No Service has the frontend any more that the client uses.
    Service,
}

impl Invalidation {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Endpoint, Self::Service];

    const fn label(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Service => "service",
        }
    }
}

impl InterfaceSync {
    const fn label(self) -> &'static str {
        match self {
            Self::Done => "success",
            Self::Raced => "raced",
            Self::Failed => "error",
        }
    }
}

impl FastPath {
    pub(super) fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            enabled: register.gauges(
                "kubeproxy_fastpath_enabled",
                "1 if established connections to Services may leave the slow path, 0 if they may not: the log says why",
                FAMILY,
            )?,
            devices: register.gauges(
                "kubeproxy_fastpath_devices",
                "Network devices of the node between which connections are offloaded",
                FAMILY,
            )?,
            flows: register.gauges(
                "kubeproxy_fastpath_flows",
                "Connections that are in a flowtable now, as conntrack tells",
                FAMILY,
            )?,
            offloads: register.counters(
                "kubeproxy_fastpath_offloads_total",
                "Times that a connection was put into the flowtable; one that is idle for 30 s leaves it",
                FAMILY,
            )?,
            misses: register.counters(
                "kubeproxy_fastpath_misses_total",
                "Packets of connections in the flowtable that took the slow path all the same",
                FAMILY,
            )?,
            dry_run: register.counters(
                "slipstream_fastpath_dry_run_packets_total",
                "Packets that would have taken the fast path if it were not for the dry run",
                FAMILY,
            )?,
            invalidated: register.counters(
                "kubeproxy_fastpath_invalidated_flows_total",
                "Connections that were deleted while they were in a flowtable, by reason: endpoint (it is gone, or, of UDP, serves no \
                 more), service (it is gone, or the frontend is). Those of Services that opt out are not counted: they are not deleted, \
                 but leave with all others, which come back",
                "reason",
            )?,
            interface_syncs: register.counters(
                "kubeproxy_fastpath_interface_syncs_total",
                "Times that the kernel was told of other network devices, by result: success, raced (a device came or went \
                 meanwhile, and it was tried again), error",
                "result",
            )?,
            interface_sync_duration: register.histograms(
                "kubeproxy_fastpath_interface_sync_duration_seconds",
                "How long it took to list the node's network devices and to tell the kernel of those that changed, in seconds",
                register::commit_buckets(),
            )?,
        })
    }
}

impl Metrics {
    /// Whether connections of this family may be offloaded.
    pub fn fast_path_enabled(&self, family: Family, enabled: bool) {
        self.fast_path.enabled.with_label_values(&[family.label()]).set(enabled.into());
    }

    /// Between so many devices.
    pub fn fast_path_devices(&self, family: Family, devices: usize) {
        self.fast_path.devices.with_label_values(&[family.label()]).set(gauge(devices));
    }

    /// So many connections are in a flowtable.
    pub fn fast_path_flows(&self, family: Family, flows: u64) {
        self.fast_path.flows.with_label_values(&[family.label()]).set(i64::try_from(flows).unwrap_or(i64::MAX));
    }

    /// Since the last time, so many connections were offloaded, so many packets of such took the slow path all the same, and so many
    /// would have taken the fast path.
    pub fn fast_path_counted(&self, family: Family, offloads: u64, misses: u64, dry_run: u64) {
        let metrics = &self.fast_path;
        for (counter, count) in [(&metrics.offloads, offloads), (&metrics.misses, misses), (&metrics.dry_run, dry_run)]
        {
            counter.with_label_values(&[family.label()]).inc_by(count);
        }
    }

    /// So many connections were taken out of a flowtable.
    pub fn fast_path_invalidated(&self, reason: Invalidation, flows: u64) {
        self.fast_path.invalidated.with_label_values(&[reason.label()]).inc_by(flows);
    }

    /// The devices were looked at.
    pub fn interfaces_synced(&self, family: Family, result: InterfaceSync, elapsed: Duration) {
        self.fast_path.interface_syncs.with_label_values(&[result.label()]).inc();
        let durations = &self.fast_path.interface_sync_duration;
        durations.with_label_values(&[family.label()]).observe(elapsed.as_secs_f64());
    }
}

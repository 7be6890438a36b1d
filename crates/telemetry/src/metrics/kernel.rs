//! How the kernel takes our transactions.

use prometheus::{GaugeVec, HistogramVec, IntCounterVec};

use super::register::{Register, commit_buckets};
use super::{FAMILY, MetricsError};

/// What the kernel did with our transactions.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) commit_duration: HistogramVec,
    pub(super) commit_longest: GaugeVec,
    pub(super) operations: IntCounterVec,
    pub(super) full_syncs: IntCounterVec,
    pub(super) sync_failures: IntCounterVec,
    pub(super) cleanup_failures: IntCounterVec,
}

/// What a sync of everything did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullSync {
    /// Nothing: it was as it should be.
    Unchanged,
    /// What differed was changed.
    Changed,
    /// All of it was written, because there was none, or it was too different or could not be read.
    Replaced,
}

impl Kernel {
    pub(super) fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            commit_duration: register.histograms(
                "slipstream_kernel_commit_duration_seconds",
                "How long the kernel took for a transaction, in seconds",
                commit_buckets(),
            )?,
            commit_longest: register.float_gauges(
                "slipstream_kernel_commit_longest_seconds",
                "The longest that the kernel took for a transaction of a sync since the start, in seconds; other programs that change nftables \
                 waited meanwhile",
            )?,
            operations: register.counters(
                "slipstream_transaction_operations_total",
                "Operations in the transactions that the kernel has taken",
                FAMILY,
            )?,
            full_syncs: register.counters_by(
                "slipstream_full_syncs_total",
                "Syncs of everything, as at the start, after edits of other programs and after syncs that failed, by what they did to \
                 the table: unchanged (it was as it should be), changed (what differed), replaced (all of it, or there was none)",
                &[FAMILY, "result"],
            )?,
            sync_failures: register.counters(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                "[ALPHA] Syncs whose transaction the kernel refused",
                FAMILY,
            )?,
            cleanup_failures: register.counters(
                "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
                "[ALPHA] Removals of unneeded objects that the kernel refused",
                FAMILY,
            )?,
        })
    }
}

impl FullSync {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Replaced => "replaced",
        }
    }
}

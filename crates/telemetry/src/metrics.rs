//! Metrics under kube-proxy's names (contract §9), and a few of our own.

mod fastpath;
mod kernel;
mod kubernetes;
mod localhost;
mod process;
mod register;
mod requests;
mod slis;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Family;
use prometheus::{GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use self::fastpath::FastPath;
use self::kernel::Kernel;
use self::kubernetes::Kubernetes;
use self::localhost::Localhost;
use self::register::Register;
use self::requests::Requests;

pub use self::fastpath::{InterfaceSync, Invalidation};
pub use self::kernel::FullSync;
pub use self::slis::Slis;

const FAMILY: &str = "ip_family";

/// All metrics of the process, in a registry of their own. There is a method for each event; what is measured of it,
/// and under which names, is decided here. A metric with labels appears with its first event.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    syncs: Syncs,
    changes: Changes,
    kernel: Kernel,
    conntrack: Conntrack,
    fast_path: FastPath,
    requests: Requests,
    kubernetes: Kubernetes,
    localhost: Localhost,
    healthz: IntCounterVec,
    livez: IntCounterVec,
    object_problems: IntCounterVec,
    watch_failures: IntCounterVec,
    frontends_in_conflict: IntGaugeVec,
    foreign_edits: IntCounterVec,
    foreign_edits_missed: IntCounter,
    clock_jumps: IntCounter,
    services_set_aside: IntGaugeVec,
}

#[derive(Debug)]
struct Syncs {
    duration: HistogramVec,
    full_duration: HistogramVec,
    partial_duration: HistogramVec,
    last: GaugeVec,
    last_queued: GaugeVec,
    programming: HistogramVec,
    no_local_endpoints: IntGaugeVec,
}

#[derive(Debug)]
struct Changes {
    endpoints_pending: IntGauge,
    endpoints_total: IntCounter,
    services_pending: IntGauge,
    services_total: IntCounter,
}

#[derive(Debug)]
struct Conntrack {
    duration: HistogramVec,
    deleted: IntCounterVec,
    failures: IntCounterVec,
}

/// How much a sync looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Everything.
    Full,
    /// What had changed.
    Partial,
}

/// A metric could not be registered, which is a mistake in this program.
pub type MetricsError = prometheus::Error;

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// Two have the same name, or one has a malformed name: a mistake in this program, found at its start.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let register = Register::new(&registry);
        register.process()?;
        register.build_info()?;
        let metrics = Self {
            syncs: Syncs::new(&register)?,
            changes: Changes::new(&register)?,
            kernel: Kernel::new(&register)?,
            conntrack: Conntrack::new(&register)?,
            fast_path: FastPath::new(&register)?,
            requests: Requests::new(&register)?,
            kubernetes: Kubernetes::new(&register)?,
            localhost: Localhost::new(&register)?,
            healthz: register.counters(
                "kubeproxy_proxy_healthz_total",
                "[ALPHA] Answers of /healthz by HTTP status code",
                "code",
            )?,
            livez: register.counters(
                "kubeproxy_proxy_livez_total",
                "[ALPHA] Answers of /livez by HTTP status code",
                "code",
            )?,
            object_problems: register.counters(
                "slipstream_object_problems_total",
                "Objects, or parts of objects, that were left out because they are malformed, by kind",
                "kind",
            )?,
            watch_failures: register.counters(
                "slipstream_watch_failures_total",
                "Lists and watches that failed and were started anew, by resource",
                "resource",
            )?,
            frontends_in_conflict: register.gauges(
                "slipstream_frontends_in_conflict",
                "Frontends that more than one Service claims, so that only one of them is reachable there",
                FAMILY,
            )?,
            foreign_edits: register.counters(
                "slipstream_foreign_edits_total",
                "Commits of other programs that changed our table, each followed by a repair",
                FAMILY,
            )?,
            foreign_edits_missed: register.counter(
                "slipstream_foreign_edits_missed_total",
                "Times that the kernel could not tell of all commits of other programs, each followed by a look at the tables",
            )?,
            clock_jumps: register
                .counter("slipstream_clock_jumps_total", "Times that the clock was set, or the node slept")?,
            services_set_aside: register.gauges(
                "slipstream_services_set_aside",
                "Services that are not served, because the kernel refused what they need",
                FAMILY,
            )?,
            registry: registry.clone(),
        };
        register.totals()?;
        Ok(metrics)
    }

    /// A sync was asked for, or the sync loop started.
    pub fn sync_queued(&self, family: Family, at: SystemTime) {
        self.syncs.last_queued.with_label_values(&[family.label()]).set(unix_seconds(at));
    }

    /// A sync took `elapsed` and succeeded: the kernel has all changes of the family now.
    pub fn synced(&self, family: Family, kind: SyncKind, elapsed: Duration, at: SystemTime) {
        self.syncs.ran(family, kind, elapsed);
        self.syncs.last.with_label_values(&[family.label()]).set(unix_seconds(at));
        self.changes.endpoints_pending.set(0);
        self.changes.services_pending.set(0);
    }

    /// A sync took `elapsed`, and the kernel refused its transaction.
    pub fn sync_failed(&self, family: Family, kind: SyncKind, elapsed: Duration) {
        self.syncs.ran(family, kind, elapsed);
        self.kernel.sync_failures.with_label_values(&[family.label()]).inc();
    }

    /// Objects that were not needed any more could not be removed from the kernel.
    pub fn cleanup_failed(&self, family: Family) {
        self.kernel.cleanup_failures.with_label_values(&[family.label()]).inc();
    }

    /// A change reached the kernel so long after it had been made at the API server.
    pub fn programmed(&self, family: Family, latency: Duration) {
        self.syncs.programming.with_label_values(&[family.label()]).observe(latency.as_secs_f64());
    }

    /// So many Services were added, changed or removed, each counted once for each family (contract §9), and so many wait
    /// to be synced now.
    pub fn services_changed(&self, count: usize, pending: usize) {
        self.changes.services_total.inc_by(count as u64);
        self.changes.services_pending.set(gauge(pending));
    }

    /// So many EndpointSlices were added, changed or removed, and so many Services wait to be synced now.
    pub fn endpoints_changed(&self, count: usize, pending: usize) {
        self.changes.endpoints_total.inc_by(count as u64);
        self.changes.endpoints_pending.set(gauge(pending));
    }

    /// The kernel took `elapsed` for a transaction of so many operations. To be told by one thread for each family.
    pub fn committed(&self, family: Family, operations: usize, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        self.kernel.commit_duration.with_label_values(&[family.label()]).observe(elapsed);
        let longest = self.kernel.commit_longest.with_label_values(&[family.label()]);
        longest.set(longest.get().max(elapsed));
        self.kernel.operations.with_label_values(&[family.label()]).inc_by(operations as u64);
    }

    /// A sync of everything has succeeded, and did this to the table.
    pub fn fully_synced(&self, family: Family, what: FullSync) {
        self.kernel.full_syncs.with_label_values(&[family.label(), what.label()]).inc();
    }

    /// Connections were compared with the endpoints they may have, which took `elapsed`, and so many were deleted.
    pub fn connections_reconciled(&self, family: Family, elapsed: Duration, deleted: u64) {
        self.conntrack.duration.with_label_values(&[family.label()]).observe(elapsed.as_secs_f64());
        self.conntrack.deleted.with_label_values(&[family.label()]).inc_by(deleted);
    }

    /// Connections could not be listed to the end, or not all be deleted that should.
    pub fn connections_not_reconciled(&self, family: Family) {
        self.conntrack.failures.with_label_values(&[family.label()]).inc();
    }

    /// So many frontends are claimed by more than one Service now.
    pub fn frontends_in_conflict(&self, family: Family, count: usize) {
        self.frontends_in_conflict.with_label_values(&[family.label()]).set(gauge(count));
    }

    /// Another program committed a change of our table.
    pub fn foreign_edit(&self, family: Family) {
        self.foreign_edits.with_label_values(&[family.label()]).inc();
    }

    /// Other programs may have changed our tables, and nobody could tell.
    pub fn foreign_edits_missed(&self) {
        self.foreign_edits_missed.inc();
    }

    /// The time of day is not what it should be by the time that has passed.
    pub fn clock_jumped(&self) {
        self.clock_jumps.inc();
    }

    /// So many Services are not served now, because the kernel refused what they need.
    pub fn services_set_aside(&self, family: Family, count: usize) {
        self.services_set_aside.with_label_values(&[family.label()]).set(gauge(count));
    }

    /// After a sync, so many ports of Services have endpoints, but none on this node, where traffic policy `Local` asks for one.
    pub fn no_local_endpoints(&self, family: Family, internal: usize, external: usize) {
        for (policy, count) in [("internal", internal), ("external", external)] {
            self.syncs.no_local_endpoints.with_label_values(&[policy, family.label()]).set(gauge(count));
        }
    }

    /// An object of this kind was malformed, in whole or in part. Static, so that no object can make up a label.
    pub fn object_problem(&self, kind: &'static str) {
        self.object_problems.with_label_values(&[kind]).inc();
    }

    /// A list or watch of this resource failed.
    pub fn watch_failed(&self, resource: &'static str) {
        self.watch_failures.with_label_values(&[resource]).inc();
    }

    /// `/healthz` answered with this HTTP status code.
    pub fn healthz_answered(&self, code: u16) {
        self.healthz.with_label_values(&[&code.to_string()]).inc();
    }

    /// `/livez` answered with this HTTP status code.
    pub fn livez_answered(&self, code: u16) {
        self.livez.with_label_values(&[&code.to_string()]).inc();
    }

    /// The content type of [`render`](Self::render).
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

    /// All metrics in the text format of Prometheus, sorted by name.
    pub fn render(&self) -> String {
        text(&self.registry)
    }
}

fn text(registry: &Registry) -> String {
    // The encoder refuses families without a name or a metric, which a registry does not return.
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap_or_else(|error| format!("# metrics cannot be written: {error}\n"))
}

impl Syncs {
    fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        let durations = |name, help| register.histograms(name, help, register::sync_buckets()?);
        Ok(Self {
            duration: durations(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "[ALPHA] How long syncs took, in seconds",
            )?,
            full_duration: durations(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "[ALPHA] How long syncs of everything took, in seconds",
            )?,
            partial_duration: durations(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "[ALPHA] How long syncs of what had changed took, in seconds",
            )?,
            last: register.float_gauges(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "[ALPHA] When the last sync succeeded, in seconds since 1970",
            )?,
            last_queued: register.float_gauges(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "[ALPHA] When a sync was last asked for, in seconds since 1970",
            )?,
            programming: register.histograms(
                "kubeproxy_network_programming_duration_seconds",
                "[ALPHA] From a change of a Service or its pods to the rules being in place, in seconds",
                register::programming_buckets(),
            )?,
            no_local_endpoints: register.gauges_by(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "[ALPHA] Ports of Services that have endpoints, but none on this node, where traffic policy Local asks for one",
                &["traffic_policy", FAMILY],
            )?,
        })
    }

    fn ran(&self, family: Family, kind: SyncKind, elapsed: Duration) {
        let of_kind = match kind {
            SyncKind::Full => &self.full_duration,
            SyncKind::Partial => &self.partial_duration,
        };
        for histogram in [&self.duration, of_kind] {
            histogram.with_label_values(&[family.label()]).observe(elapsed.as_secs_f64());
        }
    }
}

impl Changes {
    fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            endpoints_pending: register.gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "[ALPHA] Services that wait for a sync, as of the last change of an EndpointSlice",
            )?,
            endpoints_total: register
                .counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "[ALPHA] Changes of EndpointSlices")?,
            services_pending: register.gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "[ALPHA] Services that wait for a sync, as of the last change of a Service",
            )?,
            services_total: register.counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "[ALPHA] Changes of Services, counted once for each IP family",
            )?,
        })
    }
}

impl Conntrack {
    fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            duration: register.histograms(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "[ALPHA] How long it took to find and delete connections to endpoints that do not serve, in seconds",
                register::sync_buckets()?,
            )?,
            deleted: register.counters(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "[ALPHA] Connections deleted because their endpoint does not serve any more",
                FAMILY,
            )?,
            failures: register.counters(
                "slipstream_conntrack_reconciler_failures_total",
                "Times that connections could not be listed to the end, or not all be deleted that should; each is tried again",
                FAMILY,
            )?,
        })
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

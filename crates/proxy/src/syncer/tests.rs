//! The sync loop over in-memory kernels that can be made to fail or to take their time. The clock is tokio's and jumps
//! ahead whenever everything waits for it.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, mpsc as std_mpsc};
use std::time::Duration;

use compiler::{Compiler, Mark, NodePorts, Options};
use model::{
    Endpoint, EndpointSlice, Family, Kind, PerFamily, PortNumber, Protocol, Service, ServiceName, ServicePort,
    SlicePort, TrafficPolicy,
};
use netlink::Committer;
use ruleset::{CommitError, CommitReport, Fake, FakeTable, Kernel, Name, Op, Rejection, Transaction};
use telemetry::Moment;
use tokio::sync::mpsc::{self, Sender, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::pacer::Pacer;

const HOUR: Duration = Duration::from_hours(1);

/// A kernel that tests look into.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Switches>>);

#[derive(Default)]
struct Switches {
    fake: Fake,
    failing: bool,
    /// Each commit waits for a word on it.
    gate: Option<std_mpsc::Receiver<()>>,
}

struct TestKernel {
    family: Family,
    shared: Shared,
    commits: UnboundedSender<Commit>,
}

/// A commit that a kernel was asked for.
#[derive(Debug)]
struct Commit {
    family: Family,
    accepted: bool,
    transaction: Transaction,
}

impl Commit {
    fn is_full(&self) -> bool {
        self.transaction.ops.contains(&Op::DeleteTable)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Switches> {
        self.0.lock().unwrap()
    }

    fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    fn table(&self, family: Family) -> Option<FakeTable> {
        let family = if family == Family::V4 { ruleset::Family::Ip } else { ruleset::Family::Ip6 };
        self.lock().fake.table(family, &Name::new("kube-proxy").unwrap()).cloned()
    }

    /// How many elements any set of the table has.
    fn elements(&self, family: Family) -> usize {
        self.table(family).map_or(0, |table| table.sets().values().map(|set| set.elements.len()).sum())
    }
}

impl Kernel for TestKernel {
    fn commit(&mut self, transaction: &Transaction) -> Result<CommitReport, CommitError> {
        let gate = self.shared.lock().gate.take();
        if let Some(gate) = gate {
            gate.recv().unwrap();
        }
        let mut switches = self.shared.lock();
        let outcome = if switches.failing {
            let source = io::Error::from_raw_os_error(22);
            let operation = "add element ip kube-proxy service-ips { the culprit }".to_owned();
            Err(CommitError::Rejected { rejections: vec![Rejection { operation, position: (0, None), source }] })
        } else {
            switches.fake.commit(transaction)
        };
        drop(switches);
        let commit = Commit { family: self.family, accepted: outcome.is_ok(), transaction: transaction.clone() };
        drop(self.commits.send(commit));
        outcome
    }
}

struct Harness {
    kernels: PerFamily<Shared>,
    updates: Sender<Update>,
    commits: UnboundedReceiver<Commit>,
    telemetry: Telemetry,
    syncer: JoinHandle<Result<()>>,
}

impl Harness {
    fn start() -> Self {
        let (commits_in, commits) = mpsc::unbounded_channel();
        let kernels = PerFamily::<Shared>::default();
        let health = Health::new(Duration::from_secs(60), true);
        let telemetry = Telemetry { metrics: Arc::new(Metrics::new().unwrap()), health: Arc::new(health) };
        let table = |family| {
            let compiler = Compiler::new(Options {
                family,
                mark: Mark::default(),
                masquerade_all: false,
                pod_cidr: None,
                node_ports: NodePorts::Any,
            });
            let shared = kernels.get(family).clone();
            let kernel = TestKernel { family, shared, commits: commits_in.clone() };
            let pacer = Pacer::new(Instant::now(), Duration::from_secs(1), Duration::from_secs(30));
            Table::new(compiler, Committer::spawn(kernel).unwrap(), pacer, telemetry.clone())
        };
        let tables = Family::ALL.map(table).into();
        let (updates, received) = mpsc::channel(1);
        let syncer = tokio::spawn(Syncer::new(tables, telemetry.clone()).run(received));
        Self { kernels, updates, commits, telemetry, syncer }
    }

    /// One that has programmed `services`, and both first commits behind it.
    async fn synced(services: &[&str]) -> Self {
        let mut harness = Self::start();
        harness.send(Update::ListStarted(Kind::Service)).await;
        for name in services {
            harness.send(service(name)).await;
        }
        harness.send(Update::ListComplete(Kind::Service)).await;
        harness.send(Update::ListStarted(Kind::EndpointSlice)).await;
        for name in services {
            harness.send(slice(name, 1)).await;
        }
        harness.send(Update::ListComplete(Kind::EndpointSlice)).await;
        for _ in Family::ALL {
            let commit = harness.commit().await;
            assert!(commit.accepted && commit.is_full());
        }
        harness
    }

    async fn send(&self, update: Update) {
        self.updates.send(update).await.unwrap();
    }

    async fn commit(&mut self) -> Commit {
        self.commits.recv().await.unwrap()
    }

    async fn commit_of(&mut self, family: Family) -> Commit {
        loop {
            let commit = self.commit().await;
            if commit.family == family {
                return commit;
            }
        }
    }

    /// Waits until `condition` holds; commits end on threads of their own, out of sight of tokio's clock.
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let patience = std::time::Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(std::time::Instant::now() < patience, "waited in vain until {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn metric(&self, line: &str) -> bool {
        self.telemetry.metrics.render().lines().any(|l| l == line)
    }
}

fn number(name: &str) -> u8 {
    name.bytes().fold(0, u8::wrapping_add)
}

fn service(name: &str) -> Update {
    let port =
        ServicePort { name: "".into(), protocol: Protocol::Tcp, port: PortNumber::new(80).unwrap(), node_port: None };
    Update::Service(Service {
        name: ServiceName::new("test", name),
        created: 0,
        cluster_ips: PerFamily {
            v4: Some([10, 96, 0, number(name)].into()),
            v6: Some([0xfd00, 0, 0, 0, 0, 0, 0, number(name).into()].into()),
        },
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        ports: vec![port],
    })
}

fn slice(service: &str, endpoints: u8) -> Update {
    let endpoint = |n| Endpoint {
        address: [10, 1, number(service), n].into(),
        ready: true,
        serving: true,
        terminating: false,
        local: false,
    };
    let port = SlicePort { name: "".into(), protocol: Protocol::Tcp, port: PortNumber::new(8080).unwrap() };
    Update::Slice(EndpointSlice {
        name: ServiceName::new("test", format!("{service}-1")),
        service: ServiceName::new("test", service),
        family: Family::V4,
        ports: vec![port],
        endpoints: (1..=endpoints).map(endpoint).collect(),
        triggered: Some(SystemTime::now()),
    })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_both_lists_are_complete() {
    let mut harness = Harness::start();
    harness.send(Update::ListStarted(Kind::Service)).await;
    harness.send(service("web")).await;
    harness.send(Update::ListComplete(Kind::Service)).await;
    harness.send(Update::ListStarted(Kind::EndpointSlice)).await;
    harness.send(slice("web", 2)).await;
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err(), "the slices were not complete");

    harness.send(Update::ListComplete(Kind::EndpointSlice)).await;
    let families: BTreeSet<_> = [harness.commit().await.family, harness.commit().await.family].into();
    assert_eq!(families, Family::ALL.into());
    assert!(harness.kernels.v4.elements(Family::V4) > 0);
    assert!(harness.kernels.v6.table(Family::V6).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_has_tables_too() {
    let harness = Harness::synced(&[]).await;
    assert!(harness.kernels.v4.table(Family::V4).is_some());
    assert!(harness.kernels.v6.table(Family::V6).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_change_writes_only_itself_and_says_how_long_it_took() {
    let mut harness = Harness::synced(&["one", "two"]).await;
    let elements = harness.kernels.v4.elements(Family::V4);
    harness.send(service("three")).await;
    harness.send(slice("three", 1)).await;
    // Its ClusterIP, its frontend and its endpoint.
    while harness.kernels.v4.elements(Family::V4) < elements + 3 {
        assert!(!harness.commit_of(Family::V4).await.is_full());
    }
    harness.updates.send(Update::ServiceGone(ServiceName::new("test", "three"))).await.unwrap();
    harness.commit_of(Family::V4).await;
    let metrics = harness.telemetry.metrics.render();
    for name in ["programming_duration_seconds_count", "sync_partial_proxy_rules_duration_seconds_count"] {
        assert!(metrics.lines().any(|l| l.contains(name) && l.contains("IPv4") && !l.ends_with(" 0")), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_is_retried_and_leaves_the_last_good_rules_and_the_other_family_alone() {
    let mut harness = Harness::synced(&["web"]).await;
    let good = harness.kernels.v4.table(Family::V4);
    harness.kernels.v4.fail(true);
    harness.send(service("new")).await;
    let mut waits = Vec::new();
    let mut last = Instant::now();
    let (mut v4, mut v6) = (0, 0);
    while v4 < 4 {
        let commit = harness.commit().await;
        match commit.family {
            Family::V4 => {
                assert!(!commit.accepted);
                assert_eq!(commit.is_full(), v4 > 0, "after a failure, all is written anew");
                v4 += 1;
                waits.push(last.elapsed().as_secs());
                last = Instant::now();
            }
            Family::V6 => {
                assert!(commit.accepted && !commit.is_full());
                v6 += 1;
            }
        }
        assert_eq!(harness.kernels.v4.table(Family::V4), good);
    }
    assert_eq!(v6, 1);
    // Not less: the clock may also jump while a kernel is at work on its own thread.
    assert!(waits[1..].iter().zip([1, 2, 4]).all(|(wait, least)| *wait >= least), "retries grow apart: {waits:?}");

    harness.kernels.v4.fail(false);
    let commit = harness.commit_of(Family::V4).await;
    assert!(commit.accepted && commit.is_full());
    assert_ne!(harness.kernels.v4.table(Family::V4), good);
    harness.until("nothing waits any more", |h| h.telemetry.health.is_healthy(Moment::now() + HOUR)).await;
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err(), "what succeeded is not tried again");
    assert!(harness.metric(r#"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 4"#));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_never_gets_in_is_unhealthy() {
    let mut harness = Harness::start();
    harness.kernels.v4.fail(true);
    for kind in [Kind::Service, Kind::EndpointSlice] {
        harness.send(Update::ListStarted(kind)).await;
        harness.send(Update::ListComplete(kind)).await;
    }
    assert!(!harness.commit_of(Family::V4).await.accepted);
    let health = &harness.telemetry.health;
    assert!(health.is_healthy(Moment::now()));
    assert!(!health.is_healthy(Moment::now() + Duration::from_mins(2)));
}

#[tokio::test(start_paused = true)]
async fn while_a_commit_runs_updates_are_taken_in_and_wait_for_its_end_together() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    let (open, gate) = std_mpsc::channel();
    harness.kernels.v4.lock().gate = Some(gate);
    // More than the channel holds: each is taken in although the first is still being committed.
    for name in ["a", "b", "c", "d"] {
        harness.send(service(name)).await;
        assert!(harness.commit_of(Family::V6).await.accepted, "IPv6 does not wait for IPv4");
    }
    open.send(()).unwrap();
    let first = harness.commit_of(Family::V4).await;
    let second = harness.commit_of(Family::V4).await;
    assert!(first.accepted && second.accepted);
    assert!(second.transaction.len() > first.transaction.len(), "the others came together");
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn syncs_keep_the_interval_between_them() {
    let mut harness = Harness::synced(&["web"]).await;
    harness.send(service("a")).await;
    harness.commit_of(Family::V4).await;
    let mut last = Instant::now();
    for name in ["b", "c", "d"] {
        harness.send(service(name)).await;
        harness.commit_of(Family::V4).await;
        assert!(last.elapsed() >= Duration::from_secs(1), "{:?}", last.elapsed());
        last = Instant::now();
    }
}

#[tokio::test(start_paused = true)]
async fn unused_chains_are_deleted_after_a_quiet_time() {
    let mut harness = Harness::synced(&["web"]).await;
    let chains = |harness: &Harness| harness.kernels.v4.table(Family::V4).unwrap().chains().len();
    let before = chains(&harness);
    harness.send(slice("web", 3)).await;
    harness.commit_of(Family::V4).await;
    assert_eq!(chains(&harness), before + 1);
    let sweep = harness.commit_of(Family::V4).await;
    assert!(matches!(sweep.transaction.ops[..], [Op::DeleteChain(_)]));
    assert_eq!(chains(&harness), before);
    assert!(!harness.telemetry.metrics.render().contains("cleanup_failures_total{"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_sweep_is_no_failed_sync_and_the_next_sync_clears_it_up() {
    let mut harness = Harness::synced(&["web"]).await;
    harness.send(slice("web", 3)).await;
    assert!(harness.commit_of(Family::V4).await.accepted);
    harness.kernels.v4.fail(true);
    assert!(!harness.commit_of(Family::V4).await.accepted);
    let failed = r#"kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family="IPv4"} 1"#;
    harness.until("the failure is counted", |h| h.metric(failed)).await;
    assert!(!harness.telemetry.metrics.render().contains("sync_failures_total{"));
    assert!(harness.telemetry.health.is_healthy(Moment::now() + HOUR));

    harness.kernels.v4.fail(false);
    harness.send(slice("web", 2)).await;
    let commit = harness.commit_of(Family::V4).await;
    assert!(commit.accepted && commit.is_full());
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_counted() {
    let harness = Harness::synced(&["ab"]).await;
    // The same letters add up to the same address.
    harness.send(service("ba")).await;
    for family in Family::ALL {
        let counted = format!(r#"slipstream_frontends_in_conflict{{ip_family="{family}"}} 1"#);
        harness.until("the conflict is counted", |h| h.metric(&counted)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_writes_nothing_is_neither_committed_nor_followed_by_a_pause() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    // While IPv4 is stuck, the clock has no reason to jump but a pause of IPv6.
    let (_open, gate) = std_mpsc::channel();
    harness.kernels.v4.lock().gate = Some(gate);
    let start = Instant::now();
    harness.send(slice("web", 2)).await;
    harness.send(service("late")).await;
    assert_eq!(harness.commit().await.family, Family::V6);
    assert_eq!(start.elapsed(), Duration::ZERO, "the slice was an IPv4 one");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn it_does_not_outlive_a_committing_thread() {
    let harness = Harness::synced(&["web"]).await;
    let (open, gate) = std_mpsc::channel();
    harness.kernels.v6.lock().gate = Some(gate);
    // The kernel waits for a word that cannot come any more, and panics.
    drop(open);
    harness.send(service("new")).await;
    let error = harness.syncer.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("IPv6"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_source() {
    let Harness { updates, syncer, .. } = Harness::synced(&[]).await;
    drop(updates);
    assert!(syncer.await.unwrap().is_ok());
}

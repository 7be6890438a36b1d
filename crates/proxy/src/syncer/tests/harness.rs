//! A syncer over in-memory kernels, and what is sent to it.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use compiler::{Compiler, FlowCheck, Mark, NodePorts, Offloads, Options};
use config::{Config, NodePortAddresses};
use model::{
    Endpoint, EndpointSlice, Family, Kind, PerFamily, PortNumber, Protocol, Service, ServiceName, ServicePort,
    SlicePort,
};
use netlink::{ForeignEdit, Reconciled};
use ruleset::{
    CommitError, CommitReport, Element, Fake, FakeTable, Found, Kernel, Name, Op, ReadError, Reconciler,
    Reconciliation, Rejection, Transaction, Words,
};
use tokio::sync::mpsc::{self, Sender, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::*;
use super::faults::Fault;
use crate::commit::{Commit, Reply};
use crate::events::Events;
use crate::flows::{CheckFlows, Next};
use crate::localhost::{Exposed, Localhost};
use crate::pacer::Pacer;
use crate::service_health::{Answers, Questions};

/// A kernel that tests look into.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Switches>>);

#[derive(Default)]
struct Switches {
    fake: Fake,
    failing: bool,
    /// How the next commits fail.
    faults: VecDeque<Fault>,
    /// Whether the next commit fails.
    failing_once: bool,
    /// Whether all commits fail but the next.
    failing_soon: bool,
    /// Elements whose keys begin with one of these are not taken.
    refused: Vec<IpAddr>,
    unreadable: bool,
    /// How often a table was read.
    readings: usize,
    /// Whether jobs take until [`Shared::let_go`].
    stuck: bool,
    held: Vec<Box<dyn FnOnce() + Send>>,
}

/// Commits at once, or when it is let go.
struct TestCommitter {
    family: Family,
    shared: Shared,
    commits: UnboundedSender<Committed>,
}

/// A commit that has ended.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) family: Family,
    pub(super) accepted: bool,
    pub(super) transaction: Transaction,
}

impl Committed {
    pub(super) fn is_full(&self) -> bool {
        self.transaction.ops.contains(&Op::DeleteTable)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Switches> {
        self.0.lock().unwrap()
    }

    pub(super) fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// The next commits fail like this.
    pub(super) fn fail_with(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// The next commit fails, and those that follow do not.
    pub(super) fn fail_once(&self) {
        self.lock().failing_once = true;
    }

    /// The next commit succeeds, and those that follow do not.
    pub(super) fn fail_after_one(&self) {
        self.lock().failing_soon = true;
    }

    /// From now on, no element of these addresses is taken, and all others are.
    pub(super) fn refuse(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.lock().refused = addresses.into_iter().collect();
    }

    /// From now on, the table cannot be read.
    pub(super) fn get_unreadable(&self) {
        self.lock().unreadable = true;
    }

    /// How often the table was read.
    pub(super) fn readings(&self) -> usize {
        self.lock().readings
    }

    /// Changes the table as another program would.
    pub(super) fn edit(&self, family: Family, ops: Vec<Op>) {
        let family = compiler::table_family(family);
        let transaction = Transaction { ops, ..Transaction::new(family, compiler::table_name()) };
        self.lock().fake.commit(&transaction).unwrap();
    }

    /// Has jobs take their time from now on.
    pub(super) fn get_stuck(&self) {
        self.lock().stuck = true;
    }

    /// Ends the jobs that are stuck, and those to come at once.
    pub(super) fn let_go(&self) {
        self.lock().stuck = false;
        let held = std::mem::take(&mut self.lock().held);
        held.into_iter().for_each(|job| job());
    }

    /// Ends the job that is stuck; the next one will be.
    pub(super) fn let_one_go(&self) {
        let held = std::mem::take(&mut self.lock().held);
        held.into_iter().for_each(|job| job());
    }

    /// Never answers the jobs that are stuck.
    pub(super) fn die(&self) {
        self.lock().held.clear();
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.lock().held.is_empty()
    }

    pub(super) fn table(&self, family: Family) -> Option<FakeTable> {
        let family = compiler::table_family(family);
        self.lock().fake.table(family, &Name::new("kube-proxy").unwrap()).cloned()
    }

    /// How many elements any set of the table has.
    pub(super) fn elements(&self, family: Family) -> usize {
        self.table(family).map_or(0, |table| table.sets().values().map(|set| set.elements.len()).sum())
    }
}

impl TestCommitter {
    /// Does a job at once, or when it is let go. What it commits is told to the test.
    fn hand_over(&self, job: impl FnOnce(&mut Switches) -> Option<(Transaction, bool)> + Send + 'static) {
        let Self { family, shared, commits } = self;
        let (family, kernel, commits) = (*family, shared.clone(), commits.clone());
        let job = move || {
            let committed = job(&mut kernel.lock());
            if let Some((transaction, accepted)) = committed {
                // The test may have ended.
                drop(commits.send(Committed { family, accepted, transaction }));
            }
        };
        let mut switches = shared.lock();
        if switches.stuck {
            switches.held.push(Box::new(job));
        } else {
            drop(switches);
            job();
        }
    }
}

impl Commit for TestCommitter {
    fn commit(&self, transaction: Transaction, reply: Reply<Result<CommitReport, CommitError>>) {
        self.hand_over(|kernel| {
            let outcome = kernel.commit(&transaction);
            let accepted = outcome.is_ok();
            reply(outcome);
            Some((transaction, accepted))
        });
    }

    fn read(&self, family: ruleset::Family, table: Name, reply: Reply<Result<Option<Found>, ReadError>>) {
        self.hand_over(move |kernel| {
            kernel.readings += 1;
            reply(if kernel.unreadable {
                Err(ReadError::Unstable { tries: 1 })
            } else {
                kernel.fake.read(family, &table)
            });
            None
        });
    }

    fn elements(&self, family: ruleset::Family, table: Name, set: Name, reply: Reply<Result<Vec<Element>, ReadError>>) {
        self.hand_over(move |kernel| {
            reply(kernel.fake.elements(family, &table, &set));
            None
        });
    }

    fn delete(&self, transaction: Transaction, reply: Reply<Result<CommitReport, CommitError>>) {
        self.commit(transaction, reply);
    }

    fn reconcile(&self, reconciler: Reconciler, reply: Reply<Result<Reconciled, CommitError>>) {
        self.hand_over(move |kernel| {
            let Some(Reconciliation { transaction, unwanted }) = reconciler.finish(&kernel.fake) else {
                reply(Ok(Reconciled::Unfit));
                return None;
            };
            if transaction.is_empty() {
                let report = CommitReport::default();
                reply(Ok(Reconciled::Done { operations: 0, unwanted, report }));
                return None;
            }
            let outcome = kernel.commit(&transaction);
            let accepted = outcome.is_ok();
            reply(outcome.map(|report| Reconciled::Done { operations: transaction.len(), unwanted, report }));
            Some((transaction, accepted))
        });
    }
}

impl Switches {
    fn commit(&mut self, transaction: &Transaction) -> Result<CommitReport, CommitError> {
        if let Some(fault) = self.faults.pop_front() {
            return Err(fault.befall(&mut self.fake, transaction));
        }
        let refused: Vec<_> = (0..transaction.ops.len()).filter_map(|op| self.refused(transaction, op)).collect();
        if !refused.is_empty() {
            return Err(CommitError::Rejected { rejections: refused });
        }
        if !self.failing && !std::mem::take(&mut self.failing_once) {
            self.failing = std::mem::take(&mut self.failing_soon);
            return self.fake.commit(transaction);
        }
        let source = io::Error::from_raw_os_error(22);
        let operation = "add element ip kube-proxy service-ips { the culprit }".to_owned();
        Err(CommitError::Rejected {
            rejections: vec![Rejection { operation, position: (0, None), element: None, source }],
        })
    }
}

impl Switches {
    /// The first element of an operation that is not taken: the kernel names no more.
    fn refused(&self, transaction: &Transaction, op: usize) -> Option<Rejection> {
        let Op::AddElements { elements, .. } = &transaction.ops[op] else { return None };
        let is_refused = |element: &Element| {
            let key = element.key.as_bytes();
            self.refused.iter().any(|address| key.starts_with(Words::build().address(*address).finish().as_bytes()))
        };
        let index = elements.iter().position(is_refused)?;
        Some(Rejection::new(transaction, op, Some(index), io::Error::from_raw_os_error(23)))
    }
}

/// Takes flow checks for a test.
struct TestFlows(UnboundedSender<(Family, Vec<FlowCheck>)>);

impl CheckFlows for TestFlows {
    fn check(&self, family: Family, checks: Vec<FlowCheck>) {
        if !checks.is_empty() {
            // The test may have ended.
            drop(self.0.send((family, checks)));
        }
    }

    fn then(&self, next: Next) {
        next();
    }
}

pub(super) struct Harness {
    pub(super) kernels: PerFamily<Shared>,
    pub(super) updates: Sender<Vec<Update>>,
    pub(super) node_ports: Sender<(Family, NodePorts)>,
    pub(super) edits: Sender<ForeignEdit>,
    pub(super) live: watch::Sender<Live>,
    pub(super) commits: UnboundedReceiver<Committed>,
    /// Flow checks that were handed over.
    pub(super) checks: UnboundedReceiver<(Family, Vec<FlowCheck>)>,
    /// The families without a table, whenever one had been written for the first time.
    pub(super) firsts: std::sync::mpsc::Receiver<BTreeSet<Family>>,
    /// Who is told what load balancers may ask.
    pub(super) answers: Answers,
    pub(super) localhost: Localhost,
    pub(super) telemetry: Telemetry,
    pub(super) syncer: JoinHandle<Result<()>>,
}

impl Harness {
    pub(super) fn start() -> Self {
        Self::start_on(PerFamily::default())
    }

    /// With kernels that may have tables already.
    pub(super) fn start_on(kernels: PerFamily<Shared>) -> Self {
        let (commits_in, commits) = mpsc::unbounded_channel();
        let (checks_in, checks) = mpsc::unbounded_channel();
        let health = Health::new(Duration::from_secs(60), true);
        let telemetry = Telemetry { metrics: Arc::new(Metrics::new().unwrap()), health: Arc::new(health) };
        let table = |family| {
            let compiler = Compiler::new(Options {
                family,
                mark: Mark::default(),
                masquerade_all: false,
                pods: None,
                node_address: None,
                node_ports: if family == Family::V4 { node_ports(&["192.0.2.10"]) } else { NodePorts::Any },
                offloads: Offloads::ClusterIps,
            });
            let shared = kernels.get(family).clone();
            let committer = TestCommitter { family, shared, commits: commits_in.clone() };
            let pacer = Pacer::new(Instant::now(), Duration::from_secs(1), Duration::from_secs(30));
            Table::new(compiler, committer, pacer, telemetry.clone()).with_flows(TestFlows(checks_in.clone()))
        };
        let tables = Family::ALL.map(table).into();
        let (updates, received) = mpsc::channel(1);
        let (addresses, changed) = mpsc::channel(1);
        let (edits, edited) = mpsc::channel(64);
        let anywhere = PerFamily { v4: NodePorts::Any, v6: NodePorts::Any };
        let (questions, answers) = Questions::new(telemetry.health.clone(), Events::nowhere(), anywhere);
        let wanted = NodePortAddresses { primary: true, cidrs: NodePortAddresses::LOCALHOST.to_vec() };
        let (exposed, localhost) = Exposed::new(&wanted, &Family::ALL, telemetry.metrics.clone());
        let (first, firsts) = std::sync::mpsc::channel();
        let syncer = Syncer::new(tables, telemetry.clone()).with_questions(questions).with_exposed(exposed);
        let syncer = syncer.with_firsts(first);
        let (live, settings) = watch::channel(Live::of(&Config::default()));
        let inputs = Inputs { updates: received, node_ports: changed, edits: edited, live: settings };
        let syncer = tokio::spawn(syncer.run(inputs));
        Self {
            kernels,
            updates,
            node_ports: addresses,
            edits,
            live,
            commits,
            checks,
            firsts,
            answers,
            localhost,
            telemetry,
            syncer,
        }
    }

    /// One that has programmed `services`, and both first commits behind it.
    pub(super) async fn synced(services: &[&str]) -> Self {
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

    pub(super) async fn send(&self, update: Update) {
        self.updates.send(vec![update]).await.unwrap();
    }

    /// The next commit. The clock is made to jump, so that waiting in vain takes no time.
    pub(super) async fn commit(&mut self) -> Committed {
        let day = Duration::from_hours(24);
        timeout(day, self.commits.recv()).await.expect("nothing was committed for a day").unwrap()
    }

    pub(super) async fn commit_of(&mut self, family: Family) -> Committed {
        loop {
            let commit = self.commit().await;
            if commit.family == family {
                return commit;
            }
        }
    }

    /// How many elements a set of the IPv4 table has.
    pub(super) fn elements_of(&self, set: &str) -> usize {
        let table = self.kernels.v4.table(Family::V4).unwrap();
        table.sets().get(&Name::new(set).unwrap()).unwrap().elements.len()
    }

    pub(super) fn metric(&self, line: &str) -> bool {
        self.telemetry.metrics.render().lines().any(|l| l == line)
    }
}

pub(super) fn node_ports(addresses: &[&str]) -> NodePorts {
    NodePorts::Only(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

fn number(name: &str) -> u8 {
    name.bytes().fold(0, u8::wrapping_add)
}

pub(super) fn service(name: &str) -> Update {
    service_over(Protocol::Tcp, name)
}

pub(super) fn service_over(protocol: Protocol, name: &str) -> Update {
    let port = ServicePort { name: "".into(), protocol, port: PortNumber::new(80).unwrap(), node_port: None };
    Update::Service(Service {
        cluster_ips: PerFamily {
            v4: Some([10, 96, 0, number(name)].into()),
            v6: Some([0xfd00, 0, 0, 0, 0, 0, 0, number(name).into()].into()),
        },
        ports: vec![port],
        ..Service::new(ServiceName::new("test", name))
    })
}

pub(super) fn slice(service: &str, endpoints: u8) -> Update {
    slice_over(Protocol::Tcp, service, endpoints)
}

pub(super) fn slice_over(protocol: Protocol, service: &str, endpoints: u8) -> Update {
    let endpoint = |n| Endpoint {
        address: [10, 1, number(service), n].into(),
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        hints: None,
    };
    let port = SlicePort { name: "".into(), protocol, port: PortNumber::new(8080).unwrap() };
    Update::Slice(EndpointSlice {
        name: ServiceName::new("test", format!("{service}-1")),
        service: ServiceName::new("test", service),
        family: Family::V4,
        ports: vec![port],
        endpoints: (1..=endpoints).map(endpoint).collect(),
        triggered: Some(SystemTime::now()),
    })
}

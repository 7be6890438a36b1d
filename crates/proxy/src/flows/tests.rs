//! The reconciler over flows of a test, and over the kernel's.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use compiler::Frontend;
use model::PortNumber;
use netlink::Tuple;
use testing::netns::Namespace;

use super::*;

/// How long anything may take that is to happen at once.
const PATIENCE: Duration = Duration::from_secs(10);

const FRONTEND: &str = "10.96.0.10:53";

/// Flows that tests look into. A reconciler waits in each list until a test says how that ends.
struct Scripted {
    flows: Vec<Flow>,
    /// Says that a list begins, of which flows, and which of them are stale.
    lists: Sender<(Flows, Vec<Flow>)>,
    ends: Receiver<io::Result<Tally>>,
}

impl Connections for Scripted {
    fn delete(&mut self, flows: Flows, is_stale: &mut dyn FnMut(&Flow) -> bool) -> io::Result<Tally> {
        // As the kernel's: what is not asked for is not listed.
        let is_asked_for = |flow: &Flow| flow.protocol == flows.protocol && (flow.is_offloaded || !flows.offloaded);
        let stale = self.flows.iter().copied().filter(|flow| is_asked_for(flow) && is_stale(flow)).collect();
        self.lists.send((flows, stale)).unwrap();
        // Once the test is over, all is well.
        self.ends.recv().unwrap_or_else(|_| done(0))
    }
}

struct Harness {
    reconciler: Arc<Reconciler>,
    lists: Receiver<(Flows, Vec<Flow>)>,
    ends: Sender<io::Result<Tally>>,
    metrics: Arc<Metrics>,
}

impl Harness {
    fn new(flows: &[Flow]) -> Self {
        Self::with_addresses(flows, Box::new(|| Ok(vec!["192.0.2.10".parse()?, "127.0.0.1".parse()?])))
    }

    fn with_addresses(flows: &[Flow], addresses: ListAddresses) -> Self {
        let ((began, lists), (ends, ended)) = (channel(), channel());
        let connections = Scripted { flows: flows.to_vec(), lists: began, ends: ended };
        let metrics = Arc::new(Metrics::new().unwrap());
        let reconciler = Reconciler::spawn(connections, addresses, Arc::clone(&metrics)).unwrap();
        Self { reconciler: Arc::new(reconciler), lists, ends, metrics }
    }

    /// The next list: of which flows, and which are stale.
    fn asked(&self) -> (Flows, Vec<Flow>) {
        self.lists.recv_timeout(PATIENCE).expect("flows are listed")
    }

    /// The next list, of UDP: its family and what is stale.
    fn list(&self) -> (ruleset::Family, Vec<Flow>) {
        let (flows, stale) = self.asked();
        assert_eq!((flows.protocol, flows.offloaded), (17, false));
        (flows.family, stale)
    }

    /// Waits until a metric has this value.
    fn wait_metric(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.metrics.render().lines().any(|l| l == line) {
            assert!(Instant::now() < deadline, "{line} is not in\n{}", self.metrics.render());
            thread::yield_now();
        }
    }
}

fn done(deleted: u64) -> io::Result<Tally> {
    Ok(Tally { listed: 10, matched: deleted, deleted, refused: None, complete: true })
}

fn socket(socket: &str) -> SocketAddr {
    socket.parse().unwrap()
}

fn frontend(socket: &str, protocol: Protocol) -> Frontend {
    let socket = self::socket(socket);
    Frontend::Address { address: socket.ip(), protocol, port: PortNumber::new(socket.port()).unwrap() }
}

fn check(frontend: &str, serving: &[&str]) -> FlowCheck {
    let frontend = self::frontend(frontend, Protocol::Udp);
    FlowCheck { frontend, serving: Some(serving.iter().copied().map(socket).collect()) }
}

fn node_port(port: u16) -> FlowCheck {
    let port = PortNumber::new(port).unwrap();
    FlowCheck { frontend: Frontend::NodePort { protocol: Protocol::Udp, port }, serving: Some(BTreeSet::new()) }
}

fn flow(destination: &str, answers: &str) -> Flow {
    let client = socket("192.0.2.100:40000");
    let original = Tuple { source: client, destination: socket(destination) };
    Flow {
        protocol: 17,
        is_offloaded: false,
        original,
        reply: Tuple { source: socket(answers), destination: client },
        id: 1,
    }
}

/// Of TCP, connections that follow the rules end by themselves or with their endpoint: only those in a flowtable are listed. Of
/// UDP, all are.
#[test]
fn tcp_flows_are_looked_at_where_they_are_in_a_flowtable_and_udp_flows_wherever_they_are() {
    let gone = |protocol, is_offloaded| Flow { protocol, is_offloaded, ..flow(FRONTEND, "10.1.0.1:5353") };
    let harness = Harness::new(&[gone(17, false), gone(17, true), gone(6, false), gone(6, true), gone(132, true)]);
    let [udp, tcp] = [(17, false), (6, true)].map(|(protocol, offloaded)| Flows {
        family: ruleset::Family::Ip,
        protocol,
        offloaded,
    });
    let (udp_stale, tcp_stale) = (vec![gone(17, false), gone(17, true)], vec![gone(6, true)]);
    let of_udp = check(FRONTEND, &["10.1.0.2:5353"]);
    let of_tcp = FlowCheck { frontend: frontend(FRONTEND, Protocol::Tcp), serving: None };
    let of_sctp = FlowCheck { frontend: frontend(FRONTEND, Protocol::Sctp), serving: None };
    for (checks, expected) in [
        (vec![of_udp.clone()], vec![(udp, udp_stale.clone())]),
        (vec![of_tcp.clone()], vec![(tcp, tcp_stale.clone())]),
        (vec![of_tcp, of_sctp, of_udp], vec![(udp, udp_stale), (tcp, tcp_stale)]),
    ] {
        harness.reconciler.check(Family::V4, checks);
        for list in expected {
            assert_eq!(harness.asked(), list);
            harness.ends.send(done(0)).unwrap();
        }
    }
    // Of the stale ones, those that were in a flowtable are told apart, each twice: of UDP the endpoint is gone, of TCP the Service.
    for reason in ["endpoint", "service"] {
        harness.wait_metric(&format!(r#"kubeproxy_fastpath_invalidated_flows_total{{reason="{reason}"}} 2"#));
    }
}

#[test]
fn what_is_to_be_done_next_is_done_when_checks_were_made_or_have_failed_or_there_are_none() {
    let harness = Harness::new(&[]);
    let (done_in, is_done) = channel();
    let next = |number| {
        let done_in = done_in.clone();
        harness.reconciler.then(Box::new(move || done_in.send(number).unwrap()));
    };
    next(0);
    assert_eq!(is_done.recv_timeout(PATIENCE), Ok(0));
    for (number, outcome) in [(1, done(0)), (2, Err(io::Error::from_raw_os_error(12)))] {
        harness.reconciler.check(Family::V4, vec![check(FRONTEND, &[])]);
        next(number);
        harness.list();
        assert!(is_done.try_recv().is_err(), "flows are being listed");
        harness.ends.send(outcome).unwrap();
        assert_eq!(is_done.recv_timeout(PATIENCE), Ok(number));
    }
}

#[test]
fn what_came_while_flows_were_listed_is_one_piece_of_work() {
    let (one, two) = (flow(FRONTEND, "10.1.0.1:5353"), flow(FRONTEND, "10.1.0.2:5353"));
    let harness = Harness::new(&[one, two]);
    harness.reconciler.check(Family::V4, vec![check(FRONTEND, &["10.1.0.1:5353"])]);
    assert_eq!(harness.list(), (ruleset::Family::Ip, vec![two]));
    // While that goes on, nobody is kept waiting, and of each frontend the last counts.
    for serving in [&["10.1.0.1:5353"][..], &["10.1.0.1:5353", "10.1.0.2:5353"], &["10.1.0.2:5353"]] {
        harness.reconciler.check(Family::V4, vec![check(FRONTEND, serving)]);
    }
    harness.ends.send(done(1)).unwrap();
    assert_eq!(harness.list(), (ruleset::Family::Ip, vec![one]));
    harness.ends.send(done(1)).unwrap();
    harness.wait_metric(r#"kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 2"#);
    harness.wait_metric(r#"kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv4"} 2"#);
    assert!(harness.lists.try_recv().is_err());
}

#[test]
fn only_families_with_something_to_check_are_listed_and_a_list_without_a_stale_flow_is_observed_too() {
    let harness = Harness::new(&[]);
    harness.reconciler.check(Family::V4, Vec::new());
    harness.reconciler.check(Family::V6, vec![check("[fd00::10]:53", &[])]);
    assert_eq!(harness.list(), (ruleset::Family::Ip6, vec![]));
    harness.ends.send(done(0)).unwrap();
    harness.wait_metric(r#"kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv6"} 1"#);
    harness.wait_metric(r#"kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv6"} 0"#);
    assert!(!harness.metrics.render().contains(r#"reconciler_sync_duration_seconds_count{ip_family="IPv4"}"#));
}

#[test]
fn node_ports_are_those_of_the_nodes_addresses_of_the_moment_but_for_loopback() {
    let to = |address: &str| flow(&format!("{address}:30053"), "10.1.0.9:53");
    let flows = ["192.0.2.10", "192.0.2.11", "127.0.0.1", "192.0.2.99"].map(to);
    let mut moments = VecDeque::from([vec!["192.0.2.10", "127.0.0.1"], vec!["192.0.2.11", "127.0.0.1"]]);
    let addresses = move || {
        let moment = moments.pop_front().context("no third time")?;
        moment.into_iter().map(|address| Ok(address.parse()?)).collect()
    };
    let harness = Harness::with_addresses(&flows, Box::new(addresses));
    for stale in &flows[..2] {
        harness.reconciler.check(Family::V4, vec![node_port(30053)]);
        assert_eq!(harness.list().1, [*stale]);
        harness.ends.send(done(1)).unwrap();
    }
}

#[test]
fn what_failed_is_tried_again_with_what_comes_next() {
    let (one, two) = (flow(FRONTEND, "10.1.0.1:5353"), flow("10.96.0.11:53", "10.1.0.2:5353"));
    let incomplete = Ok(Tally { complete: false, ..done(0).unwrap() });
    let refused = Ok(Tally { refused: Some((3, io::ErrorKind::ResourceBusy.into())), ..done(2).unwrap() });
    let failed = Err(io::Error::from_raw_os_error(12));
    for (failure, observed) in [(failed, 1), (incomplete, 2), (refused, 2)] {
        let harness = Harness::new(&[one, two]);
        harness.reconciler.check(Family::V4, vec![check(FRONTEND, &[])]);
        assert_eq!(harness.list().1, [one]);
        harness.ends.send(failure).unwrap();
        harness.wait_metric(r#"slipstream_conntrack_reconciler_failures_total{ip_family="IPv4"} 1"#);
        harness.reconciler.check(Family::V4, vec![check("10.96.0.11:53", &[])]);
        assert_eq!(harness.list().1, [one, two]);
        harness.ends.send(done(2)).unwrap();
        // A list that failed as such is not observed.
        let count = "kubeproxy_conntrack_reconciler_sync_duration_seconds_count";
        harness.wait_metric(&format!(r#"{count}{{ip_family="IPv4"}} {observed}"#));
    }
}

#[test]
fn what_failed_is_not_what_a_newer_check_says() {
    let (one, two) = (flow(FRONTEND, "10.1.0.1:5353"), flow(FRONTEND, "10.1.0.2:5353"));
    let harness = Harness::new(&[one, two]);
    harness.reconciler.check(Family::V4, vec![check(FRONTEND, &["10.1.0.1:5353"])]);
    assert_eq!(harness.list().1, [two]);
    harness.reconciler.check(Family::V4, vec![check(FRONTEND, &["10.1.0.2:5353"])]);
    harness.ends.send(Err(io::Error::from_raw_os_error(12))).unwrap();
    assert_eq!(harness.list().1, [one]);
    harness.ends.send(done(1)).unwrap();
}

#[test]
fn without_the_nodes_addresses_nothing_is_listed_and_it_is_a_failure() {
    let harness = Harness::with_addresses(&[], Box::new(|| anyhow::bail!("no addresses")));
    harness.reconciler.check(Family::V6, vec![node_port(30053)]);
    harness.wait_metric(r#"slipstream_conntrack_reconciler_failures_total{ip_family="IPv6"} 1"#);
    assert!(harness.lists.try_recv().is_err());
}

/// By itself, after a while: the queue is asked as the thread asks it.
#[test]
fn what_failed_is_tried_again_after_a_while_and_what_did_not_is_not() {
    let queue = Arc::<Queue>::default();
    let failed = {
        let mut checks = Checks::default();
        checks.add(vec![check(FRONTEND, &[])]);
        checks
    };
    queue.put_back(Family::V4, failed.clone());
    let (taken, _) = queue.take(Some(Duration::from_millis(1)), SETTLE).unwrap();
    assert_eq!(taken, PerFamily { v4: failed, v6: Checks::default() });

    // Without a time to try again it waits until there is something new, or no one who could bring that.
    let reconciler = Reconciler(Arc::clone(&queue));
    let waiting = thread::spawn(move || queue.take(None, SETTLE));
    drop(reconciler);
    assert!(waiting.join().unwrap().is_none());
}

#[test]
fn the_thread_ends_with_the_last_who_could_ask() {
    let Harness { reconciler, lists, .. } = Harness::new(&[]);
    let other = Arc::clone(&reconciler);
    drop(reconciler);
    other.check(Family::V4, vec![check(FRONTEND, &[])]);
    lists.recv_timeout(PATIENCE).unwrap();
    drop(other);
    // The thread had the other end.
    assert!(lists.recv_timeout(PATIENCE).is_err_and(|error| error == RecvTimeoutError::Disconnected));
}

/// With the kernel's conntrack: flows to a frontend whose endpoint is gone are deleted, those to others stay.
#[test]
fn over_the_kernel() {
    let namespace = Namespace::new("flows").unwrap();
    namespace.sh("nft 'table ip t { chain c { type filter hook output priority 0; ct state new accept; }; }'").unwrap();
    let (servers, client) = namespace.run(|| {
        let bind = || UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        ([bind(), bind()], bind())
    });
    let [stale, fine] = servers.map(|server| server.local_addr().unwrap());
    for server in [stale, fine] {
        client.send_to(b"?", server).unwrap();
    }
    let destinations = || {
        let mut destinations = BTreeSet::new();
        let mut conntrack = namespace.run(Conntrack::open).unwrap();
        let udp = Flows { family: ruleset::Family::Ip, protocol: 17, offloaded: false };
        conntrack.count(udp, |flow| destinations.insert(flow.original.destination)).unwrap();
        destinations
    };
    assert_eq!(destinations(), [stale, fine].into());

    let metrics = Arc::new(Metrics::new().unwrap());
    let conntrack = namespace.run(Conntrack::open).unwrap();
    let reconciler = Arc::new(Reconciler::spawn(conntrack, Box::new(|| Ok(Vec::new())), metrics).unwrap());
    let keep = fine.to_string();
    reconciler.check(Family::V4, vec![check(&stale.to_string(), &[]), check(&keep, &[&keep])]);
    let deadline = Instant::now() + PATIENCE;
    while destinations() != [fine].into() {
        assert!(Instant::now() < deadline, "{:?}", destinations());
    }
}

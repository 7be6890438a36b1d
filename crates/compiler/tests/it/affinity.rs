//! Session affinity: clients that were sent to an endpoint are sent there again, and never to one that has left.

use std::num::NonZeroU32;

use compiler::Packet;
use model::{Family, Protocol, Service, ServiceName, TrafficPolicy, Update};
use ruleset::{Data, Element, Op, Transaction, Words};

use crate::world::{NODE, OUTSIDE, POD, World, ip, options, port, service, slice};

const CLUSTER_IP: &str = "172.30.0.41";
const LB: &str = "5.6.7.8";
const BOTH: [(&str, &str); 2] = [("10.180.0.1", "l"), ("10.180.0.2", "")];

fn sticky(timeout: u32) -> Service {
    let mut web = service("web", CLUSTER_IP);
    web.affinity = NonZeroU32::new(timeout);
    web.ports[0].node_port = Some(port(3001));
    web.load_balancer_ips = vec![ip(LB)];
    web
}

fn world() -> World {
    World::new(options(Family::V4)).with([Update::Service(sticky(10_800)), slice("web", 80, &BOTH)])
}

/// What the kernel notes when a client was sent to an endpoint.
fn note(client: &str, to: &str, to_port: u16, endpoint: &str) -> Element {
    let key = Words::build().address(ip(client)).address(ip(to)).protocol(6).port(to_port).finish();
    Element { key, data: Data::Value(Words::build().address(ip(endpoint)).port(80).datum()), comment: None }
}

/// Has the kernel note this.
fn remember(world: &mut World, notes: &[Element]) {
    let set = world.table().sets()["affinity"].set.clone();
    let add = Op::AddElements { set, elements: notes.to_vec() };
    world.commit(&Transaction { ops: vec![add], ..world.transaction() });
}

fn notes(world: &World) -> Vec<Element> {
    world.table().sets()["affinity"].elements.values().cloned().collect()
}

/// Does what the proxy does after a commit.
fn forget(world: &mut World) -> usize {
    assert!(world.compiler.stale_choices().is_some());
    let transaction = world.compiler.forget(&notes(world));
    world.commit(&transaction);
    world.compiler.forgotten();
    let again = world.compiler.forget(&notes(world));
    assert!(again.is_empty() && world.compiler.stale_choices().is_none(), "{again}");
    transaction.len()
}

#[test]
fn a_client_is_sent_where_it_was_sent_before() {
    let mut world = world();
    world.check(&[(POD, CLUSTER_IP, 80, "10.180.0.1:80, 10.180.0.2:80")]);
    remember(
        &mut world,
        &[
            note(POD, CLUSTER_IP, 80, "10.180.0.2"),
            note(OUTSIDE, LB, 80, "10.180.0.1"),
            note(OUTSIDE, NODE[0], 3001, "10.180.0.2"),
        ],
    );
    world.check(&[
        (POD, CLUSTER_IP, 80, "10.180.0.2:80"),
        ("10.0.0.3", CLUSTER_IP, 80, "10.180.0.1:80, 10.180.0.2:80"),
        (OUTSIDE, LB, 80, "10.180.0.1:80 masq"),
        (OUTSIDE, NODE[0], 3001, "10.180.0.2:80 masq"),
        (POD, LB, 80, "10.180.0.1:80 masq, 10.180.0.2:80 masq"),
    ]);
}

#[test]
fn the_kernel_notes_new_connections_to_frontends_with_affinity_only() {
    let mut other = service("other", "172.30.0.42");
    other.ports[0].node_port = Some(port(3002));
    let world = world().with([Update::Service(other), slice("other", 80, &BOTH[..1])]);
    let noted = |destination: &str, port| {
        let packet = Packet { source: ip(OUTSIDE), destination: ip(destination), protocol: Protocol::Tcp, port };
        world.tracer(|tracer| tracer.notes(packet)).into_iter().collect::<Vec<_>>()
    };
    let expected = |to: &str, port| {
        BOTH.map(|(endpoint, _)| (note(OUTSIDE, to, port, endpoint), NonZeroU32::new(10_800).unwrap()))
            .map(|(element, timeout)| match element.data {
                Data::Value(endpoint) => (element.key, endpoint, timeout),
                data => panic!("{data:?}"),
            })
            .to_vec()
    };
    for (to, port) in [(CLUSTER_IP, 80), (LB, 80), (NODE[0], 3001)] {
        assert_eq!(noted(to, port), expected(to, port), "{to}:{port}");
    }
    assert_eq!(noted("172.30.0.42", 80), []);
    assert_eq!(noted(NODE[0], 3002), []);
}

#[test]
fn an_endpoint_that_left_gets_no_connection_from_the_commit_on() {
    let mut world = world();
    remember(&mut world, &[note(POD, CLUSTER_IP, 80, "10.180.0.2"), note(OUTSIDE, NODE[0], 3001, "10.180.0.2")]);
    world.apply([slice("web", 80, &BOTH[..1])]);
    // The notes are still there. A client tries again after a second, when they are not.
    world.check(&[(POD, CLUSTER_IP, 80, "drop"), (OUTSIDE, NODE[0], 3001, "drop")]);
    assert_eq!(forget(&mut world), 2);
    world.check(&[(POD, CLUSTER_IP, 80, "10.180.0.1:80"), (OUTSIDE, NODE[0], 3001, "10.180.0.1:80 masq")]);
}

#[test]
fn an_endpoint_that_comes_back_gets_its_clients_back() {
    let mut world = world();
    remember(&mut world, &[note(POD, CLUSTER_IP, 80, "10.180.0.2")]);
    world.apply([slice("web", 80, &BOTH[..1])]);
    world.apply([slice("web", 80, &BOTH)]);
    world.check(&[(POD, CLUSTER_IP, 80, "10.180.0.2:80")]);
    assert_eq!(forget(&mut world), 0);
}

#[test]
fn what_guards_against_endpoints_that_left_goes_when_no_packet_can_be_on_its_way() {
    let guards = |world: &World| world.table().sets()["affinity-gone-ips"].elements.len();
    let mut world = world();
    world.apply([slice("web", 80, &BOTH[..1])]);
    assert_eq!(guards(&world), 2, "ClusterIP and load balancer");
    let sweep = |world: &mut World| {
        let swept = world.compiler.sweep();
        world.commit(&swept);
        guards(world)
    };
    assert_eq!([sweep(&mut world), sweep(&mut world)], [2, 2], "the notes have not been looked through");
    forget(&mut world);
    assert_eq!([sweep(&mut world), sweep(&mut world)], [2, 0]);
}

#[test]
fn switched_off_and_on() {
    let mut world = world();
    remember(&mut world, &[note(POD, CLUSTER_IP, 80, "10.180.0.2")]);
    world.apply([Update::Service(Service { affinity: None, ..sticky(1) })]);
    world.check(&[(POD, CLUSTER_IP, 80, "10.180.0.1:80, 10.180.0.2:80")]);
    // Endpoints that leave meanwhile are not waited for either.
    world.apply([slice("web", 80, &BOTH[..1])]);
    world.apply([Update::Service(sticky(60))]);
    world.check(&[(POD, CLUSTER_IP, 80, "drop")]);
    assert_eq!(forget(&mut world), 1);
    world.check(&[(POD, CLUSTER_IP, 80, "10.180.0.1:80")]);
}

#[test]
fn another_timeout_keeps_what_is_noted() {
    let mut world = world();
    remember(&mut world, &[note(POD, CLUSTER_IP, 80, "10.180.0.2")]);
    world.apply([Update::Service(sticky(60))]);
    world.check(&[(POD, CLUSTER_IP, 80, "10.180.0.2:80")]);
    let sets = world.table().sets();
    assert!(sets["affinity-ips-10800"].elements.is_empty() && sets["affinity-ips-60"].elements.len() == 2);
}

#[test]
fn a_service_that_is_deleted_is_forgotten() {
    let mut world = world();
    remember(&mut world, &[note(POD, CLUSTER_IP, 80, "10.180.0.2")]);
    world.apply([Update::ServiceGone(ServiceName::new("ns", "web"))]);
    world.check(&[(POD, CLUSTER_IP, 80, "172.30.0.41:80")]);
    assert_eq!(forget(&mut world), 1);
}

/// Who may go where depends on the policy: what was noted under another one is not true any more.
#[test]
fn a_change_of_policy_forgets() {
    let mut world = world();
    remember(&mut world, &[note(OUTSIDE, LB, 80, "10.180.0.1"), note(POD, CLUSTER_IP, 80, "10.180.0.2")]);
    world.apply([Update::Service(Service { external_policy: TrafficPolicy::Local, ..sticky(10_800) })]);
    assert_eq!(forget(&mut world), 1);
    world.check(&[(OUTSIDE, LB, 80, "10.180.0.1:80"), (POD, CLUSTER_IP, 80, "10.180.0.2:80")]);
}

/// An address that moves to another node is an endpoint for pods still, but not for clients outside.
#[test]
fn an_endpoint_that_moves_away_is_forgotten_by_clients_outside() {
    let web = Service { external_policy: TrafficPolicy::Local, ..sticky(10_800) };
    let ends = |second| [("10.180.0.1", "l"), ("10.180.0.2", second)];
    let mut world = World::new(options(Family::V4)).with([Update::Service(web), slice("web", 80, &ends("l"))]);
    remember(&mut world, &[note(OUTSIDE, LB, 80, "10.180.0.2")]);
    world.apply([slice("web", 80, &ends(""))]);
    assert_eq!(forget(&mut world), 1);
    world.check(&[(OUTSIDE, LB, 80, "10.180.0.1:80"), (POD, LB, 80, "10.180.0.1:80, 10.180.0.2:80")]);
}

/// It terminates, and serves where no other endpoint is on this node: that is for clients outside.
#[test]
fn an_endpoint_that_only_strangers_may_use_is_forgotten_by_pods() {
    let mut web = sticky(10_800);
    web.external_policy = TrafficPolicy::Local;
    let ends = |last: &'static str| [("10.180.0.1", ""), ("10.180.0.2", last)];
    let mut world = World::new(options(Family::V4)).with([Update::Service(web), slice("web", 80, &ends("l"))]);
    remember(&mut world, &[note(POD, LB, 80, "10.180.0.2"), note(OUTSIDE, LB, 80, "10.180.0.2")]);
    world.apply([slice("web", 80, &ends("lt"))]);
    forget(&mut world);
    world.check(&[(POD, LB, 80, "10.180.0.1:80"), (OUTSIDE, LB, 80, "10.180.0.2:80")]);
}

#[test]
fn policy_local_with_affinity() {
    let web =
        Service { external_policy: TrafficPolicy::Local, internal_policy: TrafficPolicy::Local, ..sticky(10_800) };
    let ends = [("10.180.0.1", "l"), ("10.180.0.2", ""), ("10.180.0.3", "l")];
    let mut world = World::new(options(Family::V4)).with([Update::Service(web), slice("web", 80, &ends)]);
    world.check(&[
        (POD, CLUSTER_IP, 80, "10.180.0.1:80, 10.180.0.3:80"),
        (OUTSIDE, LB, 80, "10.180.0.1:80, 10.180.0.3:80"),
        (POD, LB, 80, "10.180.0.1:80, 10.180.0.2:80, 10.180.0.3:80"),
    ]);
    remember(&mut world, &[note(OUTSIDE, LB, 80, "10.180.0.3"), note(POD, LB, 80, "10.180.0.2")]);
    world.check(&[(OUTSIDE, LB, 80, "10.180.0.3:80"), (POD, LB, 80, "10.180.0.2:80")]);
}

/// Source ranges come before what is remembered, and policies decide among whom a client is remembered. Of policies, internal and
/// external: what a pod sees of the ClusterIP, a client outside and one in no range of the NodePort, and the first of the load
/// balancer, at first; then what each sees once it was sent to the endpoint that it may use last.
#[test]
fn affinity_with_policies_and_source_ranges() {
    use TrafficPolicy::{Cluster, Local};
    const BLOCKED: &str = "203.0.113.130";
    let ends = [("10.180.0.1", "l"), ("10.180.0.2", "l"), ("10.180.0.3", "")];
    let (local, all) = ("10.180.0.1:80, 10.180.0.2:80", "10.180.0.1:80, 10.180.0.2:80, 10.180.0.3:80");
    let masq = "10.180.0.1:80 masq, 10.180.0.2:80 masq, 10.180.0.3:80 masq";
    for (internal, external, inside, outside) in [
        (Cluster, Cluster, (all, "10.180.0.3"), (masq, "10.180.0.3")),
        (Cluster, Local, (all, "10.180.0.3"), (local, "10.180.0.2")),
        (Local, Cluster, (local, "10.180.0.2"), (masq, "10.180.0.3")),
        (Local, Local, (local, "10.180.0.2"), (local, "10.180.0.2")),
    ] {
        let source_ranges = vec!["203.0.113.0/25".parse().unwrap()];
        let web = Service { internal_policy: internal, external_policy: external, source_ranges, ..sticky(10_800) };
        let mut world = World::new(options(Family::V4)).with([Update::Service(web), slice("web", 80, &ends)]);
        let ways = [
            (POD, CLUSTER_IP, 80, inside),
            (OUTSIDE, NODE[0], 3001, outside),
            (BLOCKED, NODE[0], 3001, outside),
            (OUTSIDE, LB, 80, outside),
        ];
        let dropped = [(BLOCKED, LB, 80, "drop"), (POD, LB, 80, "drop"), (NODE[0], LB, 80, "drop")];
        world.check(&ways.map(|(from, to, port, (any, _))| (from, to, port, any)));
        world.check(&dropped);

        let known = ways.map(|(from, to, port, (_, endpoint))| note(from, to, port, endpoint));
        let of_dropped = dropped.map(|(from, to, port, _)| note(from, to, port, "10.180.0.1"));
        remember(&mut world, &[&known[..], &of_dropped].concat());
        let suffix = |shown: &str| if shown.ends_with("masq") { ":80 masq" } else { ":80" };
        let stays = ways.map(|(_, _, _, (any, endpoint))| format!("{endpoint}{}", suffix(any)));
        let stays: Vec<_> =
            ways.iter().zip(&stays).map(|((from, to, port, _), end)| (*from, *to, *port, end.as_str())).collect();
        world.check(&stays);
        world.check(&dropped);
        world.check(&[("203.0.113.10", LB, 80, outside.0), ("10.0.0.3", CLUSTER_IP, 80, inside.0)]);
    }
}

#[test]
fn everything_compiled_anew_still_guards_against_endpoints_that_left() {
    let mut world = world();
    world.apply([slice("web", 80, &BOTH[..1])]);
    let all = world.compiler.compile_all(&world.state);
    world.commit(&all);
    remember(&mut world, &[note(POD, CLUSTER_IP, 80, "10.180.0.2")]);
    world.check(&[(POD, CLUSTER_IP, 80, "drop")]);
    assert_eq!(forget(&mut world), 1);
}

#[test]
fn nothing_of_it_exists_where_no_service_has_it() {
    let world =
        World::new(options(Family::V4)).with([Update::Service(service("web", CLUSTER_IP)), slice("web", 80, &BOTH)]);
    assert!(!world.table().sets().keys().any(|set| set.as_str().starts_with("affinity")));
    assert!(world.table().chains()["affinity-check"].rules.is_empty());
    assert!(world.compiler.stale_choices().is_none());
}

#[test]
fn ipv6_too() {
    let mut web = service("web", "fd00:30::41");
    web.affinity = NonZeroU32::new(10);
    let ends = [("fd00:10::1", ""), ("fd00:10::2", "")];
    let mut world = World::new(options(Family::V6)).with([Update::Service(web), slice("web", 80, &ends)]);
    remember(&mut world, &[note("fd00:10::77", "fd00:30::41", 80, "fd00:10::2")]);
    world.check(&[("fd00:10::77", "fd00:30::41", 80, "[fd00:10::2]:80")]);
    world.apply([slice("web", 80, &ends[..1])]);
    world.check(&[("fd00:10::77", "fd00:30::41", 80, "drop")]);
    assert_eq!(forget(&mut world), 1);
}

/// What leads to a NodePort is known by the port alone, which a ClusterIP or a load balancer may have as well.
#[test]
fn a_node_port_is_told_from_the_same_port_of_an_address() {
    let mut web = sticky(10_800);
    web.ports[0].port = port(3001);
    let mut world = World::new(options(Family::V4)).with([Update::Service(web.clone()), slice("web", 80, &BOTH)]);
    remember(&mut world, &[note(POD, CLUSTER_IP, 3001, "10.180.0.2"), note(POD, LB, 3001, "10.180.0.2")]);
    web.ports[0].node_port = None;
    world.apply([Update::Service(web)]);
    assert_eq!(world.table().sets()["affinity-gone-nodeports"].elements.len(), 2);
    world.check(&[(POD, CLUSTER_IP, 3001, "10.180.0.2:80"), (POD, LB, 3001, "10.180.0.2:80 masq")]);

    // Nor is a connection to a Service without affinity noted because another has it at a NodePort.
    let mut other = service("other", "172.30.0.42");
    other.ports[0].port = port(3002);
    let mut second = sticky(60);
    second.ports[0].node_port = Some(port(3002));
    let world = World::new(options(Family::V4)).with([
        Update::Service(other),
        slice("other", 80, &BOTH),
        Update::Service(second),
        slice("web", 80, &BOTH),
    ]);
    let packet = Packet { source: ip(POD), destination: ip("172.30.0.42"), protocol: Protocol::Tcp, port: 3002 };
    assert_eq!(world.tracer(|tracer| tracer.notes(packet)).len(), 0);
}

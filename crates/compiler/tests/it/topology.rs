//! Hints of endpoints (contract §4.6, §12.2 topology): whom they lead where. `model/tests/topology.rs` has more cases of which
//! endpoints are selected; here are those that packets tell apart.

use std::sync::Arc;

use TrafficPolicy::{Cluster, Local};
use model::{Endpoint, Family, Hints, NodeHint, Protocol, TrafficPolicy, Update};

use crate::world::{NODE, OUTSIDE, POD, World, endpoint, ip, options, port, service, slice};

const CLUSTER_IP: &str = "172.30.0.41";
const LB: &str = "5.6.7.8";
const ZONE: &str = "zone-a";

/// Two endpoints in each of two zones, the first on our node.
const ZONED: &[&str] = &["zone-a local", "zone-b", "zone-b", "zone-a"];

/// An endpoint by words: `local`; `unready` (but serving), `terminating` or `dead`, ready if none of them; the zones `zone-x` and
/// nodes `node-x` of its hints, ours being `node-us`.
fn hinted(number: usize, words: &str) -> Endpoint {
    let words: Vec<_> = words.split_whitespace().collect();
    let flags = [("local", "l"), ("unready", "s"), ("terminating", "t"), ("dead", "d")];
    let flags: String = flags.iter().filter(|(word, _)| words.contains(word)).map(|(_, flag)| *flag).collect();
    let zones = words.iter().filter(|word| word.starts_with("zone-")).map(|zone| Arc::from(*zone)).collect();
    let nodes = match words.iter().any(|word| word.starts_with("node-")) {
        _ if words.contains(&"node-us") => NodeHint::ThisNode,
        true => NodeHint::Others,
        false => NodeHint::Unset,
    };
    Endpoint { hints: Some(Arc::new(Hints { nodes, zones })), ..endpoint(&format!("10.180.0.{number}"), &flags) }
}

/// The slice of these endpoints, numbered from 1.
fn ends(endpoints: &[&str]) -> Update {
    let Update::Slice(mut slice) = slice("web", 80, &[]) else { unreachable!() };
    slice.endpoints = (1..).zip(endpoints).map(|(number, words)| hinted(number, words)).collect();
    Update::Slice(slice)
}

/// A Service with these policies, inside and outside, at a ClusterIP, a load balancer and NodePort 3001, on a node in a zone.
fn world((internal, external): (TrafficPolicy, TrafficPolicy), zone: Option<&str>, endpoints: &[&str]) -> World {
    let mut web = service("web", CLUSTER_IP);
    web.ports[0].node_port = Some(port(3001));
    web.load_balancer_ips = vec![ip(LB)];
    (web.internal_policy, web.external_policy) = (internal, external);
    World::new(options(Family::V4)).with([Update::Zone(zone.map(Arc::from)), Update::Service(web), ends(endpoints)])
}

/// The numbers of the endpoints that a client reaches, or what becomes of its packets otherwise.
fn reached(world: &World, source: &str, destination: &str, port: u16) -> String {
    world.trace(source, destination, Protocol::Tcp, port).replace("10.180.0.", "").replace(":80", "")
}

/// What clients see of the ClusterIP and, masqueraded, of everything else, where both policies are Cluster.
fn check_policy_cluster(cases: &[(&str, Option<&str>, &[&str], &str)]) {
    for (name, zone, endpoints, expected) in cases {
        let world = world((Cluster, Cluster), *zone, endpoints);
        assert_eq!(reached(&world, POD, CLUSTER_IP, 80), *expected, "{name}: {endpoints:?}");
        let masqueraded = expected.split(", ").map(|number| format!("{number} masq")).collect::<Vec<_>>().join(", ");
        for (source, destination, port) in
            [(OUTSIDE, LB, 80), (OUTSIDE, NODE[0], 3001), (POD, LB, 80), (NODE[0], CLUSTER_IP, 80)]
        {
            let found = reached(&world, source, destination, port);
            assert_eq!(found, masqueraded, "{name}: {source} to {destination}: {endpoints:?}");
        }
    }
}

#[test]
fn prefer_same_zone() {
    check_policy_cluster(&[
        ("hints of all count", Some(ZONE), ZONED, "1, 4"),
        ("another zone", Some("zone-b"), ZONED, "2, 3"),
        ("several zones for one endpoint", Some("zone-c"), &["zone-a zone-c", "zone-b", "zone-c zone-b"], "1, 3"),
        ("the node has no zone", None, ZONED, "1, 2, 3, 4"),
        ("the node's zone is empty", Some(""), ZONED, "1, 2, 3, 4"),
        ("none is for the node's zone", Some("zone-c"), ZONED, "1, 2, 3, 4"),
        ("one has no hint", Some(ZONE), &["zone-a local", "", "zone-b"], "1, 2, 3"),
        ("none has a hint", Some(ZONE), &["local", "", ""], "1, 2, 3"),
        ("one that is not ready has no hint", Some(ZONE), &["zone-a", "zone-b", "unready"], "1"),
        ("one of the zone is not ready", Some(ZONE), &["zone-a local", "zone-b", "zone-a unready"], "1"),
        ("the only one of the zone is not ready", Some(ZONE), &["zone-a unready", "zone-b", "zone-b"], "2, 3"),
    ]);
}

#[test]
fn prefer_same_node() {
    check_policy_cluster(&[
        ("before the zone", Some(ZONE), &["zone-a node-us local", "zone-a node-x", "zone-b node-y"], "1"),
        ("no zone is needed", None, &["node-us local", "node-x"], "1"),
        ("several nodes for one endpoint", Some(ZONE), &["node-us node-x local", "node-us node-y", "node-z"], "1, 2"),
        ("one names no node: by zone", Some(ZONE), &["zone-a node-us local", "zone-a", "zone-b node-x"], "1, 2"),
        ("one names nothing", Some(ZONE), &["zone-a node-us local", "", "zone-b node-x"], "1, 2, 3"),
        ("none is for our node: by zone", Some(ZONE), &["zone-a node-x", "zone-a node-y", "zone-b node-z"], "1, 2"),
        ("ours is not ready", Some(ZONE), &["node-us local unready", "node-x", "node-y"], "2, 3"),
        ("neither node nor zone", Some(ZONE), &["zone-b node-x", "zone-c node-y"], "1, 2"),
    ]);
}

/// A ready endpoint anywhere comes before those that terminate, and of those all serve, wherever they are.
#[test]
fn terminating_endpoints() {
    check_policy_cluster(&[
        ("a ready one elsewhere", Some(ZONE), &["zone-a terminating local", "zone-b"], "2"),
        ("a ready one for another node", Some(ZONE), &["node-us terminating local", "node-x"], "2"),
        (
            "none is ready",
            Some(ZONE),
            &["zone-a node-us terminating local", "zone-b node-x terminating", "dead"],
            "1, 2",
        ),
        ("one of the zone terminates", Some(ZONE), &["zone-a", "zone-a terminating", "zone-b"], "1"),
    ]);
    let unusable = world((Cluster, Cluster), Some(ZONE), &["zone-a dead", "zone-a unready"]);
    assert_eq!(reached(&unusable, POD, CLUSTER_IP, 80), "reject");
}

/// Policy Local goes by the node alone; whoever may use any endpoint goes by hints.
#[test]
fn policy_local_wins_over_hints() {
    // The node is in zone b: the only local endpoint is none of its zone's.
    let zone = Some("zone-b");
    let near = ["zone-a local", "zone-b local", "zone-a", "zone-b"];
    type Case<'a> = ((TrafficPolicy, TrafficPolicy), Option<&'a str>, &'a [&'a str], [&'a str; 5]);
    // Pod to the ClusterIP; outside, pod and node to the load balancer; outside to the NodePort.
    let cases: &[Case<'_>] = &[
        ((Cluster, Local), zone, ZONED, ["2, 3", "1", "2, 3", "2 masq, 3 masq", "1"]),
        ((Local, Cluster), zone, ZONED, ["1", "2 masq, 3 masq", "2 masq, 3 masq", "2 masq, 3 masq", "2 masq, 3 masq"]),
        ((Local, Local), zone, ZONED, ["1", "1", "2, 3", "2 masq, 3 masq", "1"]),
        ((Cluster, Local), Some(ZONE), &near, ["1, 3", "1, 2", "1, 3", "1 masq, 3 masq", "1, 2"]),
        ((Local, Local), Some(ZONE), &near, ["1, 2", "1, 2", "1, 3", "1 masq, 3 masq", "1, 2"]),
        // No endpoint is on this node.
        ((Local, Local), zone, &ZONED[1..], ["drop", "drop", "1, 2", "1 masq, 2 masq", "drop"]),
        // The one on this node terminates: it serves those who may use no other.
        ((Cluster, Local), zone, &["zone-b terminating local", "zone-b", "zone-a"], ["2", "1", "2", "2 masq", "1"]),
        // A hint for this node does not make an endpoint local.
        ((Local, Local), None, &["node-us", "node-x local"], ["2", "2", "1", "1 masq", "2"]),
    ];
    for (policies, zone, endpoints, expected) in cases {
        let world = world(*policies, *zone, endpoints);
        let packets =
            [(POD, CLUSTER_IP, 80), (OUTSIDE, LB, 80), (POD, LB, 80), (NODE[0], LB, 80), (OUTSIDE, NODE[0], 3001)];
        let found = packets.map(|(source, destination, port)| reached(&world, source, destination, port));
        assert_eq!(found, *expected, "internal, external {policies:?}: {endpoints:?}");
    }
}

#[test]
fn hints_and_zones_that_change_are_followed() {
    let mut world = world((Cluster, Cluster), None, ZONED);
    let to_zone = |zone: &str| Update::Zone(Some(zone.into()));
    let without_one = ["zone-a local", "zone-b", "", "zone-a"];
    let with_nodes = ["zone-a node-us local", "zone-b node-x", "zone-b node-y", "zone-a node-x"];
    for (change, expected) in [
        (to_zone(ZONE), "1, 4"),
        (to_zone("zone-b"), "2, 3"),
        (ends(&without_one), "1, 2, 3, 4"),
        (ends(&with_nodes), "1"),
        (ends(&with_nodes[1..]), "1, 2"),
        (Update::Zone(None), "1, 2, 3"),
    ] {
        let name = format!("{change:?}");
        world.apply([change]);
        assert_eq!(reached(&world, POD, CLUSTER_IP, 80), expected, "{name}");
    }
}

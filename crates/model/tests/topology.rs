//! Which endpoints serve, by hints, policies and conditions (contract §4.6; the cases are those of kube-proxy's own test of
//! it, contract §12.2, where its feature gates leave a choice in 1.36).

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

use std::net::SocketAddr;
use std::sync::Arc;

use TrafficPolicy::{Cluster, Local};
use model::{
    Endpoint, Family, Hints, NodeHint, PerFamily, PortEndpoint, PortNumber, Protocol, Selection, Service, ServiceName,
    ServicePort, TrafficPolicy, select,
};

/// Policies, and whether clients outside can reach the Service.
#[derive(Clone, Copy)]
struct Kind {
    internal: TrafficPolicy,
    external: TrafficPolicy,
    accessible: bool,
}

const fn kind(internal: TrafficPolicy, external: TrafficPolicy, accessible: bool) -> Kind {
    Kind { internal, external, accessible }
}

const PLAIN: Kind = kind(Cluster, Cluster, false);
const INTERNAL_LOCAL: Kind = kind(Local, Cluster, false);
const EXTERNAL_LOCAL: Kind = kind(Cluster, Local, true);
const BOTH_LOCAL: Kind = kind(Local, Local, true);

struct Case<'a> {
    name: &'a str,
    kind: Kind,
    zone: Option<&'a str>,
    /// Words for each endpoint, in order: `ready` unless it is `unready` (but serving), `terminating` or `dead`; `local`; the
    /// zones `zone-x` and the nodes `node-x` of its hints, ours being `node-us`.
    endpoints: &'a [&'a str],
    /// Numbers of endpoints, counted from 1.
    cluster: &'a [u8],
    local: &'a [u8],
    /// Those on this node among all that may be reached.
    here: &'a [u8],
    any: bool,
}

fn endpoint(number: u8, words: &str) -> Endpoint {
    let has = |word| words.split(' ').any(|w| w == word);
    let hints =
        |prefix| -> Vec<Arc<str>> { words.split(' ').filter(|w| w.starts_with(prefix)).map(Arc::from).collect() };
    let (zones, nodes) = (hints("zone-"), hints("node-"));
    let (unready, terminating, dead) = (has("unready"), has("terminating"), has("dead"));
    Endpoint {
        address: [10, 0, 0, number].into(),
        ready: !unready && !terminating && !dead,
        serving: !dead,
        terminating: terminating || dead,
        local: has("local"),
        hints: Some(Arc::new(Hints {
            nodes: match nodes[..] {
                [] => NodeHint::Unset,
                _ if nodes.iter().any(|node| **node == *"node-us") => NodeHint::ThisNode,
                _ => NodeHint::Others,
            },
            zones: zones.into(),
        })),
    }
}

fn selected(case: &Case<'_>) -> Selection {
    let number = |port| PortNumber::new(port).unwrap();
    let port = ServicePort {
        name: "p".into(),
        protocol: Protocol::Tcp,
        port: number(80),
        node_port: case.kind.accessible.then(|| number(30080)),
    };
    let service = Service {
        cluster_ips: PerFamily { v4: Some([10, 96, 0, 1].into()), v6: None },
        internal_policy: case.kind.internal,
        external_policy: case.kind.external,
        ports: vec![port.clone()],
        ..Service::new(ServiceName::new("ns", "web"))
    };
    let endpoints: Vec<_> = (1..).zip(case.endpoints).map(|(number, words)| endpoint(number, words)).collect();
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| PortEndpoint { endpoint, port: number(8080) }).collect();
    select(&service, &port, Family::V4, &endpoints, case.zone)
}

fn check(cases: &[Case<'_>]) {
    for case in cases {
        let numbers = |sockets: &[SocketAddr]| -> Vec<u8> {
            sockets.iter().map(|s| if let SocketAddr::V4(s) = s { s.ip().octets()[3] } else { 0 }).collect()
        };
        let Selection { cluster, local, on_this_node, any } = selected(case);
        let found = (numbers(&cluster), numbers(&local), numbers(&on_this_node), any);
        let Case { name, endpoints, cluster, local, here, any, .. } = case;
        assert_eq!(found, (cluster.to_vec(), local.to_vec(), here.to_vec(), *any), "{name}: {endpoints:?}");
    }
}

/// Two endpoints in each of two zones, the first on our node.
const ZONED: &[&str] = &["zone-a local", "zone-b", "zone-b", "zone-a"];

#[test]
fn zone_hints() {
    let a = Some("a");
    let case = |name, zone, endpoints, cluster, here| Case {
        name,
        kind: PLAIN,
        zone,
        endpoints,
        cluster,
        local: &[],
        here,
        any: true,
    };
    let zone_a = Some("zone-a");
    check(&[
        case("hints of all endpoints count", zone_a, ZONED, &[1, 4], &[1]),
        case("the node has no labels", None, ZONED, &[1, 2, 3, 4], &[1]),
        case("the node's zone is empty", Some(""), ZONED, &[1, 2, 3, 4], &[1]),
        case("no endpoint is for the node's zone", Some("zone-c"), ZONED, &[1, 2, 3, 4], &[1]),
        case("a zone is compared as a whole", a, ZONED, &[1, 2, 3, 4], &[1]),
        case(
            "an endpoint of the zone is not ready",
            zone_a,
            &["zone-a local", "zone-b", "zone-b", "zone-a unready"],
            &[1],
            &[1],
        ),
        case(
            "the only endpoint of the zone is not ready",
            zone_a,
            &["zone-a local unready", "zone-b", "zone-b"],
            &[2, 3],
            &[],
        ),
        case("one endpoint without a hint", zone_a, &["zone-a local", "zone-b", "", "zone-a"], &[1, 2, 3, 4], &[1]),
        case("one without a hint that is not ready", zone_a, &["zone-a", "zone-b", "unready"], &[1], &[]),
        case(
            "several zones for an endpoint",
            Some("zone-c"),
            &["zone-a zone-b zone-c", "zone-b zone-c", "zone-b zone-d", "zone-c"],
            &[1, 2, 4],
            &[],
        ),
    ]);
}

#[test]
fn hints_never_narrow_local_lists() {
    check(&[
        Case {
            name: "external policy Local",
            kind: EXTERNAL_LOCAL,
            zone: Some("zone-b"),
            endpoints: ZONED,
            cluster: &[2, 3],
            local: &[1],
            here: &[1],
            any: true,
        },
        Case {
            name: "internal policy Local",
            kind: INTERNAL_LOCAL,
            zone: Some("zone-b"),
            endpoints: ZONED,
            cluster: &[],
            local: &[1],
            here: &[1],
            any: true,
        },
        Case {
            name: "what is near and what is local are different endpoints, and both may be reached",
            kind: EXTERNAL_LOCAL,
            zone: Some("zone-a"),
            endpoints: &["zone-a local", "zone-b local", "zone-a", "zone-b"],
            cluster: &[1, 3],
            local: &[1, 2],
            here: &[1, 2],
            any: true,
        },
    ]);
}

#[test]
fn node_hints() {
    let case = |name, endpoints, cluster, here| Case {
        name,
        kind: PLAIN,
        zone: Some("zone-a"),
        endpoints,
        cluster,
        local: &[],
        here,
        any: true,
    };
    check(&[
        case(
            "hints for our node win over those for our zone",
            &["zone-a node-us local", "zone-a node-x", "zone-b node-y"],
            &[1],
            &[1],
        ),
        case("several nodes for an endpoint", &["node-us node-x local", "node-us node-y", "node-z"], &[1, 2], &[1]),
        case(
            "one endpoint without a node: by zone",
            &["zone-a node-us local", "zone-a", "zone-b node-x"],
            &[1, 2],
            &[1],
        ),
        case("one endpoint without any hint", &["zone-a node-us local", "", "zone-b node-x"], &[1, 2, 3], &[1]),
        case(
            "no endpoint is for our node: by zone",
            &["zone-a node-x", "zone-a node-y", "zone-b node-z"],
            &[1, 2],
            &[],
        ),
        case("the one for our node is not ready", &["zone-a node-us local unready", "zone-b node-x"], &[2], &[]),
        case("neither node nor zone", &["zone-b node-x", "zone-c node-y"], &[1, 2], &[]),
    ]);
    check(&[Case {
        name: "no zone is known, and none is needed",
        zone: None,
        ..case("", &["node-us local", "node-x"], &[1], &[1])
    }]);
}

#[test]
fn terminating_endpoints_serve_wherever_they_are() {
    check(&[
        Case {
            name: "none is ready: hints do not count",
            kind: PLAIN,
            zone: Some("zone-a"),
            endpoints: &["zone-a node-us terminating local", "zone-b node-x terminating", "zone-b dead"],
            cluster: &[1, 2],
            local: &[],
            here: &[1],
            any: true,
        },
        Case {
            name: "a ready one elsewhere beats terminating ones in the zone",
            kind: PLAIN,
            zone: Some("zone-a"),
            endpoints: &["zone-a terminating local", "zone-b"],
            cluster: &[2],
            local: &[],
            here: &[],
            any: true,
        },
    ]);
}

#[test]
fn internal_policy_local() {
    let case = |name, endpoints, local, any| Case {
        name,
        kind: INTERNAL_LOCAL,
        zone: None,
        endpoints,
        cluster: &[],
        local,
        here: local,
        any,
    };
    check(&[
        case("no endpoints", &[], &[], false),
        case("all are remote", &["", ""], &[], true),
        case("all are local", &["local", "local"], &[1, 2], true),
        case("some are local", &["local", ""], &[1], true),
        case("a remote one terminates", &["terminating"], &[], true),
        case("a local one is not ready", &["unready local", ""], &[], true),
    ]);
}

#[test]
fn policy_cluster() {
    let case = |name, endpoints, cluster, any| Case {
        name,
        kind: PLAIN,
        zone: None,
        endpoints,
        cluster,
        local: &[],
        here: &[],
        any,
    };
    check(&[
        case("no endpoints", &[], &[], false),
        case("none is ready", &["unready", "unready"], &[], false),
        case("some are ready", &["unready", ""], &[2], true),
        case("all terminate", &["terminating", "terminating"], &[1, 2], true),
        case("one is dead", &["dead"], &[], false),
    ]);
}

#[test]
fn policies_together() {
    let case = |name, kind, endpoints, cluster, local, here| Case {
        name,
        kind,
        zone: None,
        endpoints,
        cluster,
        local,
        here,
        any: true,
    };
    let internal_only = kind(Local, Cluster, true);
    check(&[
        case("internal Local, external Cluster", internal_only, &["local", ""], &[1, 2], &[1], &[1]),
        case("internal Cluster, external Local", EXTERNAL_LOCAL, &["local", ""], &[1, 2], &[1], &[1]),
        case("both Local", BOTH_LOCAL, &["local", ""], &[1, 2], &[1], &[1]),
        case("both Local, all remote", BOTH_LOCAL, &["", ""], &[1, 2], &[], &[]),
        case("both Local, all remote and terminating", BOTH_LOCAL, &["terminating", "terminating"], &[1, 2], &[], &[]),
        case(
            "external Local, the local ones terminate",
            EXTERNAL_LOCAL,
            &["local terminating", "local dead", "", "terminating"],
            &[3],
            &[1],
            &[1],
        ),
        case(
            "external Local means nothing to a Service that nobody outside can reach",
            kind(Cluster, Local, false),
            &["local", ""],
            &[1, 2],
            &[],
            &[1],
        ),
        case(
            "internal Local and nobody outside can reach it: no cluster list",
            kind(Local, Local, false),
            &["local", ""],
            &[],
            &[1],
            &[1],
        ),
    ]);
}

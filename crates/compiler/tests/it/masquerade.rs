//! Upstream's InternalExternalMasquerade (contract §5.7, §12.1): who reaches which endpoints, and as whom. Three Services, three
//! clients, four kinds of frontend, with each way to tell pods and without one, with and without masqueradeAll; in both families.
//! `e2e/tests/it/masquerade.rs` does the same over sockets.

use compiler::{NodePorts, Options, Pods};
use model::{Family, Protocol, TrafficPolicy, Update};
use ruleset::Interface;

use crate::world::{NODE, OUTSIDE, POD, World, ip, options, port, service, slice};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    Default,
    ExternalLocal,
    InternalLocal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Pod,
    Node,
    Outside,
}

/// How the configuration tells pods.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// Not at all.
    Not,
    /// By what pods have.
    Right,
    /// By what no pod has.
    Wrong,
}

const POLICIES: [Policy; 3] = [Policy::Default, Policy::ExternalLocal, Policy::InternalLocal];
const CLIENTS: [Client; 3] = [Client::Pod, Client::Node, Client::Outside];

impl Client {
    const fn address(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Pod, Family::V4) => POD,
            (Self::Node, Family::V4) => NODE[0],
            (Self::Outside, Family::V4) => OUTSIDE,
            (Self::Pod, Family::V6) => "fd00:10::77",
            (Self::Node, Family::V6) => NODE[2],
            (Self::Outside, Family::V6) => "2001:db8:9::9",
        }
    }
}

/// An endpoint on this node and one elsewhere.
const fn endpoints(family: Family) -> [(&'static str, &'static str); 2] {
    match family {
        Family::V4 => [("10.180.0.1", "l"), ("10.180.2.1", "")],
        Family::V6 => [("fd00:10::1", "l"), ("fd00:10:2::1", "")],
    }
}

/// The ways to the Service of this number: what it is, address and port.
fn ways(family: Family, number: u16) -> [(&'static str, String, u16); 4] {
    let (cluster_ip, external_ip, balancer, node) = match family {
        Family::V4 => ("172.30.0.", "192.168.99.", "5.6.7.", NODE[0]),
        Family::V6 => ("fd00:30::", "2001:db8:99::", "2001:db8:5::", NODE[2]),
    };
    let at = |start| format!("{start}{number}");
    [
        ("ClusterIP", at(cluster_ip), 80),
        ("external IP", at(external_ip), 80),
        ("load balancer", at(balancer), 80),
        ("NodePort", node.to_owned(), 3000 + number),
    ]
}

/// The Service of this number, with everything and its endpoints.
fn with_everything(family: Family, policy: Policy, number: u16) -> [Update; 2] {
    let name = format!("svc{number}");
    let [cluster_ip, external_ip, balancer, node_port] = ways(family, number);
    let mut service = service(&name, &cluster_ip.1);
    service.external_ips = vec![ip(&external_ip.1)];
    service.load_balancer_ips = vec![ip(&balancer.1)];
    service.ports[0].node_port = Some(port(node_port.2));
    match policy {
        Policy::Default => {}
        Policy::ExternalLocal => service.external_policy = TrafficPolicy::Local,
        Policy::InternalLocal => service.internal_policy = TrafficPolicy::Local,
    }
    [Update::Service(service), slice(&name, 80, &endpoints(family))]
}

/// The table of contract §5.7.
fn expected(family: Family, policy: Policy, client: Client, to_cluster_ip: bool, all: bool, told: Told) -> String {
    let [local, _] = endpoints(family);
    let (local, both) = (&[local][..], &endpoints(family)[..]);
    let is_told = client == Client::Pod && told == Told::Right;
    let (endpoints, masqueraded) = if to_cluster_ip {
        let endpoints = if policy == Policy::InternalLocal { local } else { both };
        (endpoints, all || told != Told::Not && !is_told)
    } else if policy == Policy::ExternalLocal {
        match client {
            Client::Pod if is_told => (both, false),
            Client::Node => (both, true),
            Client::Pod | Client::Outside => (local, false),
        }
    } else {
        (both, true)
    };
    let seen = |(address, _): &(&str, &str)| {
        format!("{}{}", std::net::SocketAddr::new(ip(address), 80), if masqueraded { " masq" } else { "" })
    };
    endpoints.iter().map(seen).collect::<Vec<_>>().join(", ")
}

/// Upstream's 27 flows, and those over external IPs.
fn check_all(pods: &dyn Fn(Pods) -> Option<Pods>, told: Told) {
    for family in Family::ALL {
        for masquerade_all in [false, true] {
            let options = options(family);
            let pods = pods(options.pods.clone().unwrap());
            let all =
                POLICIES.into_iter().zip(1..).flat_map(|(policy, number)| with_everything(family, policy, number));
            let world = World::new(Options { masquerade_all, pods, ..options }).with(all);
            let mut flows = 0;
            for (policy, number) in POLICIES.into_iter().zip(1..) {
                for client in CLIENTS {
                    for (kind, destination, port) in ways(family, number) {
                        let expected = expected(family, policy, client, kind == "ClusterIP", masquerade_all, told);
                        let found = world.trace(client.address(family), &destination, Protocol::Tcp, port);
                        let way =
                            format!("{family}, {policy:?}: {client:?} to the {kind}, masqueradeAll {masquerade_all}");
                        assert_eq!(found, expected, "{way}");
                        flows += 1;
                    }
                }
            }
            assert_eq!(flows, 27 + 9);
        }
    }
}

#[test]
fn pods_told_by_their_addresses() {
    check_all(&Some, Told::Right);
}

#[test]
fn without_a_way_to_tell_pods() {
    check_all(&|_| None, Told::Not);
}

fn by(interface: Interface) -> impl Fn(Pods) -> Option<Pods> {
    move |_| Some(Pods::By(interface.clone()))
}

/// detectLocalMode BridgeInterface: the whole name counts.
#[test]
fn pods_told_by_their_bridge() {
    check_all(&by(Interface::named("cni0").unwrap()), Told::Right);
    for other in ["cni", "cni01", "veth0"] {
        check_all(&by(Interface::named(other).unwrap()), Told::Wrong);
    }
}

/// detectLocalMode InterfaceNamePrefix.
#[test]
fn pods_told_by_the_start_of_their_interfaces_names() {
    for start in ["cni0", "cni", "c"] {
        check_all(&by(Interface::prefixed(start).unwrap()), Told::Right);
    }
    for other in ["ni", "cni01", "veth"] {
        check_all(&by(Interface::prefixed(other).unwrap()), Told::Wrong);
    }
}

/// What a client outside comes in by makes a pod of it, and what the node sends came in by nothing.
#[test]
fn whoever_comes_in_by_the_interface_is_a_pod() {
    let pods = Some(Pods::By(Interface::prefixed("eth").unwrap()));
    let world = World::new(Options { pods, node_ports: NodePorts::Any, ..options(Family::V4) }).with(with_everything(
        Family::V4,
        Policy::ExternalLocal,
        2,
    ));
    let (both, both_masq) = ("10.180.0.1:80, 10.180.2.1:80", "10.180.0.1:80 masq, 10.180.2.1:80 masq");
    world.check(&[
        (OUTSIDE, "172.30.0.2", 80, both),
        (OUTSIDE, "5.6.7.2", 80, both),
        (OUTSIDE, NODE[1], 3002, both),
        (POD, "172.30.0.2", 80, both_masq),
        (POD, "5.6.7.2", 80, "10.180.0.1:80"),
        (NODE[0], "172.30.0.2", 80, both_masq),
        (NODE[0], "5.6.7.2", 80, both_masq),
    ]);
}

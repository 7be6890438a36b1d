//! Which addresses take NodePort traffic (contract §5.7, §12.1 NodePorts), in both families, for pods, the node and clients outside.

use TrafficPolicy::{Cluster, Local};
use compiler::{NodePorts, Options};
use model::{Family, Protocol, TrafficPolicy, Update};

use crate::world::{NODE, OUTSIDE, POD, World, ip, options, port, service, slice};

/// What there is in one family.
struct Net {
    family: Family,
    /// The node's addresses.
    node: [&'static str; 2],
    /// A pod, the node and a client outside.
    clients: [&'static str; 3],
    /// Another host.
    other: &'static str,
    loopback: &'static str,
    cluster_ip: &'static str,
    endpoint: &'static str,
}

const NETS: [Net; 2] = [
    Net {
        family: Family::V4,
        node: [NODE[0], NODE[1]],
        clients: [POD, NODE[0], OUTSIDE],
        other: "192.0.2.77",
        loopback: "127.0.0.1",
        cluster_ip: "172.30.0.41",
        endpoint: "10.180.0.1",
    },
    Net {
        family: Family::V6,
        node: [NODE[2], NODE[3]],
        clients: ["fd00:10::77", NODE[2], "2001:db8:9::9"],
        other: "2001:db8:7::7",
        loopback: "::1",
        cluster_ip: "fd00:30::41",
        endpoint: "fd00:10::1",
    },
];

impl Net {
    /// A Service with NodePort 3001, these endpoints, by address and flags, and this policy outside.
    fn world(&self, node_ports: NodePorts, policy: TrafficPolicy, endpoints: &[(&str, &str)]) -> World {
        let mut web = service("web", self.cluster_ip);
        web.ports[0].node_port = Some(port(3001));
        web.external_policy = policy;
        let options = Options { node_ports, ..options(self.family) };
        World::new(options).with([Update::Service(web), slice("web", 80, endpoints)])
    }

    /// Has the NodePort open at some of the node's addresses.
    fn only(&self, open: &[usize]) -> NodePorts {
        NodePorts::Only(open.iter().map(|index| ip(self.node[*index])).collect())
    }

    /// Checks what becomes of packets to the port at each address of the node, from each client.
    fn check(&self, world: &World, expected: [[&str; 3]; 2]) {
        for (address, expected) in self.node.into_iter().zip(expected) {
            for (client, expected) in self.clients.into_iter().zip(expected) {
                let expected = self.shown(expected, address);
                assert_eq!(world.trace(client, address, Protocol::Tcp, 3001), expected, "{client} to {address}");
            }
        }
    }

    /// `untouched` and `endpoint` in terms of addresses.
    fn shown(&self, fate: &str, address: &str) -> String {
        let socket = |address: &str, port| std::net::SocketAddr::new(ip(address), port).to_string();
        fate.replace("untouched", &socket(address, 3001)).replace("endpoint", &socket(self.endpoint, 80))
    }
}

const SERVED: [&str; 3] = ["endpoint masq"; 3];
const UNTOUCHED: [&str; 3] = ["untouched"; 3];
const REFUSED: [&str; 3] = ["reject"; 3];

/// Where an address does not take NodePort traffic, the node itself may have something at that port.
#[test]
fn node_ports_are_open_where_the_configuration_says() {
    for net in NETS {
        let ends: &[_] = &[(net.endpoint, "")];
        for (node_ports, served, refused) in [
            (net.only(&[0]), [SERVED, UNTOUCHED], [REFUSED, UNTOUCHED]),
            (net.only(&[1]), [UNTOUCHED, SERVED], [UNTOUCHED, REFUSED]),
            (net.only(&[0, 1]), [SERVED, SERVED], [REFUSED, REFUSED]),
            (net.only(&[]), [UNTOUCHED, UNTOUCHED], [UNTOUCHED, UNTOUCHED]),
            (NodePorts::Any, [SERVED, SERVED], [REFUSED, REFUSED]),
        ] {
            let mut world = net.world(node_ports, Cluster, ends);
            net.check(&world, served);
            for address in [net.other, net.loopback] {
                let found = world.trace(net.clients[1], address, Protocol::Tcp, 3001);
                assert_eq!(found, net.shown("untouched", address), "it takes none");
            }
            let udp = world.trace(net.clients[2], net.node[0], Protocol::Udp, 3001);
            assert_eq!(udp, net.shown("untouched", net.node[0]), "the port is of TCP");
            world.apply([Update::SliceGone(model::ServiceName::new("ns", "web-slice"))]);
            net.check(&world, refused);
        }
    }
}

#[test]
fn with_external_policy_local() {
    let short_circuit = ["endpoint", "endpoint masq", "endpoint"];
    let elsewhere = ["endpoint", "endpoint masq", "drop"];
    for net in NETS {
        for (flags, expected) in [("l", short_circuit), ("", elsewhere)] {
            let ends: &[_] = &[(net.endpoint, flags)];
            net.check(&net.world(net.only(&[0]), Local, ends), [expected, UNTOUCHED]);
            net.check(&net.world(net.only(&[0, 1]), Local, ends), [expected, expected]);
            net.check(&net.world(NodePorts::Any, Local, ends), [expected, expected]);
        }
    }
}

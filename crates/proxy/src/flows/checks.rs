//! Which flows are stale.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use compiler::{FlowCheck, Frontend};
use model::{PortNumber, Protocol};
use netlink::Flow;
use telemetry::Invalidation;

/// Frontends, and the endpoints whose flows stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checks(HashMap<Frontend, Option<BTreeSet<SocketAddr>>>);

impl Checks {
    /// Adds checks. Of those of one frontend, the last one counts.
    pub(super) fn add(&mut self, checks: Vec<FlowCheck>) {
        self.0.extend(checks.into_iter().map(|FlowCheck { frontend, serving }| (frontend, serving)));
    }

    /// Adds checks that are older than these.
    pub(super) fn add_older(&mut self, older: Self) {
        for (frontend, serving) in older.0 {
            self.0.entry(frontend).or_insert(serving);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it takes the node's own addresses to tell what is stale.
    pub(super) fn have_node_ports(&self) -> bool {
        self.0.keys().any(|frontend| matches!(frontend, Frontend::NodePort { .. }))
    }

    /// The transport protocols of the frontends, of those whose flows are looked at.
    pub(super) fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let is_there = |protocol: &Protocol| self.0.keys().any(|frontend| frontend.protocol() == *protocol);
        [Protocol::Udp, Protocol::Tcp].into_iter().filter(is_there)
    }

    /// Why a flow to one of the frontends is stale, if it is: it leads elsewhere than to the endpoints that serve, to one that is gone
    /// or to none, as it was when it began, or no Service has the frontend. `own` are the node's addresses, but for loopback.
    pub(super) fn stale(&self, protocol: Protocol, flow: &Flow, own: &BTreeSet<IpAddr>) -> Option<Invalidation> {
        let destination = flow.original.destination;
        let port = PortNumber::new(destination.port()).filter(|_| flow.protocol == protocol.number())?;
        let address = destination.ip();
        // As in the rules, which look for an address first.
        let check = self.0.get(&Frontend::Address { address, protocol, port }).or_else(|| {
            let node_port = self.0.get(&Frontend::NodePort { protocol, port });
            node_port.filter(|_| own.contains(&address))
        });
        match check? {
            None => Some(Invalidation::Service),
            Some(serving) => (!serving.contains(&flow.reply.source)).then_some(Invalidation::Endpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink::Tuple;

    use super::*;

    const SERVING: &str = "10.1.0.2:5353";
    const ALSO_SERVING: &str = "10.1.0.3:5353";
    const GONE: &str = "10.1.0.9:5353";

    fn sockets(list: &[&str]) -> BTreeSet<SocketAddr> {
        list.iter().map(|socket| socket.parse().unwrap()).collect()
    }

    fn at(socket: &str) -> Frontend {
        let socket: SocketAddr = socket.parse().unwrap();
        Frontend::Address {
            address: socket.ip(),
            protocol: Protocol::Udp,
            port: PortNumber::new(socket.port()).unwrap(),
        }
    }

    fn node_port(port: u16) -> Frontend {
        Frontend::NodePort { protocol: Protocol::Udp, port: PortNumber::new(port).unwrap() }
    }

    fn is_stale(checks: &Checks, protocol: Protocol, flow: &Flow) -> bool {
        checks.stale(protocol, flow, &own()).is_some()
    }

    fn checks(list: &[(Frontend, &[&str])]) -> Checks {
        let mut checks = Checks::default();
        let check =
            |(frontend, serving): &(_, &[&str])| FlowCheck { frontend: *frontend, serving: Some(sockets(serving)) };
        checks.add(list.iter().map(check).collect());
        checks
    }

    fn own() -> BTreeSet<IpAddr> {
        ["192.0.2.10", "10.1.0.1", "2001:db8::10"].map(|address| address.parse().unwrap()).into()
    }

    fn flow(protocol: u8, destination: &str, answers: &str) -> Flow {
        let client = "192.0.2.100:40000".parse().unwrap();
        let [destination, answers] = [destination, answers].map(|socket| socket.parse().unwrap());
        let original = Tuple { source: client, destination };
        Flow { protocol, is_offloaded: false, original, reply: Tuple { source: answers, destination: client }, id: 1 }
    }

    /// Every kind of frontend × its port or another one × who answers × protocol: one combination is stale.
    #[test]
    fn udp_flows_to_a_checked_frontend_that_end_at_none_of_its_endpoints_are_stale() {
        const FRONTENDS: [(&str, &str); 5] = [
            ("ClusterIP", "10.96.0.10:53"),
            ("external IP", "203.0.113.1:53"),
            ("load balancer", "198.51.100.1:53"),
            ("NodePort", "192.0.2.10:30053"),
            ("NodePort on another address of the node", "10.1.0.1:30053"),
        ];
        let serving: &[&str] = &[SERVING, ALSO_SERVING];
        let checks = checks(&[
            (at("10.96.0.10:53"), serving),
            (at("203.0.113.1:53"), serving),
            (at("198.51.100.1:53"), serving),
            (node_port(30053), serving),
        ]);
        let mut stale = 0;
        for (kind, frontend) in FRONTENDS {
            let frontend: SocketAddr = frontend.parse().unwrap();
            for same_port in [true, false] {
                let to = SocketAddr::new(frontend.ip(), frontend.port() + u16::from(!same_port)).to_string();
                // The last stands for a flow that began when there was no endpoint: nothing was translated.
                for (answers, serves) in [(SERVING, true), (ALSO_SERVING, true), (GONE, false), (to.as_str(), false)] {
                    for (protocol, is_udp) in [(17, true), (6, false), (132, false), (136, false)] {
                        let expected = same_port && !serves && is_udp;
                        let is_stale = is_stale(&checks, Protocol::Udp, &flow(protocol, &to, answers));
                        assert_eq!(is_stale, expected, "{kind}: {protocol} to {to}, {answers} answers");
                        stale += usize::from(is_stale);
                    }
                }
            }
        }
        assert_eq!(stale, FRONTENDS.len() * 2);
    }

    #[test]
    fn without_endpoints_all_flows_are_stale() {
        let checks = checks(&[(at("10.96.0.10:53"), &[]), (node_port(30053), &[])]);
        for (to, answers) in [
            ("10.96.0.10:53", SERVING),
            ("10.96.0.10:53", "10.96.0.10:53"),
            ("192.0.2.10:30053", SERVING),
            ("192.0.2.10:30053", "192.0.2.10:30053"),
        ] {
            assert!(is_stale(&checks, Protocol::Udp, &flow(17, to, answers)), "{to} {answers}");
        }
    }

    #[test]
    fn an_endpoint_whose_port_changed_is_another_one() {
        let checks = checks(&[(at("10.96.0.10:53"), &["10.1.0.2:5354"])]);
        assert!(is_stale(&checks, Protocol::Udp, &flow(17, "10.96.0.10:53", "10.1.0.2:5353")));
        assert!(!is_stale(&checks, Protocol::Udp, &flow(17, "10.96.0.10:53", "10.1.0.2:5354")));
    }

    /// TCP and UDP of one address and port are different frontends, and of each only its own flows are looked at.
    #[test]
    fn each_protocol_has_its_own_checks() {
        let tcp = |frontend: Frontend| match frontend {
            Frontend::Address { address, port, .. } => Frontend::Address { address, protocol: Protocol::Tcp, port },
            Frontend::NodePort { port, .. } => Frontend::NodePort { protocol: Protocol::Tcp, port },
        };
        let (cluster_ip, node_port) = (at("10.96.0.10:53"), node_port(30053));
        let both = checks(&[
            (cluster_ip, &[SERVING]),
            (tcp(cluster_ip), &[ALSO_SERVING]),
            (node_port, &[SERVING]),
            (tcp(node_port), &[]),
        ]);
        for (protocol, to, answers, stale) in [
            (Protocol::Udp, "10.96.0.10:53", SERVING, false),
            (Protocol::Udp, "10.96.0.10:53", ALSO_SERVING, true),
            (Protocol::Tcp, "10.96.0.10:53", SERVING, true),
            (Protocol::Tcp, "10.96.0.10:53", ALSO_SERVING, false),
            (Protocol::Udp, "192.0.2.10:30053", SERVING, false),
            (Protocol::Tcp, "192.0.2.10:30053", SERVING, true),
        ] {
            let flow = flow(protocol.number(), to, answers);
            assert_eq!(is_stale(&both, protocol, &flow), stale, "{protocol} to {to}, {answers} answers");
            let other = if protocol == Protocol::Udp { Protocol::Tcp } else { Protocol::Udp };
            assert!(!is_stale(&both, other, &flow), "{other} is asked for, it is {protocol}");
        }
        assert_eq!(both.protocols().collect::<Vec<_>>(), [Protocol::Udp, Protocol::Tcp]);
        let of_tcp = checks(&[(tcp(cluster_ip), &[])]);
        assert_eq!(of_tcp.protocols().collect::<Vec<_>>(), [Protocol::Tcp]);
        assert!(!is_stale(&of_tcp, Protocol::Udp, &flow(17, "10.96.0.10:53", GONE)));
    }

    /// Other hosts may use the number of a NodePort for something else, and flows to them pass through this node.
    #[test]
    fn a_node_port_is_one_of_the_nodes_own_addresses() {
        let checks = checks(&[(node_port(30053), &[SERVING])]);
        for (to, stale) in [
            ("192.0.2.10:30053", true),
            ("10.1.0.1:30053", true),
            ("[2001:db8::10]:30053", true),
            ("192.0.2.11:30053", false),
            ("10.1.0.2:30053", false),
            ("127.0.0.1:30053", false),
        ] {
            assert_eq!(is_stale(&checks, Protocol::Udp, &flow(17, to, GONE)), stale, "{to}");
        }
    }

    #[test]
    fn frontends_that_are_not_checked_keep_their_flows() {
        let checks = checks(&[(at("10.96.0.10:53"), &[SERVING])]);
        assert!(!checks.have_node_ports());
        for to in ["10.96.0.11:53", "192.0.2.10:30053", "192.0.2.10:53", "[fd00::10]:53"] {
            assert!(!is_stale(&checks, Protocol::Udp, &flow(17, to, GONE)), "{to}");
        }
        assert!(!is_stale(&checks, Protocol::Udp, &flow(17, "10.96.0.10:0", GONE)), "port 0 is none");
    }

    /// An external IP may be an address of the node: the Service that owns it there comes before NodePorts.
    #[test]
    fn an_address_comes_before_a_node_port() {
        let checks = checks(&[(at("192.0.2.10:30053"), &[SERVING]), (node_port(30053), &[ALSO_SERVING])]);
        assert!(!is_stale(&checks, Protocol::Udp, &flow(17, "192.0.2.10:30053", SERVING)));
        assert!(is_stale(&checks, Protocol::Udp, &flow(17, "192.0.2.10:30053", ALSO_SERVING)));
        assert!(is_stale(&checks, Protocol::Udp, &flow(17, "10.1.0.1:30053", SERVING)));
    }

    #[test]
    fn of_several_checks_of_a_frontend_the_last_one_counts() {
        let frontend = at("10.96.0.10:53");
        let mut first = checks(&[(frontend, &[GONE]), (node_port(1), &[])]);
        first.add(vec![FlowCheck { frontend, serving: Some(sockets(&[SERVING])) }]);
        assert_eq!(first, checks(&[(frontend, &[SERVING]), (node_port(1), &[])]));

        first.add_older(checks(&[(frontend, &[GONE]), (node_port(2), &[GONE])]));
        assert_eq!(first, checks(&[(frontend, &[SERVING]), (node_port(1), &[]), (node_port(2), &[GONE])]));
    }

    #[test]
    fn an_endpoint_that_is_gone_is_told_from_a_service_that_is() {
        let frontend = at("10.96.0.10:53");
        let mut checks = checks(&[(frontend, &[]), (node_port(30053), &[SERVING])]);
        let reason = |checks: &Checks, to, answers| checks.stale(Protocol::Udp, &flow(17, to, answers), &own());
        assert_eq!(reason(&checks, "10.96.0.10:53", SERVING), Some(Invalidation::Endpoint), "it has none any more");
        assert_eq!(reason(&checks, "192.0.2.10:30053", GONE), Some(Invalidation::Endpoint));
        assert_eq!(reason(&checks, "192.0.2.10:30053", SERVING), None);
        checks.add([frontend, node_port(30053)].map(|frontend| FlowCheck { frontend, serving: None }).to_vec());
        for (to, answers) in [("10.96.0.10:53", SERVING), ("192.0.2.10:30053", SERVING), ("10.96.0.10:53", GONE)] {
            assert_eq!(reason(&checks, to, answers), Some(Invalidation::Service), "{to}");
        }
    }
}

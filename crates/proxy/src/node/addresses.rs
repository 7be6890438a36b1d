//! The node's addresses.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use compiler::NodePorts;
use config::{Config, NodePortAddresses};
use model::{Family, PerFamily};
use tracing::warn;

/// The node's main address of each family, and which of the two families comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeAddresses {
    /// The family of the node's first address.
    pub(crate) primary: Family,
    /// The main addresses, where known.
    pub(crate) main: PerFamily<Option<IpAddr>>,
}

impl NodeAddresses {
    /// From the addresses of the Node object, of which the first is primary; `bindAddress` wins over them (contract §3.4).
    pub(crate) fn new(listed: &[IpAddr], config: &Config) -> Self {
        let bound = Some(config.bind_address).filter(|address| !address.is_unspecified());
        let mut main: PerFamily<Option<IpAddr>> = PerFamily::default();
        for address in bound.iter().chain(listed) {
            main.get_mut(Family::of(*address)).get_or_insert(*address);
        }
        let primary = bound.or(listed.first().copied()).map_or(Family::V4, Family::of);
        if main.get(primary).is_none() {
            warn!("Can't determine this node's IP; set bindAddress to have one");
        }
        Self { primary, main }
    }

    /// The addresses of one family that take NodePort traffic, given those of the interfaces (contract §3.5). Never loopback
    /// addresses, for which nftables cannot do what is needed: see [`crate::localhost`].
    pub(crate) fn node_ports(&self, family: Family, wanted: &NodePortAddresses, local: &[IpAddr]) -> NodePorts {
        let Some(prefixes) = wanted.prefixes(family, *self.main.get(family)) else {
            return NodePorts::Any;
        };
        let within = |address: &&IpAddr| prefixes.iter().any(|prefix| prefix.contains(*address));
        NodePorts::Only(local.iter().filter(within).filter(|address| !address.is_loopback()).copied().collect())
    }
}

/// The addresses of the node's interfaces.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn interface_addresses() -> Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs().context("cannot list the addresses of this machine's interfaces")?;
    Ok(interfaces.iter().map(if_addrs::Interface::ip).collect())
}

/// The addresses that stand in for those of a Node object where there is none. For each family: the one that the kernel
/// would send from by its default route (`src` in what `ip route get` says), of however many the interface has; without
/// such a route, the first of any interface that is of use beyond its link.
pub(crate) fn guess_addresses(local: &[IpAddr]) -> Vec<IpAddr> {
    let guess = |family| {
        let reaches_out = |address: &&IpAddr| Family::of(**address) == family && is_of_use(**address);
        source_address(family).ok().or_else(|| local.iter().find(reaches_out).copied())
    };
    Family::ALL.into_iter().filter_map(guess).collect()
}

/// Connecting a datagram socket sends nothing: it has the kernel choose a route and a source address.
fn source_address(family: Family) -> io::Result<IpAddr> {
    // Addresses kept for documentation (RFC 5737, RFC 3849): no network has a route of its own to them.
    let (any, far): (SocketAddr, SocketAddr) = match family {
        Family::V4 => (([0; 4], 0).into(), ([198, 51, 100, 1], 9).into()),
        Family::V6 => (([0; 16], 0).into(), ([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1], 9).into()),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(far)?;
    let address = socket.local_addr()?.ip();
    if is_of_use(address) { Ok(address) } else { Err(io::ErrorKind::AddrNotAvailable.into()) }
}

fn is_of_use(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn only(list: &[&str]) -> NodePorts {
        NodePorts::Only(ips(list).into_iter().collect())
    }

    fn cidrs(list: &[&str]) -> NodePortAddresses {
        NodePortAddresses { primary: false, cidrs: list.iter().map(|net| net.parse().unwrap()).collect() }
    }

    #[test]
    fn a_bind_address_wins_over_the_node_object() {
        let listed = ips(&["192.0.2.10", "2001:db8::10"]);
        let config = Config::default();
        let addresses = NodeAddresses::new(&listed, &config);
        assert_eq!(addresses.primary, Family::V4);
        assert_eq!(addresses.main, PerFamily { v4: Some(listed[0]), v6: Some(listed[1]) });

        let config = Config { bind_address: "2001:db8::99".parse().unwrap(), ..config };
        let addresses = NodeAddresses::new(&listed, &config);
        assert_eq!(addresses.primary, Family::V6);
        assert_eq!(addresses.main, PerFamily { v4: Some(listed[0]), v6: Some(config.bind_address) });
    }

    #[test]
    fn node_ports_answer_on_the_interfaces_addresses_within_the_prefixes() {
        let local = ips(&["127.0.0.1", "::1", "192.0.2.10", "192.0.2.11", "198.51.100.1", "2001:db8::10"]);
        let addresses = NodeAddresses::new(&ips(&["192.0.2.10"]), &Config::default());
        let primary = NodePortAddresses::PRIMARY;
        assert_eq!(addresses.node_ports(Family::V4, &primary, &local), only(&["192.0.2.10"]));
        assert_eq!(addresses.node_ports(Family::V6, &primary, &local), NodePorts::Any, "no address, no limit");

        let cidrs = cidrs(&["192.0.2.0/24", "127.0.0.0/8"]);
        assert_eq!(addresses.node_ports(Family::V4, &cidrs, &local), only(&["192.0.2.10", "192.0.2.11"]));
        assert_eq!(addresses.node_ports(Family::V4, &cidrs, &[]), only(&[]));
        let any = NodePortAddresses { primary: true, cidrs: NodePortAddresses::ALL.to_vec() };
        assert_eq!(addresses.node_ports(Family::V4, &any, &local), NodePorts::Any);

        let localhost = |primary| NodePortAddresses { primary, cidrs: NodePortAddresses::LOCALHOST.to_vec() };
        for family in Family::ALL {
            let nowhere_else = addresses.node_ports(family, &localhost(false), &local);
            assert_eq!(nowhere_else, only(&[]), "the rules do not take what goes to localhost");
        }
        assert_eq!(addresses.node_ports(Family::V4, &localhost(true), &local), only(&["192.0.2.10"]));
    }

    /// As in kube-proxy, what names one family only says nothing about the other, and a prefix of every address is no limit.
    #[test]
    fn prefixes_limit_the_families_that_they_are_of() {
        let local = ips(&["192.0.2.10", "198.51.100.1", "2001:db8::10", "2001:db8:1::10", "::1"]);
        let addresses = NodeAddresses::new(&local[..1], &Config::default());
        let limits =
            |prefixes: &[&str]| Family::ALL.map(|family| addresses.node_ports(family, &cidrs(prefixes), &local));
        let v4 = || only(&["192.0.2.10"]);
        assert_eq!(limits(&["192.0.2.0/24"]), [v4(), NodePorts::Any]);
        assert_eq!(limits(&["2001:db8::/48"]), [NodePorts::Any, only(&["2001:db8::10"])]);
        assert_eq!(limits(&["192.0.2.0/24", "2001:db8::/32"]), [v4(), only(&["2001:db8::10", "2001:db8:1::10"])]);
        assert_eq!(limits(&["192.0.2.0/24", "::/0"]), [v4(), NodePorts::Any]);
        assert_eq!(limits(&["203.0.113.0/24", "::1/128"]), [only(&[]), only(&[])], "none of the node's, and loopback");
    }

    #[test]
    fn the_node_is_guessed_to_be_where_the_default_route_leads_out() {
        use testing::netns::{Cluster, Namespace};
        let cluster = Cluster::new().unwrap();
        let pod = cluster.pod("pod").unwrap();
        let guess = |namespace: &Namespace| namespace.run(|| guess_addresses(&interface_addresses().unwrap()));
        assert_eq!(guess(&cluster.node), Family::ALL.map(Cluster::node_address));
        assert_eq!(guess(&pod.namespace), Family::ALL.map(|family| pod.address(family)));

        let lonely = Namespace::new("lonely").unwrap();
        assert_eq!(guess(&lonely), ips(&[]));
        lonely.ip("link add eth0 type veth peer name eth1").unwrap();
        lonely.ip("address add 169.254.0.1/16 dev eth0").unwrap();
        lonely.ip("address add 192.0.2.7/32 dev eth0").unwrap();
        lonely.ip("link set eth0 up").unwrap();
        assert_eq!(guess(&lonely), ips(&["192.0.2.7"]), "no route leads out");
    }
}

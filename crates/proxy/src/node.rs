//! What is to be known of the node: its name, families and addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::{fs, io};

use anyhow::{Context as _, Result, ensure};
use compiler::NodePorts;
use config::{Config, NodePortAddresses};
use model::{Family, PerFamily};
use tracing::{info, warn};

/// The node's name: the override, or the machine's host name, trimmed and in lower case (contract §3.1).
///
/// # Errors
/// There is neither.
pub(crate) fn name(config: &Config) -> Result<String> {
    if let Some(name) = &config.hostname_override {
        return Ok(name.as_str().to_owned());
    }
    let name = nix::unistd::gethostname().context("cannot read the machine's host name: give --hostname-override")?;
    let name = name.to_string_lossy().trim().to_lowercase();
    ensure!(!name.is_empty(), "empty hostname is invalid: set the machine's host name, or give --hostname-override");
    Ok(name)
}

/// The families that the node can do (contract §3.4): IPv4, and IPv6 unless the kernel has it switched off. A cluster of
/// one family does no harm to the table of the other.
///
/// # Errors
/// The node's primary address is of a family it cannot do.
pub(crate) fn families(primary: Family, proc: &Path) -> Result<Vec<Family>> {
    let Some(reason) = no_ipv6(proc) else {
        info!("primary ipFamily" = %primary, "kube-proxy running in dual-stack mode");
        return Ok(Family::ALL.to_vec());
    };
    info!("no support for IPv6: {reason}");
    ensure!(
        primary == Family::V4,
        "no support for primary IP family \"IPv6\": {reason}; enable IPv6 in the kernel, or set bindAddress to an IPv4 \
         address of the node"
    );
    info!(ipFamily = %primary, "kube-proxy running in single-stack mode");
    Ok(vec![Family::V4])
}

fn no_ipv6(proc: &Path) -> Option<&'static str> {
    if !proc.join("net/if_inet6").exists() {
        return Some("the kernel has no IPv6 (/proc/net/if_inet6 is missing)");
    }
    let disabled = fs::read_to_string(proc.join("sys/net/ipv6/conf/all/disable_ipv6")).unwrap_or_default();
    (disabled.trim() == "1").then_some("it is disabled (sysctl net.ipv6.conf.all.disable_ipv6)")
}

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

    /// The addresses of one family that take NodePort traffic, given those of the interfaces (contract §3.5).
    pub(crate) fn node_ports(&self, family: Family, wanted: &NodePortAddresses, local: &[IpAddr]) -> NodePorts {
        let main = *self.main.get(family);
        let Some(prefixes) = wanted.prefixes(family, main) else {
            if *wanted == NodePortAddresses::Primary && main.is_none() {
                info!(%family, "NodePorts answer on all addresses of the node: it has no primary one of this family");
            }
            return NodePorts::Any;
        };
        let within = |address: &&IpAddr| prefixes.iter().any(|prefix| prefix.contains(*address));
        let (loopback, usable): (BTreeSet<_>, BTreeSet<_>) =
            local.iter().filter(within).copied().partition(|address: &IpAddr| address.is_loopback());
        for address in loopback {
            warn!(%address, "NodePorts on loopback addresses do not work in nftables mode: take it out of nodePortAddresses");
        }
        if usable.is_empty() {
            let prefixes: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
            warn!(
                %family,
                prefixes = prefixes.join(","),
                "no NodePort will answer: no interface has an address within nodePortAddresses"
            );
        }
        NodePorts::Only(usable)
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
        let primary = NodePortAddresses::Primary;
        assert_eq!(addresses.node_ports(Family::V4, &primary, &local), only(&["192.0.2.10"]));
        assert_eq!(addresses.node_ports(Family::V6, &primary, &local), NodePorts::Any, "no address, no limit");

        let cidrs = NodePortAddresses::Cidrs(["192.0.2.0/24", "127.0.0.0/8"].map(|net| net.parse().unwrap()).to_vec());
        assert_eq!(addresses.node_ports(Family::V4, &cidrs, &local), only(&["192.0.2.10", "192.0.2.11"]));
        assert_eq!(addresses.node_ports(Family::V4, &cidrs, &[]), only(&[]));
        assert_eq!(addresses.node_ports(Family::V4, &NodePortAddresses::Any, &local), NodePorts::Any);
    }

    #[test]
    fn ipv6_is_left_out_where_the_kernel_has_none() {
        let proc = tempfile::tempdir().unwrap();
        assert_eq!(families(Family::V4, proc.path()).unwrap(), [Family::V4]);
        let refused = families(Family::V6, proc.path()).unwrap_err().to_string();
        assert!(refused.starts_with("no support for primary IP family \"IPv6\""), "{refused}");

        fs::create_dir_all(proc.path().join("net")).unwrap();
        fs::write(proc.path().join("net/if_inet6"), "").unwrap();
        assert_eq!(families(Family::V6, proc.path()).unwrap(), Family::ALL);

        let conf = proc.path().join("sys/net/ipv6/conf/all");
        fs::create_dir_all(&conf).unwrap();
        fs::write(conf.join("disable_ipv6"), "1\n").unwrap();
        assert_eq!(families(Family::V4, proc.path()).unwrap(), [Family::V4]);
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

//! A node, its pods and the world outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use model::Family;

use super::Namespace;

/// A Kubernetes node with a client outside the cluster; pods are added to it.
///
/// ```text
///  pod 10.1.0.2 ── eth0 ─ pod2 ┐
///  pod 10.1.0.3 ── eth0 ─ pod3 ┤ node ├ eth0 192.0.2.10 ── eth0 192.0.2.100 client
///          each "pod" end of the node is 10.1.0.1
/// ```
///
/// Everything has an IPv6 address next to the IPv4 one. Every packet between pods is routed by the node, but for those
/// between pods on a bridge, which [`Self::bridged_pod`] makes. The node's default route leads to the client, which forwards
/// nothing: what nothing on the node takes, such as packets to a ClusterIP without a proxy, is lost there. The client's
/// default route leads to the node.
#[derive(Debug)]
pub struct Cluster {
    /// The node: forwards both families. A proxy runs here.
    pub node: Namespace,
    /// A host outside the cluster.
    pub client: Namespace,
    last_pod: AtomicU8,
    has_bridge: Mutex<bool>,
}

/// A pod of a [`Cluster`].
#[derive(Debug)]
pub struct Pod {
    /// Its namespace. Its only interface is `eth0`.
    pub namespace: Namespace,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// The node's end of its cable, `pod2` and up.
    pub node_interface: String,
}

impl Cluster {
    /// The addresses of pods, IPv4: what `--cluster-cidr` has to say.
    pub const POD_CIDR_V4: &str = "10.1.0.0/16";
    /// The addresses of pods, IPv6.
    pub const POD_CIDR_V6: &str = "fd00:10:1::/48";

    /// The bridge of [`Self::bridged_pod`].
    pub const BRIDGE: &str = "cni0";

    /// Makes a node and a client.
    ///
    /// # Errors
    /// As [`Namespace::new`].
    pub fn new() -> Result<Self> {
        let (node, client) = (Namespace::new("node")?, Namespace::new("client")?);
        node.sysctl("net/ipv4/ip_forward", "1")?;
        node.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        node.link("eth0", &client, "eth0")?;
        let cluster = Self { node, client, last_pod: AtomicU8::new(1), has_bridge: Mutex::default() };
        for family in Family::ALL {
            let (node, client) = (Self::node_address(family), Self::client_address(family));
            let length = prefix_length(family);
            cluster.node.add_address("eth0", &format!("{node}/{length}"))?;
            cluster.client.add_address("eth0", &format!("{client}/{length}"))?;
            cluster.node.ip(&format!("route add default via {client}"))?;
            cluster.client.ip(&format!("route add default via {node}"))?;
        }
        Ok(cluster)
    }

    /// The node's address towards the client: its node IP.
    pub const fn node_address(family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10)),
        }
    }

    /// The client's address.
    pub const fn client_address(family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100)),
        }
    }

    /// The node's address towards its pods: what a pod sees when the node masquerades.
    pub const fn gateway_address(family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(pod_v4(1)),
            Family::V6 => IpAddr::V6(pod_v6(1)),
        }
    }

    /// The node's address on the bridge, in place of [`Self::gateway_address`].
    pub const fn bridge_address(family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(bridged_v4(1)),
            Family::V6 => IpAddr::V6(bridged_v6(1)),
        }
    }

    /// Adds a pod; the label is for messages.
    ///
    /// # Errors
    /// After 254 pods, or if `ip` fails.
    pub fn pod(&self, label: &str) -> Result<Pod> {
        let pod = self.routed_pod(label)?;
        pod.namespace.link("eth0", &self.node, &pod.node_interface)?;
        self.route(&pod)?;
        Ok(pod)
    }

    /// Adds a pod whose cable is a pair of netkit devices in place of veth, in their default mode, L3.
    ///
    /// # Errors
    /// As [`Self::pod`], and with kernels before 6.7.
    pub fn netkit_pod(&self, label: &str) -> Result<Pod> {
        let pod = self.routed_pod(label)?;
        let interface = &pod.node_interface;
        // The `ip` of Debian 12 knows no more of netkit than its name.
        self.node.ip(&format!("link add {interface} type netkit"))?;
        let shown = self.node.ip(&format!("-oneline link show {interface}"))?;
        let peer = shown.split_once('@').and_then(|(_, peer)| peer.split(':').next()).context("a netkit has a peer")?;
        self.node.ip(&format!("link set {peer} netns {} name eth0", pod.namespace.path().display()))?;
        self.node.ip(&format!("link set {interface} up"))?;
        pod.namespace.ip("link set eth0 up")?;
        self.route(&pod)?;
        Ok(pod)
    }

    /// Adds a pod whose cable is a port of the bridge [`Self::BRIDGE`], which has the gateway's addresses. All pods there are
    /// in one network, and reach each other without the node's routes.
    ///
    /// # Errors
    /// As [`Self::pod`].
    pub fn bridged_pod(&self, label: &str) -> Result<Pod> {
        let (bridge, number) = (Self::BRIDGE, self.next_pod()?);
        self.make_bridge()?;
        let pod = Pod::new(label, number, bridged_v4(number), bridged_v6(number))?;
        pod.namespace.link("eth0", &self.node, &pod.node_interface)?;
        self.node.ip(&format!("link set {} master {bridge}", pod.node_interface))?;
        for family in Family::ALL {
            let (address, length) = (pod.address(family), prefix_length(family));
            pod.namespace.add_address("eth0", &format!("{address}/{length}"))?;
            pod.namespace.ip(&format!("route add default via {} dev eth0", Self::bridge_address(family)))?;
        }
        Ok(pod)
    }

    /// Renames the node's end of the cable of a pod that is on no bridge; what the pod says its name was stays. Before Linux 6.2 the
    /// device is down meanwhile.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn rename(&self, pod: &Pod, name: &str) -> Result<()> {
        let interface = &pod.node_interface;
        if self.node.ip(&format!("link set {interface} name {name}")).is_ok() {
            return Ok(());
        }
        for change in [format!("{interface} down"), format!("{interface} name {name}"), format!("{name} up")] {
            self.node.ip(&format!("link set {change}"))?;
        }
        // Gone with what was down.
        for family in Family::ALL {
            let (address, gateway) = (pod.address(family), Self::gateway_address(family));
            self.node.ip(&format!("address replace {gateway} dev {name} nodad"))?;
            self.node.ip(&format!("route replace {address} dev {name} src {gateway}"))?;
        }
        Ok(())
    }

    fn make_bridge(&self) -> Result<()> {
        let mut is_there = self.has_bridge.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_there {
            let name = Self::BRIDGE;
            self.node.ip(&format!("link add {name} type bridge"))?;
            self.node.ip(&format!("link set {name} up"))?;
            for family in Family::ALL {
                let (address, length) = (Self::bridge_address(family), prefix_length(family));
                self.node.add_address(name, &format!("{address}/{length}"))?;
            }
            *is_there = true;
        }
        Ok(())
    }

    fn next_pod(&self) -> Result<u8> {
        let next = |last: u8| last.checked_add(1);
        let last = self.last_pod.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        last.ok().and_then(next).context("a cluster has room for 254 pods")
    }

    /// A pod without a cable.
    fn routed_pod(&self, label: &str) -> Result<Pod> {
        let number = self.next_pod()?;
        Pod::new(label, number, pod_v4(number), pod_v6(number))
    }

    /// Has the node and a pod know each other, through both ends of the pod's cable.
    fn route(&self, pod: &Pod) -> Result<()> {
        for family in Family::ALL {
            let (address, gateway, interface) =
                (pod.address(family), Self::gateway_address(family), &pod.node_interface);
            self.node.add_address(interface, &gateway.to_string())?;
            self.node.ip(&format!("route add {address} dev {interface} src {gateway}"))?;
            pod.namespace.add_address("eth0", &address.to_string())?;
            pod.namespace.ip(&format!("route add {gateway} dev eth0"))?;
            pod.namespace.ip(&format!("route add default via {gateway} dev eth0 src {address}"))?;
        }
        Ok(())
    }
}

impl Pod {
    fn new(label: &str, number: u8, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self> {
        Ok(Self { namespace: Namespace::new(label)?, v4, v6, node_interface: format!("pod{number}") })
    }

    /// Its address in `family`.
    pub const fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }
}

const fn pod_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, number)
}

const fn pod_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 1, 0, 0, 0, 0, number as u16)
}

const fn bridged_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 1, number)
}

const fn bridged_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 1, 1, 0, 0, 0, number as u16)
}

/// Of a network of hosts that reach each other directly.
const fn prefix_length(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

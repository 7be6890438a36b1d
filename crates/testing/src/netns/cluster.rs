//! A node, its pods and the world outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering};

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
/// Everything has an IPv6 address next to the IPv4 one. Every packet between pods is routed by the node; there is no
/// bridge. The node's default route leads to the client, which forwards nothing: what nothing on the node takes, such as
/// packets to a ClusterIP without a proxy, is lost there. The client's default route leads to the node.
#[derive(Debug)]
pub struct Cluster {
    /// The node: forwards both families. A proxy runs here.
    pub node: Namespace,
    /// A host outside the cluster.
    pub client: Namespace,
    last_pod: AtomicU8,
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

    /// Makes a node and a client.
    ///
    /// # Errors
    /// As [`Namespace::new`].
    pub fn new() -> Result<Self> {
        let (node, client) = (Namespace::new("node")?, Namespace::new("client")?);
        node.sysctl("net/ipv4/ip_forward", "1")?;
        node.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        node.link("eth0", &client, "eth0")?;
        let cluster = Self { node, client, last_pod: AtomicU8::new(1) };
        for family in Family::ALL {
            let (node, client) = (Self::node_address(family), Self::client_address(family));
            let length = if family == Family::V4 { 24 } else { 64 };
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

    /// Adds a pod; the label is for messages.
    ///
    /// # Errors
    /// After 254 pods, or if `ip` fails.
    pub fn pod(&self, label: &str) -> Result<Pod> {
        let next = |last: u8| last.checked_add(1);
        let last = self.last_pod.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let number = last.ok().and_then(next).context("a cluster has room for 254 pods")?;
        let pod = Pod {
            namespace: Namespace::new(label)?,
            v4: pod_v4(number),
            v6: pod_v6(number),
            node_interface: format!("pod{number}"),
        };
        pod.namespace.link("eth0", &self.node, &pod.node_interface)?;
        for family in Family::ALL {
            let (address, gateway, interface) =
                (pod.address(family), Self::gateway_address(family), &pod.node_interface);
            self.node.add_address(interface, &gateway.to_string())?;
            self.node.ip(&format!("route add {address} dev {interface} src {gateway}"))?;
            pod.namespace.add_address("eth0", &address.to_string())?;
            pod.namespace.ip(&format!("route add {gateway} dev eth0"))?;
            pod.namespace.ip(&format!("route add default via {gateway} dev eth0 src {address}"))?;
        }
        Ok(pod)
    }
}

impl Pod {
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

//! The configuration that the proxy is started with.

use std::fmt;

use testing::netns::Cluster;

/// What differs between tests of a `KubeProxyConfiguration`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `nftables.minSyncPeriod`. Short by default, so that tests do not wait; the demo and one test use the product's own.
    pub min_sync_period: &'static str,
    /// `nftables.masqueradeAll`.
    pub masquerade_all: bool,
    /// `nodePortAddresses`; none leaves the product's default.
    pub node_port_addresses: &'static [&'static str],
    /// How pods are told from other hosts.
    pub pods: Pods,
    /// `nftables.fastpathPacketThreshold`; without one, the product's default.
    pub fastpath_packet_threshold: Option<u32>,
    /// More fields of `nftables`, as in the file.
    pub more: &'static str,
}

/// How pods are told from other hosts (`detectLocalMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// They are not.
    Untold,
    /// By the addresses of all pods.
    ClusterCidr,
    /// By those that the Node object has.
    NodeCidr,
    /// By the interface of this name.
    BridgeInterface(&'static str),
    /// By interfaces whose names start like this.
    InterfaceNamePrefix(&'static str),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_sync_period: "10ms",
            masquerade_all: false,
            node_port_addresses: &[],
            pods: Pods::ClusterCidr,
            fastpath_packet_threshold: None,
            more: "",
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables")?;
        writeln!(f, "nftables:\n  minSyncPeriod: {}", self.min_sync_period)?;
        writeln!(f, "  masqueradeAll: {}", self.masquerade_all)?;
        if let Some(threshold) = self.fastpath_packet_threshold {
            writeln!(f, "  fastpathPacketThreshold: {threshold}")?;
        }
        if !self.more.is_empty() {
            writeln!(f, "  {}", self.more)?;
        }
        match self.pods {
            Pods::Untold => {}
            Pods::ClusterCidr => writeln!(f, "clusterCIDR: {},{}", Cluster::POD_CIDR_V4, Cluster::POD_CIDR_V6)?,
            Pods::NodeCidr => writeln!(f, "detectLocalMode: NodeCIDR")?,
            Pods::BridgeInterface(name) => {
                writeln!(f, "detectLocalMode: BridgeInterface\ndetectLocal: {{bridgeInterface: {name}}}")?;
            }
            Pods::InterfaceNamePrefix(prefix) => {
                writeln!(f, "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {{interfaceNamePrefix: {prefix}}}")?;
            }
        }
        if !self.node_port_addresses.is_empty() {
            writeln!(f, "nodePortAddresses: {:?}", self.node_port_addresses)?;
        }
        Ok(())
    }
}

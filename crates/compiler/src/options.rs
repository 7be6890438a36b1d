//! What the configuration decides about the ruleset.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::Family;

/// What the configuration and the node decide about the ruleset of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The family. Addresses in the other options are of this family.
    pub family: Family,
    /// The mark bit that stands for "masquerade this connection".
    pub mark: Mark,
    /// Whether every connection to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// Where the cluster's pods have their addresses, if known: what comes from elsewhere to a ClusterIP is masqueraded
    /// (detectLocalMode ClusterCIDR, contract §3.11).
    pub pod_cidr: Option<IpNet>,
    /// Which of the node's addresses take NodePort traffic.
    pub node_ports: NodePorts,
}

/// A single bit of the packet mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u32);

impl Mark {
    /// The mark with bit number `bit` set, which is `None` above 31.
    pub const fn from_bit(bit: u8) -> Option<Self> {
        if bit < 32 { Some(Self(1 << bit)) } else { None }
    }

    /// As a mask.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Default for Mark {
    /// Bit 14, kube-proxy's default.
    fn default() -> Self {
        Self(1 << 14)
    }
}

/// Which of the node's addresses take NodePort traffic (contract §3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// All but loopback.
    Any,
    /// Exactly these.
    Only(BTreeSet<IpAddr>),
}

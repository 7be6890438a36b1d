//! What the configuration decides about the ruleset.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, Protocol};
use ruleset::{Comparison, Interface, Selector, Statement};

/// What the configuration and the node decide about the ruleset of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The family. Addresses in the other options are of this family.
    pub family: Family,
    /// The mark bit that stands for "masquerade this connection".
    pub mark: Mark,
    /// Whether every connection to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// How traffic of the pods on this node is told from other traffic, if it can be: what comes from elsewhere to a ClusterIP
    /// is masqueraded (contract §3.11).
    pub pods: Option<Pods>,
    /// The node's main address. Where it may connect to a load balancer, so may the balancer's own address (contract §5.6).
    pub node_address: Option<IpAddr>,
    /// Which of the node's addresses take NodePort traffic.
    pub node_ports: NodePorts,
    /// Which connections are put into a flowtable, where they stay whatever becomes of their endpoints.
    pub offloads: Offloads,
}

impl Options {
    /// Those of a node about which nothing is known, and without a fast path.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            mark: Mark::default(),
            masquerade_all: false,
            pods: None,
            node_address: None,
            node_ports: NodePorts::Any,
            offloads: Offloads::Nothing,
        }
    }
}

/// Which connections may take the fast path ([`crate::FastPath`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// None.
    Nothing,
    /// Those to ClusterIPs.
    ClusterIps,
    /// Those to any frontend: NodePorts, external IPs and load balancer addresses, too.
    AllFrontends,
}

impl Offloads {
    /// Whether flows of this protocol outlive their endpoints, so that it has to be followed where they lead.
    pub(crate) fn follows(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Udp => true,
            Protocol::Tcp => self != Self::Nothing,
            Protocol::Sctp => false,
        }
    }
}

/// What packets of the pods on this node have in common (detectLocalMode, contract §3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Their source addresses (ClusterCIDR, NodeCIDR).
    From(IpNet),
    /// The interfaces by which they come in (BridgeInterface, InterfaceNamePrefix).
    By(Interface),
}

impl Pods {
    /// Goes on with what comes from pods, or with what does not.
    pub(crate) fn matched(&self, comparison: Comparison) -> Statement {
        match self {
            Self::From(prefix) => Statement::Prefix { selector: Selector::SourceAddress, comparison, prefix: *prefix },
            Self::By(interface) => Statement::InputInterface { comparison, interface: interface.clone() },
        }
    }
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

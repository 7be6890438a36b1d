//! Frontends: what a client connects to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use model::{PortNumber, Protocol};
use ruleset::{Field, Selector, Words, WordsBuilder};

/// What a client connects to: the key under which a connection's treatment is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// A ClusterIP, external IP or load balancer address.
    Address {
        /// The address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: PortNumber,
    },
    /// A port on the node's own addresses.
    NodePort {
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: PortNumber,
    },
}

/// The two kinds of frontend. Each has maps and chains of its own, alike but for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    /// Looked up by address, protocol and port.
    Address,
    /// Looked up by protocol and port.
    NodePort,
}

impl Frontend {
    /// Which kind it is.
    pub(crate) const fn scope(self) -> Scope {
        match self {
            Self::Address { .. } => Scope::Address,
            Self::NodePort { .. } => Scope::NodePort,
        }
    }

    /// Its key in the verdict maps.
    pub(crate) fn key(self) -> Words {
        self.words().finish()
    }

    /// Its key in the endpoint maps, where endpoints are numbered.
    pub(crate) fn slot_key(self, index: usize) -> Words {
        self.words().native(index as u32).finish()
    }

    fn words(self) -> WordsBuilder {
        match self {
            Self::Address { address, protocol, port } => {
                Words::build().address(address).protocol(protocol.number()).port(port.get())
            }
            Self::NodePort { protocol, port } => Words::build().protocol(protocol.number()).port(port.get()),
        }
    }
}

impl Scope {
    /// Both kinds, in order.
    pub(crate) const ALL: [Self; 2] = [Self::Address, Self::NodePort];

    /// What of a packet makes up the key.
    pub(crate) fn selectors(self) -> Vec<Selector> {
        let address = (self == Self::Address).then_some(Selector::DestinationAddress);
        address.into_iter().chain([Selector::Protocol, Selector::DestinationPort]).collect()
    }

    /// The fields of the key.
    pub(crate) fn fields(self) -> Vec<Field> {
        let address = (self == Self::Address).then_some(Field::Address);
        address.into_iter().chain([Field::Protocol, Field::Port]).collect()
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, protocol, port } => {
                write!(f, "{}/{protocol}", SocketAddr::new(*address, port.get()))
            }
            Self::NodePort { protocol, port } => write!(f, "node port {port}/{protocol}"),
        }
    }
}

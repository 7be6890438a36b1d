//! Frontends: what a client connects to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use model::{Family, PortNumber, Protocol};
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

    /// The transport protocol that it speaks.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Address { protocol, .. } | Self::NodePort { protocol, .. } => protocol,
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

    /// The frontend that a key, or the beginning of one, stands for.
    pub(crate) fn parse(scope: Scope, family: Family, key: &Words) -> Option<Self> {
        Some(Self::split(scope, family, key)?.0)
    }

    /// The frontend and the endpoint that [`Frontend::pair_key`] has put together.
    pub(crate) fn parse_pair(scope: Scope, family: Family, key: &Words) -> Option<(Self, SocketAddr)> {
        let (frontend, endpoint) = Self::split(scope, family, key)?;
        Some((frontend, parse_socket(family, endpoint)?))
    }

    fn split(scope: Scope, family: Family, key: &Words) -> Option<(Self, &[u8])> {
        let (address, rest) = match scope {
            Scope::Address => parse_address(family, key.as_bytes()).map(|(address, rest)| (Some(address), rest))?,
            Scope::NodePort => (None, key.as_bytes()),
        };
        let (&[number, ..], rest) = rest.split_first_chunk::<4>()?;
        let (&[high, low, ..], rest) = rest.split_first_chunk::<4>()?;
        let protocol = Protocol::from_number(number)?;
        let port = PortNumber::new(u16::from_be_bytes([high, low]))?;
        let frontend = match address {
            Some(address) => Self::Address { address, protocol, port },
            None => Self::NodePort { protocol, port },
        };
        Some((frontend, rest))
    }

    /// Its key together with an endpoint.
    pub(crate) fn pair_key(self, endpoint: SocketAddr) -> Words {
        self.words().address(endpoint.ip()).port(endpoint.port()).finish()
    }

    /// Its key together with a range of clients.
    pub(crate) fn source_key(self, clients: IpNet) -> Words {
        self.words().address(clients.network()).finish()
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

/// The address that a key or datum begins with, and what follows.
pub(crate) fn parse_address(family: Family, words: &[u8]) -> Option<(IpAddr, &[u8])> {
    Some(match family {
        Family::V4 => words.split_first_chunk::<4>().map(|(address, rest)| (IpAddr::from(*address), rest))?,
        Family::V6 => words.split_first_chunk::<16>().map(|(address, rest)| (IpAddr::from(*address), rest))?,
    })
}

/// The address and port that a datum consists of.
pub(crate) fn parse_socket(family: Family, words: &[u8]) -> Option<SocketAddr> {
    let (address, port) = parse_address(family, words)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(*port.first_chunk()?)))
}

impl Scope {
    /// Both kinds, in order.
    pub(crate) const ALL: [Self; 2] = [Self::Address, Self::NodePort];

    /// What of a packet makes up the key.
    pub(crate) fn selectors(self) -> Vec<Selector> {
        let address = (self == Self::Address).then_some(Selector::DestinationAddress);
        address.into_iter().chain([Selector::Protocol, Selector::DestinationPort]).collect()
    }

    /// The same of a connection's first packet, as it was before translation.
    pub(crate) fn original_selectors(self) -> Vec<Selector> {
        let address = (self == Self::Address).then_some(Selector::OriginalDestinationAddress);
        address.into_iter().chain([Selector::Protocol, Selector::OriginalDestinationPort]).collect()
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

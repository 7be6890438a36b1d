//! Values of the configuration as types that cannot be wrong.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{Family, PerFamily};

/// A node name given by the operator: trimmed, in lower case and not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname(String);

impl Hostname {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = ParseHostnameError;

    fn from_str(input: &str) -> Result<Self, Self::Err> {
        match input.trim() {
            "" => Err(ParseHostnameError),
            name => Ok(Self(name.to_lowercase())),
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hostname override of nothing but white space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("empty hostname-override is invalid: give the name of this machine's Node object")]
pub struct ParseHostnameError;

/// Which bit of the packet mark says "to be masqueraded".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasqueradeBit(u8);

impl MasqueradeBit {
    /// The bit by its number, 0 to 31; `None` for another.
    pub fn new(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|bit| *bit < 32).map(Self)
    }

    /// Its number, 0 to 31.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The mark with this bit alone.
    pub const fn mark(self) -> u32 {
        1 << self.0
    }
}

impl Default for MasqueradeBit {
    /// Bit 14, kube-proxy's default (contract §2.2).
    fn default() -> Self {
        Self(14)
    }
}

/// How traffic of this cluster's pods is told from other traffic (`detectLocalMode`, contract §3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalTraffic {
    /// By source address: pods have addresses of these prefixes. A family without one cannot tell.
    ClusterCidr(PerFamily<Option<IpNet>>),
    /// By source address: this node's pods have addresses of the prefixes of its Node object.
    NodeCidr,
    /// By the interface that packets come in by: this bridge.
    BridgeInterface(InterfaceName),
    /// By the interface that packets come in by: any whose name starts like this.
    InterfaceNamePrefix(InterfaceName),
}

/// The name of a network interface, or the start of one, as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The longest name (`IFNAMSIZ`, include/uapi/linux/if.h, less the final zero).
    pub const MAX: usize = 15;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = ParseInterfaceNameError;

    fn from_str(input: &str) -> Result<Self, Self::Err> {
        // What `dev_valid_name` (net/core/dev.c) and `nft` take; a `*` would be taken for a pattern.
        let plain = |b: u8| b.is_ascii_graphic() && !b"/:\"\\*".contains(&b);
        let usable = (1..=Self::MAX).contains(&input.len()) && input.bytes().all(plain);
        if usable { Ok(Self(input.to_owned())) } else { Err(ParseInterfaceNameError) }
    }
}

/// A string that no interface's name can be or start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 1 to 15 characters, none of them a space, '/', ':', '*', '\\' or a quote, as in the name of a network interface"
)]
pub struct ParseInterfaceNameError;

/// Which of the node's addresses accept NodePort connections (contract §3.5, and for `localhost` KEP-6032).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses {
    /// Whether the node's primary address of each family does.
    pub primary: bool,
    /// Local addresses within these do.
    pub cidrs: Vec<IpNet>,
}

impl NodePortAddresses {
    /// What the keyword `localhost` stands for.
    pub const LOCALHOST: [IpNet; 2] = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    ];
    /// What the keyword `all` stands for.
    pub const ALL: [IpNet; 2] = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    ];

    /// The node's primary address of each family: the default.
    pub const PRIMARY: Self = Self { primary: true, cidrs: Vec::new() };

    /// The prefixes that hold for one family, given the node's primary address in it; `None` if every local address
    /// accepts. That is also so for a family that nothing was said about: no prefix, or no primary address.
    pub fn prefixes(&self, family: Family, primary: Option<IpAddr>) -> Option<Vec<IpNet>> {
        let primary = primary.filter(|_| self.primary).map(IpNet::from);
        let prefixes: Vec<_> = primary.into_iter().chain(self.of(family)).collect();
        let any = prefixes.is_empty() || prefixes.iter().any(|net| net.prefix_len() == 0);
        (!any).then_some(prefixes)
    }

    /// Whether TCP NodePorts of this family answer on `127.0.0.1` or `::1`: only if a prefix of loopback addresses was written, for a
    /// larger one that has them among others is no word for it.
    pub fn has_localhost(&self, family: Family) -> bool {
        self.of(family).any(|net| Self::LOCALHOST.iter().any(|loopback| loopback.contains(&net)))
    }

    fn of(&self, family: Family) -> impl Iterator<Item = IpNet> + '_ {
        self.cidrs.iter().filter(move |net| Family::of_prefix(net) == family).copied()
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ParseLogFormatError;

    fn from_str(input: &str) -> Result<Self, Self::Err> {
        match input {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(ParseLogFormatError),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// A log format there is none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unsupported log format: use text or json")]
pub struct ParseLogFormatError;

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn node_port_prefixes_fall_back_to_any_family_by_family() {
        let node = Some("192.0.2.10".parse().unwrap());
        let cidrs = |list: &[&str]| NodePortAddresses { primary: false, cidrs: nets(list) };
        let any = NodePortAddresses { primary: false, cidrs: NodePortAddresses::ALL.to_vec() };
        let mixed = cidrs(&["192.0.2.0/24", "::/0"]);
        let v4_only = cidrs(&["192.0.2.0/24", "10.0.0.0/8"]);
        let both = NodePortAddresses { primary: true, ..v4_only.clone() };
        assert_eq!(any.prefixes(Family::V4, node), None);
        assert_eq!(NodePortAddresses::PRIMARY.prefixes(Family::V4, node), Some(nets(&["192.0.2.10/32"])));
        assert_eq!(NodePortAddresses::PRIMARY.prefixes(Family::V6, None), None);
        assert_eq!(mixed.prefixes(Family::V4, node), Some(nets(&["192.0.2.0/24"])));
        assert_eq!(mixed.prefixes(Family::V6, None), None);
        assert_eq!(v4_only.prefixes(Family::V4, node), Some(nets(&["192.0.2.0/24", "10.0.0.0/8"])));
        assert_eq!(v4_only.prefixes(Family::V6, None), None);
        assert_eq!(both.prefixes(Family::V4, node), Some(nets(&["192.0.2.10/32", "192.0.2.0/24", "10.0.0.0/8"])));
    }

    #[test]
    fn localhost_has_to_be_named() {
        let localhost = |list: &[&str]| {
            let addresses = NodePortAddresses { primary: true, cidrs: nets(list) };
            Family::ALL.map(|family| addresses.has_localhost(family))
        };
        assert_eq!(localhost(&[]), [false, false]);
        assert_eq!(localhost(&["0.0.0.0/0", "::/0", "126.0.0.0/7", "::/127"]), [false, false]);
        assert_eq!(localhost(&["0.0.0.0/0", "127.0.0.1/32"]), [true, false]);
        assert_eq!(localhost(&["::1/128"]), [false, true]);
    }

    #[test]
    fn masquerade_bits_are_those_of_a_mark() {
        assert_eq!(MasqueradeBit::default().mark(), 0x4000);
        assert_eq!(MasqueradeBit::new(31).map(MasqueradeBit::mark), Some(0x8000_0000));
        for number in [-1, 32, 256, i32::MIN] {
            assert_eq!(MasqueradeBit::new(number), None, "{number}");
        }
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for name in ["cni0", "veth", "a", "br-0.100@x", "fifteen-letters"] {
            assert_eq!(name.parse::<InterfaceName>().unwrap().as_str(), name);
        }
        for name in ["", "sixteen--letters", "a b", "a/b", "a:b", "a*", "\"", "a\\", "é", "a\n"] {
            assert_eq!(name.parse::<InterfaceName>(), Err(ParseInterfaceNameError), "{name:?}");
        }
    }

    #[test]
    fn hostnames_are_trimmed_and_lower_case() {
        assert_eq!(" Node-1\n".parse::<Hostname>().unwrap().as_str(), "node-1");
        assert_eq!(" \t".parse::<Hostname>(), Err(ParseHostnameError));
    }
}

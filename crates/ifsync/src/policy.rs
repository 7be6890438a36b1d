//! Which links take part, and why the others do not.

use std::fmt;

use ruleset::Interface;

use crate::Link;

/// Kinds of devices that packets pass on their way from one host to another, one packet as one: the flowtable's hook, which is where
/// the device receives, sees them as the stack above would.
const KINDS: [&str; 15] = [
    "veth",
    "netkit",
    "bridge",
    "bond",
    "team",
    "vlan",
    "vxlan",
    "geneve",
    "ipip",
    "sit",
    "ip6tnl",
    "gre",
    "ip6gre",
    "wireguard",
    "tun",
];

/// Decides which links take part in the fast path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Links that do not take part whatever they are.
    pub exclude: Vec<Pattern>,
}

/// Names of links: one name, or all that start alike (`eth*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Interface);

/// A text that is no [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the name of a network interface, or the start of names with a '*' at the end: {0}")]
pub struct PatternError(#[from] ruleset::InterfaceError);

/// Why a link does not take part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is the loopback device: what it carries stays on the node.
    Loopback,
    /// It is switched off, or nothing is connected to it.
    Down,
    /// It is a port of another device, of this kind: packets are routed by that device, which takes part in its place.
    Port(String),
    /// The configuration excludes links whose names are like this.
    Excluded(String),
    /// Its kind is none that is known to work.
    Kind(String),
    /// Its name is none that a rule could have.
    Name,
}

impl Policy {
    /// Decides on a link: the name by which it takes part, or why it does not.
    ///
    /// # Errors
    /// It does not take part.
    pub fn judge(&self, link: &Link) -> Result<Interface, Reason> {
        if link.is_loopback {
            return Err(Reason::Loopback);
        }
        if let Some(pattern) = self.exclude.iter().find(|pattern| pattern.matches(&link.name)) {
            return Err(Reason::Excluded(pattern.to_string()));
        }
        if let Some(kind) = &link.port_of {
            return Err(Reason::Port(kind.clone()));
        }
        if let Some(kind) = link.kind.as_ref().filter(|kind| !KINDS.contains(&kind.as_str())) {
            return Err(Reason::Kind(kind.clone()));
        }
        if !link.is_up || link.is_down {
            return Err(Reason::Down);
        }
        Interface::named(&link.name).map_err(|_| Reason::Name)
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// No link can have a name like that.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Ok(Self(match text.strip_suffix('*') {
            Some(start) => Interface::prefixed(start)?,
            None => Interface::named(text)?,
        }))
    }

    fn matches(&self, name: &str) -> bool {
        if self.0.is_prefix() { name.starts_with(self.0.name()) } else { name == self.0.name() }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.name(), if self.0.is_prefix() { "*" } else { "" })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("the loopback device"),
            Self::Down => f.write_str("down"),
            Self::Port(kind) if kind.is_empty() => f.write_str("a port of another device"),
            Self::Port(kind) => write!(f, "a port of a {kind}"),
            Self::Excluded(pattern) => write!(f, "excluded by {pattern}"),
            Self::Kind(kind) => write!(f, "of kind {kind}"),
            Self::Name => f.write_str("its name fits in no rule"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: Option<&str>) -> Link {
        Link {
            index: 7,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            port_of: None,
            is_up: true,
            is_loopback: false,
            is_down: false,
        }
    }

    #[test]
    fn every_link_is_in_or_out_for_a_reason() {
        let exclude = ["mgmt*", "eth1"].map(|text| Pattern::parse(text).unwrap()).to_vec();
        let policy = Policy { exclude };
        let judged = |link| policy.judge(&link).map(|device| device.name().to_owned()).map_err(|r| r.to_string());
        for kind in [None, Some("veth"), Some("netkit"), Some("bridge"), Some("vxlan"), Some("ipip"), Some("wireguard")]
        {
            assert_eq!(judged(link("eth0", kind)), Ok("eth0".to_owned()));
        }
        let out = [
            (Link { is_loopback: true, ..link("lo", None) }, "the loopback device"),
            (Link { is_up: false, ..link("eth0", None) }, "down"),
            (Link { is_down: true, ..link("eth0", None) }, "down"),
            (Link { port_of: Some("bridge".to_owned()), ..link("veth1", Some("veth")) }, "a port of a bridge"),
            (Link { port_of: Some(String::new()), ..link("veth1", Some("veth")) }, "a port of another device"),
            (link("mgmt0", None), "excluded by mgmt*"),
            (link("eth1", None), "excluded by eth1"),
            (link("ifb0", Some("ifb")), "of kind ifb"),
            (link("a\"b", Some("veth")), "its name fits in no rule"),
        ];
        for (link, reason) in out {
            assert_eq!(judged(link), Err(reason.to_owned()));
        }
        assert!(Pattern::parse("a b").is_err() && Pattern::parse("").is_err());
    }
}

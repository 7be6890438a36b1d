//! What rules match and do: the part of nftables' language that Slipstream uses.
//!
//! A statement corresponds to one of `nft`'s. The `netlink` crate turns each into the kernel's expressions, the packet tracer
//! of `compiler` executes them.

use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Name, Set};

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// No other rule of this hook's chain is asked.
    Accept,
    /// It is dropped.
    Drop,
    /// It goes on in another chain and does not come back.
    Goto(Name),
    /// It goes on in another chain and comes back unless that one decides.
    Jump(Name),
}

/// A property of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `ip saddr`.
    SourceAddress,
    /// `ip saddr & MASK`: so many of the first bits of `ip saddr`, and zeros.
    SourceNetwork(NonZeroU8),
    /// `ip daddr`.
    DestinationAddress,
    /// `meta l4proto`.
    Protocol,
    /// `th dport`.
    DestinationPort,
    /// `ct original ip daddr`: where the connection was headed before translation.
    OriginalDestinationAddress,
    /// `ct original proto-dst`: likewise.
    OriginalDestinationPort,
    /// `numgen random mod N`: a number from 0 to N-1.
    Random(NonZeroU32),
    /// `meta iif`: the device that the packet came in by.
    InputDevice,
    /// `meta oif`: the device that it is about to leave by.
    OutputDevice,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Goes on if an address compares so with a prefix: `ip saddr 10.0.0.0/8`, `ip daddr != 127.0.0.0/8`.
    Prefix {
        /// [`Selector::SourceAddress`] or [`Selector::DestinationAddress`].
        selector: Selector,
        /// How it must compare.
        comparison: Comparison,
        /// The prefix.
        prefix: IpNet,
    },
    /// Goes on if the destination, or the source, is an address of the node itself: `fib daddr type local`.
    IsLocal(Selector),
    /// Goes on if the packet came in by an interface whose name compares so: `iifname "cni0"`, `iifname != "veth*"`. What the
    /// node itself sends came in by none.
    InputInterface {
        /// How it must compare.
        comparison: Comparison,
        /// The interface.
        interface: Interface,
    },
    /// Goes on if the packet starts a connection: `ct state new`.
    NewConnection,
    /// Goes on if packets of the connection have been seen in both directions: `ct state established`.
    Established,
    /// Goes on if the connection's destination was translated: `ct status dnat`.
    Translated,
    /// Goes on if the connection is in a flowtable: `ct status & 0x4000 != 0` (`IPS_OFFLOAD`), for which `nft` has no name.
    Offloaded,
    /// Goes on if more packets of the connection than this, both directions together, have been counted: `ct packets > N`. It has
    /// the kernel count from now on, and connections that it did not count never match.
    MorePackets(u64),
    /// Goes on if the mark has one of these bits: `meta mark & BITS != 0`.
    HasMark(u32),
    /// Goes on if the key is in the set.
    InSet {
        /// What makes up the key.
        key: Vec<Selector>,
        /// The set.
        set: Arc<Set>,
    },
    /// Adds the key and what it maps to, to be forgotten after the timeout, or, if the key is there already, has the time start
    /// over: `update @MAP { KEY timeout 1h : DATA }`. What it maps to stays then. Ends the rule if there is no room for the key.
    /// `nft` prints this, but reads it only where it knows types for the selectors.
    Update {
        /// What makes up the key.
        key: Vec<Selector>,
        /// What it maps to.
        data: Vec<Selector>,
        /// The map, a [`crate::SetKind::Dynamic`] one.
        map: Arc<Set>,
        /// How long it is kept, in seconds.
        timeout: NonZeroU32,
    },
    /// Looks the key up in a verdict map and does what it says; goes on if there is no entry.
    VerdictMap {
        /// What makes up the key.
        key: Vec<Selector>,
        /// The map.
        map: Arc<Set>,
    },
    /// Sends the connection to the address and port that the key maps to; goes on if there is no entry.
    Dnat {
        /// What makes up the key.
        key: Vec<Selector>,
        /// The map.
        map: Arc<Set>,
    },
    /// Sets bits of the mark: `meta mark set meta mark | BITS`.
    SetMark(u32),
    /// Flips bits of the mark: `meta mark set meta mark ^ BITS`.
    FlipMark(u32),
    /// Gives the connection the address of the outgoing interface: `masquerade fully-random`.
    Masquerade,
    /// Refuses the packet with ICMP port unreachable: `reject`.
    Reject,
    /// Puts the connection into a flowtable: `flow add @NAME`. Ends the rule if the connection is none that the kernel can put there
    /// (`nft_flow_offload_eval`, net/netfilter/nft_flow_offload.c): TCP that is not established, or ends; other transport protocols
    /// than TCP and UDP; one that is there already.
    Offload(Name),
    /// Counts the packet: `counter name NAME`.
    Count(Name),
    /// Ends the rule with a verdict.
    Verdict(Verdict),
}

/// The name of a network interface, or the start of many names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface {
    name: Arc<str>,
    is_prefix: bool,
}

impl Interface {
    /// The longest name (`IFNAMSIZ`, include/uapi/linux/if.h, less the final zero).
    pub const MAX: usize = 15;

    /// The interface of this name.
    ///
    /// # Errors
    /// It cannot be a name: it is empty, longer than [`Interface::MAX`] bytes, or has characters that the kernel
    /// (`dev_valid_name`, net/core/dev.c) or `nft` does not take.
    pub fn named(name: &str) -> Result<Self, InterfaceError> {
        Self::new(name, false)
    }

    /// All interfaces whose names start like this.
    ///
    /// # Errors
    /// No name can start like that, as for [`Interface::named`].
    pub fn prefixed(prefix: &str) -> Result<Self, InterfaceError> {
        // One that is as long as names can be is a name, and `nft` reads no `*` after it.
        Self::new(prefix, prefix.len() < Self::MAX)
    }

    /// The name, or the start of the names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it stands for all that start with its name.
    pub const fn is_prefix(&self) -> bool {
        self.is_prefix
    }

    fn new(name: &str, is_prefix: bool) -> Result<Self, InterfaceError> {
        let plain = |b: u8| b.is_ascii_graphic() && !b"/:\"\\*".contains(&b);
        if name.is_empty() || name.len() > Self::MAX || !name.bytes().all(plain) {
            return Err(InterfaceError(name.to_owned()));
        }
        Ok(Self { name: name.into(), is_prefix })
    }
}

/// A string that no interface's name can be or start with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a network interface: 1 to 15 characters, none of them a space, '/', ':', '*', '\\' or a quote"
)]
pub struct InterfaceError(String);

/// How two values must compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// They are equal.
    Is,
    /// They differ.
    IsNot,
}

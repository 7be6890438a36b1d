//! What rules match and do: the part of nftables' language that Slipstream uses.
//!
//! A statement corresponds to one of `nft`'s. The `netlink` crate turns each into the kernel's expressions, the packet tracer
//! of `compiler` executes them.

use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Name, Set};

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
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
    /// `ip daddr`.
    DestinationAddress,
    /// `meta l4proto`.
    Protocol,
    /// `th dport`.
    DestinationPort,
    /// `numgen random mod N`: a number from 0 to N-1.
    Random(NonZeroU32),
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
    /// Goes on if the packet starts a connection: `ct state new`.
    NewConnection,
    /// Goes on if the connection's destination was translated: `ct status dnat`.
    Translated,
    /// Goes on if the mark has one of these bits: `meta mark & BITS != 0`.
    HasMark(u32),
    /// Goes on if the key is in the set.
    InSet {
        /// What makes up the key.
        key: Vec<Selector>,
        /// The set.
        set: Arc<Set>,
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
    /// Ends the rule with a verdict.
    Verdict(Verdict),
}

/// How two values must compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// They are equal.
    Is,
    /// They differ.
    IsNot,
}

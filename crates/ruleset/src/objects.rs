//! Tables, chains, sets and their elements.

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::{Datum, Interface, Statement, Verdict, Words};

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `ip`.
    Ip,
    /// `ip6`.
    Ip6,
}

impl Family {
    /// How many bytes an address has.
    pub const fn address_len(self) -> usize {
        match self {
            Self::Ip => 4,
            Self::Ip6 => 16,
        }
    }
}

/// The name of a table, chain or set: not empty, at most [`Name::MAX`] bytes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name that every `nft` still reads (`NFT_NAME_MAXLEN` is 256; older tools keep 128 with the final zero).
    pub const MAX: usize = 127;

    /// Checks a name.
    ///
    /// # Errors
    /// It is empty, longer than [`Name::MAX`], or has bytes other than ASCII letters, digits, `-`, `_`, `.` and `/`,
    /// which is what `nft` can read back.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let readable = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        if name.len() > Self::MAX || !starts_well || !name.bytes().all(readable) {
            return Err(NameError(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A string that cannot name an nf_tables object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name an nftables object: 1 to 127 letters, digits, '-', '_', '.' or '/', a letter first")]
pub struct NameError(String);

/// A comment on an object, as `nft` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comment(Arc<str>);

impl Comment {
    /// The longest comment in bytes that `nft` accepts (`NFTNL_UDATA_COMMENT_MAXLEN` in nftables' sources).
    pub const MAX: usize = 128;

    /// Makes a comment of any text, cut at the end to fit, with quotes and control characters left out.
    pub fn new(text: &str) -> Self {
        let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= Self::MAX;
        let clean = text.chars().filter(|c| !c.is_control() && *c != '"');
        let mut at = 0;
        let kept = clean.map(|c| {
            let here = at;
            at += c.len_utf8();
            (here, c)
        });
        Self(kept.take_while(fits).map(|(_, c)| c).collect::<String>().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A table. Its name and family are those of the [`crate::Transaction`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// A comment on it.
    pub comment: Option<Comment>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Name,
    /// Where packets enter it; `None` for one that is only jumped to.
    pub hook: Option<Hook>,
    /// A comment on it.
    pub comment: Option<Comment>,
}

/// Where and when a base chain sees packets. Its policy is always accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The type of the chain.
    pub kind: ChainKind,
    /// The hook.
    pub point: HookPoint,
    /// The priority: lower runs earlier.
    pub priority: i32,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainKind {
    /// `filter`.
    Filter,
    /// `nat`: sees only the first packet of a connection.
    Nat,
}

/// A netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookPoint {
    /// Packets that came in, before routing.
    Prerouting,
    /// Packets for the node itself.
    Input,
    /// Packets that pass through.
    Forward,
    /// Packets that the node itself sends.
    Output,
    /// Packets about to leave.
    Postrouting,
}

/// A flowtable: connections that a rule puts into it ([`Statement::Offload`]) pass from one of its devices to another without
/// seeing any hook but the one where packets come in.
///
/// It counts what passes (`counter`): without that, conntrack's counters stand still for connections in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flowtable {
    /// Its name.
    pub name: Name,
    /// The priority of its hook, `ingress` of each device: lower runs earlier. That of a flowtable which exists cannot change.
    pub priority: i32,
}

impl Flowtable {
    /// How many devices one operation may name: with the 256th (`NFT_NETDEVICE_MAX`, net/netfilter/nf_tables_api.c) it is refused.
    pub const MOST_DEVICES: usize = 255;
}

/// What changes about the devices of a flowtable, and of the set by which rules tell them.
///
/// A flowtable knows devices by name, rules by number. Before Linux 6.16 a device leaves the flowtable when it goes, and keeps its place
/// when it is renamed; since then the flowtable keeps names, with or without a device, and a device that takes such a name on enters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceChanges {
    /// Names that the flowtable gets.
    pub attach: Vec<Interface>,
    /// Names that it loses.
    pub detach: Vec<Interface>,
    /// Numbers that the set gets.
    pub admit: Vec<NonZeroU32>,
    /// Numbers that it loses.
    pub dismiss: Vec<NonZeroU32>,
}

impl DeviceChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.attach.is_empty() && self.detach.is_empty() && self.admit.is_empty() && self.dismiss.is_empty()
    }
}

/// A rule, at the end of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain.
    pub chain: Name,
    /// What it does, in order, until a statement does not match.
    pub statements: Vec<Statement>,
    /// A comment on it.
    pub comment: Option<Comment>,
}

/// A set, map or verdict map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: Name,
    /// What its keys consist of.
    pub key: Vec<Field>,
    /// What it maps to; `None` for a plain set.
    pub data: Option<DataType>,
    /// Where its elements come from.
    pub kind: SetKind,
    /// A comment on it.
    pub comment: Option<Comment>,
}

/// Where a set's elements come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetKind {
    /// Transactions write them, and nothing else does.
    #[default]
    Static,
    /// Rules add them ([`Statement::Update`]), up to so many, each for a time. Transactions may delete them.
    Dynamic {
        /// How many there may be; no more are added then.
        size: NonZeroU32,
    },
}

/// One field of a set's key or data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// An address of the table's family.
    Address,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// The number of an endpoint, counted by the kernel in its own byte order.
    Index,
    /// A network device, by its number (`iface_index`), in the machine's byte order.
    Device,
}

/// What a map maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataType {
    /// A verdict.
    Verdict,
    /// Values of these fields.
    Value(Vec<Field>),
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its key, by which alone it is deleted.
    pub key: Words,
    /// What the key maps to.
    pub data: Data,
    /// A comment on it.
    pub comment: Option<Comment>,
}

/// What an element's key maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: the element of a plain set, or one that is named only to be deleted.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// A value.
    Value(Datum),
}

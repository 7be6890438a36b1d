//! What arrives: messages and attributes, of which nothing is believed.

use ruleset::Name;

use crate::attributes::Attributes;

/// What arrived is not what netlink's messages look like.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The length of `struct nlmsghdr`.
pub(crate) const MESSAGE_HEADER: usize = 16;

/// The length of `struct nfgenmsg`, and of `struct genlmsghdr`.
pub(crate) const NETFILTER_HEADER: usize = 4;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    /// That of the request it answers.
    pub(crate) sequence: u32,
    /// All of it, its header included.
    pub(crate) bytes: &'a [u8],
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Its kind among those of nf_tables (`NFT_MSG_*`), if it is one of them.
    pub(crate) fn nf_tables_kind(&self) -> Option<libc::c_int> {
        let [subsystem, kind] = self.kind.to_be_bytes().map(libc::c_int::from);
        (subsystem == libc::NFNL_SUBSYS_NFTABLES).then_some(kind)
    }

    /// The address family in the header of a message of netfilter's (`NFPROTO_*`).
    pub(crate) fn family(&self) -> Option<u8> {
        self.body.first().copied()
    }

    /// The attributes of a message of netfilter's.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = Result<Attribute<'a>, Malformed>> + use<'a> {
        attributes(self.body.get(NETFILTER_HEADER..).unwrap_or_default())
    }
}

/// An attribute: its number, without flags, and its value.
pub(crate) type Attribute<'a> = (u16, &'a [u8]);

/// The messages of a datagram. After one that is malformed there is nothing more.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    items(datagram, |rest| {
        let (message, after) = split(rest, u32_at(rest, 0)? as usize, MESSAGE_HEADER)?;
        let (header, body) = message.split_at_checked(MESSAGE_HEADER)?;
        let (kind, flags, sequence) = (u16_at(header, 4)?, u16_at(header, 6)?, u32_at(header, 8)?);
        Some((Message { kind, flags, sequence, bytes: message, body }, after))
    })
}

/// The attributes of a message or of another attribute. After one that is malformed there is nothing more.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<Attribute<'_>, Malformed>> {
    /// The bits of an attribute's type that are its number (`NLA_TYPE_MASK`, include/uapi/linux/netlink.h).
    const TYPE_MASK: u16 = 0x3fff;
    items(bytes, |rest| {
        let (attribute, after) = split(rest, usize::from(u16_at(rest, 0)?), 4)?;
        let (header, value) = attribute.split_at_checked(4)?;
        Some(((u16_at(header, 2)? & TYPE_MASK, value), after))
    })
}

/// Takes items off the front, each with what is left after it, until nothing is left or one is malformed.
fn items<'a, T>(
    bytes: &'a [u8],
    next: impl Fn(&'a [u8]) -> Option<(T, &'a [u8])>,
) -> impl Iterator<Item = Result<T, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let item = next(rest);
        rest = item.as_ref().map_or(&[][..], |(_, after)| after);
        Some(item.map(|(item, _)| item).ok_or(Malformed))
    })
}

/// Splits off an item of this length, at least `header`; the padding after it is dropped.
fn split(bytes: &[u8], length: usize, header: usize) -> Option<(&[u8], &[u8])> {
    if length < header {
        return None;
    }
    let (item, _) = bytes.split_at_checked(length)?;
    let after = bytes.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((item, after))
}

/// A request: `struct nlmsghdr`, the four bytes that begin what is netfilter's or generic netlink's (`struct nfgenmsg`,
/// `struct genlmsghdr`), attributes.
pub(crate) fn compose(
    kind: u16,
    flags: libc::c_int,
    head: [u8; NETFILTER_HEADER],
    fill: impl FnOnce(&mut Attributes),
) -> Vec<u8> {
    let mut attributes = Attributes::default();
    fill(&mut attributes);
    let length = MESSAGE_HEADER + NETFILTER_HEADER + attributes.as_bytes().len();
    let flags = (libc::NLM_F_REQUEST | flags) as u16;
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&(length as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    // Sequence number and port: there is one answer at a time, and the kernel knows the port.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&head);
    message.extend_from_slice(attributes.as_bytes());
    message
}

/// A number in network byte order.
pub(crate) fn number(value: &[u8]) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)
}

/// A string: what comes before the zero that ends it.
pub(crate) fn string(value: &[u8]) -> Result<&str, Malformed> {
    let end = value.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
    std::str::from_utf8(&value[..end]).map_err(|_| Malformed)
}

/// A name; `None` if it is none that we could use.
pub(crate) fn name(value: &[u8]) -> Option<Name> {
    Name::new(string(value).ok()?).ok()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

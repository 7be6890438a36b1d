//! What the kernel sends, taken apart: messages and attributes. Any bytes give values or [`Malformed`].

use ruleset::Name;

use crate::uapi;

/// Something is not what netlink's messages look like.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The length of `struct nlmsghdr`.
pub(crate) const MESSAGE_HEADER: usize = 16;

/// The length of `struct nfgenmsg`.
pub(crate) const NETFILTER_HEADER: usize = 4;

/// A message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// All of it, its header included.
    pub(crate) bytes: &'a [u8],
    /// Its type (`nlmsg_type`).
    pub(crate) kind: u16,
    /// Its flags.
    pub(crate) flags: u16,
}

impl<'a> Message<'a> {
    /// What comes after the header.
    pub(crate) fn payload(&self) -> &'a [u8] {
        self.bytes.get(MESSAGE_HEADER..).unwrap_or_default()
    }

    /// Its kind among those of nf_tables (`NFT_MSG_*`), if it is one of them.
    pub(crate) fn nf_tables_kind(&self) -> Option<libc::c_int> {
        let [subsystem, kind] = self.kind.to_be_bytes().map(libc::c_int::from);
        (subsystem == libc::NFNL_SUBSYS_NFTABLES).then_some(kind)
    }

    /// The address family in the header of a message of netfilter's (`NFPROTO_*`).
    pub(crate) fn family(&self) -> Option<u8> {
        self.payload().first().copied()
    }

    /// The attributes of a message of netfilter's.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = Result<(u16, &'a [u8]), Malformed>> + use<'a> {
        attributes(self.payload().get(NETFILTER_HEADER..).unwrap_or_default())
    }
}

/// The messages of a datagram. After one that is malformed there is nothing more.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((bytes, after)) = split(rest, 4, MESSAGE_HEADER) else {
            rest = &[];
            return Some(Err(Malformed));
        };
        rest = after;
        let message = || Some(Message { bytes, kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)? });
        Some(message().ok_or(Malformed))
    })
}

/// The attributes of a message or of another attribute: numbers and values. After one that is malformed there is nothing more.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let attribute = split(rest, 2, 4).and_then(|(attribute, after)| {
            rest = after;
            Some((u16_at(attribute, 2)? & uapi::NLA_TYPE_MASK, attribute.get(4..)?))
        });
        if attribute.is_none() {
            rest = &[];
        }
        Some(attribute.ok_or(Malformed))
    })
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

/// Splits off what has its length in its first `length_bytes` bytes, at least `header`; the padding after it is dropped.
pub(crate) fn split(bytes: &[u8], length_bytes: usize, header: usize) -> Option<(&[u8], &[u8])> {
    let length = match length_bytes {
        2 => usize::from(u16_at(bytes, 0)?),
        _ => u32_at(bytes, 0)? as usize,
    };
    if length < header {
        return None;
    }
    let (item, _) = bytes.split_at_checked(length)?;
    let after = bytes.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((item, after))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

//! What the kernel answers.

use crate::message::{MESSAGE_HEADER, Malformed, Message, attributes, messages, u32_at};
use crate::uapi;

/// The kernel's answer to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The sequence number of the message.
    pub(crate) sequence: u32,
    /// 0 if it is an acknowledgement, else the error.
    pub(crate) errno: i32,
    /// Where in the message the error is: how many bytes after its start.
    pub(crate) offset: Option<usize>,
}

/// Decodes a datagram. Messages in it that answer nothing are left out.
///
/// After one that is malformed there is nothing more.
pub(crate) fn decode(datagram: &[u8]) -> impl Iterator<Item = Result<Reply, Malformed>> {
    messages(datagram).filter_map(|message| match message {
        Ok(message) if i32::from(message.kind) == libc::NLMSG_ERROR => Some(decode_error(&message).ok_or(Malformed)),
        Ok(_) => None,
        Err(Malformed) => Some(Err(Malformed)),
    })
}

/// Decodes a message with an error or an acknowledgement: header, number, the header of the message it is about, that
/// message unless it was left out, and attributes.
pub(crate) fn decode_error(message: &Message<'_>) -> Option<Reply> {
    const ATTRIBUTES: usize = MESSAGE_HEADER + 4;
    let Message { flags, sequence, body, .. } = *message;
    let errno = u32_at(body, 0)?.cast_signed().checked_neg()?;
    let length = u32_at(body, 4)? as usize;
    let mut told = body.get(ATTRIBUTES..)?;
    if flags & uapi::NLM_F_ACK_TLVS == 0 {
        told = &[];
    } else if flags & uapi::NLM_F_CAPPED == 0 {
        let quoted = length.checked_sub(MESSAGE_HEADER)?.checked_next_multiple_of(4)?;
        told = told.get(quoted..)?;
    }
    let mut offset = None;
    for attribute in attributes(told) {
        let (kind, value) = attribute.ok()?;
        if kind == uapi::NLMSGERR_ATTR_OFFS {
            offset = Some(u32_at(value, 0)? as usize);
        }
    }
    Some(Reply { sequence, errno, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: i32, flags: u16, tail: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend_from_slice(&(36 + tail.len() as u32).to_ne_bytes());
        message.extend_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&7u32.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&(-errno).to_ne_bytes());
        message.extend_from_slice(&24u32.to_ne_bytes());
        message.extend_from_slice(&[0; 12]);
        message.extend_from_slice(tail);
        message
    }

    fn attribute(kind: u16, value: u32) -> Vec<u8> {
        [&8u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
    }

    fn decoded(datagram: &[u8]) -> Vec<Result<Reply, Malformed>> {
        decode(datagram).collect()
    }

    #[test]
    fn an_acknowledgement_and_errors_with_and_without_a_place() {
        let capped = uapi::NLM_F_CAPPED | uapi::NLM_F_ACK_TLVS;
        let quoted = [vec![1; 8], attribute(uapi::NLMSGERR_ATTR_OFFS, 80)].concat();
        let datagram = [
            error(0, uapi::NLM_F_CAPPED, &[]),
            error(17, capped, &[attribute(1, 0), attribute(uapi::NLMSGERR_ATTR_OFFS, 64)].concat()),
            error(2, uapi::NLM_F_ACK_TLVS, &quoted),
            error(2, 0, &[1; 8]),
        ];
        let reply = |errno, offset| Ok(Reply { sequence: 7, errno, offset });
        assert_eq!(
            decoded(&datagram.concat()),
            [reply(0, None), reply(17, Some(64)), reply(2, Some(80)), reply(2, None)]
        );
    }

    #[test]
    fn truncated_at_every_byte() {
        let whole = error(17, uapi::NLM_F_CAPPED | uapi::NLM_F_ACK_TLVS, &attribute(2, 64));
        assert!(decoded(&whole)[0].is_ok());
        for length in 1..whole.len() {
            // As the datagram ends early, and as the message claims to.
            assert_eq!(decoded(&whole[..length]), [Err(Malformed)], "{length} bytes");
            let mut shorter = whole[..length].to_vec();
            if length >= 4 {
                shorter[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            }
            // All but the attribute may be left out.
            assert_eq!(decoded(&shorter)[0].is_ok(), length == 36, "{length} bytes");
        }
    }

    #[test]
    fn any_byte_may_have_any_value() {
        let whole = error(17, uapi::NLM_F_ACK_TLVS, &[vec![1; 8], attribute(2, 64)].concat());
        for at in 0..whole.len() {
            for value in 0..=u8::MAX {
                let mut changed = whole.clone();
                changed[at] = value;
                assert!(decoded(&changed).len() <= 2);
            }
        }
    }
}

//! Datagrams of a list.

use std::io;

use super::request::NETFILTER_HEADER;
use super::{Flow, uapi};
use crate::message::{Malformed, Message, messages, u32_at};
use crate::reply::decode_error;

/// What a datagram of a list says.
#[derive(Debug)]
pub(super) struct Page {
    /// That of the request for the list.
    sequence: u32,
    /// Flows that matched.
    pub(super) matching: Vec<Flow>,
    /// Whether anything came between, in this datagram or an earlier one.
    pub(super) interrupted: bool,
}

impl Page {
    /// For the list that the request with this number asks for.
    pub(super) const fn new(sequence: u32) -> Self {
        Self { sequence, matching: Vec::new(), interrupted: false }
    }

    /// Takes in a datagram. Returns whether it was the last one.
    ///
    /// # Errors
    /// The list ended by this error, or the datagram is malformed; what came before that is taken in.
    pub(super) fn read(&mut self, datagram: &[u8], mut matches: impl FnMut(&Flow) -> bool) -> io::Result<bool> {
        self.matching.clear();
        for message in messages(datagram) {
            let message = message.map_err(|Malformed| malformed())?;
            if message.sequence != self.sequence {
                continue;
            }
            self.interrupted |= message.flags & uapi::NLM_F_DUMP_INTR != 0;
            let ended = match i32::from(message.kind) {
                // It begins with a number, like an error.
                libc::NLMSG_DONE => end_of(&message),
                libc::NLMSG_ERROR => errno_of(&message),
                _ => {
                    if message.kind == uapi::IPCTNL_MSG_CT_NEW {
                        let attributes = message.body.get(NETFILTER_HEADER..).ok_or_else(malformed)?;
                        let flow = Flow::decode(attributes).map_err(|Malformed| malformed())?;
                        self.matching.extend(flow.filter(&mut matches));
                    }
                    continue;
                }
            };
            return match ended {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {
                    self.interrupted = true;
                    Ok(true)
                }
                other => other.map(|()| true),
            };
        }
        Ok(false)
    }
}

/// What the end of a list says. Without a number, the list has come to its end.
fn end_of(message: &Message<'_>) -> io::Result<()> {
    let number = u32_at(message.body, 0).unwrap_or_default().cast_signed();
    if number < 0 { Err(io::Error::from_raw_os_error(number.saturating_neg())) } else { Ok(()) }
}

/// What an error or acknowledgement says.
pub(super) fn errno_of(message: &Message<'_>) -> io::Result<()> {
    match decode_error(message).ok_or_else(malformed)?.errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

pub(super) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not what it should look like")
}

#[cfg(test)]
mod tests {
    use super::super::{Tuple, request};
    use super::*;

    const OURS: u32 = 7;

    fn flow(n: u8) -> Flow {
        let (client, service) = (([192, 0, 2, n], 40000).into(), ([10, 96, 0, 10], 53).into());
        let original = Tuple { source: client, destination: service };
        Flow { protocol: 17, is_offloaded: false, original, reply: original, id: u32::from(n) }
    }

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&sequence.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(body);
        message
    }

    /// An entry whose two directions look the same.
    fn entry(n: u8, flags: u16, sequence: u32) -> Vec<u8> {
        // The request to delete it has all of the rest.
        let mut bytes = Vec::new();
        request::delete(&mut bytes, sequence, &flow(n), false);
        let mut tuple = crate::attributes::Attributes::default();
        flow(n).reply.encode(17, &mut tuple);
        let mut tuple = tuple.as_bytes().to_vec();
        tuple[2..4].copy_from_slice(&uapi::CTA_TUPLE_REPLY.to_ne_bytes());
        message(uapi::IPCTNL_MSG_CT_NEW, flags, sequence, &[&bytes[16..], &tuple].concat())
    }

    fn done(errno: i32) -> Vec<u8> {
        message(libc::NLMSG_DONE as u16, 0, OURS, &(-errno).to_ne_bytes())
    }

    fn error(errno: i32) -> Vec<u8> {
        message(libc::NLMSG_ERROR as u16, 0, OURS, &[&(-errno).to_ne_bytes()[..], &[0; 16]].concat())
    }

    /// Reads a datagram: whether it was the last, or the error; which flows it had; whether anything came between.
    fn read(datagram: &[u8]) -> (Result<bool, Option<i32>>, Vec<Flow>, bool) {
        let mut page = Page::new(OURS);
        let ended = page.read(datagram, |_| true).map_err(|error| error.raw_os_error());
        (ended, page.matching, page.interrupted)
    }

    #[test]
    fn entries_and_the_end() {
        let entries = [entry(1, 0, OURS), entry(2, 0, OURS)].concat();
        assert_eq!(read(&entries), (Ok(false), vec![flow(1), flow(2)], false));
        assert_eq!(read(&[entries, done(0)].concat()), (Ok(true), vec![flow(1), flow(2)], false));
        assert_eq!(read(&[]), (Ok(false), vec![], false));
    }

    #[test]
    fn what_does_not_match_is_left_out() {
        let mut page = Page::new(OURS);
        let datagram = [entry(1, 0, OURS), entry(2, 0, OURS), entry(3, 0, OURS)].concat();
        assert!(!page.read(&datagram, |other| *other != flow(2)).unwrap());
        assert_eq!(page.matching, [flow(1), flow(3)]);
        assert!(page.read(&done(0), |_| true).unwrap());
        assert_eq!(page.matching, [], "those of the datagram before are done with");
    }

    #[test]
    fn answers_to_other_requests_are_left_out() {
        assert_eq!(read(&[entry(1, 0, OURS - 1), entry(2, 0, OURS)].concat()), (Ok(false), vec![flow(2)], false));
    }

    #[test]
    fn what_came_between_is_noticed_and_the_entries_are_used_all_the_same() {
        let flagged = [entry(1, uapi::NLM_F_DUMP_INTR, OURS), entry(2, 0, OURS), done(0)].concat();
        assert_eq!(read(&flagged), (Ok(true), vec![flow(1), flow(2)], true));
        for end in [done(libc::EINTR), error(libc::EINTR)] {
            assert_eq!(read(&[entry(1, 0, OURS), end].concat()), (Ok(true), vec![flow(1)], true));
        }
    }

    #[test]
    fn a_list_that_fails_has_an_error_and_what_came_before() {
        for end in [done(libc::ENOMEM), error(libc::ENOMEM)] {
            let expected = (Err(Some(libc::ENOMEM)), vec![flow(1)], false);
            assert_eq!(read(&[entry(1, 0, OURS), end].concat()), expected);
        }
    }

    #[test]
    fn truncated_at_every_byte() {
        let whole = [entry(1, 0, OURS), done(0)].concat();
        for length in 0..whole.len() {
            let (ended, matching, _) = read(&whole[..length]);
            assert!(ended != Ok(true), "{length} bytes: {ended:?}");
            assert!(matching.is_empty() || matching == [flow(1)]);
        }
    }

    #[test]
    fn any_byte_may_have_any_value() {
        let whole = [entry(1, 0, OURS), error(libc::EPERM)].concat();
        for at in 0..whole.len() {
            for value in 0..=u8::MAX {
                let mut changed = whole.clone();
                changed[at] = value;
                assert!(read(&changed).1.len() <= 1);
            }
        }
    }
}

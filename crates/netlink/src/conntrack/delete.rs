//! Deleting entries.

use std::io;

use super::page::malformed;
use super::{Flow, Tally, request};
use crate::message::Malformed;
use crate::reply::{Reply, decode};
use crate::socket::{ReceiveBuffer, Socket};

/// Deletes entries, on a socket of its own: the other one is in the middle of a list.
pub(super) struct Deleter {
    socket: Socket,
    buffer: Box<ReceiveBuffer>,
    requests: Vec<u8>,
    sequence: u32,
}

impl Deleter {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, buffer: ReceiveBuffer::new(), requests: Vec::new(), sequence: 0 }
    }

    /// Deletes these entries, as many as a datagram of a list holds, and counts how that went.
    ///
    /// # Errors
    /// The kernel did not look at the requests, or did not say what came of them.
    pub(super) fn delete(&mut self, flows: &[Flow], tally: &mut Tally) -> io::Result<()> {
        let Some(last) = flows.len().checked_sub(1) else {
            return Ok(());
        };
        let first = self.sequence.wrapping_add(1);
        self.requests.clear();
        for (index, flow) in flows.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            // Errors are told in any case, and in order; so what is not told of before the last is answered was done.
            request::delete(&mut self.requests, self.sequence, flow, index == last);
        }
        self.socket.send_messages(&self.requests)?;
        let (mut gone, mut refused, mut answered) = (0, 0, false);
        while let Some(datagram) = self.socket.receive(&mut self.buffer)? {
            for reply in decode(datagram) {
                let Reply { sequence, errno, .. } = reply.map_err(|Malformed| malformed())?;
                if sequence.wrapping_sub(first) as usize > last {
                    continue;
                }
                answered |= sequence == self.sequence;
                match errno {
                    0 => {}
                    // It ended, or another one has taken its place.
                    libc::ENOENT => gone += 1,
                    _ => {
                        refused += 1;
                        let source = || (0, io::Error::from_raw_os_error(errno));
                        tally.refused.get_or_insert_with(source).0 += 1;
                    }
                }
            }
        }
        if !answered {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel did not answer a request to delete"));
        }
        tally.deleted += (flows.len() as u64).saturating_sub(gone + refused);
        Ok(())
    }
}

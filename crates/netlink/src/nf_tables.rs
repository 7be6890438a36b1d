//! The kernel's nf_tables.

use std::io;
use std::time::Instant;

use nftnl::FinalizedBatch;
use ruleset::{CommitError, CommitReport, Element, Family, Found, Kernel, Name, ReadError, Transaction};

use crate::bytecode::protocol_family;
use crate::dump::Reader;
use crate::encode::{Encoded, encode};
use crate::message::Malformed;
use crate::monitor::Monitor;
use crate::outcome::{Answers, judge, refused};
use crate::reply::decode;
use crate::socket::{ReceiveBuffer, Socket};

/// The kernel's nf_tables, in the network namespace of the thread that opened it.
pub struct NfTables {
    socket: Socket,
    buffer: Box<ReceiveBuffer>,
}

/// Why nf_tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This process may not.
    #[error(
        "changing nftables is not permitted: run as root, or give the process the capability NET_ADMIN \
         (in a pod: securityContext.capabilities.add)"
    )]
    NotPermitted,
    /// The kernel has no nf_tables.
    #[error(
        "this kernel has no nf_tables: run `modprobe nf_tables`, or use a kernel built with CONFIG_NF_TABLES \
         (and CONFIG_NF_TABLES_IPV4, CONFIG_NF_TABLES_IPV6)"
    )]
    Missing,
    /// The kernel did something else.
    #[error("cannot talk to the kernel's nf_tables: {0}")]
    Other(#[from] io::Error),
}

impl NfTables {
    /// Opens it, and makes sure that it can be used.
    ///
    /// # Errors
    /// It cannot; see [`OpenError`].
    pub fn open() -> Result<Self, OpenError> {
        let socket = Socket::open().map_err(diagnose)?;
        let mut kernel = Self { socket, buffer: ReceiveBuffer::new() };
        let nothing = nftnl::Batch::new().finalize();
        let answers = kernel.exchange(&nothing, 0).map_err(diagnose)?;
        match answers.replies.iter().find(|reply| reply.errno != 0) {
            Some(reply) => Err(diagnose(io::Error::from_raw_os_error(reply.errno))),
            None => Ok(kernel),
        }
    }

    /// Has a monitor know that what this commits is no foreign edit.
    ///
    /// # Errors
    /// The kernel does not let it.
    pub fn known_to(self, monitor: &Monitor) -> io::Result<Self> {
        monitor.introduce(self.socket.port())?;
        Ok(self)
    }

    /// The number of the ruleset's generation. Each commit of any program on this node, whatever it changes, makes the next.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn generation(&mut self) -> io::Result<u32> {
        self.reader().generation()
    }

    pub(crate) fn reader(&mut self) -> Reader<'_> {
        Reader { socket: &mut self.socket, buffer: &mut self.buffer }
    }

    /// Sends a batch and collects all that the kernel answers.
    fn exchange(&mut self, batch: &FinalizedBatch, bytes: usize) -> io::Result<Answers> {
        // What is left of an exchange that failed would be taken for answers to this one.
        self.receive();
        self.socket.send(batch, bytes)?;
        Ok(self.receive())
    }

    /// Takes what has arrived. The kernel answers before it lets go of the sender, so there is nothing to wait for.
    fn receive(&mut self) -> Answers {
        let mut answers = Answers::default();
        loop {
            match self.socket.receive(&mut self.buffer) {
                Ok(None) => return answers,
                Ok(Some(datagram)) => {
                    for reply in decode(datagram) {
                        match reply {
                            Ok(reply) => answers.replies.push(reply),
                            Err(Malformed) => answers.lost = Some(io::ErrorKind::InvalidData.into()),
                        }
                    }
                }
                Err(error) => {
                    let lost = error.raw_os_error() == Some(libc::ENOBUFS);
                    answers.lost = Some(error);
                    // After a loss, there is still what came before it. After anything else, who knows.
                    if !lost {
                        return answers;
                    }
                }
            }
        }
    }
}

impl Kernel for NfTables {
    fn commit(&mut self, transaction: &Transaction) -> Result<CommitReport, CommitError> {
        let start = Instant::now();
        let Some(Encoded { batch, bytes, contents }) = encode(transaction)? else {
            return Ok(CommitReport::default());
        };
        let encoded = Instant::now();
        let answers = self.exchange(&batch, bytes);
        let kernel = encoded.elapsed();
        judge(answers.map_err(|error| refused(error, transaction))?, &contents, transaction)?;
        Ok(CommitReport { encode: encoded - start, kernel, bytes })
    }

    fn read(&mut self, family: Family, table: &Name) -> Result<Option<Found>, ReadError> {
        self.reader().table(protocol_family(family) as u8, table)
    }

    fn elements(&mut self, family: Family, table: &Name, set: &Name) -> Result<Vec<Element>, ReadError> {
        self.reader().set(protocol_family(family) as u8, table, set)
    }
}

pub(crate) fn diagnose(error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted,
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EINVAL) => OpenError::Missing,
        _ => OpenError::Other(error),
    }
}

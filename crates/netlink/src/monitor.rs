//! Who else changes our tables.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io, thread};

use ruleset::{Family, Name};

use crate::message::{Malformed, Message, messages, number, string};
use crate::nf_tables::{OpenError, diagnose};
use crate::socket::{ReceiveBuffer, Socket};
use crate::uapi;

/// Something that another program did to tables of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForeignEdit {
    /// It committed a change of the table of this family, or deleted it.
    Seen {
        /// The family.
        family: Family,
        /// The program, if the kernel says so.
        by: Option<Program>,
    },
    /// There was a moment that nothing is known of: any table may have been changed.
    Missed,
    /// There will be no more reports, for this reason. Any table may have been changed already.
    Deaf(String),
}

/// A program as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The name of the thread that committed: 15 bytes at most.
    pub name: String,
    /// Its number, as the initial namespace of processes counts.
    pub pid: u32,
}

/// Listens to the commits of all programs of a network namespace, and reports those that concern a table.
///
/// It works on a thread of its own, for as long as the program runs.
#[derive(Clone)]
pub struct Monitor(Arc<Shared>);

struct Shared {
    socket: Socket,
    /// The table in question, of any family.
    table: Name,
    /// The ports of sockets whose commits are no foreign edits.
    own: Mutex<BTreeSet<u32>>,
    report: Box<dyn Fn(ForeignEdit) + Send + Sync>,
}

impl Monitor {
    /// Starts to listen, in the network namespace of the calling thread. `report` is called for each commit that concerns the
    /// table of this name of some family, on another thread; what does not fit into a socket's buffer while it blocks is
    /// [`ForeignEdit::Missed`].
    ///
    /// # Errors
    /// It may not, as [`crate::NfTables::open`], or there is no thread to spare.
    pub fn spawn(table: Name, report: impl Fn(ForeignEdit) + Send + Sync + 'static) -> Result<Self, OpenError> {
        let socket = Socket::waiting().map_err(diagnose)?;
        socket.listen().map_err(diagnose)?;
        let own = Mutex::default();
        let monitor = Self(Arc::new(Shared { socket, table, own, report: Box::new(report) }));
        let shared = Arc::clone(&monitor.0);
        thread::Builder::new().name("monitor".to_owned()).spawn(move || shared.work())?;
        Ok(monitor)
    }

    /// From now on, what the socket with this port commits is no foreign edit.
    pub(crate) fn introduce(&self, port: u32) -> io::Result<()> {
        let mut own = self.0.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.insert(port);
        self.0.socket.ignore(&own)
    }
}

impl Shared {
    fn work(&self) {
        let mut buffer = ReceiveBuffer::new();
        let mut heard = Heard::default();
        loop {
            match self.socket.receive(&mut buffer) {
                Ok(Some(datagram)) => {
                    heard.take(datagram, &self.table).into_iter().for_each(&self.report);
                }
                Ok(None) => {}
                // More came than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => (self.report)(ForeignEdit::Missed),
                Err(error) => return (self.report)(ForeignEdit::Deaf(error.to_string())),
            }
        }
    }
}

/// What has been heard of a commit that is not complete yet. The kernel notifies of its changes first, then of the
/// generation that they make (`nf_tables_commit`, net/netfilter/nf_tables_api.c).
#[derive(Debug, Default)]
pub(crate) struct Heard {
    families: BTreeSet<Family>,
}

impl Heard {
    pub(crate) fn take(&mut self, datagram: &[u8], table: &Name) -> Vec<ForeignEdit> {
        let mut edits = Vec::new();
        for message in messages(datagram) {
            if message.and_then(|message| self.hear(message, table, &mut edits)).is_err() {
                edits.push(ForeignEdit::Missed);
            }
        }
        edits
    }

    fn hear(&mut self, message: Message<'_>, table: &Name, edits: &mut Vec<ForeignEdit>) -> Result<(), Malformed> {
        match message.nf_tables_kind() {
            None => {}
            Some(libc::NFT_MSG_NEWGEN) => {
                let by = program(message)?;
                let families = std::mem::take(&mut self.families);
                edits.extend(families.into_iter().map(|family| ForeignEdit::Seen { family, by: by.clone() }));
            }
            Some(_) => {
                let family = match message.family().map(libc::c_int::from) {
                    Some(libc::NFPROTO_IPV4) => Family::Ip,
                    Some(libc::NFPROTO_IPV6) => Family::Ip6,
                    _ => return Ok(()),
                };
                // The name of the table is the first attribute, of all kinds of objects.
                if let Some((uapi::NFTA_TABLE_NAME, value)) = message.attributes().next().transpose()?
                    && string(value)? == table.as_str()
                {
                    self.families.insert(family);
                }
            }
        }
        Ok(())
    }
}

fn program(message: Message<'_>) -> Result<Option<Program>, Malformed> {
    let (mut pid, mut name) = (None, None);
    for attribute in message.attributes() {
        match attribute? {
            (uapi::NFTA_GEN_PROC_PID, value) => pid = Some(number(value)?),
            (uapi::NFTA_GEN_PROC_NAME, value) => name = string(value).ok().map(str::to_owned),
            _ => {}
        }
    }
    Ok(name.zip(pid).map(|(name, pid)| Program { name, pid }))
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

//! Connections that the kernel tracks, to be listed, counted and forgotten.
//!
//! The kernel lists them in datagrams of some dozen entries, and writes the next one when one has been received, so that a
//! table of any size passes through the same few kilobytes. What is to go is deleted between two datagrams. That is no
//! trouble to the list: where the entry it would go on with is gone, the kernel lists that bucket of its table again.

mod delete;
mod flow;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod page;
mod request;
mod uapi;

use std::io;

use ruleset::Family;

pub use flow::{Flow, Tuple};

use self::delete::Deleter;
use self::page::{Page, errno_of, malformed};
use crate::message::{Malformed, messages};
use crate::socket::{ReceiveBuffer, Socket};

/// How often a list that something came between is begun anew (contract §7).
const ATTEMPTS: usize = 5;

/// The kernel's table of connections, in the network namespace of the thread that opened it.
pub struct Conntrack {
    lists: Socket,
    deleter: Deleter,
    buffer: Box<ReceiveBuffer>,
    sequence: u32,
    /// Whether the kernel is asked to list the entries of one protocol only.
    filtered: bool,
}

/// Which connections to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// The family of their addresses.
    pub family: Family,
    /// The number of the transport protocol in the IP header: 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// Whether to look only at those that are in a flowtable.
    pub offloaded: bool,
}

/// What came of looking at connections.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many the kernel listed.
    pub listed: u64,
    /// How many of them matched. One that was listed again, because it came to that, counts again.
    pub matched: u64,
    /// How many were deleted. Those that matched and went by themselves before that are not among them.
    pub deleted: u64,
    /// How many matched and could not be deleted, and why the first could not.
    pub refused: Option<(u64, io::Error)>,
    /// Whether the list was the whole one. If not, the table changed in a way that the kernel could not follow, each of the
    /// times it was asked for.
    pub complete: bool,
}

/// Why the table of connections cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// This process may not.
    #[error(
        "listing connections is not permitted: run as root, or give the process the capability NET_ADMIN \
         (in a pod: securityContext.capabilities.add)"
    )]
    NotPermitted,
    /// The kernel does not show it to programs.
    #[error(
        "this kernel does not list its connections: run `modprobe nf_conntrack_netlink`, or use a kernel built with \
         CONFIG_NF_CT_NETLINK"
    )]
    Missing,
    /// The kernel did something else.
    #[error("cannot talk to the kernel's conntrack: {0}")]
    Other(#[from] io::Error),
}

/// How a list ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Interrupted,
}

impl Conntrack {
    /// Opens it, and makes sure that it can be used.
    ///
    /// # Errors
    /// It cannot; see [`ConntrackError`].
    pub fn open() -> Result<Self, ConntrackError> {
        let mut conntrack = Self {
            lists: Socket::open().map_err(diagnose)?,
            deleter: Deleter::new(Socket::open().map_err(diagnose)?),
            buffer: ReceiveBuffer::new(),
            sequence: 0,
            filtered: true,
        };
        // The first message makes the kernel load what it has as a module (`nfnetlink_rcv_msg`, net/netfilter/nfnetlink.c).
        conntrack.probe().map_err(diagnose)?;
        Ok(conntrack)
    }

    /// Looks at each of `flows`, and deletes those that match. TCP connections lose their translation by that: their next
    /// packet is a new connection.
    ///
    /// # Errors
    /// They could not be listed. Those that were seen until then and matched are deleted.
    pub fn delete(&mut self, flows: Flows, mut matches: impl FnMut(&Flow) -> bool) -> io::Result<Tally> {
        self.list(flows, &mut matches, true)
    }

    /// Looks at each of `flows`, and counts those that match.
    ///
    /// # Errors
    /// They could not be listed.
    pub fn count(&mut self, flows: Flows, mut matches: impl FnMut(&Flow) -> bool) -> io::Result<Tally> {
        self.list(flows, &mut matches, false)
    }

    fn list(&mut self, flows: Flows, matches: &mut dyn FnMut(&Flow) -> bool, delete: bool) -> io::Result<Tally> {
        let mut tally = Tally::default();
        let end = until_complete(|| match self.pass(flows, matches, delete, &mut tally) {
            // A kernel that knows of filters, but not of this one.
            Err(error) if self.filtered && is_unknown(&error) => {
                self.filtered = false;
                self.pass(flows, matches, delete, &mut tally)
            }
            ended => ended,
        });
        Ok(Tally { complete: end? == End::Complete, ..tally })
    }

    /// Goes through the list once.
    fn pass(
        &mut self,
        flows: Flows,
        matches: &mut dyn FnMut(&Flow) -> bool,
        delete: bool,
        tally: &mut Tally,
    ) -> io::Result<End> {
        let Self { lists, deleter, buffer, .. } = self;
        // What is left of a list that was given up. Until it is at its end, the kernel begins no other one.
        while let Ok(Some(_)) = lists.receive(buffer) {}
        self.sequence = self.sequence.wrapping_add(1);
        let mut page = Page::new(self.sequence);
        let mut request = Vec::new();
        request::dump(&mut request, self.sequence, flows, self.filtered);
        lists.send_messages(&request)?;
        (tally.listed, tally.matched) = (0, if delete { tally.matched } else { 0 });
        loop {
            let Some(datagram) = lists.receive(buffer)? else {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the list of connections has no end"));
            };
            let ended = page.read(datagram, |flow| {
                tally.listed += 1;
                flow.protocol == flows.protocol && (flow.is_offloaded || !flows.offloaded) && matches(flow)
            });
            tally.matched += page.matching.len() as u64;
            if delete {
                deleter.delete(&page.matching, tally)?;
            }
            if ended? {
                return Ok(if page.interrupted { End::Interrupted } else { End::Complete });
            }
        }
    }

    fn probe(&mut self) -> io::Result<()> {
        let mut request = Vec::new();
        request::probe(&mut request, self.sequence);
        self.lists.send_messages(&request)?;
        while let Some(datagram) = self.lists.receive(&mut self.buffer)? {
            for message in messages(datagram) {
                let message = message.map_err(|Malformed| malformed())?;
                if i32::from(message.kind) == libc::NLMSG_ERROR {
                    return errno_of(&message);
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel does not answer"))
    }
}

/// Lists again while something comes between, up to [`ATTEMPTS`] times.
fn until_complete(mut list: impl FnMut() -> io::Result<End>) -> io::Result<End> {
    for _ in 1..ATTEMPTS {
        if list()? == End::Complete {
            return Ok(End::Complete);
        }
    }
    list()
}

impl Flows {
    /// The family by its number in messages.
    fn family(self) -> u8 {
        let family = match self.family {
            Family::Ip => libc::AF_INET,
            Family::Ip6 => libc::AF_INET6,
        };
        family as u8
    }
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

fn diagnose(error: io::Error) -> ConntrackError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ConntrackError::NotPermitted,
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EINVAL) => ConntrackError::Missing,
        _ => ConntrackError::Other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use testing::netns::Namespace;

    use super::*;

    /// Kernels before 5.8 list all protocols, whatever they are asked.
    #[test]
    fn flows_of_other_protocols_are_told_apart_here_if_the_kernel_does_not() {
        let namespace = Namespace::new("unfiltered").unwrap();
        // Conntrack works where a rule needs it.
        namespace
            .sh("nft 'table ip t { chain c { type filter hook output priority 0; ct state new accept; }; }'")
            .unwrap();
        let mut conntrack = namespace.run(Conntrack::open).unwrap();
        let destination = namespace.run(|| {
            let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let server = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            let destination = server.local_addr().unwrap();
            UdpSocket::bind(("127.0.0.1", 0)).unwrap().send_to(b"?", destination).unwrap();
            destination
        });
        let udp = Flows { family: Family::Ip, protocol: 17, offloaded: false };
        for (filtered, listed) in [(true, 1), (false, 2)] {
            conntrack.filtered = filtered;
            let tally = conntrack.count(udp, |flow| flow.original.destination == destination).unwrap();
            assert_eq!((tally.listed, tally.matched, tally.complete), (listed, 1, true));
        }
        assert_eq!(conntrack.delete(udp, |_| true).unwrap().deleted, 1);
        let tcp = Flows { protocol: 6, ..udp };
        assert_eq!(conntrack.count(tcp, |_| true).unwrap().matched, 1, "it stays");
    }

    #[test]
    fn a_list_that_is_interrupted_is_begun_anew_five_times_in_all() {
        for (interruptions, attempts, end) in [
            (0, 1, End::Complete),
            (1, 2, End::Complete),
            (4, 5, End::Complete),
            (5, 5, End::Interrupted),
            (9, 5, End::Interrupted),
        ] {
            let mut attempt = 0;
            let list = || {
                attempt += 1;
                Ok(if attempt > interruptions { End::Complete } else { End::Interrupted })
            };
            assert_eq!(until_complete(list).unwrap(), end, "{interruptions} interruptions");
            assert_eq!(attempt, attempts, "{interruptions} interruptions");
        }
    }

    #[test]
    fn a_list_that_fails_is_not() {
        let mut attempts = 0;
        let list = || {
            attempts += 1;
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        };
        assert_eq!(until_complete(list).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        assert_eq!(attempts, 1);
    }
}

//! The netlink socket.
#![expect(unsafe_code, reason = "reaches for what libmnl's socket has no functions for")]

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mnl::Bus;
use nftnl::FinalizedBatch;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, sendmsg};

/// Room for the answers to a batch. One error takes some 800 bytes, so this is enough for 10,000 of them.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// The default of `net.core.wmem_default`; smaller batches need no larger buffer.
const SEND_BUFFER: usize = 212_992;

/// Where the port is in a message (`nlmsg_pid`, include/uapi/linux/netlink.h). All messages of a datagram have the same: each
/// is of one commit.
const PORT_OFFSET: u32 = 12;

/// A socket that talks to netfilter, or another part of the kernel.
pub(crate) struct Socket {
    socket: mnl::Socket,
    send_buffer: usize,
}

// SAFETY: libmnl's socket is a file descriptor and an address in memory of its own; no thread has a claim on it.
unsafe impl Send for Socket {}
// SAFETY: with a shared reference, libmnl only reads the descriptor from that memory, and hands it to the kernel, which takes
// calls from several threads.
unsafe impl Sync for Socket {}

impl Socket {
    /// Opens one to netfilter in the network namespace of the calling thread, which never waits.
    pub(crate) fn open() -> io::Result<Self> {
        Self::to(Bus::Netfilter)
    }

    /// Opens one as [`Socket::open`], to another part of the kernel.
    pub(crate) fn to(bus: Bus) -> io::Result<Self> {
        let socket = Self::connected(bus)?;
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(socket)
    }

    /// Opens one that waits for what is to be received.
    pub(crate) fn waiting() -> io::Result<Self> {
        Self::connected(Bus::Netfilter)
    }

    fn connected(bus: Bus) -> io::Result<Self> {
        let socket = Self { socket: mnl::Socket::new(bus)?, send_buffer: SEND_BUFFER };
        // Where in a message an error is, and not the message itself.
        socket.set(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        socket.set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        Ok(socket)
    }

    /// Sends a batch of this size whole. When this returns, the kernel has carried it out and answered.
    ///
    /// # Errors
    /// The kernel did not look at it.
    pub(crate) fn send(&mut self, batch: &FinalizedBatch, bytes: usize) -> io::Result<()> {
        self.reserve(bytes)?;
        // One call: the kernel wants all of a batch in one datagram, and `mnl::Socket::send_all` sends one for each page.
        let pages: Vec<_> = batch.iter().map(IoSlice::new).collect();
        self.send_pages(&pages)
    }

    /// Sends messages, at most 64 KiB of them. When this returns, the kernel has carried them out and answered, or begun to:
    /// of a dump, the rest comes as it is received.
    ///
    /// # Errors
    /// The kernel did not look at them.
    pub(crate) fn send_messages(&self, messages: &[u8]) -> io::Result<()> {
        self.send_pages(&[IoSlice::new(messages)])
    }

    fn send_pages(&self, pages: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match sendmsg::<()>(self.socket.as_raw_fd(), pages, &[], MsgFlags::empty(), None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next answer that has arrived.
    ///
    /// # Errors
    /// `ENOBUFS`: an answer was lost.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut ReceiveBuffer) -> io::Result<Option<&'a [u8]>> {
        loop {
            match self.socket.recv_raw(&mut buffer.0) {
                Ok(length) => return Ok(buffer.0.get(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request that is no batch.
    pub(crate) fn request(&mut self, message: &[u8]) -> io::Result<()> {
        self.socket.send(message).map(drop)
    }

    /// Starts to receive what is notified of every commit to nf_tables. It takes the capability NET_ADMIN.
    pub(crate) fn listen(&self) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, libc::NFNLGRP_NFTABLES)
    }

    /// Drops what is notified of the commits of these sockets, known by their ports, before it takes room and wakes anyone up.
    pub(crate) fn ignore(&self, ports: &BTreeSet<u32>) -> io::Result<()> {
        const DROP: u32 = 0;
        const KEEP: u32 = u32::MAX;
        let step = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
        // The filter reads in network byte order what netlink writes in the machine's.
        let port = |port: &u32| u32::from_be_bytes(port.to_ne_bytes());
        let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, PORT_OFFSET, 0, 0)];
        for own in ports {
            filter.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, port(own), 0, 1));
            filter.push(step(libc::BPF_RET | libc::BPF_K, DROP, 0, 0));
        }
        filter.push(step(libc::BPF_RET | libc::BPF_K, KEEP, 0, 0));
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
    }

    /// The number by which netlink knows this socket: what it causes is notified with it.
    pub(crate) fn port(&self) -> u32 {
        self.socket.portid()
    }

    fn reserve(&mut self, bytes: usize) -> io::Result<()> {
        if bytes > self.send_buffer {
            // The kernel doubles the value for its own overhead, within the same type.
            let value = i32::try_from(bytes).ok().filter(|value| *value <= i32::MAX / 2);
            self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value.ok_or(Errno::EMSGSIZE)?)?;
            self.send_buffer = bytes;
        }
        Ok(())
    }

    /// Sets an option whose value is of the type `T`.
    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: T) -> io::Result<()> {
        let length = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the kernel reads `length` bytes of `value`, and of the filter that it may point to; both outlive the call.
        let result =
            unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        Errno::result(result)?;
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as it lives, and the borrow ends before.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// Where an answer is received, aligned as libmnl asks. The kernel makes no larger datagrams of a dump (`netlink_recvmsg`,
/// net/netlink/af_netlink.c), and larger ones for larger buffers.
#[repr(align(4))]
pub(crate) struct ReceiveBuffer([u8; 32 * 1024]);

impl ReceiveBuffer {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; _]))
    }
}

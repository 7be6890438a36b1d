//! The netlink socket.
#![expect(unsafe_code, reason = "reaches for what libmnl's socket has no functions for")]

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

/// A socket that talks to netfilter.
pub(crate) struct Socket {
    socket: mnl::Socket,
    send_buffer: usize,
}

// SAFETY: libmnl's socket is a file descriptor and an address in memory of its own; no thread has a claim on it.
unsafe impl Send for Socket {}

impl Socket {
    /// Opens one in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Self { socket: mnl::Socket::new(Bus::Netfilter)?, send_buffer: SEND_BUFFER };
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
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

    fn reserve(&mut self, bytes: usize) -> io::Result<()> {
        if bytes > self.send_buffer {
            // The kernel doubles the value for its own overhead, within the same type.
            let value = i32::try_from(bytes).ok().filter(|value| *value <= i32::MAX / 2);
            self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value.ok_or(Errno::EMSGSIZE)?)?;
            self.send_buffer = bytes;
        }
        Ok(())
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call.
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

/// Where an answer is received, aligned as libmnl asks.
#[repr(align(4))]
pub(crate) struct ReceiveBuffer([u8; 16 * 1024]);

impl ReceiveBuffer {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; _]))
    }
}

//! Hearing of interface addresses that come and go.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc::{RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's groups for addresses of both families (rtnetlink(7)).
const GROUPS: u32 = (RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR) as u32;

/// A socket on which the kernel tells whenever an address comes or goes, in the network namespace it was opened in.
///
/// What it tells is not looked into: whoever hears it reads all addresses anew, so that nothing depends on having heard
/// everything.
#[derive(Debug)]
pub(super) struct AddressMonitor(AsyncFd<OwnedFd>);

impl AddressMonitor {
    /// Begins to listen.
    ///
    /// # Errors
    /// The process may not have such a socket.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, because of descriptors that others close; this one is owned"
        )]
        AsyncFd::with_interest(socket, Interest::READABLE).map(Self)
    }

    /// Waits until an address has come or gone since the last call, or may have.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub(super) async fn changed(&self) -> io::Result<()> {
        self.0.async_io(Interest::READABLE, drain).await
    }
}

/// Takes in everything that was told so far, which must be something.
fn drain(socket: &OwnedFd) -> io::Result<()> {
    // Longer messages are cut short, which does no harm.
    let (mut buffer, mut heard) = ([0; 512], false);
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            // ENOBUFS: so much was told that some of it was lost.
            Ok(_) | Err(Errno::ENOBUFS) => heard = true,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if heard => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use testing::netns::Namespace;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn addresses_that_come_and_go_are_heard_of() {
        let node = Namespace::new("node").unwrap();
        let monitor = {
            // The socket belongs to the namespace for good; tokio's part of it to this runtime.
            let runtime = tokio::runtime::Handle::current();
            node.run(|| {
                let _guard = runtime.enter();
                AddressMonitor::open().unwrap()
            })
        };
        let quiet = || timeout(Duration::from_millis(20), monitor.changed());
        let heard = || timeout(Duration::from_secs(20), monitor.changed());
        assert!(quiet().await.is_err());
        for change in ["add 192.0.2.1/32", "add 2001:db8::1/128", "del 192.0.2.1/32", "del 2001:db8::1/128"] {
            node.ip(&format!("address {change} dev lo")).unwrap();
            heard().await.unwrap_or_else(|_| panic!("{change}")).unwrap();
            // What belongs to the same change.
            while quiet().await.is_ok() {}
        }

        // More than its buffer holds.
        let many: String = (0..4000).map(|n| format!("address add 10.0.{}.{}/32 dev lo\n", n / 250, n % 250)).collect();
        let batch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(batch.path(), many).unwrap();
        node.ip(&format!("-batch {}", batch.path().display())).unwrap();
        heard().await.unwrap().unwrap();
        assert!(quiet().await.is_err(), "all of it was one change");
    }
}

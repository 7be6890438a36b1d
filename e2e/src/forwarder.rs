//! A way out of a network namespace.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use testing::netns::Namespace;

/// Whoever connects to it, inside a network namespace, is connected to an address of the namespace that it was made in.
#[derive(Debug)]
pub(crate) struct Forwarder {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Forwarder {
    /// Listens on a free port of `inside`'s loopback interface, for as long as it lives.
    ///
    /// # Errors
    /// There is no port, or no thread.
    pub(crate) fn start(inside: &Namespace, to: SocketAddr) -> Result<Self> {
        let listener = inside.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).context("no port to forward from")?;
        let (address, ended) = (listener.local_addr()?, Arc::<AtomicBool>::default());
        let over = ended.clone();
        let accept = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // A client whose server is gone sees its connection end.
                TcpStream::connect(to).and_then(|server| join(&stream, &server)).ok();
            }
        };
        thread::Builder::new().name("forwarder".to_owned()).spawn(accept)?;
        Ok(Self { address, ended })
    }

    /// Where it listens, inside.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it; connections that it made go on.
    pub(crate) fn end(&self, inside: &Namespace) {
        self.ended.store(true, Ordering::Relaxed);
        inside.run(|| TcpStream::connect(self.address)).ok();
    }
}

/// Passes on what either of two sends to the other, until both have ended.
fn join(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            io::copy(&mut from, &mut to).ok();
            to.shutdown(Shutdown::Write).ok();
        });
    }
    Ok(())
}

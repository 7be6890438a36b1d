//! Servers and clients with real sockets in [namespaces](Namespace): who answered, and whose address did it see?
//!
//! An [`Echo`] server introduces itself to every client with one line, `LABEL ADDRESS:PORT`, the latter being the client
//! as the server sees it: the client itself, or the node if that masquerades. [`ask_tcp`], [`ask_udp`] and [`ask_sctp`]
//! return that line; [`Stream`] and [`Flow`] stay open, to see whether an established connection keeps its endpoint.

mod sctp;

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::children;
use crate::netns::Namespace;

pub use sctp::ask_sctp;

/// How long a client waits for anything. Within a machine answers take microseconds; the first retransmission of a TCP
/// SYN comes after 1 s, which gives a lost packet a second chance.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What an [`Echo`] server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The label of the server.
    pub endpoint: String,
    /// The client's address, as the server sees it.
    pub seen_source: SocketAddr,
}

/// Why there was no [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// TCP reset, or ICMP port unreachable.
    #[error("connection refused")]
    Refused,
    /// Another answer of the network or this host: `EHOSTUNREACH`, `ENETUNREACH`, `EPERM` for packets that a firewall
    /// of this host drops, `ECONNRESET` for a connection that broke. UDP does not hear of hosts and networks that are
    /// unreachable, only of ports and prohibitions (`udp_err` in the kernel's `net/ipv4/udp.c`).
    #[error("{0}")]
    Unreachable(Errno),
    /// Nothing came within [`PATIENCE`].
    #[error("no answer within {PATIENCE:?}")]
    TimedOut,
}

/// A server that says who it is and then echoes lines. It stops, with all its connections, when dropped.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    /// None while it is dropped.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Echo {
    /// Serves TCP: one line to introduce itself, then every line that comes is sent back.
    ///
    /// # Errors
    /// If it cannot listen on this address in this namespace.
    pub fn tcp(namespace: &Namespace, label: &str, address: SocketAddr) -> Result<Self> {
        let label: Arc<str> = label.into();
        let listener = namespace.run(|| TcpListener::bind(address));
        let listener = listener.with_context(|| format!("{label} cannot listen on {address}/tcp"))?;
        listener.set_nonblocking(true)?;
        Self::serve(listener.local_addr()?, async move {
            serve_tcp(tokio::net::TcpListener::from_std(listener)?, label).await
        })
    }

    /// Serves UDP: a line to introduce itself for each datagram.
    ///
    /// # Errors
    /// If it cannot have this address in this namespace.
    pub fn udp(namespace: &Namespace, label: &str, address: SocketAddr) -> Result<Self> {
        let label: Arc<str> = label.into();
        let socket = namespace.run(|| UdpSocket::bind(address));
        let socket = socket.with_context(|| format!("{label} cannot listen on {address}/udp"))?;
        socket.set_nonblocking(true)?;
        Self::serve(
            socket.local_addr()?,
            async move { serve_udp(tokio::net::UdpSocket::from_std(socket)?, &label).await },
        )
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn serve(address: SocketAddr, server: impl Future<Output = io::Result<()>> + Send + 'static) -> Result<Self> {
        let runtime = runtime()?;
        let (stop, stopped) = oneshot::channel();
        let mut server = Box::pin(server);
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    outcome = &mut server => outcome.expect("an echo server has sockets to spare"),
                    _ = stopped => (),
                }
            });
            children::close((server, runtime));
        });
        Ok(Self { address, running: Some((stop, thread)) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let Some((stop, thread)) = self.running.take() else { return };
        drop(stop);
        // It is over either way; a panic of the server has printed its message.
        thread.join().ok();
    }
}

/// Asks for the line of the server behind `destination`, over TCP. `source` is the client's own address, if it matters;
/// port 0 is any.
///
/// # Errors
/// As the network says.
///
/// # Panics
/// If `namespace` does not have the address `source`.
pub fn ask_tcp(namespace: &Namespace, source: Option<SocketAddr>, destination: SocketAddr) -> Result<Reply, Refusal> {
    Stream::open(namespace, source, destination).map(|stream| stream.reply)
}

/// Does the same as [`ask_tcp`], over UDP.
///
/// # Errors
/// As the network says.
///
/// # Panics
/// If `namespace` does not have the address `source`.
pub fn ask_udp(namespace: &Namespace, source: Option<SocketAddr>, destination: SocketAddr) -> Result<Reply, Refusal> {
    Flow::open(namespace, source, destination)?.ask()
}

/// A TCP connection to an [`Echo`] server.
#[derive(Debug)]
pub struct Stream {
    reply: Reply,
    connection: BufReader<TcpStream>,
}

impl Stream {
    /// Connects; arguments, errors and panics are those of [`ask_tcp`].
    ///
    /// # Errors
    /// As the network says.
    pub fn open(namespace: &Namespace, source: Option<SocketAddr>, destination: SocketAddr) -> Result<Self, Refusal> {
        let connection = namespace.run(|| connect(source, destination))?;
        let mut connection = BufReader::new(connection);
        let reply = Reply::parse(&read_line(&mut connection)?);
        Ok(Self { reply, connection })
    }

    /// What the server said at first.
    pub const fn reply(&self) -> &Reply {
        &self.reply
    }

    /// Sends a line and waits until it is back.
    ///
    /// # Errors
    /// The connection is no more.
    pub fn echo(&mut self, line: &str) -> Result<(), Refusal> {
        // In one piece: a second one would wait until the first is acknowledged, which takes 40 ms.
        self.connection.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let back = read_line(&mut self.connection)?;
        assert_eq!(back, line, "{} must send back what it gets", self.reply.endpoint);
        Ok(())
    }
}

/// A UDP socket with a fixed destination, so that it hears of ICMP errors, and a fixed port of its own: one flow for
/// conntrack.
#[derive(Debug)]
pub struct Flow(UdpSocket);

impl Flow {
    /// Prepares the socket and sends nothing; arguments and panics are those of [`ask_udp`].
    ///
    /// # Errors
    /// There is no route.
    pub fn open(namespace: &Namespace, source: Option<SocketAddr>, destination: SocketAddr) -> Result<Self, Refusal> {
        let source = source.unwrap_or_else(|| match destination {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        });
        let socket = namespace.run(|| UdpSocket::bind(source));
        let socket = socket.unwrap_or_else(|error| panic!("{} does not have {source}: {error}", namespace.label()));
        socket.connect(destination)?;
        Ok(Self(socket))
    }

    /// Sends a datagram and waits for the answer.
    ///
    /// # Errors
    /// As the network says.
    pub fn ask(&self) -> Result<Reply, Refusal> {
        self.ask_within(PATIENCE)
    }

    /// Sends a datagram and waits so long for an answer, which may as well be to an earlier one.
    ///
    /// # Errors
    /// As the network says; it may also be what it says of an earlier one.
    pub fn ask_within(&self, patience: Duration) -> Result<Reply, Refusal> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.send(b"?\n")?;
        let mut buffer = [0; 256];
        let length = self.0.recv(&mut buffer)?;
        Ok(Reply::parse(String::from_utf8_lossy(&buffer[..length]).trim_end()))
    }
}

impl Reply {
    fn introduction(label: &str, peer: SocketAddr) -> String {
        format!("{label} {peer}\n")
    }

    fn parse(line: &str) -> Self {
        let parse = || {
            let (endpoint, source) = line.rsplit_once(' ')?;
            Some(Self { endpoint: endpoint.to_owned(), seen_source: source.parse().ok()? })
        };
        parse().unwrap_or_else(|| panic!("that was no echo server: {line:?}"))
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::UnexpectedEof => Self::Unreachable(Errno::ECONNRESET),
            _ => Self::Unreachable(Errno::from_raw(error.raw_os_error().unwrap_or_default())),
        }
    }
}

async fn serve_tcp(listener: tokio::net::TcpListener, label: Arc<str>) -> io::Result<()> {
    loop {
        let (mut connection, peer) = listener.accept().await?;
        let label = label.clone();
        tokio::spawn(async move {
            let (reader, mut writer) = connection.split();
            let mut line = Reply::introduction(&label, peer);
            let mut reader = tokio::io::BufReader::new(reader);
            // Ends when the client has gone.
            while writer.write_all(line.as_bytes()).await.is_ok() {
                line.clear();
                if !matches!(reader.read_line(&mut line).await, Ok(1..)) {
                    break;
                }
            }
        });
    }
}

async fn serve_udp(socket: tokio::net::UdpSocket, label: &str) -> io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        // An error is that of an earlier answer whose client has gone.
        let Ok((_, peer)) = socket.recv_from(&mut buffer).await else { continue };
        socket.send_to(Reply::introduction(label, peer).as_bytes(), peer).await.ok();
    }
}

/// Connects, from a source address if one is given.
fn connect(source: Option<SocketAddr>, destination: SocketAddr) -> Result<TcpStream, Refusal> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM, None)?;
    // Closes with a reset, which leaves nothing in TIME_WAIT: the same ports can be used again at once.
    socket.set_linger(Some(Duration::ZERO))?;
    match destination {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into()).unwrap_or_else(|error| panic!("this host does not have {source}: {error}"));
    }
    let connected = socket.connect_timeout(&destination.into(), PATIENCE);
    connected.map_err(|error| queued_error(&socket).map_or_else(|| error.into(), Refusal::from))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// The ICMP error that came for a socket, if one did.
///
/// Hosts that share a kernel may answer while `connect` still has the socket locked. The kernel then does not end the attempt
/// (`tcp_v4_err` in net/ipv4/tcp_ipv4.c, `tcp_v6_err` in net/ipv6/tcp_ipv6.c), so that `connect` alone would hear of a
/// refusal only when it sends again, a second later; but the error is in the socket's queue of errors at once.
fn queued_error(socket: &Socket) -> Option<Errno> {
    let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut [], Some(&mut space), MsgFlags::MSG_ERRQUEUE).ok()?;
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
            Some(Errno::from_raw(error.ee_errno.cast_signed()))
        }
        _ => None,
    })
}

/// A line without its end.
fn read_line(connection: &mut BufReader<TcpStream>) -> Result<String, Refusal> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
    }
    Ok(line.trim_end().to_owned())
}

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start a tokio runtime")
}

//! Just enough SCTP (RFC 9260) to see where an association would go, over raw sockets: many kernels have none for SCTP
//! (`CONFIG_IP_SCTP`), while all that Kubernetes supports forward and translate it.
//!
//! The client sends INIT. The server answers as one that does not want it: with ABORT, whose cause "User-Initiated Abort"
//! has room for text. conntrack takes both as the begin and end of an association.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Echo, PATIENCE, Refusal, Reply};
use crate::netns::Namespace;

/// IANA protocol number.
const SCTP: i32 = 132;
/// `SOCK_RAW` of Linux, on every architecture but MIPS the same.
const SOCK_RAW: i32 = 3;
/// Both ports, verification tag and checksum.
const COMMON_HEADER: usize = 12;
/// Chunk types.
const INIT: u8 = 1;
const ABORT: u8 = 6;
/// The cause "User-Initiated Abort".
const USER_ABORT: u16 = 12;
/// Names the association to the other side. Any number but zero will do.
const TAG: u32 = 0x0a5e_c7ed;

/// What matters of a packet.
struct Packet<'a> {
    source: u16,
    destination: u16,
    tag: u32,
    kind: u8,
    /// Of the first chunk, after type, flags and length.
    body: &'a [u8],
}

impl Echo {
    /// Serves SCTP: answers every INIT with an ABORT that carries the introduction.
    ///
    /// # Errors
    /// If it cannot have this address in this namespace.
    pub fn sctp(namespace: &Namespace, label: &str, address: SocketAddr) -> Result<Self> {
        let socket = namespace.run(|| raw_socket(Some(address.ip()), address.ip()));
        let socket = socket.with_context(|| format!("{label} cannot listen on {address}/sctp"))?;
        socket.set_nonblocking(true)?;
        let label = label.to_owned();
        Self::serve(address, async move { serve(tokio::net::UdpSocket::from_std(socket)?, address, &label).await })
    }
}

/// Does the same as [`ask_tcp`](super::ask_tcp), over SCTP.
///
/// # Errors
/// As the network says.
///
/// # Panics
/// If `namespace` does not have the address `source`.
pub fn ask_sctp(namespace: &Namespace, source: Option<SocketAddr>, destination: SocketAddr) -> Result<Reply, Refusal> {
    /// Ephemeral ports in turn, so that conntrack sees an association of its own in each question.
    static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
    let port = match source.map_or(0, |source| source.port()) {
        0 => 32768 + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 16384,
        port => port,
    };
    let socket = namespace.run(|| raw_socket(source.map(|source| source.ip()), destination.ip()));
    let socket = socket.unwrap_or_else(|error| panic!("{} does not have {source:?}: {error}", namespace.label()));
    socket.connect((destination.ip(), 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&init(port, destination.port()))?;
    let asked = Instant::now();
    let mut buffer = [0; 2048];
    while asked.elapsed() < PATIENCE {
        let length = socket.recv(&mut buffer)?;
        let Some(packet) = Packet::parse(payload(&buffer[..length], destination.ip())) else { continue };
        let ours = (packet.source, packet.destination, packet.tag) == (destination.port(), port, TAG);
        if let (true, Some(text)) = (ours, packet.abort_text()) {
            return Ok(Reply::parse(text.trim_end()));
        }
    }
    Err(Refusal::TimedOut)
}

async fn serve(socket: tokio::net::UdpSocket, address: SocketAddr, label: &str) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        // An error is that of an earlier answer whose client has gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(packet) = Packet::parse(payload(&buffer[..length], address.ip())) else { continue };
        let (true, Some(tag)) = (packet.destination == address.port(), packet.initiate_tag()) else { continue };
        let text = Reply::introduction(label, (peer.ip(), packet.source).into());
        let answer = abort(address.port(), packet.source, tag, &text);
        socket.send_to(&answer, (peer.ip(), 0)).await.ok();
    }
}

/// A raw socket that gets all SCTP packets to `source`, of the family of `like`. As a [`UdpSocket`], since that has the
/// calls for datagrams of any protocol; port numbers are zero in all of them.
fn raw_socket(source: Option<IpAddr>, like: IpAddr) -> io::Result<UdpSocket> {
    let domain = if like.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::from(SOCK_RAW), Some(Protocol::from(SCTP)))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(OwnedFd::from(socket).into())
}

/// What a raw socket received, without the IP header, which comes with IPv4 only.
fn payload(packet: &[u8], address: IpAddr) -> &[u8] {
    let header = match (address, packet.first()) {
        (IpAddr::V4(_), Some(first)) => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    packet.get(header..).unwrap_or_default()
}

impl<'a> Packet<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let (header, chunk) = packet.split_at_checked(COMMON_HEADER)?;
        let length = usize::from(be16(chunk, 2)?);
        Some(Self {
            source: be16(header, 0)?,
            destination: be16(header, 2)?,
            tag: be32(header, 4)?,
            kind: *chunk.first()?,
            body: chunk.get(4..length)?,
        })
    }

    /// If it is an INIT: the tag that the answer has to carry.
    fn initiate_tag(&self) -> Option<u32> {
        if self.kind == INIT { be32(self.body, 0) } else { None }
    }

    /// If it is an ABORT by the user: the reason.
    fn abort_text(&self) -> Option<&'a str> {
        if self.kind != ABORT || be16(self.body, 0)? != USER_ABORT {
            return None;
        }
        let length = usize::from(be16(self.body, 2)?);
        str::from_utf8(self.body.get(4..length)?).ok()
    }
}

fn init(source: u16, destination: u16) -> Vec<u8> {
    // Receiver window, numbers of outbound and inbound streams, first sequence number.
    let rest = [65536_u32.to_be_bytes(), [0, 1, 0, 1], 1_u32.to_be_bytes()].concat();
    packet(source, destination, 0, INIT, &[&TAG.to_be_bytes()[..], &rest].concat())
}

fn abort(source: u16, destination: u16, tag: u32, text: &str) -> Vec<u8> {
    let cause = [&USER_ABORT.to_be_bytes()[..], &length_of(text.as_bytes()), text.as_bytes()].concat();
    packet(source, destination, tag, ABORT, &cause)
}

/// A packet with one chunk, padded and with its checksum.
fn packet(source: u16, destination: u16, tag: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = [&source.to_be_bytes()[..], &destination.to_be_bytes(), &tag.to_be_bytes(), &[0; 4]].concat();
    packet.extend([kind, 0]);
    packet.extend(length_of(body));
    packet.extend(body);
    packet.resize(packet.len().next_multiple_of(4), 0);
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..COMMON_HEADER].copy_from_slice(&checksum);
    packet
}

/// The length field of a chunk or cause: counts the four bytes before its content.
fn length_of(content: &[u8]) -> [u8; 2] {
    u16::try_from(content.len() + 4).expect("labels are short").to_be_bytes()
}

/// RFC 9260, appendix A; conntrack drops packets where it is wrong.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value that the definition of the polynomial is published with.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn packets_are_read_as_written_and_never_past_their_end() {
        let abort = abort(1, 2, 3, "who\n");
        let parsed = Packet::parse(&abort).unwrap();
        assert_eq!((parsed.source, parsed.destination, parsed.tag, parsed.abort_text()), (1, 2, 3, Some("who\n")));
        assert_eq!(Packet::parse(&init(1, 2)).unwrap().initiate_tag(), Some(TAG));
        for length in 0..abort.len() {
            assert!(Packet::parse(&abort[..length]).is_none_or(|packet| packet.abort_text().is_none()), "{length}");
        }
    }
}

//! Puts entries into conntrack, by messages of its own making.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use testing::netns::Namespace;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// An entry to be made: who sends where, and who answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) protocol: u8,
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
    pub(crate) endpoint: SocketAddr,
    pub(crate) zone: u16,
}

/// A UDP entry.
pub(crate) fn udp(client: &str, service: &str, endpoint: &str) -> Entry {
    let [client, service, endpoint] =
        [client, service, endpoint].map(|socket| socket.parse().expect("a test writes sockets well"));
    Entry { protocol: UDP, client, service, endpoint, zone: 0 }
}

pub(crate) struct Maker(OwnedFd);

impl Maker {
    pub(crate) fn new(namespace: &Namespace) -> Result<Self> {
        let open = || socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), SockProtocol::NetlinkNetFilter);
        Ok(Self(namespace.run(open)?))
    }

    /// Makes entries that last for ten minutes.
    pub(crate) fn make(&self, entries: impl IntoIterator<Item = Entry>) -> Result<()> {
        const CT_NEW: u16 = 1 << 8;
        const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        let mut entries = entries.into_iter();
        loop {
            let some: Vec<_> = entries.by_ref().take(200).collect();
            let Some(last) = some.len().checked_sub(1) else { return Ok(()) };
            let messages = some.iter().enumerate().map(|(index, entry)| {
                message(CT_NEW, CREATE, index == last, entry, &[tuple(2, entry, true), zone(entry), timeout()])
            });
            self.tell(&messages.collect::<Vec<_>>().concat()).with_context(|| format!("among {some:?}"))?;
        }
    }

    /// Deletes an entry, whichever it is by now.
    pub(crate) fn delete(&self, entry: Entry) -> Result<()> {
        const CT_DELETE: u16 = 1 << 8 | 2;
        self.tell(&message(CT_DELETE, 0, true, &entry, &[zone(&entry)]))
    }

    /// Sends messages, of which the last asks for an acknowledgement, and waits for that.
    fn tell(&self, messages: &[u8]) -> Result<()> {
        send(self.0.as_raw_fd(), messages, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        ensure!(length >= 20, "an answer of {length} bytes");
        let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        ensure!(errno == 0, "{}", std::io::Error::from_raw_os_error(-errno));
        Ok(())
    }
}

fn message(kind: u16, flags: u16, acknowledge: bool, entry: &Entry, attributes: &[Vec<u8>]) -> Vec<u8> {
    let flags = flags | (libc::NLM_F_REQUEST | if acknowledge { libc::NLM_F_ACK } else { 0 }) as u16;
    let family = if entry.client.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let body = [vec![family as u8, 0, 0, 0], tuple(1, entry, false), attributes.concat()].concat();
    let head = [&(16 + body.len() as u32).to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]];
    [head.concat(), body].concat()
}

fn tuple(kind: u16, entry: &Entry, reply: bool) -> Vec<u8> {
    let (source, destination) = if reply { (entry.endpoint, entry.client) } else { (entry.client, entry.service) };
    let address = |v4, address| match address {
        IpAddr::V4(address) => attribute(v4, &address.octets()),
        IpAddr::V6(address) => attribute(v4 + 2, &address.octets()),
    };
    let addresses = [address(1, source.ip()), address(2, destination.ip())].concat();
    let (from, to) = (source.port().to_be_bytes(), destination.port().to_be_bytes());
    let ports = [attribute(1, &[entry.protocol]), attribute(2, &from), attribute(3, &to)].concat();
    nest(kind, &[nest(1, &addresses), nest(2, &ports)].concat())
}

fn zone(entry: &Entry) -> Vec<u8> {
    attribute(18, &entry.zone.to_be_bytes())
}

fn timeout() -> Vec<u8> {
    attribute(7, &600u32.to_be_bytes())
}

fn nest(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | 1 << 15, value)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

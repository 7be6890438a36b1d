//! The kernel's IP virtual servers (include/uapi/linux/ip_vs.h), a family of generic netlink.

use std::io;
use std::net::IpAddr;

use mnl::Bus;

use crate::attributes::Attributes;
use crate::dump::{Fault, Reader};
use crate::message::{Malformed, Message, attributes, compose, string, u16_at};
use crate::socket::{ReceiveBuffer, Socket};

/// The family that tells of the others, and the attributes of what it tells (include/uapi/linux/genetlink.h).
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const FAMILY: &str = "IPVS";
const VERSION: u8 = 1;
const IPVS_CMD_DEL_SERVICE: u8 = 3;
const IPVS_CMD_GET_SERVICE: u8 = 4;
const IPVS_CMD_ATTR_SERVICE: u16 = 1;
const IPVS_SVC_ATTR_AF: u16 = 1;
const IPVS_SVC_ATTR_PROTOCOL: u16 = 2;
const IPVS_SVC_ATTR_ADDR: u16 = 3;
const IPVS_SVC_ATTR_PORT: u16 = 4;

/// The virtual servers of the network namespace of the thread that opened this.
pub struct Ipvs {
    socket: Socket,
    buffer: Box<ReceiveBuffer>,
    /// The number of the family.
    family: u16,
}

/// A virtual server that is known by an address; others are known by a mark on packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualServer {
    /// Where it listens.
    pub address: IpAddr,
    /// The number of the transport protocol in the IP header.
    pub protocol: u8,
    /// Its port.
    pub port: u16,
}

impl Ipvs {
    /// Opens them; `None` if the kernel has not loaded them, so that there are none.
    ///
    /// # Errors
    /// There is no socket, or the kernel does not tell what it has.
    pub fn open() -> io::Result<Option<Self>> {
        let (mut socket, mut buffer) = (Socket::to(Bus::Generic)?, ReceiveBuffer::new());
        // Of all families: to ask for one by its name has the kernel load it (`ctrl_getfamily`, net/netlink/genetlink.c).
        let request = compose(GENL_ID_CTRL, libc::NLM_F_DUMP, [CTRL_CMD_GETFAMILY, VERSION, 0, 0], |_| {});
        let mut family = None;
        let mut reader = Reader { socket: &mut socket, buffer: &mut buffer };
        let asked = reader.ask(&request, |message| family_of(message).map(|found| family = family.or(found)));
        asked.map_err(Fault::into_io)?;
        Ok(family.map(|family| Self { socket, buffer, family }))
    }

    /// All servers that are known by an address.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub fn servers(&mut self) -> io::Result<Vec<VirtualServer>> {
        let mut servers = Vec::new();
        self.ask(
            IPVS_CMD_GET_SERVICE,
            libc::NLM_F_DUMP,
            |_| {},
            |message| {
                servers.extend(server(message)?);
                Ok(())
            },
        )?;
        Ok(servers)
    }

    /// Deletes a server. Its connections end. One that has gone meanwhile is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn delete(&mut self, server: &VirtualServer) -> io::Result<()> {
        let service = |a: &mut Attributes| a.nest(IPVS_CMD_ATTR_SERVICE, |service| server.put(service));
        match self.ask(IPVS_CMD_DEL_SERVICE, libc::NLM_F_ACK, service, |_| Ok(())) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(()),
            done => done,
        }
    }

    fn ask(
        &mut self,
        command: u8,
        flags: libc::c_int,
        fill: impl FnOnce(&mut Attributes),
        each: impl FnMut(Message<'_>) -> Result<(), Malformed>,
    ) -> io::Result<()> {
        let request = compose(self.family, flags, [command, VERSION, 0, 0], fill);
        let mut reader = Reader { socket: &mut self.socket, buffer: &mut self.buffer };
        reader.ask(&request, each).map_err(Fault::into_io)
    }
}

impl VirtualServer {
    /// Writes the attributes that it is known by. The kernel reserves an IPv6 address for any address.
    fn put(&self, attributes: &mut Attributes) {
        let (family, mut address) = match self.address {
            IpAddr::V4(_) => (libc::AF_INET, [0; 16]),
            IpAddr::V6(address) => (libc::AF_INET6, address.octets()),
        };
        if let IpAddr::V4(v4) = self.address {
            address[..4].copy_from_slice(&v4.octets());
        }
        attributes.put(IPVS_SVC_ATTR_AF, &(family as u16).to_ne_bytes());
        attributes.put(IPVS_SVC_ATTR_PROTOCOL, &u16::from(self.protocol).to_ne_bytes());
        attributes.put(IPVS_SVC_ATTR_ADDR, &address);
        attributes.put(IPVS_SVC_ATTR_PORT, &self.port.to_be_bytes());
    }
}

/// The number of our family, if it is the one that the message is about.
fn family_of(message: Message<'_>) -> Result<Option<u16>, Malformed> {
    let (mut name, mut number) = ("", None);
    for attribute in message.attributes() {
        match attribute? {
            (CTRL_ATTR_FAMILY_NAME, value) => name = string(value)?,
            (CTRL_ATTR_FAMILY_ID, value) => number = u16_at(value, 0),
            _ => {}
        }
    }
    Ok(number.filter(|_| name == FAMILY))
}

fn server(message: Message<'_>) -> Result<Option<VirtualServer>, Malformed> {
    let (mut family, mut protocol, mut address, mut port) = (None, None, None, None);
    for attribute in message.attributes() {
        let (IPVS_CMD_ATTR_SERVICE, service) = attribute? else { continue };
        for attribute in attributes(service) {
            match attribute? {
                (IPVS_SVC_ATTR_AF, value) => family = u16_at(value, 0).map(i32::from),
                (IPVS_SVC_ATTR_PROTOCOL, value) => {
                    protocol = u16_at(value, 0).and_then(|number| number.try_into().ok());
                }
                (IPVS_SVC_ATTR_ADDR, value) => address = Some(value),
                (IPVS_SVC_ATTR_PORT, value) => port = Some(value.try_into().map_err(|_| Malformed)?),
                _ => {}
            }
        }
    }
    let (Some(protocol), Some(bytes), Some(port)) = (protocol, address, port) else { return Ok(None) };
    let v4 = || bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
    let v6 = || bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
    let address = if family == Some(libc::AF_INET6) { v6() } else { v4() };
    let address = address.ok_or(Malformed)?;
    Ok(Some(VirtualServer { address, protocol, port: u16::from_be_bytes(port) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::messages;

    fn read(message: &[u8]) -> Option<VirtualServer> {
        messages(message).next()?.ok().and_then(|message| server(message).ok()?)
    }

    #[test]
    fn servers_are_read_as_they_are_written_and_truncated_ones_are_none() {
        for address in ["10.96.0.1", "fd00::1"] {
            let written = VirtualServer { address: address.parse().unwrap(), protocol: 132, port: 30080 };
            let message = compose(0, 0, [0; 4], |a| a.nest(IPVS_CMD_ATTR_SERVICE, |service| written.put(service)));
            assert_eq!(read(&message), Some(written));
            for length in 1..message.len() {
                let mut shorter = message[..length].to_vec();
                if let Some(first) = shorter.first_chunk_mut() {
                    *first = (length as u32).to_ne_bytes();
                }
                assert!(
                    read(&shorter).is_none_or(|found| length + 3 > message.len() && found == written),
                    "{length} bytes"
                );
            }
        }
    }
}

//! The kernel's ipsets, as the `ipset` program makes them (include/uapi/linux/netfilter/ipset/ip_set.h).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::attributes::Attributes;
use crate::dump::{Fault, Reader};
use crate::message::{Malformed, Message, attributes, compose, string};
use crate::socket::{ReceiveBuffer, Socket};

/// The number of the subsystem (`NFNL_SUBSYS_IPSET`, include/uapi/linux/netfilter/nfnetlink.h), in the upper byte of commands.
const SUBSYSTEM: u16 = 6 << 8;
const IPSET_CMD_DESTROY: u16 = SUBSYSTEM | 3;
const IPSET_CMD_LIST: u16 = SUBSYSTEM | 7;

const IPSET_ATTR_PROTOCOL: u16 = 1;
const IPSET_ATTR_SETNAME: u16 = 2;
const IPSET_ATTR_FLAGS: u16 = 6;
const IPSET_ATTR_ADT: u16 = 8;
const IPSET_ATTR_PORT: u16 = 4;
/// Only the names.
const IPSET_FLAG_LIST_SETNAME: u32 = 1 << 1;
/// The version of the interface that every kernel since 2.6.39 knows.
const PROTOCOL: u8 = 6;
/// A rule refers to the set.
const IPSET_ERR_BUSY: i32 = 4100;

/// The ipsets of the network namespace of the thread that opened this.
pub struct IpSets {
    socket: Socket,
    buffer: Box<ReceiveBuffer>,
}

impl IpSets {
    /// Opens them; `None` if the kernel has not loaded them, so that there are none. To ask would make it load them.
    ///
    /// # Errors
    /// There is no socket to ask with.
    pub fn open() -> io::Result<Option<Self>> {
        if !Path::new("/sys/module/ip_set").exists() {
            return Ok(None);
        }
        Ok(Some(Self { socket: Socket::open()?, buffer: ReceiveBuffer::new() }))
    }

    /// The names of all sets.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub fn names(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let flags = |a: &mut Attributes| a.put_u32(IPSET_ATTR_FLAGS, IPSET_FLAG_LIST_SETNAME);
        self.ask(IPSET_CMD_LIST, libc::NLM_F_DUMP, flags, |message| {
            for attribute in message.attributes() {
                if let (IPSET_ATTR_SETNAME, value) = attribute? {
                    names.push(string(value)?.to_owned());
                }
            }
            Ok(())
        })?;
        Ok(names)
    }

    /// The ports in a set of the type `bitmap:port`, or of a hash type with ports; none if there is no such set.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub fn ports(&mut self, set: &str) -> io::Result<BTreeSet<u16>> {
        let mut ports = BTreeSet::new();
        let name = |a: &mut Attributes| a.put_string(IPSET_ATTR_SETNAME, set);
        let listed = self.ask(IPSET_CMD_LIST, libc::NLM_F_DUMP, name, |message| read_ports(message, &mut ports));
        match listed {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(BTreeSet::new()),
            listed => listed.map(|()| ports),
        }
    }

    /// Deletes a set. One that has gone meanwhile is no error.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] if a rule refers to it; or the kernel refuses for another reason.
    pub fn destroy(&mut self, set: &str) -> io::Result<()> {
        let name = |a: &mut Attributes| a.put_string(IPSET_ATTR_SETNAME, set);
        match self.ask(IPSET_CMD_DESTROY, libc::NLM_F_ACK, name, |_| Ok(())) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) if error.raw_os_error() == Some(IPSET_ERR_BUSY) => Err(io::ErrorKind::ResourceBusy.into()),
            done => done,
        }
    }

    fn ask(
        &mut self,
        command: u16,
        flags: libc::c_int,
        fill: impl FnOnce(&mut Attributes),
        each: impl FnMut(Message<'_>) -> Result<(), Malformed>,
    ) -> io::Result<()> {
        let head = [libc::AF_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0];
        let request = compose(command, flags, head, |a| {
            a.put(IPSET_ATTR_PROTOCOL, &[PROTOCOL]);
            fill(a);
        });
        let mut reader = Reader { socket: &mut self.socket, buffer: &mut self.buffer };
        reader.ask(&request, each).map_err(Fault::into_io)
    }
}

fn read_ports(message: Message<'_>, ports: &mut BTreeSet<u16>) -> Result<(), Malformed> {
    for attribute in message.attributes() {
        let (IPSET_ATTR_ADT, elements) = attribute? else { continue };
        for element in attributes(elements) {
            for attribute in attributes(element?.1) {
                if let (IPSET_ATTR_PORT, value) = attribute? {
                    ports.insert(u16::from_be_bytes(value.try_into().map_err(|_| Malformed)?));
                }
            }
        }
    }
    Ok(())
}

//! Flowtables and counters: how they are declared, and what the kernel tells of them and of chains around them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ruleset::{Family, Flowtable, Interface, Name, ReadError};

use crate::attributes::Attributes;
use crate::bytecode::protocol_family;
use crate::dump::{Fault, Reader, request};
use crate::message::{Malformed, Message, attributes, string};
use crate::nf_tables::NfTables;
use crate::{decode, uapi};

/// A flowtable that the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFlowtable {
    /// Where it is.
    pub place: Place,
    /// The names of its devices. Since Linux 6.16 these may be names that no device has (`nft_flowtable_find_dev` goes by devices,
    /// a dump by names).
    pub devices: BTreeSet<String>,
}

/// A chain that packets enter in the hook `forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardChain {
    /// Where it is.
    pub place: Place,
    /// When it is asked: lower is earlier.
    pub priority: i32,
}

/// Which object of which table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The family of the table (`NFPROTO_*`).
    pub family: u8,
    /// The table.
    pub table: String,
    /// The object's name.
    pub name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, name } = self;
        match libc::c_int::from(*family) {
            libc::NFPROTO_INET => write!(f, "inet {table} {name}"),
            libc::NFPROTO_IPV4 => write!(f, "ip {table} {name}"),
            libc::NFPROTO_IPV6 => write!(f, "ip6 {table} {name}"),
            other => write!(f, "family {other} {table} {name}"),
        }
    }
}

impl NfTables {
    /// The flowtables of all programs.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub fn flowtables(&mut self) -> Result<Vec<FoundFlowtable>, ReadError> {
        let request = request(uapi::NFT_MSG_GETFLOWTABLE, libc::NLM_F_DUMP, libc::AF_UNSPEC as u8, |_| {});
        self.reader().survey(&request, found_flowtable)
    }

    /// The chains of all programs that packets enter in the hook `forward`, but for those of the `bridge` family, which sees frames
    /// that are not routed.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub fn forward_chains(&mut self) -> Result<Vec<ForwardChain>, ReadError> {
        let request = request(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP, libc::AF_UNSPEC as u8, |_| {});
        self.reader().survey(&request, forward_chain)
    }

    /// How many packets each counter of a table has counted.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub fn counters(&mut self, family: Family, table: &Name) -> Result<BTreeMap<Name, u64>, ReadError> {
        let request = request(libc::NFT_MSG_GETOBJ, libc::NLM_F_DUMP, protocol_family(family) as u8, |a| {
            a.put_name(uapi::NFTA_OBJ_TABLE, table);
            a.put_u32(uapi::NFTA_OBJ_TYPE, uapi::NFT_OBJECT_COUNTER);
        });
        Ok(self.reader().survey(&request, found_counter)?.into_iter().collect())
    }
}

impl Reader<'_> {
    /// What `pick` finds in the messages of an answer. While others commit, the answer is from before or after.
    pub(crate) fn survey<T>(
        &mut self,
        request: &[u8],
        pick: impl Fn(Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, ReadError> {
        const TRIES: u32 = 10;
        for _ in 0..TRIES {
            let mut found = Vec::new();
            let collected = self.ask(request, |message| {
                found.extend(pick(message)?);
                Ok(())
            });
            match collected {
                Ok(()) => return Ok(found),
                Err(Fault::Missing) => return Ok(Vec::new()),
                Err(Fault::Interrupted) => {}
                Err(Fault::Failed(error)) => return Err(error.into()),
            }
        }
        Err(ReadError::Unstable { tries: TRIES })
    }
}

fn found_flowtable(message: Message<'_>) -> Result<Option<FoundFlowtable>, Malformed> {
    let (mut table, mut name, mut devices) = ("", "", BTreeSet::new());
    for attribute in message.attributes() {
        match attribute? {
            (uapi::NFTA_FLOWTABLE_TABLE, value) => table = string(value)?,
            (uapi::NFTA_FLOWTABLE_NAME, value) => name = string(value)?,
            (uapi::NFTA_FLOWTABLE_HOOK, hook) => devices = devices_of(hook)?,
            _ => {}
        }
    }
    Ok(Some(FoundFlowtable { place: place(message, table, name)?, devices }))
}

fn devices_of(hook: &[u8]) -> Result<BTreeSet<String>, Malformed> {
    let mut devices = BTreeSet::new();
    for attribute in attributes(hook) {
        if let (uapi::NFTA_FLOWTABLE_HOOK_DEVS, list) = attribute? {
            for device in attributes(list) {
                // Others are patterns, of newer kernels.
                if let (uapi::NFTA_DEVICE_NAME, value) = device? {
                    devices.insert(string(value)?.to_owned());
                }
            }
        }
    }
    Ok(devices)
}

fn forward_chain(message: Message<'_>) -> Result<Option<ForwardChain>, Malformed> {
    let (mut table, mut name, mut hook) = ("", "", None);
    for attribute in message.attributes() {
        match attribute? {
            (uapi::NFTA_CHAIN_TABLE, value) => table = string(value)?,
            (uapi::NFTA_CHAIN_NAME, value) => name = string(value)?,
            (uapi::NFTA_CHAIN_HOOK, value) => hook = Some(decode::hook_of(value)?),
            _ => {}
        }
    }
    let place = place(message, table, name)?;
    let routed = [libc::NFPROTO_INET, libc::NFPROTO_IPV4, libc::NFPROTO_IPV6].contains(&place.family.into());
    Ok(match hook {
        Some((point, priority)) if routed && point == libc::NF_INET_FORWARD.cast_unsigned() => {
            Some(ForwardChain { place, priority: priority.cast_signed() })
        }
        _ => None,
    })
}

/// A counter whose name is one that we could use, and its packets.
fn found_counter(message: Message<'_>) -> Result<Option<(Name, u64)>, Malformed> {
    let (mut name, mut packets) = (None, None);
    for attribute in message.attributes() {
        match attribute? {
            (uapi::NFTA_OBJ_NAME, value) => name = Name::new(string(value)?).ok(),
            (uapi::NFTA_OBJ_DATA, data) => {
                for attribute in attributes(data) {
                    if let (uapi::NFTA_COUNTER_PACKETS, value) = attribute? {
                        packets = Some(u64::from_be_bytes(value.try_into().map_err(|_| Malformed)?));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(name.zip(packets))
}

fn place(message: Message<'_>, table: &str, name: &str) -> Result<Place, Malformed> {
    let family = message.family().ok_or(Malformed)?;
    Ok(Place { family, table: table.to_owned(), name: name.to_owned() })
}

/// Writes the attributes of a message that declares a flowtable, or adds devices to it.
pub(crate) fn declare(attributes: &mut Attributes, table: &Name, flowtable: &Flowtable, devices: &[Interface]) {
    put_flowtable(attributes, table, &flowtable.name);
    put_devices(attributes, flowtable, devices);
    attributes.put_u32(uapi::NFTA_FLOWTABLE_FLAGS, uapi::NFT_FLOWTABLE_COUNTER);
}

/// Writes the attributes that name a flowtable.
pub(crate) fn put_flowtable(attributes: &mut Attributes, table: &Name, flowtable: &Name) {
    attributes.put_name(uapi::NFTA_FLOWTABLE_TABLE, table);
    attributes.put_name(uapi::NFTA_FLOWTABLE_NAME, flowtable);
}

/// Writes the attribute with the devices that a message about a flowtable is about.
pub(crate) fn put_devices(attributes: &mut Attributes, flowtable: &Flowtable, devices: &[Interface]) {
    attributes.nest(uapi::NFTA_FLOWTABLE_HOOK, |hook| {
        hook.put_u32(uapi::NFTA_FLOWTABLE_HOOK_NUM, uapi::NF_NETDEV_INGRESS);
        hook.put_u32(uapi::NFTA_FLOWTABLE_HOOK_PRIORITY, flowtable.priority.cast_unsigned());
        hook.nest(uapi::NFTA_FLOWTABLE_HOOK_DEVS, |list| {
            devices.iter().for_each(|device| list.put_string(uapi::NFTA_DEVICE_NAME, device.name()));
        });
    });
}

/// Writes the attributes that name a counter.
pub(crate) fn put_counter(attributes: &mut Attributes, table: &Name, counter: &Name) {
    attributes.put_name(uapi::NFTA_OBJ_TABLE, table);
    attributes.put_name(uapi::NFTA_OBJ_NAME, counter);
    attributes.put_u32(uapi::NFTA_OBJ_TYPE, uapi::NFT_OBJECT_COUNTER);
}

//! Reading a table back.

use std::collections::BTreeSet;
use std::io;

use ruleset::{Element, Found, FoundChain, FoundSet, Name, ReadError};

use crate::attributes::Attributes;
use crate::decode::{self, Declared, Listed};
use crate::message::{Malformed, Message, compose, messages, number, u32_at};
use crate::reply::decode_error;
use crate::rule_text::rule_text;
use crate::socket::{ReceiveBuffer, Socket};
use crate::uapi;

/// How often a table, and each set, is read until it is the same from the beginning to the end. Every commit to any table of
/// the node spoils a reading, and large ones take long: the kernel walks all that it has listed before again for each 32 KiB
/// of an answer, which makes it about a second for 110,000 elements, and 10 ms for 10,000.
const TRIES: u32 = 10;

/// Asks the kernel what it holds.
pub(crate) struct Reader<'a> {
    pub(crate) socket: &'a mut Socket,
    pub(crate) buffer: &'a mut ReceiveBuffer,
}

/// Which table.
#[derive(Clone, Copy)]
struct Place<'a> {
    family: u8,
    table: &'a Name,
}

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) enum Fault {
    /// What it asks for is not there.
    Missing,
    /// Something changed while it was being answered.
    Interrupted,
    /// Anything else.
    Failed(io::Error),
}

impl Fault {
    /// What the kernel said, for those to whom it is all the same.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Missing => io::Error::from_raw_os_error(libc::ENOENT),
            Self::Interrupted => io::ErrorKind::Interrupted.into(),
            Self::Failed(error) => error,
        }
    }
}

impl Reader<'_> {
    /// The state of a table at one moment.
    pub(crate) fn table(&mut self, family: u8, table: &Name) -> Result<Option<Found>, ReadError> {
        for _ in 0..TRIES {
            let before = self.generation()?;
            match self.found(Place { family, table }) {
                Ok(found) if self.generation()? == before => return Ok(found),
                Ok(_) | Err(Fault::Interrupted | Fault::Missing) => {}
                Err(Fault::Failed(error)) => return Err(error.into()),
            }
        }
        Err(ReadError::Unstable { tries: TRIES })
    }

    /// The elements of one set; none if there is no such set. While elements come and go, some may be missing.
    pub(crate) fn set(&mut self, family: u8, table: &Name, set: &Name) -> Result<Vec<Element>, ReadError> {
        for _ in 0..TRIES {
            match self.list(Place { family, table }, set) {
                Ok(listed) => return Ok(listed.elements.finish().0.iter().collect()),
                Err(Fault::Missing) => return Ok(Vec::new()),
                Err(Fault::Interrupted) => {}
                Err(Fault::Failed(error)) => return Err(error.into()),
            }
        }
        Err(ReadError::Unstable { tries: TRIES })
    }

    /// The number of the ruleset's generation: each commit of any program, on any table, makes the next.
    pub(crate) fn generation(&mut self) -> io::Result<u32> {
        let request = request(libc::NFT_MSG_GETGEN, libc::NLM_F_ACK, libc::AF_UNSPEC as u8, |_| {});
        let mut generation = None;
        let answered = self.ask(&request, |message| {
            for attribute in message.attributes() {
                if let (uapi::NFTA_GEN_ID, value) = attribute? {
                    generation = Some(number(value)?);
                }
            }
            Ok(())
        });
        match (answered, generation) {
            (Ok(()), Some(generation)) => Ok(generation),
            (Err(Fault::Failed(error)), _) => Err(error),
            (Ok(()), None) | (Err(Fault::Missing | Fault::Interrupted), _) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn found(&mut self, place: Place<'_>) -> Result<Option<Found>, Fault> {
        let mut flags = 0;
        let asked = request(libc::NFT_MSG_GETTABLE, libc::NLM_F_ACK, place.family, |a| {
            a.put_name(uapi::NFTA_TABLE_NAME, place.table);
        });
        match self.ask(&asked, |message| decode::table_flags(message).map(|found| flags = found)) {
            Ok(()) => {}
            Err(Fault::Missing) => return Ok(None),
            Err(fault) => return Err(fault),
        }
        let mut found = Found { beyond_repair: flags & uapi::NFT_TABLE_F_DORMANT != 0, ..Found::default() };
        self.chains(place, &mut found)?;
        self.rules(place, &mut found)?;
        let dynamic = self.sets(place, &mut found)?;
        for (name, set) in found.sets.iter_mut().filter(|(name, _)| !dynamic.contains(*name)) {
            self.elements(place, name, set)?;
        }
        Ok(Some(found))
    }

    /// All elements of a set that only transactions change.
    ///
    /// The kernel walks a hash table anew for each part of the answer, and passes over as many elements as it has listed. If the
    /// table grows in between, which it does some time after a commit, some are listed twice and as many are not
    /// (`nft_rhash_walk`, net/netfilter/nft_set_hash.c). So nothing is missing if nothing is listed twice.
    fn elements(&mut self, place: Place<'_>, name: &Name, set: &mut FoundSet) -> Result<(), Fault> {
        for _ in 0..TRIES {
            let Listed { elements, unspeakable } = self.list(place, name)?;
            let (elements, is_whole) = elements.finish();
            if is_whole {
                (set.elements, set.unspeakable) = (elements, unspeakable);
                return Ok(());
            }
        }
        Err(Fault::Interrupted)
    }

    /// Lists the elements of a set once.
    fn list(&mut self, place: Place<'_>, name: &Name) -> Result<Listed, Fault> {
        let request = request(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP, place.family, |a| {
            a.put_name(uapi::NFTA_SET_ELEM_LIST_TABLE, place.table);
            a.put_name(uapi::NFTA_SET_ELEM_LIST_SET, name);
        });
        let mut listed = Listed::default();
        self.ask(&request, |message| decode::elements(message, &mut listed))?;
        Ok(listed)
    }

    /// The kernel lists the chains of all tables of the family; the others' are passed over.
    fn chains(&mut self, place: Place<'_>, found: &mut Found) -> Result<(), Fault> {
        let request = request(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP, place.family, |a| {
            a.put_name(uapi::NFTA_CHAIN_TABLE, place.table);
        });
        self.ask(&request, |message| {
            match decode::chain(message, place.table)? {
                Some(Declared { name: Some(name), declaration, .. }) => {
                    found.chains.insert(name, FoundChain { declaration, rules: Vec::new() });
                }
                Some(Declared { name: None, .. }) => found.beyond_repair = true,
                None => {}
            }
            Ok(())
        })
    }

    fn rules(&mut self, place: Place<'_>, found: &mut Found) -> Result<(), Fault> {
        let request = request(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP, place.family, |a| {
            a.put_name(uapi::NFTA_RULE_TABLE, place.table);
        });
        self.ask(&request, |message| {
            let name = decode::chain_of_rule(message)?;
            // Those of chains that belong to rules go with them.
            if let Some(chain) = name.and_then(|name| found.chains.get_mut(&name)) {
                chain.rules.push(rule_text(message)?);
            }
            Ok(())
        })
    }

    /// Returns the names of those that rules add elements to.
    fn sets(&mut self, place: Place<'_>, found: &mut Found) -> Result<BTreeSet<Name>, Fault> {
        let mut dynamic = BTreeSet::new();
        let request = request(libc::NFT_MSG_GETSET, libc::NLM_F_DUMP, place.family, |a| {
            a.put_name(uapi::NFTA_SET_TABLE, place.table);
        });
        self.ask(&request, |message| {
            match decode::set(message)? {
                Some(Declared { name: Some(name), declaration, is_dynamic }) => {
                    if is_dynamic {
                        dynamic.insert(name.clone());
                    }
                    found.sets.insert(name, FoundSet { declaration, ..FoundSet::default() });
                }
                Some(Declared { name: None, .. }) => found.beyond_repair = true,
                None => {}
            }
            Ok(())
        })?;
        Ok(dynamic)
    }

    /// Sends a request and hands over the messages of the answer, to its end. The kernel makes the next part of an answer when
    /// one is taken, so there is nothing to wait for.
    pub(crate) fn ask(
        &mut self,
        request: &[u8],
        mut each: impl FnMut(Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Fault> {
        // What is left of an answer that was not understood would be taken for this one.
        while self.socket.receive(self.buffer).map_err(Fault::Failed)?.is_some() {}
        self.socket.request(request).map_err(Fault::Failed)?;
        let mut answered = Ok(());
        loop {
            let Some(datagram) = self.socket.receive(self.buffer).map_err(Fault::Failed)? else {
                return Err(Fault::Failed(io::ErrorKind::UnexpectedEof.into()));
            };
            for message in messages(datagram) {
                let (handled, is_last) = match message {
                    Ok(message) => take(message, &mut each),
                    Err(error) => (Err(malformed(error)), true),
                };
                answered = answered.and(handled);
                if is_last {
                    return answered;
                }
            }
        }
    }
}

/// Hands a message over unless it is one of netlink's own. Returns also whether it is the last of an answer.
fn take(
    message: Message<'_>,
    each: &mut impl FnMut(Message<'_>) -> Result<(), Malformed>,
) -> (Result<(), Fault>, bool) {
    let (handled, is_last) = match libc::c_int::from(message.kind) {
        libc::NLMSG_ERROR => {
            let reply = decode_error(&message).ok_or(Malformed).map_err(malformed);
            (reply.and_then(|reply| check(reply.errno)), true)
        }
        libc::NLMSG_DONE => {
            // It has what the kernel's function returned: not negative if all went well.
            let returned = u32_at(message.body, 0).map_or(0, u32::cast_signed);
            (check(returned.min(0).saturating_neg()), true)
        }
        _ => (each(message).map_err(malformed), false),
    };
    let is_interrupted = message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
    (if is_interrupted { handled.and(Err(Fault::Interrupted)) } else { handled }, is_last)
}

fn check(errno: i32) -> Result<(), Fault> {
    match errno {
        0 => Ok(()),
        libc::ENOENT => Err(Fault::Missing),
        libc::EINTR => Err(Fault::Interrupted),
        errno => Err(Fault::Failed(io::Error::from_raw_os_error(errno))),
    }
}

fn malformed(Malformed: Malformed) -> Fault {
    Fault::Failed(io::Error::new(io::ErrorKind::InvalidData, "an answer of the kernel's makes no sense"))
}

/// A message that asks nf_tables for something.
pub(crate) fn request(
    kind: libc::c_int,
    flags: libc::c_int,
    family: u8,
    fill: impl FnOnce(&mut Attributes),
) -> Vec<u8> {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    compose(kind, flags, [family, libc::NFNETLINK_V0 as u8, 0, 0], fill)
}

//! Tables of other programs: no more of them than it takes to delete chains from them.

use ruleset::{Data, Family, Name, ReadError, Verdict};

use crate::bytecode::protocol_family;
use crate::decode::{self, Declared};
use crate::dump::request;
use crate::message::{Malformed, Message, attributes, name, string};
use crate::nf_tables::NfTables;
use crate::uapi;

/// A rule, of whatever program and with whatever expressions, that leads to another chain of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The chain that it is in.
    pub chain: Name,
    /// Its number.
    pub handle: u64,
    /// The chain that it jumps or goes to.
    pub target: Name,
}

impl NfTables {
    /// The chains of a table; none if there is no such table. Those with names that we could not speak of are left out.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub fn chains(&mut self, family: Family, table: &Name) -> Result<Vec<Name>, ReadError> {
        let request = request(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP, protocol_family(family) as u8, |_| {});
        self.reader()
            .survey(&request, |message| Ok(decode::chain(message, table)?.and_then(|Declared { name, .. }| name)))
    }

    /// The rules of a table that lead to other chains by themselves, and not by a map.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub fn jumps(&mut self, family: Family, table: &Name) -> Result<Vec<Jump>, ReadError> {
        let request = request(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP, protocol_family(family) as u8, |a| {
            a.put_name(uapi::NFTA_RULE_TABLE, table);
        });
        self.reader().survey(&request, jump)
    }
}

fn jump(message: Message<'_>) -> Result<Option<Jump>, Malformed> {
    let (mut chain, mut handle, mut target) = (None, None, None);
    for attribute in message.attributes() {
        match attribute? {
            (uapi::NFTA_RULE_CHAIN, value) => chain = name(value),
            (uapi::NFTA_RULE_HANDLE, value) => handle = Some(value.try_into().map_err(|_| Malformed)?),
            (uapi::NFTA_RULE_EXPRESSIONS, list) => target = target_of(list)?,
            _ => {}
        }
    }
    let found = chain.zip(handle).zip(target);
    Ok(found.map(|((chain, handle), target)| Jump { chain, handle: u64::from_be_bytes(handle), target }))
}

/// The chain that a rule's expressions lead to. Matches of iptables are expressions as well, which are passed over.
fn target_of(list: &[u8]) -> Result<Option<Name>, Malformed> {
    for entry in attributes(list) {
        let (mut kind, mut data) = ("", &[][..]);
        for attribute in attributes(entry?.1) {
            match attribute? {
                (uapi::NFTA_EXPR_NAME, value) => kind = string(value)?,
                (uapi::NFTA_EXPR_DATA, value) => data = value,
                _ => {}
            }
        }
        for attribute in attributes(data) {
            if let ("immediate", (uapi::NFTA_IMMEDIATE_DATA, value)) = (kind, attribute?)
                && let Data::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) = decode::datum(value)?
            {
                return Ok(Some(chain));
            }
        }
    }
    Ok(None)
}

//! Our own values in the words in which what the kernel holds is read: each is written as the message that would create it, and
//! that is decoded as the kernel's are.

use ruleset::{Chain, Describe, Family, Name, Op, Rule, Set, Transaction};

use crate::NfTables;
use crate::decode;
use crate::encode::encode;
use crate::message::{Malformed, Message, messages};
use crate::rule_text::rule_text;

/// What is said of something that cannot be written as a message. Nothing that the kernel holds is like it, so that it gets
/// into a transaction, which then fails and tells why.
const IMPOSSIBLE: &str = "impossible";

impl Describe for NfTables {
    fn chain(&self, family: Family, chain: &Chain) -> String {
        let declared =
            |message: Message<'_>, table: &Name| decode::chain(message, table).map(|chain| Some(chain?.declaration));
        describe(family, Op::AddChain(chain.clone()), libc::NFT_MSG_NEWCHAIN, declared)
    }

    fn rule(&self, family: Family, rule: &Rule) -> String {
        describe(family, Op::AddRule(rule.clone()), libc::NFT_MSG_NEWRULE, |message, _| rule_text(message).map(Some))
    }

    fn set(&self, family: Family, set: &Set) -> String {
        let declared = |message: Message<'_>, _: &Name| decode::set(message).map(|set| Some(set?.declaration));
        describe(family, Op::AddSet(set.clone().into()), libc::NFT_MSG_NEWSET, declared)
    }
}

/// Decodes the message of this kind that an operation is sent as.
fn describe(
    family: Family,
    op: Op,
    kind: libc::c_int,
    decode: impl Fn(Message<'_>, &Name) -> Result<Option<String>, Malformed>,
) -> String {
    let Ok(table) = Name::new("t") else {
        return IMPOSSIBLE.to_owned();
    };
    let mut transaction = Transaction::new(family, table.clone());
    transaction.ops.push(op);
    let Ok(Some(encoded)) = encode(&transaction) else {
        return IMPOSSIBLE.to_owned();
    };
    let mut messages = encoded.batch.iter().flat_map(messages).filter_map(Result::ok);
    let message = messages.find(|message| message.nf_tables_kind() == Some(kind));
    message.and_then(|message| decode(message, &table).ok()?).unwrap_or_else(|| IMPOSSIBLE.to_owned())
}

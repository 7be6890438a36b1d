//! What the kernel holds, out of its messages. Any bytes give values or [`Malformed`]; nothing panics.

use std::fmt::Write as _;

use ruleset::{Comment, Data, Element, ElementsBuilder, Name, Verdict, Words};

use crate::message::{Malformed, Message, attributes, name, number, string};
use crate::uapi;

/// An object that is there by its declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    /// Its name; `None` if we could not speak of it.
    pub(crate) name: Option<Name>,
    /// What it is, in words that two declarations share if and only if they mean the same.
    pub(crate) declaration: String,
    /// Whether it is a set that rules add elements to.
    pub(crate) is_dynamic: bool,
}

/// The flags of a table.
pub(crate) fn table_flags(message: Message<'_>) -> Result<u32, Malformed> {
    let mut flags = 0;
    for attribute in message.attributes() {
        if let (uapi::NFTA_TABLE_FLAGS, value) = attribute? {
            flags = number(value)?;
        }
    }
    Ok(flags)
}

/// A chain of this table; `None` if it is another's, or belongs to a rule and goes with it.
pub(crate) fn chain(message: Message<'_>, table: &Name) -> Result<Option<Declared>, Malformed> {
    let mut chain = Declared { name: None, declaration: String::new(), is_dynamic: false };
    let (mut hook, mut kind, mut policy, mut flags) = (None, "", 0, 0);
    for attribute in message.attributes() {
        match attribute? {
            (uapi::NFTA_CHAIN_TABLE, value) if string(value)? != table.as_str() => return Ok(None),
            (uapi::NFTA_CHAIN_NAME, value) => chain.name = name(value),
            (uapi::NFTA_CHAIN_HOOK, value) => hook = Some(hook_of(value)?),
            (uapi::NFTA_CHAIN_TYPE, value) => kind = string(value)?,
            (uapi::NFTA_CHAIN_POLICY, value) => policy = number(value)?,
            (uapi::NFTA_CHAIN_FLAGS, value) => flags = number(value)?,
            _ => {}
        }
    }
    if let Some((point, priority)) = hook {
        chain.declaration = format!("type {kind} hook {point} priority {} policy {policy}", priority.cast_signed());
    }
    Ok((flags & uapi::NFT_CHAIN_BINDING == 0).then_some(chain))
}

/// The hook and the priority of a chain.
pub(crate) fn hook_of(value: &[u8]) -> Result<(u32, u32), Malformed> {
    let (mut point, mut priority) = (0, 0);
    for attribute in attributes(value) {
        match attribute? {
            (uapi::NFTA_HOOK_HOOKNUM, value) => point = number(value)?,
            (uapi::NFTA_HOOK_PRIORITY, value) => priority = number(value)?,
            _ => {}
        }
    }
    Ok((point, priority))
}

/// The chain that a rule is in, `None` if we could not speak of it.
pub(crate) fn chain_of_rule(message: Message<'_>) -> Result<Option<Name>, Malformed> {
    let mut chain = None;
    for attribute in message.attributes() {
        if let (uapi::NFTA_RULE_CHAIN, value) = attribute? {
            chain = name(value);
        }
    }
    Ok(chain)
}

/// A set; `None` if it belongs to a rule and goes with it.
pub(crate) fn set(message: Message<'_>) -> Result<Option<Declared>, Malformed> {
    let mut set = Declared { name: None, declaration: String::new(), is_dynamic: false };
    let (mut flags, mut size, mut userdata) = (0, 0, &[][..]);
    let (mut key, mut data) = ((0, 0), (0, 0));
    for attribute in message.attributes() {
        match attribute? {
            (uapi::NFTA_SET_NAME, value) => set.name = name(value),
            (uapi::NFTA_SET_FLAGS, value) => flags = number(value)?,
            (uapi::NFTA_SET_KEY_TYPE, value) => key.0 = number(value)?,
            (uapi::NFTA_SET_KEY_LEN, value) => key.1 = number(value)?,
            (uapi::NFTA_SET_DATA_TYPE, value) => data.0 = number(value)?,
            (uapi::NFTA_SET_DATA_LEN, value) => data.1 = number(value)?,
            (uapi::NFTA_SET_DESC, value) => size = size_of(value)?,
            (uapi::NFTA_SET_USERDATA, value) => userdata = value,
            _ => {}
        }
    }
    if flags & libc::NFT_SET_ANONYMOUS.cast_unsigned() != 0 {
        return Ok(None);
    }
    set.is_dynamic = flags & libc::NFT_SET_EVAL.cast_unsigned() != 0;
    if data.0 == uapi::NFT_DATA_VERDICT {
        // The kernel has a length of its own for verdicts.
        data.1 = 0;
    }
    set.declaration =
        format!("key {:x}/{} data {:x}/{} flags {flags:x} size {size} notes ", key.0, key.1, data.0, data.1);
    for byte in userdata {
        // Into a string, it cannot fail.
        write!(set.declaration, "{byte:02x}").ok();
    }
    Ok(Some(set))
}

fn size_of(description: &[u8]) -> Result<u32, Malformed> {
    let mut size = 0;
    for attribute in attributes(description) {
        if let (uapi::NFTA_SET_DESC_SIZE, value) = attribute? {
            size = number(value)?;
        }
    }
    Ok(size)
}

/// The elements of a set as they are listed.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) elements: ElementsBuilder,
    /// How many have no key that we could write.
    pub(crate) unspeakable: usize,
}

/// Adds the elements of a message to those of their set.
pub(crate) fn elements(message: Message<'_>, listed: &mut Listed) -> Result<(), Malformed> {
    for attribute in message.attributes() {
        if let (uapi::NFTA_SET_ELEM_LIST_ELEMENTS, list) = attribute? {
            for entry in attributes(list) {
                let (_, entry) = entry?;
                match element(entry)? {
                    Some(element) => listed.elements.push(element),
                    None => listed.unspeakable += 1,
                }
            }
        }
    }
    Ok(())
}

/// An element; `None` if it has no key that we could write.
fn element(entry: &[u8]) -> Result<Option<Element>, Malformed> {
    let (mut key, mut data, mut comment) = (None, Data::None, None);
    for attribute in attributes(entry) {
        match attribute? {
            (uapi::NFTA_SET_ELEM_KEY, value) => key = words(value)?,
            (uapi::NFTA_SET_ELEM_DATA, value) => data = datum(value)?,
            (uapi::NFTA_SET_ELEM_USERDATA, value) => comment = comment_of(value),
            _ => {}
        }
    }
    Ok(key.map(|key| Element { key, data, comment }))
}

/// A key, padded also where it is a lone field.
fn words(value: &[u8]) -> Result<Option<Words>, Malformed> {
    for attribute in attributes(value) {
        if let (uapi::NFTA_DATA_VALUE, bytes) = attribute? {
            return Ok(padded(bytes));
        }
    }
    Ok(None)
}

fn padded<const N: usize>(bytes: &[u8]) -> Option<Words<N>> {
    let mut padded = [0; N];
    padded.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Words::from_bytes(padded.get(..bytes.len().next_multiple_of(4))?)
}

/// What an element maps to; [`Data::None`] if we could not write it.
pub(crate) fn datum(value: &[u8]) -> Result<Data, Malformed> {
    for attribute in attributes(value) {
        match attribute? {
            (uapi::NFTA_DATA_VALUE, bytes) => return Ok(padded(bytes).map_or(Data::None, Data::Value)),
            (uapi::NFTA_DATA_VERDICT, value) => return Ok(verdict(value)?.map_or(Data::None, Data::Verdict)),
            _ => {}
        }
    }
    Ok(Data::None)
}

fn verdict(value: &[u8]) -> Result<Option<Verdict>, Malformed> {
    let (mut code, mut chain) = (None, None);
    for attribute in attributes(value) {
        match attribute? {
            (uapi::NFTA_VERDICT_CODE, value) => code = Some(number(value)?.cast_signed()),
            (uapi::NFTA_VERDICT_CHAIN, value) => chain = name(value),
            _ => {}
        }
    }
    Ok(match (code, chain) {
        (Some(libc::NF_ACCEPT), _) => Some(Verdict::Accept),
        (Some(libc::NF_DROP), _) => Some(Verdict::Drop),
        (Some(libc::NFT_GOTO), Some(chain)) => Some(Verdict::Goto(chain)),
        (Some(libc::NFT_JUMP), Some(chain)) => Some(Verdict::Jump(chain)),
        _ => None,
    })
}

/// The comment among the annotations of an element: type, length and value of each, in one byte, one byte and so many.
fn comment_of(annotations: &[u8]) -> Option<Comment> {
    let mut rest = annotations;
    while let [kind, length, after @ ..] = rest {
        let (value, after) = after.split_at_checked(usize::from(*length))?;
        if *kind == uapi::UDATA_COMMENT {
            return string(value).ok().map(Comment::new);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use ruleset::{
        Chain, ChainKind, DataType, Family, Field, Hook, HookPoint, Op, Rule, Selector, Set, SetKind, Statement,
        Transaction,
    };

    use super::*;
    use crate::encode::encode;
    use crate::message::messages;
    use crate::rule_text::rule_text;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// One message of each kind that we read.
    fn examples() -> Vec<Vec<u8>> {
        let fields = vec![Field::Address, Field::Protocol, Field::Port, Field::Index];
        let map = |text, data| Set {
            name: name(text),
            key: fields.clone(),
            data: Some(data),
            kind: SetKind::Static,
            comment: Some(Comment::new("endpoints")),
        };
        let endpoints = Arc::new(map("endpoints", DataType::Value(vec![Field::Address, Field::Port])));
        let services = Arc::new(map("services", DataType::Verdict));
        let key = |n| Words::build().address([10, 0, 0, 1].into()).protocol(6).port(80).native(n).finish();
        let value = Data::Value(Words::build().address([10, 1, 0, 1].into()).port(8080).datum());
        let element = |n, data| Element { key: key(n), data, comment: Some(Comment::new("prod/web")) };
        let random = Selector::Random(NonZeroU32::new(3).unwrap());
        let selectors = vec![Selector::DestinationAddress, Selector::Protocol, Selector::DestinationPort, random];
        let statements =
            vec![Statement::NewConnection, Statement::Dnat { key: selectors, map: Arc::clone(&endpoints) }];
        let hook = Hook { kind: ChainKind::Nat, point: HookPoint::Output, priority: -100 };
        let goto = Data::Verdict(Verdict::Goto(name("lb-3")));
        let ops = vec![
            Op::AddChain(Chain { name: name("nat-output"), hook: Some(hook), comment: None }),
            Op::AddRule(Rule { chain: name("lb-3"), statements, comment: Some(Comment::new("why")) }),
            Op::AddSet(Arc::clone(&endpoints)),
            Op::AddElements { set: endpoints, elements: vec![element(0, value.clone()), element(1, value)] },
            Op::AddElements {
                set: services,
                elements: vec![element(0, Data::Verdict(Verdict::Drop)), element(1, goto)],
            },
        ];
        let transaction = Transaction { ops, ..Transaction::new(Family::Ip, name("t")) };
        let encoded = encode(&transaction).unwrap().unwrap();
        let messages = encoded.batch.iter().flat_map(messages).map(Result::unwrap);
        let of_nf_tables = messages.filter(|message| message.nf_tables_kind().is_some());
        of_nf_tables.map(|message| message.bytes.to_vec()).collect()
    }

    /// All that is made of a message, whatever kind it claims to be.
    fn decoded(datagram: &[u8]) -> Vec<String> {
        let table = name("t");
        let all = messages(datagram).map(|message| {
            let Ok(message) = message else { return "malformed".to_owned() };
            let mut set = Listed::default();
            let elements = elements(message, &mut set);
            let rule = (chain_of_rule(message), rule_text(message));
            format!(
                "{:?} {:?} {rule:?} {elements:?} {set:?} {:?}",
                chain(message, &table),
                super::set(message),
                table_flags(message)
            )
        });
        all.collect()
    }

    #[test]
    fn truncated_at_every_byte() {
        for whole in examples() {
            let expected = decoded(&whole);
            assert!(!expected[0].contains("malformed"));
            for length in 1..whole.len() {
                assert_eq!(decoded(&whole[..length]), ["malformed"], "{length} bytes");
                // As the message claims to be shorter.
                let mut shorter = whole[..length].to_vec();
                if length >= 4 {
                    shorter[..4].copy_from_slice(&(length as u32).to_ne_bytes());
                }
                // The last attribute may be padded.
                if length + 3 < whole.len() {
                    assert_ne!(decoded(&shorter), expected, "{length} of {} bytes", whole.len());
                }
            }
        }
    }

    #[test]
    fn any_byte_may_have_another_value() {
        for whole in examples() {
            for at in 0..whole.len() {
                for value in [0, 1, 3, 4, 5, 8, 16, 127, 128, 255] {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    assert!(!decoded(&changed).is_empty());
                }
            }
        }
    }
}

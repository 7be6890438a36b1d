//! Rules as text that compares.
//!
//! libnftnl could print them too, but its parser ends the process when a message is not what it expects.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::message::{Malformed, Message, attributes, number, string};
use crate::uapi;

/// What the rule in a message does, ours or the kernel's: its expressions, each with its attributes by their numbers, and its
/// annotations. Rules that do the same have the same text, although the kernel lists more than it was sent.
pub(crate) fn rule_text(message: Message<'_>) -> Result<String, Malformed> {
    let (mut text, mut notes) = (String::new(), &[][..]);
    for attribute in message.attributes() {
        match attribute? {
            (uapi::NFTA_RULE_EXPRESSIONS, list) => {
                for entry in attributes(list) {
                    expression(entry?.1, &mut text)?;
                }
            }
            (uapi::NFTA_RULE_USERDATA, value) => notes = value,
            _ => {}
        }
    }
    if !notes.is_empty() {
        text.push_str("notes ");
        hexadecimal(notes, &mut text);
    }
    Ok(text)
}

fn expression(entry: &[u8], text: &mut String) -> Result<(), Malformed> {
    let (mut name, mut found) = ("", BTreeMap::new());
    for attribute in attributes(entry) {
        match attribute? {
            (uapi::NFTA_EXPR_NAME, value) => name = string(value)?,
            (uapi::NFTA_EXPR_DATA, value) => found = attributes(value).collect::<Result<_, _>>()?,
            _ => {}
        }
    }
    if name == "nat" {
        leave_out_what_is_implied(&mut found)?;
    }
    text.push_str(name);
    // Numbers that are 0 say the same as none, and the kernel lists some of them that it was not sent.
    for (kind, value) in found.into_iter().filter(|(_, value)| value.iter().any(|byte| *byte != 0)) {
        text.push(' ');
        show(kind, value, NESTED, text);
    }
    text.push('\n');
    Ok(())
}

/// A translation reaches up to where it starts unless it says otherwise, and its registers tell that it is one of address and
/// port (`nft_nat_init`, net/netfilter/nft_nat.c). The kernel lists both.
fn leave_out_what_is_implied(nat: &mut BTreeMap<u16, &[u8]>) -> Result<(), Malformed> {
    let ranges = [
        (uapi::NFTA_NAT_REG_ADDR_MIN, uapi::NFTA_NAT_REG_ADDR_MAX),
        (uapi::NFTA_NAT_REG_PROTO_MIN, uapi::NFTA_NAT_REG_PROTO_MAX),
    ];
    for (start, end) in ranges {
        if nat.get(&start) == nat.get(&end) {
            nat.remove(&end);
        }
    }
    let flags = nat.get(&uapi::NFTA_NAT_FLAGS).map_or(Ok(0), |value| number(value))?;
    if flags == uapi::NF_NAT_RANGE_MAP_IPS | uapi::NF_NAT_RANGE_PROTO_SPECIFIED {
        nat.remove(&uapi::NFTA_NAT_FLAGS);
    }
    Ok(())
}

/// How deep attributes are looked for in attributes. The kernel nests five; what another program put into a rule may look like
/// thousands, and is shown as bytes from there on.
const NESTED: u8 = 16;

/// Shows an attribute: others in it, down to this depth, a string, or bytes, whichever its value looks like.
fn show(kind: u16, value: &[u8], depth: u8, text: &mut String) {
    // Into a string, it cannot fail.
    write!(text, "{kind}=").ok();
    // The kernel does not mark those that have others in them, libnftnl does; without the mark they are equal.
    let inner: Result<Vec<_>, _> = attributes(value).collect();
    match (inner, string(value)) {
        (Ok(inner), _) if !inner.is_empty() && depth > 0 => {
            text.push_str("( ");
            for (kind, value) in inner {
                if kind == uapi::NFTA_DATA_VALUE {
                    // Whatever an address looks like: 4.0.1.0 is an attribute as well, and so is 4.0.1.64, the same but for flags.
                    hexadecimal(value, text);
                } else {
                    show(kind, value, depth - 1, text);
                }
                text.push(' ');
            }
            text.push(')');
        }
        (_, Ok(string)) if string.len() + 1 == value.len() && string.bytes().all(|b| b.is_ascii_graphic()) => {
            text.push_str(string);
        }
        _ => hexadecimal(value, text),
    }
}

fn hexadecimal(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        write!(text, "{byte:02x}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;
    use crate::message::messages;

    /// An expression of another program's may carry any bytes, also such as look like attributes within attributes.
    #[test]
    fn a_rule_nested_as_deep_as_a_message_is_long() {
        let mut value = Vec::new();
        while value.len() < 60_000 {
            value = [&(value.len() as u16 + 4).to_ne_bytes()[..], &7_u16.to_ne_bytes(), &value].concat();
        }
        let mut attributes = Attributes::default();
        attributes.nest(uapi::NFTA_RULE_EXPRESSIONS, |list| {
            list.nest(uapi::NFTA_LIST_ELEM, |expression| {
                expression.put(uapi::NFTA_EXPR_NAME, b"match\0");
                expression.nest(uapi::NFTA_EXPR_DATA, |data| data.put(1, &value));
            });
        });
        let length = 20 + attributes.as_bytes().len() as u32;
        let header = [&length.to_ne_bytes()[..], &[0; 16]].concat();
        let message = [&header, attributes.as_bytes()].concat();
        let message = messages(&message).next().unwrap().unwrap();
        let text = rule_text(message).unwrap();
        assert!(text.starts_with("match 1=( 7=( ") && text.len() <= 3 * value.len(), "{} bytes", text.len());
    }
}

//! What fuzz targets call: everything that is made of bytes from the kernel, given any bytes. Each panics where what was made
//! of them cannot be right.

use ruleset::{Family, Name, Op, Transaction};

use crate::conntrack;
use crate::decode::{Listed, chain, chain_of_rule, elements, set, table_flags};
use crate::encode::{Contents, Part};
use crate::message::messages;
use crate::monitor::Heard;
use crate::outcome::{Answers, judge};
use crate::reply::{self, Reply};
use crate::rule_text::rule_text;

/// A datagram of nf_tables: a page of a list, answers to a batch, and word of others' commits.
pub fn nf_tables(datagram: &[u8]) {
    let Ok(table) = Name::new("kube-proxy") else { return };
    let mut found = Listed::default();
    for message in messages(datagram).map_while(Result::ok) {
        let length = message.bytes.len();
        if let Ok(text) = rule_text(message) {
            // Every header of four bytes is shown as its number and brackets, every other byte as two digits.
            assert!(text.len() <= 8 * length, "{text}");
        }
        for declared in [chain(message, &table), set(message)].into_iter().flatten().flatten() {
            assert!(declared.declaration.len() <= 128 + 2 * length, "{declared:?}");
        }
        table_flags(message).ok();
        chain_of_rule(message).ok();
        elements(message, &mut found).ok();
    }
    assert!((found.elements.len() + found.unspeakable) * 4 <= datagram.len(), "each has a header at least");
    assert!(Heard::default().take(datagram, &table).len() <= 1 + datagram.len() / 16);
    answers(datagram, table);
}

/// Answers to the deletion of three chains: they were deleted only if the last was acknowledged, and nothing failed.
fn answers(datagram: &[u8], table: Name) {
    let part = |op| Part { op, elements: None };
    let contents = Contents { first: 2, parts: (0..3).map(part).collect() };
    let ops = vec![Op::DeleteChain(table.clone()); 3];
    let transaction = Transaction { ops, ..Transaction::new(Family::Ip, table) };
    let replies: Vec<Reply> = reply::decode(datagram).map_while(Result::ok).collect();
    let is_refused = replies.iter().any(|reply| reply.errno != 0);
    let is_acknowledged = replies.iter().any(|reply| reply.errno == 0 && reply.sequence == 4);
    let judged = judge(Answers { replies, lost: None }, &contents, &transaction);
    assert_eq!(judged.is_ok(), is_acknowledged && !is_refused);
}

/// A datagram of a list of connections: what is read of each names that connection and no other when it is to be deleted.
pub fn conntrack(datagram: &[u8]) {
    conntrack::fuzz::page(datagram);
}

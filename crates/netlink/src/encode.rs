//! Transactions as batches of messages.

use std::io;
use std::ops::Range;

use nftnl::nftnl_sys::libc;
use nftnl::{FinalizedBatch, MsgType, NlMsg};
use ruleset::{Chain, ChainKind, Comment, CommitError, Hook, HookPoint, Name, Op, Rejection, Rule, Table, Transaction};

use crate::attributes::Attributes;
use crate::batch::{Batch, Header, Message, TooLong};
use crate::elements::{Change, Elements, put_set};
use crate::expression::c_string;
use crate::{bytecode, fastpath, sets, uapi};

/// A transaction ready to be sent.
pub(crate) struct Encoded {
    pub(crate) batch: FinalizedBatch,
    pub(crate) bytes: usize,
    pub(crate) contents: Contents,
}

/// What the messages of a batch are about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The sequence number of the first message. Each other has that of the one before, plus one.
    pub(crate) first: u32,
    /// One for each message; not empty.
    pub(crate) parts: Vec<Part>,
}

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The operation, by its index.
    pub(crate) op: usize,
    /// Which of its elements, if it has any: some thousand fit in a message.
    pub(crate) elements: Option<Range<usize>>,
}

/// Encodes a transaction; `None` if it changes nothing.
pub(crate) fn encode(transaction: &Transaction) -> Result<Option<Encoded>, CommitError> {
    let parts = parts(transaction);
    // An element or rule takes about a hundred bytes, rarely more than twice that.
    let table = nftnl::Table::new(c_string(&transaction.table), bytecode::protocol_family(transaction.family));
    let mut encoder = Encoder {
        transaction,
        table: &table,
        batch: Batch::new(transaction.len() * 256),
        attributes: Attributes::default(),
        acknowledge: false,
    };
    let mut rejections = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        // The last tells that all succeeded; the first, whether it was the one that failed.
        encoder.acknowledge = index == 0 || index + 1 == parts.len();
        if let Err(reason) = encoder.add(part) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
            rejections.push(Rejection::new(transaction, part.op, None, source));
        }
    }
    if !rejections.is_empty() {
        return Err(CommitError::Rejected { rejections });
    }
    let bytes = encoder.batch.bytes();
    Ok(encoder.batch.first().map(|first| Encoded {
        bytes,
        contents: Contents { first, parts },
        batch: encoder.batch.finish(),
    }))
}

/// Cuts a transaction into what fits in a message each. Operations on no elements have no parts: to delete an empty list
/// of elements means to delete all.
fn parts(transaction: &Transaction) -> Vec<Part> {
    let mut parts = Vec::new();
    for op in 0..transaction.ops.len() {
        match all_elements(transaction, op) {
            Some(elements) => parts.extend(elements.parts().map(|part| Part { op, elements: Some(part) })),
            None => parts.push(Part { op, elements: None }),
        }
    }
    parts
}

/// The elements that a message is about.
pub(crate) fn elements<'a>(transaction: &'a Transaction, part: &Part) -> Option<Elements<'a>> {
    let all = all_elements(transaction, part.op)?;
    Some(Elements { elements: all.elements.get(part.elements.clone()?)?, ..all })
}

fn all_elements(transaction: &Transaction, op: usize) -> Option<Elements<'_>> {
    let (set, elements, change) = match transaction.ops.get(op)? {
        Op::AddElements { set, elements } => (set, elements, Change::Add),
        Op::DeleteElements { set, elements } => (set, elements, Change::Delete),
        _ => return None,
    };
    Some(Elements { family: transaction.family, table: &transaction.table, set, change, elements })
}

struct Encoder<'a> {
    transaction: &'a Transaction,
    table: &'a nftnl::Table,
    batch: Batch,
    /// Those of the message at hand, beyond those that libnftnl writes.
    attributes: Attributes,
    acknowledge: bool,
}

impl Encoder<'_> {
    /// Adds a message, or says why there is none for it.
    fn add(&mut self, part: &Part) -> Result<(), &'static str> {
        self.attributes.clear();
        match &self.transaction.ops[part.op] {
            Op::AddTable(Table { comment }) => {
                self.comment(uapi::NFTA_TABLE_USERDATA, comment.as_ref());
                self.put(self.table, MsgType::Add)
            }
            Op::DeleteTable => self.put(self.table, MsgType::Del),
            Op::AddChain(chain) => self.add_chain(chain),
            Op::DeleteChain(name) => self.put(&self.chain(name), MsgType::Del),
            // A rule without a number, to be deleted, stands for all rules of its chain.
            Op::FlushChain(name) => self.put(&nftnl::Rule::new(&self.chain(name)), MsgType::Del),
            Op::AddRule(rule) => self.add_rule(rule),
            Op::DeleteRule { chain, handle } => {
                self.attributes.put_name(uapi::NFTA_RULE_TABLE, &self.transaction.table);
                self.attributes.put_name(uapi::NFTA_RULE_CHAIN, chain);
                self.attributes.put(uapi::NFTA_RULE_HANDLE, &handle.to_be_bytes());
                self.put(&self.header(libc::NFT_MSG_DELRULE), MsgType::Del)
            }
            Op::AddSet(set) => {
                let id = part.op as u32;
                sets::declare(&mut self.attributes, set, self.transaction, id);
                self.put(&self.header(libc::NFT_MSG_NEWSET), MsgType::Add)
            }
            Op::DeleteSet(name) => {
                self.attributes.put_name(uapi::NFTA_SET_TABLE, &self.transaction.table);
                self.attributes.put_name(uapi::NFTA_SET_NAME, name);
                self.put(&self.header(libc::NFT_MSG_DELSET), MsgType::Del)
            }
            Op::FlushSet(set) => {
                put_set(&mut self.attributes, &self.transaction.table, set);
                self.put(&self.header(libc::NFT_MSG_DELSETELEM), MsgType::Del)
            }
            Op::AddElements { .. } => {
                self.list_elements(part);
                self.put(&self.header(libc::NFT_MSG_NEWSETELEM), MsgType::Add)
            }
            Op::DeleteElements { .. } => {
                self.list_elements(part);
                self.put(&self.header(libc::NFT_MSG_DELSETELEM), MsgType::Del)
            }
            Op::AddFlowtable { flowtable, devices } => {
                fastpath::declare(&mut self.attributes, &self.transaction.table, flowtable, devices);
                self.put(&self.header(uapi::NFT_MSG_NEWFLOWTABLE), MsgType::Add)
            }
            Op::DeleteDevices { flowtable, devices } => {
                fastpath::put_flowtable(&mut self.attributes, &self.transaction.table, &flowtable.name);
                fastpath::put_devices(&mut self.attributes, flowtable, devices);
                self.put(&self.header(uapi::NFT_MSG_DELFLOWTABLE), MsgType::Del)
            }
            Op::DeleteFlowtable(name) => {
                fastpath::put_flowtable(&mut self.attributes, &self.transaction.table, name);
                self.put(&self.header(uapi::NFT_MSG_DELFLOWTABLE), MsgType::Del)
            }
            Op::AddCounter(name) => {
                fastpath::put_counter(&mut self.attributes, &self.transaction.table, name);
                self.attributes.nest(uapi::NFTA_OBJ_DATA, |_| {});
                self.put(&self.header(libc::NFT_MSG_NEWOBJ), MsgType::Add)
            }
            Op::DeleteCounter(name) => {
                fastpath::put_counter(&mut self.attributes, &self.transaction.table, name);
                self.put(&self.header(libc::NFT_MSG_DELOBJ), MsgType::Del)
            }
        }
    }

    fn add_chain(&mut self, chain: &Chain) -> Result<(), &'static str> {
        let mut object = self.chain(&chain.name);
        if let Some(Hook { kind, point, priority }) = chain.hook {
            object.set_type(match kind {
                ChainKind::Filter => nftnl::ChainType::Filter,
                ChainKind::Nat => nftnl::ChainType::Nat,
            });
            object.set_hook(hook(point), priority);
            object.set_policy(nftnl::Policy::Accept);
        }
        self.comment(uapi::NFTA_CHAIN_USERDATA, chain.comment.as_ref());
        self.put(&object, MsgType::Add)
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<(), &'static str> {
        let mut expressions = Vec::new();
        for statement in &rule.statements {
            expressions.extend(bytecode::compile(statement, self.transaction.family)?);
        }
        if expressions.len() > uapi::NFT_RULE_MAXEXPRS {
            return Err("the rule has more statements than the kernel takes");
        }
        let chain = self.chain(&rule.chain);
        let mut object = nftnl::Rule::new(&chain);
        expressions.iter().for_each(|expression| object.add_expr(expression));
        self.comment(uapi::NFTA_RULE_USERDATA, rule.comment.as_ref());
        self.put(&object, MsgType::Add)
    }

    fn list_elements(&mut self, part: &Part) {
        if let Some(elements) = elements(self.transaction, part) {
            elements.write(&mut self.attributes);
        }
    }

    fn comment(&mut self, kind: u16, comment: Option<&Comment>) {
        if let Some(comment) = comment {
            self.attributes.put_comment(kind, comment);
        }
    }

    fn put<M: NlMsg>(&mut self, object: &M, action: MsgType) -> Result<(), &'static str> {
        self.batch
            .add(Message { object, action, attributes: &self.attributes, acknowledge: self.acknowledge })
            .map_err(|TooLong| "it does not fit into a message")
    }

    fn header(&self, kind: libc::c_int) -> Header {
        Header { kind, family: self.table.get_family() }
    }
}

impl<'a> Encoder<'a> {
    fn chain(&self, name: &Name) -> nftnl::Chain<'a> {
        nftnl::Chain::new(c_string(name), self.table)
    }
}

const fn hook(point: HookPoint) -> nftnl::Hook {
    match point {
        HookPoint::Prerouting => nftnl::Hook::PreRouting,
        HookPoint::Input => nftnl::Hook::In,
        HookPoint::Forward => nftnl::Hook::Forward,
        HookPoint::Output => nftnl::Hook::Out,
        HookPoint::Postrouting => nftnl::Hook::PostRouting,
    }
}

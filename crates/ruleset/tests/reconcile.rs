//! Reconciling small tables on the in-memory kernel; `compiler` and `netlink` have tests with real ones.

#![allow(clippy::unwrap_used, reason = "the values are constants of the test")]

use std::num::NonZeroU32;
use std::sync::Arc;

use ruleset::{
    Chain, ChainKind, Data, DataType, Element, Fake, Family, Field, Hook, HookPoint, Kernel as _, Name, Op,
    Reconciliation, Rule, Selector, Set, SetKind, Statement, Table, Transaction, Verdict, Words, reconcile,
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn transaction(ops: Vec<Op>) -> Transaction {
    Transaction { ops, ..Transaction::new(Family::Ip, name("t")) }
}

fn set(text: &str, key: &[Field], data: Option<DataType>, kind: SetKind) -> Arc<Set> {
    Arc::new(Set { name: name(text), key: key.to_vec(), data, kind, comment: None })
}

fn affinity(size: u32) -> Arc<Set> {
    let kind = SetKind::Dynamic { size: NonZeroU32::new(size).unwrap() };
    set("affinity", &[Field::Address], Some(DataType::Value(vec![Field::Address])), kind)
}

fn plain() -> Arc<Set> {
    set("plain", &[Field::Address], None, SetKind::Static)
}

fn address(last: u8) -> Words {
    Words::build().address([10, 0, 0, last].into()).finish()
}

fn element(last: u8) -> Element {
    Element { key: address(last), data: Data::None, comment: None }
}

fn chain(text: &str, hook: Option<Hook>) -> Op {
    Op::AddChain(Chain { name: name(text), hook, comment: None })
}

const HOOK: Hook = Hook { kind: ChainKind::Filter, point: HookPoint::Input, priority: 0 };

fn rule(text: &str, verdict: Verdict) -> Op {
    Op::AddRule(Rule { chain: name(text), statements: vec![Statement::Verdict(verdict)], comment: None })
}

/// A table made from nothing: a base chain with `rules`, a plain set, and a map that rules fill.
fn full(hook: Hook, rules: usize, plain_elements: &[u8], affinity_size: u32) -> Transaction {
    let table = Op::AddTable(Table { comment: None });
    let mut ops = vec![table.clone(), Op::DeleteTable, table, chain("base", Some(hook)), chain("next", None)];
    ops.extend([Op::AddSet(plain()), Op::AddSet(affinity(affinity_size))]);
    ops.extend(vec![rule("base", Verdict::Jump(name("next"))); rules]);
    ops.push(Op::AddElements { set: plain(), elements: plain_elements.iter().copied().map(element).collect() });
    transaction(ops)
}

/// A kernel with that table, to which rules have added a client.
fn kernel(full: &Transaction) -> Fake {
    let mut kernel = Fake::new();
    kernel.commit(full).unwrap();
    let client = Element {
        key: address(1),
        data: Data::Value(Words::build().address([10, 0, 0, 2].into()).datum()),
        comment: None,
    };
    kernel.commit(&transaction(vec![Op::AddElements { set: affinity(100), elements: vec![client] }])).unwrap();
    kernel
}

fn reconciled(kernel: &mut Fake, full: Transaction) -> Reconciliation {
    let found = kernel.read(Family::Ip, &name("t")).unwrap();
    let reconciliation = reconcile(full, found.map(Arc::new), kernel);
    kernel.commit(&reconciliation.transaction).unwrap();
    reconciliation
}

fn clients(kernel: &Fake) -> usize {
    kernel.table(Family::Ip, &name("t")).unwrap().sets()["affinity"].elements.len()
}

#[test]
fn what_rules_put_into_a_set_stays() {
    let wanted = full(HOOK, 1, &[1, 5], 100);
    let mut kernel = kernel(&wanted);
    assert!(reconciled(&mut kernel, wanted).transaction.is_empty());
    assert!(!reconciled(&mut kernel, full(HOOK, 0, &[2, 5], 100)).transaction.is_empty());
    assert_eq!(clients(&kernel), 1);
}

#[test]
fn what_cannot_be_changed_in_place_replaces_the_table() {
    let elsewhere = Hook { priority: 1, ..HOOK };
    let mut cases = vec![full(elsewhere, 1, &[], 100), full(HOOK, 1, &[], 200)];
    let mut without_base = full(HOOK, 0, &[], 100);
    without_base.ops.retain(|op| !matches!(op, Op::AddChain(chain) if chain.hook.is_some()));
    cases.push(without_base);
    for wanted in cases {
        let mut kernel = kernel(&full(HOOK, 1, &[], 100));
        let reconciliation = reconciled(&mut kernel, wanted.clone());
        assert_eq!(reconciliation, Reconciliation { transaction: wanted, unwanted: vec![] });
        assert!(reconciliation.replaces());
        assert_eq!(clients(&kernel), 0);
    }
}

#[test]
fn rules_that_come_last_leave_the_others_alone() {
    let mut kernel = kernel(&full(HOOK, 1, &[], 100));
    let added = reconciled(&mut kernel, full(HOOK, 3, &[], 100)).transaction;
    assert_eq!(added.ops, vec![rule("base", Verdict::Jump(name("next"))); 2]);
    let fewer = reconciled(&mut kernel, full(HOOK, 2, &[], 100)).transaction;
    assert_eq!(fewer.ops[0], Op::FlushChain(name("base")));
    assert_eq!(fewer.ops.len(), 3);
}

#[test]
fn what_nobody_wants_goes_in_an_order_that_the_kernel_takes() {
    let wanted = full(HOOK, 1, &[], 100);
    let mut kernel = kernel(&wanted);
    let foreign = set("foreign", &[Field::Address], Some(DataType::Verdict), SetKind::Static);
    let lookup = Statement::VerdictMap { key: vec![Selector::DestinationAddress], map: Arc::clone(&foreign) };
    let element = Element { key: address(1), data: Data::Verdict(Verdict::Goto(name("one"))), comment: None };
    let ops = vec![
        chain("one", None),
        chain("two", None),
        Op::AddSet(Arc::clone(&foreign)),
        rule("base", Verdict::Jump(name("two"))),
        rule("two", Verdict::Goto(name("one"))),
        Op::AddRule(Rule { chain: name("two"), statements: vec![lookup], comment: None }),
        Op::AddElements { set: foreign, elements: vec![element] },
    ];
    kernel.commit(&transaction(ops)).unwrap();
    let reconciliation = reconciled(&mut kernel, wanted.clone());
    assert_eq!(reconciliation.unwanted, [name("one"), name("two")]);
    let sweep = reconciliation.unwanted.into_iter().map(Op::DeleteChain).collect();
    kernel.commit(&transaction(sweep)).unwrap();
    let again = reconciled(&mut kernel, wanted);
    assert!(again.transaction.is_empty() && again.unwanted.is_empty());
}

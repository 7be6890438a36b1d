//! The in-memory kernel and the real one agree on any transactions.

mod common;

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use common::{add, chain, choices, delete, kernel, name, nft, set, table, transaction, verdict};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use ruleset::{
    CommitError, Data, DataType, Element, Fake, Family, Field, Kernel, Op, Rule, Selector, Set, SetKind, Statement,
    Transaction, Verdict, Words,
};

const CHAINS: [&str; 4] = ["c0", "c1", "c2", "c3"];

fn addresses() -> Arc<Set> {
    set("addresses", &[Field::Address], None)
}

fn verdicts() -> Arc<Set> {
    set("verdicts", &[Field::Address], Some(DataType::Verdict))
}

fn key(n: u32) -> Words {
    Words::build().address(common::address(0x0a00_0000 + n)).finish()
}

/// Three dynamic elements at most.
fn small() -> Arc<Set> {
    sized(3)
}

fn sized(size: u32) -> Arc<Set> {
    let size = NonZeroU32::new(size).expect("it is not zero");
    let data = Some(DataType::Value(vec![Field::Address]));
    let set = set("small", &[Field::Address], data);
    Arc::new(Set { kind: SetKind::Dynamic { size }, ..Set::clone(&set) })
}

fn choice(n: u32, to: u32) -> Element {
    Element {
        key: key(n),
        data: Data::Value(Words::build().address(common::address(0x0a00_0000 + to)).datum()),
        comment: None,
    }
}

/// Chains only lead to later ones, and only the first looks up verdicts: a loop is another test's business.
fn op() -> impl Strategy<Value = Op> {
    let keys = || prop::collection::btree_set(0..5u32, 1..4);
    let plain = |keys: std::collections::BTreeSet<u32>| {
        keys.into_iter().map(|n| Element { key: key(n), data: Data::None, comment: None }).collect::<Vec<_>>()
    };
    let goto = |keys: std::collections::BTreeSet<u32>, to: usize| {
        keys.into_iter().map(|n| verdict(key(n), Verdict::Goto(name(CHAINS[to])), None)).collect::<Vec<_>>()
    };
    let rule = |chain: usize, statements| Op::AddRule(Rule { chain: name(CHAINS[chain]), statements, comment: None });
    let lookup = || Statement::VerdictMap { key: vec![Selector::DestinationAddress], map: verdicts() };
    prop_oneof![
        1 => Just(Op::DeleteTable),
        2 => Just(table()),
        2 => Just(Op::AddSet(addresses())),
        2 => Just(Op::AddSet(verdicts())),
        2 => Just(Op::AddSet(small())),
        1 => prop_oneof![Just(addresses()), Just(verdicts()), Just(small())].prop_map(Op::FlushSet),
        1 => prop_oneof![Just("addresses"), Just("verdicts"), Just("small")].prop_map(|set| Op::DeleteSet(name(set))),
        5 => (0..CHAINS.len()).prop_map(|n| chain(CHAINS[n])),
        2 => (0..CHAINS.len()).prop_map(|n| Op::DeleteChain(name(CHAINS[n]))),
        1 => (0..CHAINS.len()).prop_map(|n| Op::FlushChain(name(CHAINS[n]))),
        2 => (1..CHAINS.len()).prop_map(move |to| rule(to - 1, vec![Statement::Verdict(Verdict::Jump(name(CHAINS[to])))])),
        1 => Just(rule(0, vec![lookup()])),
        4 => keys().prop_map(move |keys| add(&addresses(), plain(keys))),
        3 => keys().prop_map(move |keys| delete(&addresses(), plain(keys))),
        4 => (keys(), 1..CHAINS.len()).prop_map(move |(keys, to)| add(&verdicts(), goto(keys, to))),
        3 => keys().prop_map(move |keys| delete(&verdicts(), plain(keys))),
        4 => keys().prop_map(|keys| add(&small(), keys.into_iter().map(|n| choice(n, 9)).collect())),
        1 => (0..5u32).prop_map(|n| add(&small(), vec![choice(n, 8)])),
        3 => keys().prop_map(move |keys| delete(&small(), plain(keys))),
    ]
}

/// Where and why a transaction was rejected first.
fn rejection(kernel: &mut dyn Kernel, transaction: &Transaction) -> Option<(usize, Option<i32>)> {
    match kernel.commit(transaction) {
        Ok(_) => None,
        Err(CommitError::Rejected { rejections }) => {
            Some((rejections[0].position.0, rejections[0].source.raw_os_error()))
        }
        Err(other) => panic!("{other}\n{transaction}"),
    }
}

/// The elements of a set of the fake, sorted, as `nft` prints them.
fn held(fake: &Fake, set: &Set) -> Vec<String> {
    let table = fake.table(Family::Ip, &name("t"));
    let set = table.and_then(|table| table.sets().get(&set.name));
    let elements = set.into_iter().flat_map(|set| set.elements.values().map(|e| (&set.set, e)));
    let mut texts: Vec<_> = elements.map(|(set, e)| set.display_element(e, Family::Ip).to_string()).collect();
    texts.sort();
    texts
}

/// The same of the kernel.
fn listed(listing: &str) -> Vec<String> {
    let elements = listing.split_once("elements = {").and_then(|(_, rest)| rest.split_once('}'));
    let texts = elements.map_or("", |(elements, _)| elements).split(',').map(str::trim);
    let mut texts: Vec<_> = texts.filter(|text| !text.is_empty()).map(str::to_owned).collect();
    texts.sort();
    texts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fake_and_kernel_agree(history in prop::collection::vec(prop::collection::vec(op(), 1..6), 1..25)) {
        let fail = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}"));
        compare(history).map_err(fail)?;
    }
}

fn compare(history: Vec<Vec<Op>>) -> Result<()> {
    let (namespace, mut kernel) = kernel("fake")?;
    let mut fake = Fake::new();
    let sets = [addresses(), verdicts(), small()];
    let mut base = vec![table(), chain("c0"), chain("c1")];
    base.extend(sets.iter().map(|set| Op::AddSet(Arc::clone(set))));
    for ops in [vec![base], history].concat() {
        let transaction = transaction(Family::Ip, ops);
        let (expected, found) = (rejection(&mut fake, &transaction), rejection(&mut kernel, &transaction));
        anyhow::ensure!(expected == found, "the fake says {expected:?}, the kernel {found:?} to\n{transaction}");
    }
    for set in sets {
        let listing = nft(&namespace, &format!("list {} ip t {}", set.noun(), set.name), "").unwrap_or_default();
        let (expected, found) = (held(&fake, &set), listed(&listing));
        anyhow::ensure!(expected == found, "the fake holds {expected:?}, the kernel {found:?}");
    }
    Ok(())
}

/// What the kernel says to a transaction on a table with all sets.
fn answer(kernel: &mut dyn Kernel, ops: &[Op]) -> Option<i32> {
    let mut base = vec![table(), Op::DeleteTable, table(), chain("c0")];
    base.extend([addresses(), verdicts(), small(), choices()].map(Op::AddSet));
    let base = transaction(Family::Ip, base);
    assert_eq!(rejection(kernel, &base), None);
    rejection(kernel, &transaction(Family::Ip, ops.to_vec())).and_then(|(_, errno)| errno)
}

#[test]
fn both_say_the_same_to_dynamic_maps() -> Result<()> {
    let add_choices = |keys: Range<u32>| add(&small(), keys.map(|n| choice(n, 9)).collect());
    let delete_choices = |keys: Range<u32>| delete(&small(), keys.map(|n| choice(n, 9)).collect());
    let plain = |name: &str| set(name, &[Field::Address], Some(DataType::Value(vec![Field::Address])));
    let update = |map: Arc<Set>| {
        let [key, data] = [Selector::SourceAddress, Selector::DestinationAddress].map(|selector| vec![selector]);
        let statements = vec![Statement::Update { key, data, map, timeout: NonZeroU32::MIN }];
        Op::AddRule(Rule { chain: name("c0"), statements, comment: None })
    };
    let cases = [
        ("as many elements as there may be", vec![add_choices(0..3)], None),
        ("one more than there may be", vec![add_choices(0..4)], Some(libc::ENFILE)),
        ("one that is there, when there may be no more", vec![add_choices(0..3), add_choices(2..3)], None),
        (
            "one in the place of another, when there may be no more",
            vec![add_choices(0..3), delete_choices(0..1), add_choices(3..4)],
            None,
        ),
        ("a dynamic map again, larger", vec![Op::AddSet(sized(4))], None),
        ("a dynamic map as a plain one", vec![Op::AddSet(plain("small"))], Some(libc::EEXIST)),
        ("an update of a dynamic map", vec![update(small())], None),
        ("an update of a plain map", vec![Op::AddSet(plain("plain")), update(plain("plain"))], Some(libc::EOPNOTSUPP)),
        ("an update of a map that is not there", vec![update(plain("missing"))], Some(libc::ENOENT)),
    ];
    let (_namespace, mut kernel) = kernel("dynamic")?;
    let mut fake = Fake::new();
    for (what, ops, expected) in cases {
        assert_eq!(answer(&mut fake, &ops), expected, "{what}: the fake");
        assert_eq!(answer(&mut kernel, &ops), expected, "{what}: the kernel");
    }
    Ok(())
}

//! From whatever the kernel holds to what is wanted.

use std::sync::Arc;

use compiler::{Compiler, Options};
use model::{Family, ServiceName, Update};
use proptest::prelude::*;
use ruleset::{
    Chain, Data, Element, Fake, FakeTable, Found, Kernel, Name, Op, Reconciler, Reconciliation, Rule, Set, Statement,
    Transaction, Verdict, reconcile,
};

use crate::histories::change;
use crate::world::{World, options, service, slice};

/// How many elements a part of a table has.
const PART: usize = 7;

/// What a new process does: it reads the table, goes on with what it finds if `adopts`, and writes what differs.
fn restart(world: &mut World, options: Options, adopts: bool) -> (Transaction, Reconciliation) {
    let mut compiler = Compiler::new(options);
    let (family, table) = compiler.table();
    let found = world.kernel.read(family, &table).unwrap().map(Arc::new);
    if let Some(found) = found.as_ref().filter(|_| adopts) {
        compiler.adopt(Arc::clone(found));
    }
    world.compiler = compiler;
    let mut full = world.compiler.compile_first(&world.state, PART);
    let mut reconciler = found.as_ref().map(|found| Reconciler::new(family, table, Arc::clone(found)));
    reconciler.iter_mut().for_each(|reconciler| reconciler.take(&full));
    while let Some(part) = world.compiler.compile_next(&world.state, PART) {
        reconciler.iter_mut().for_each(|reconciler| reconciler.take(&part));
        full.ops.extend(part.ops);
    }
    let reconciliation = reconcile(full.clone(), found, &world.kernel);
    let in_parts = reconciler.and_then(|reconciler| reconciler.finish(&world.kernel));
    assert!(reconciliation.replaces() || in_parts.as_ref() == Some(&reconciliation));
    world.commit(&reconciliation.transaction);
    (full, reconciliation)
}

/// Makes sure that the kernel holds what a transaction for a whole table makes from nothing, once what is unwanted is deleted.
fn holds(world: &mut World, full: &Transaction, unwanted: &[Name]) {
    let deletes = unwanted.iter().cloned().map(Op::DeleteChain).collect();
    world.commit(&Transaction { ops: deletes, ..Transaction::new(full.family, full.table.clone()) });
    let mut fresh = Fake::new();
    fresh.commit(full).unwrap();
    let found = |table: &FakeTable| table.found(full.family);
    assert_eq!(found(world.table()), found(fresh.table(full.family, &full.table).unwrap()));
    let found = world.table().found(full.family);
    let again = reconcile(full.clone(), Some(Arc::new(found)), &world.kernel);
    assert!(again.transaction.is_empty() && again.unwanted.is_empty(), "{}", again.transaction);
}

fn steps() -> impl Strategy<Value = Vec<Vec<Update>>> {
    prop::collection::vec(prop::collection::vec(change(), 1..4), 0..8)
}

/// Something that another program does to the table. The indices choose among what is there.
#[derive(Clone, Debug)]
enum Edit {
    DeleteTable,
    FlushChain(usize),
    AddRule(usize),
    AddChain(&'static str),
    FlushSet(usize),
    DeleteElement(usize),
    ChangeElement(usize),
    MoveElements(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        1 => Just(Edit::DeleteTable),
        4 => any::<usize>().prop_map(Edit::FlushChain),
        3 => any::<usize>().prop_map(Edit::AddRule),
        2 => prop::sample::select(vec!["foreign", "lb-77", "nodeport-masq-lb-3"]).prop_map(Edit::AddChain),
        4 => any::<usize>().prop_map(Edit::FlushSet),
        8 => any::<usize>().prop_map(Edit::DeleteElement),
        4 => any::<usize>().prop_map(Edit::ChangeElement),
        2 => any::<(usize, usize)>().prop_map(|(from, to)| Edit::MoveElements(from, to)),
    ]
}

impl Edit {
    fn ops(&self, table: &FakeTable) -> Vec<Op> {
        let chain = |n: usize| table.chains().keys().nth(n % table.chains().len()).unwrap().clone();
        let set = |n: usize| table.sets().values().nth(n % table.sets().len()).unwrap();
        let elements: Vec<_> =
            table.sets().values().flat_map(|set| set.elements.values().map(move |e| (&set.set, e))).collect();
        let element = |n: usize| elements.get(n % elements.len().max(1));
        let key = |element: &Element| Element { key: element.key, data: Data::None, comment: None };
        let delete =
            |(set, e): &(&Arc<Set>, &Element)| Op::DeleteElements { set: (*set).clone(), elements: vec![key(e)] };
        match self {
            Self::DeleteTable => vec![Op::DeleteTable],
            Self::FlushChain(n) => vec![Op::FlushChain(chain(*n))],
            Self::AddRule(n) => {
                let statements = vec![Statement::Verdict(Verdict::Drop)];
                vec![Op::AddRule(Rule { chain: chain(*n), statements, comment: None })]
            }
            Self::AddChain(text) => {
                let name = Name::new(text).unwrap();
                let rule = Rule { chain: name.clone(), statements: vec![Statement::Reject], comment: None };
                vec![Op::AddChain(Chain { name, hook: None, comment: None }), Op::AddRule(rule)]
            }
            Self::FlushSet(n) => vec![Op::FlushSet(set(*n).set.clone())],
            Self::DeleteElement(n) => element(*n).map(delete).into_iter().collect(),
            Self::ChangeElement(n) => {
                let Some(found @ (set, element)) = element(*n) else { return vec![] };
                let data = match &element.data {
                    Data::Verdict(_) => Data::Verdict(Verdict::Drop),
                    other => other.clone(),
                };
                let changed = Element { data, ..(*element).clone() };
                vec![delete(found), Op::AddElements { set: (*set).clone(), elements: vec![changed] }]
            }
            Self::MoveElements(from, to) => {
                let (from, to) = (set(*from), set(*to));
                if (&from.set.key, &from.set.data) != (&to.set.key, &to.set.data) {
                    return vec![];
                }
                let moved = from.elements.values().cloned().collect();
                vec![Op::FlushSet(from.set.clone()), Op::AddElements { set: to.set.clone(), elements: moved }]
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A restart, with other Services and perhaps another configuration.
    #[test]
    fn any_table_becomes_any_other(before in steps(), after in steps(), other_options: bool, adopts: bool, sweeps: bool) {
        let mut world = World::new(options(Family::V4));
        before.into_iter().for_each(|step| drop(world.apply(step)));
        if sweeps {
            let swept = world.compiler.sweep();
            world.commit(&swept);
        }
        after.into_iter().flatten().for_each(|update| world.state.apply(update));
        let options = Options { masquerade_all: other_options, ..options(Family::V4) };
        let (full, reconciliation) = restart(&mut world, options.clone(), adopts);
        prop_assert!(!reconciliation.replaces());
        prop_assert!(!adopts || reconciliation.unwanted.is_empty(), "{:?}", reconciliation.unwanted);
        holds(&mut world, &full, &reconciliation.unwanted);

        let (_, again) = restart(&mut world, options, true);
        prop_assert!(again.transaction.is_empty(), "an unchanged restart writes\n{}", again.transaction);
        // What it goes on with is as good as what it made itself.
        let name = ServiceName::new("ns", "a");
        world.apply([Update::ServiceGone(name), Update::Service(service("new", "172.30.9.9")), slice("new", 80, &[("10.0.9.9", "")])]);
        let swept = world.compiler.sweep();
        world.commit(&swept);
    }

    #[test]
    fn an_unchanged_restart_writes_nothing(steps in steps(), sweeps: bool) {
        let mut world = World::new(options(Family::V4));
        steps.into_iter().for_each(|step| drop(world.apply(step)));
        if sweeps {
            let swept = world.compiler.sweep();
            world.commit(&swept);
        }
        let common = |table: &FakeTable| {
            let sets = table.sets().values().filter(|set| set.set.name.as_str().starts_with("service-ips-"));
            sets.map(|set| set.elements.len()).collect::<Vec<_>>()
        };
        let has_to_make_room = common(world.table()).len() == 8 && common(world.table()).contains(&0);
        let (_, reconciliation) = restart(&mut world, options(Family::V4), true);
        prop_assert!(has_to_make_room || reconciliation.transaction.is_empty(), "{}", reconciliation.transaction);
    }

    /// Foreign edits, seen by the process that runs on.
    #[test]
    fn foreign_edits_are_undone(before in steps(), edits in prop::collection::vec(edit(), 1..6)) {
        let options = options(Family::V4);
        let mut world = World::new(options.clone());
        before.into_iter().for_each(|step| drop(world.apply(step)));
        // What guards against stale affinity is only known to the process that put it there, and to the table.
        let counts = |name: &Name| !name.as_str().starts_with("affinity-gone-");
        let held = world.table().sets().iter().filter(|(name, _)| counts(name));
        let intact = held.map(|(_, set)| set.elements.len()).sum::<usize>();
        let (family, table) = world.compiler.table();
        for edit in edits {
            let Some(held) = world.kernel.table(family, &table) else { break };
            let ops = edit.ops(held);
            // Some edits are refused, as the kernel would.
            drop(world.kernel.commit(&Transaction { ops, ..Transaction::new(family, table.clone()) }));
        }
        let is_deleted = world.kernel.table(family, &table).is_none();
        let (full, reconciliation) = restart(&mut world, options, true);
        prop_assert_eq!(reconciliation.replaces(), is_deleted);
        holds(&mut world, &full, &reconciliation.unwanted);
        // A frontend may have moved to a set of its number of endpoints.
        let found: Found = world.table().found(family);
        let found = found.sets.iter().filter(|(name, _)| counts(name));
        prop_assert_eq!(found.map(|(_, set)| set.elements.len()).sum::<usize>(), intact);
    }
}

#[test]
fn a_restart_with_one_change_writes_only_that() {
    let web = |ends: &[(&str, &str)]| [Update::Service(service("a", "172.30.0.1")), slice("a", 80, ends)];
    let mut world = World::new(options(Family::V4)).with(web(&[("10.0.1.1", ""), ("10.0.1.2", ""), ("10.0.1.3", "")]));
    // The second leaves and the third takes its number: a process that counts anew would number them otherwise.
    world.apply([slice("a", 80, &[("10.0.1.1", ""), ("10.0.1.3", "")])]);
    world.apply([slice("a", 80, &[("10.0.1.0", ""), ("10.0.1.1", ""), ("10.0.1.3", "")])]);
    let (_, unchanged) = restart(&mut world, options(Family::V4), true);
    assert!(unchanged.transaction.is_empty(), "{}", unchanged.transaction);

    world.state.apply(slice("a", 80, &[("10.0.1.0", ""), ("10.0.1.1", ""), ("10.0.1.4", "")]));
    let (full, changed) = restart(&mut world, options(Family::V4), true);
    assert_eq!(changed.transaction.len(), 2, "one endpoint in place of another: {}", changed.transaction);
    holds(&mut world, &full, &changed.unwanted);
}

/// Those that exist keep their places, in the order of their rules, and empty ones make room only if there is none.
#[test]
fn common_numbers_stay_common() {
    let ends =
        ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6", "10.0.1.7", "10.0.1.8", "10.0.1.9"];
    let of = |n: usize| slice("a", 80, &ends[..n].iter().map(|end| (*end, "")).collect::<Vec<_>>());
    let mut world = World::new(options(Family::V4)).with([Update::Service(service("a", "172.30.0.1"))]);
    for count in [3, 2, 5] {
        world.apply([of(count)]);
    }
    let (_, unchanged) = restart(&mut world, options(Family::V4), true);
    assert!(unchanged.transaction.is_empty(), "{}", unchanged.transaction);
    for count in [1, 4, 6, 7, 8] {
        world.apply([of(count)]);
    }
    let sets = |world: &World| {
        let names = world.table().sets().keys().filter_map(|name| name.as_str().strip_prefix("service-ips-"));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sets(&world), ["1", "2", "3", "4", "5", "6", "7", "8"]);
    world.state.apply(of(9));
    restart(&mut world, options(Family::V4), true);
    assert_eq!(sets(&world), ["8", "9"]);
}

//! What it takes to make the table that a kernel holds the one that is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::{Chain, Data, Describe, Element, Found, FoundChain, Name, Op, Rule, Set, SetKind, Transaction};

/// How a table is made the wanted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciliation {
    /// The changes, as few as there can be; none if the table is as wanted. See [`Reconciliation::replaces`].
    pub transaction: Transaction,
    /// Chains that nothing leads to any more once the transaction is committed, without rules. They are to be deleted later, in
    /// a transaction of their own: kernels before 6.2 see the last reference go only some time after the commit (contract
    /// §5.9).
    pub unwanted: Vec<Name>,
}

impl Reconciliation {
    /// Whether the table is replaced as a whole, with all that rules have put into it.
    pub fn replaces(&self) -> bool {
        self.transaction.ops.contains(&Op::DeleteTable)
    }
}

/// Compares the table that a kernel holds with the one that `full` makes from nothing.
///
/// What is different is changed in place: elements of sets ([`SetKind::Dynamic`] ones excepted, which belong to the rules that
/// fill them), rules of chains, and chains and sets that are missing or too many. The table is replaced, which is `full` as it
/// is, if there is none, or if what cannot be changed in place differs: where a base chain is hooked in, or that there is one
/// too many; how a set is declared; what is [`Found::beyond_repair`].
///
/// In order: elements that go, because a key can only be added again once it is gone; rules and sets that go; chains, sets and
/// rules that come; elements that come, which may lead to the new chains.
pub fn reconcile(full: Transaction, found: Option<&Found>, describe: &impl Describe) -> Reconciliation {
    let difference = found.and_then(|found| {
        let wanted = Wanted::of(&full);
        wanted.fits(found, &full, describe).then(|| wanted.difference(found, &full, describe))
    });
    difference.unwrap_or(Reconciliation { transaction: full, unwanted: Vec::new() })
}

/// The table that a transaction makes from nothing.
#[derive(Default)]
struct Wanted<'a> {
    chains: Vec<&'a Chain>,
    rules: HashMap<&'a Name, Vec<&'a Rule>>,
    sets: Vec<&'a Arc<Set>>,
    elements: HashMap<&'a Name, Vec<&'a Element>>,
}

impl<'a> Wanted<'a> {
    fn of(full: &'a Transaction) -> Self {
        let mut wanted = Self::default();
        for op in &full.ops {
            match op {
                Op::AddChain(chain) => wanted.chains.push(chain),
                Op::AddRule(rule) => wanted.rules.entry(&rule.chain).or_default().push(rule),
                Op::AddSet(set) => wanted.sets.push(set),
                Op::AddElements { set, elements } => wanted.elements.entry(&set.name).or_default().extend(elements),
                Op::AddTable(_) | Op::DeleteTable => {}
                Op::DeleteChain(_)
                | Op::DeleteRule { .. }
                | Op::FlushChain(_)
                | Op::DeleteSet(_)
                | Op::FlushSet(_)
                | Op::DeleteElements { .. }
                | Op::AddFlowtable { .. }
                | Op::DeleteDevices { .. }
                | Op::DeleteFlowtable(_)
                | Op::AddCounter(_)
                | Op::DeleteCounter(_) => {
                    debug_assert!(false, "a table made from nothing has nothing to delete");
                }
            }
        }
        wanted
    }

    /// Whether the difference can be made in place.
    fn fits(&self, found: &Found, full: &Transaction, describe: &impl Describe) -> bool {
        let mut sets = self.sets.iter().filter_map(|set| Some((set, found.sets.get(&set.name)?)));
        let mut chains = self.chains.iter().filter_map(|chain| Some((chain, found.chains.get(&chain.name)?)));
        let bases: BTreeSet<_> = self.chains.iter().filter(|chain| chain.hook.is_some()).map(|c| &c.name).collect();
        let mut found_bases = found.chains.iter().filter(|(_, chain)| !chain.declaration.is_empty());
        !found.beyond_repair
            && found_bases.all(|(name, _)| bases.contains(name))
            && chains.all(|(chain, found)| describe.chain(full.family, chain) == found.declaration)
            && sets.all(|(set, found)| found.unspeakable == 0 && describe.set(full.family, set) == found.declaration)
    }

    fn difference(&self, found: &Found, full: &Transaction, describe: &impl Describe) -> Reconciliation {
        let mut parts = Parts::default();
        let rule = |rule: &&Rule| describe.rule(full.family, rule);
        for chain in &self.chains {
            let rules = self.rules.get(&chain.name).map_or(&[][..], Vec::as_slice);
            let texts: Vec<_> = rules.iter().map(rule).collect();
            parts.chain(chain, rules, &texts, found.chains.get(&chain.name));
        }
        for set in &self.sets {
            let elements = self.elements.get(&set.name).map_or(&[][..], Vec::as_slice);
            parts.set(set, elements, found.sets.get(&set.name).map(|found| &found.elements));
        }
        let chains: BTreeSet<_> = self.chains.iter().map(|chain| &chain.name).collect();
        let sets: BTreeSet<_> = self.sets.iter().map(|set| &set.name).collect();
        let unwanted: BTreeMap<_, _> = found.chains.iter().filter(|(name, _)| !chains.contains(name)).collect();
        parts.flushes.extend(unwanted.iter().filter(|(_, chain)| !chain.rules.is_empty()).map(flush));
        parts.unwanted_sets.extend(found.sets.keys().filter(|name| !sets.contains(name)).cloned().map(Op::DeleteSet));
        Reconciliation {
            transaction: Transaction { ops: parts.in_order(), ..Transaction::new(full.family, full.table.clone()) },
            unwanted: unwanted.into_keys().cloned().collect(),
        }
    }
}

fn flush((name, _): (&&Name, &&FoundChain)) -> Op {
    Op::FlushChain((*name).clone())
}

/// A transaction by what has to come in which order.
#[derive(Default)]
struct Parts {
    deletes: Vec<Op>,
    flushes: Vec<Op>,
    unwanted_sets: Vec<Op>,
    chains: Vec<Op>,
    sets: Vec<Op>,
    rules: Vec<Op>,
    adds: Vec<Op>,
}

impl Parts {
    fn chain(&mut self, chain: &Chain, rules: &[&Rule], texts: &[String], found: Option<&FoundChain>) {
        let found = match found {
            Some(found) => found.rules.as_slice(),
            None => {
                self.chains.push(Op::AddChain(chain.clone()));
                &[]
            }
        };
        // Rules that come at the end leave the others alone.
        let kept = if texts.starts_with(found) { found.len() } else { 0 };
        if kept < found.len() {
            self.flushes.push(Op::FlushChain(chain.name.clone()));
        }
        self.rules.extend(rules[kept..].iter().map(|rule| Op::AddRule((*rule).clone())));
    }

    fn set(&mut self, set: &Arc<Set>, wanted: &[&Element], found: Option<&Vec<Element>>) {
        if found.is_none() {
            self.sets.push(Op::AddSet(Arc::clone(set)));
        }
        if matches!(set.kind, SetKind::Dynamic { .. }) {
            return;
        }
        let (deletes, adds) = difference(wanted, found.map_or(&[], Vec::as_slice));
        let set = || Arc::clone(set);
        if !deletes.is_empty() {
            self.deletes.push(Op::DeleteElements { set: set(), elements: deletes });
        }
        if !adds.is_empty() {
            self.adds.push(Op::AddElements { set: set(), elements: adds });
        }
    }

    fn in_order(self) -> Vec<Op> {
        let Self { deletes, flushes, unwanted_sets, chains, sets, rules, adds } = self;
        [deletes, flushes, unwanted_sets, chains, sets, rules, adds].concat()
    }
}

/// The elements that have to go, and those that have to come; each in order of keys. An element with other data or another comment is both.
fn difference(wanted: &[&Element], found: &[Element]) -> (Vec<Element>, Vec<Element>) {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable_by_key(|element| element.key);

    let (mut deletes, mut adds) = (Vec::new(), Vec::new());
    let mut found = found.iter().peekable();
    for element in wanted {
        while let Some(other) = found.next_if(|other| other.key < element.key) {
            deletes.push(named(other));
        }
        match found.next_if(|other| other.key == element.key) {
            Some(same) if same.data == element.data && same.comment == element.comment => {}
            Some(other) => {
                deletes.push(named(other));
                adds.push(element.clone());
            }
            None => adds.push(element.clone()),
        }
    }
    deletes.extend(found.map(named));
    (deletes, adds)
}

/// An element as it is named to delete it.
fn named(element: &Element) -> Element {
    Element { key: element.key, data: Data::None, comment: None }
}

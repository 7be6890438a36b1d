//! What it takes to make the table that a kernel holds the one that is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::{
    Chain, Data, Describe, Element, Family, Found, FoundChain, FoundSet, Name, Op, Rule, Set, SetKind, Transaction,
};

/// How a table is made the wanted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciliation {
    /// The changes, as few as there can be; none if the table is as wanted.
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

/// Compares the table that a kernel holds with the one that `full` makes from nothing, in one go; see [`Reconciler`], which the proxy
/// gives its table part by part. Where there is no table, or it has to be replaced, that takes `full` as it is.
pub fn reconcile(full: Transaction, found: Option<Arc<Found>>, describe: &impl Describe) -> Reconciliation {
    let difference = found.and_then(|found| {
        let mut reconciler = Reconciler::new(full.family, full.table.clone(), found);
        reconciler.take(&full);
        reconciler.finish(describe)
    });
    difference.unwrap_or(Reconciliation { transaction: full, unwanted: Vec::new() })
}

/// The comparison of a table that a kernel holds with one that transactions make from nothing, which are given one after the other, so
/// that all elements are never there twice.
///
/// What is different is changed in place: elements of sets ([`SetKind::Dynamic`] ones excepted, which belong to the rules that
/// fill them), rules of chains, and chains and sets that are missing or too many.
///
/// In order: elements that go, because a key can only be added again once it is gone; rules and sets that go; chains, sets and
/// rules that come; elements that come, which may lead to the new chains.
#[derive(Debug)]
pub struct Reconciler {
    family: Family,
    table: Name,
    found: Arc<Found>,
    wanted: Wanted,
}

/// The table that transactions make from nothing, without the elements that are there already.
#[derive(Debug, Default)]
struct Wanted {
    chains: Vec<Chain>,
    rules: HashMap<Name, Vec<Rule>>,
    sets: Vec<Arc<Set>>,
    elements: HashMap<Name, Difference>,
}

/// How the elements of a set differ.
#[derive(Debug, Default)]
struct Difference {
    /// Which of those that are there are wanted, whatever they map to; nothing is said of those beyond its end.
    wanted: Vec<bool>,
    /// Those that have to go because they map to something else.
    changed: Vec<Element>,
    /// Those that have to come.
    adds: Vec<Element>,
}

impl Reconciler {
    /// Begins the comparison of a table with what was found of it.
    pub fn new(family: Family, table: Name, found: Arc<Found>) -> Self {
        Self { family, table, found, wanted: Wanted::default() }
    }

    /// Takes in the next of the transactions that make the wanted table.
    pub fn take(&mut self, part: &Transaction) {
        let wanted = &mut self.wanted;
        for op in &part.ops {
            match op {
                Op::AddChain(chain) => wanted.chains.push(chain.clone()),
                Op::FlushChain(chain) => drop(wanted.rules.remove(chain)),
                Op::AddRule(rule) => wanted.rules.entry(rule.chain.clone()).or_default().push(rule.clone()),
                Op::AddSet(set) => wanted.sets.push(set.clone()),
                Op::AddElements { set, elements } => {
                    debug_assert!(wanted.sets.contains(set), "{} is nobody's", set.name);
                    if matches!(set.kind, SetKind::Static) {
                        let difference = wanted.elements.entry(set.name.clone()).or_default();
                        difference.take(elements, self.found.sets.get(&set.name));
                    }
                }
                Op::AddTable(_) | Op::DeleteTable => {}
                Op::DeleteChain(_)
                | Op::DeleteRule { .. }
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
    }

    /// What has to change. `None` if the table has to be replaced, because what cannot be changed in place differs: where a base chain is
    /// hooked in, or that there is one too many; how a set is declared; what is [`Found::beyond_repair`].
    pub fn finish(self, describe: &impl Describe) -> Option<Reconciliation> {
        self.fits(describe).then(|| self.difference(describe))
    }

    /// Whether the difference can be made in place.
    fn fits(&self, describe: &impl Describe) -> bool {
        let Self { found, wanted: Wanted { chains, sets, .. }, .. } = self;
        let mut both_sets = sets.iter().filter_map(|set| Some((set, found.sets.get(&set.name)?)));
        let mut both_chains = chains.iter().filter_map(|chain| Some((chain, found.chains.get(&chain.name)?)));
        let bases: BTreeSet<_> = chains.iter().filter(|chain| chain.hook.is_some()).map(|c| &c.name).collect();
        let mut found_bases = found.chains.iter().filter(|(_, chain)| !chain.declaration.is_empty());
        !found.beyond_repair
            && found_bases.all(|(name, _)| bases.contains(name))
            && both_chains.all(|(chain, found)| describe.chain(self.family, chain) == found.declaration)
            && both_sets
                .all(|(set, found)| found.unspeakable == 0 && describe.set(self.family, set) == found.declaration)
    }

    fn difference(self, describe: &impl Describe) -> Reconciliation {
        let Self { family, table, found, wanted: Wanted { chains, mut rules, sets, mut elements } } = self;
        let mut parts = Parts::default();
        for chain in &chains {
            let rules = rules.remove(&chain.name).unwrap_or_default();
            let texts: Vec<_> = rules.iter().map(|rule| describe.rule(family, rule)).collect();
            parts.chain(chain, rules, &texts, found.chains.get(&chain.name));
        }
        for set in &sets {
            parts.set(set, elements.remove(&set.name).unwrap_or_default(), found.sets.get(&set.name));
        }
        let chains: BTreeSet<_> = chains.iter().map(|chain| &chain.name).collect();
        let sets: BTreeSet<_> = sets.iter().map(|set| &set.name).collect();
        let unwanted: BTreeMap<_, _> = found.chains.iter().filter(|(name, _)| !chains.contains(name)).collect();
        parts.flushes.extend(unwanted.iter().filter(|(_, chain)| !chain.rules.is_empty()).map(flush));
        parts.unwanted_sets.extend(found.sets.keys().filter(|name| !sets.contains(name)).cloned().map(Op::DeleteSet));
        Reconciliation {
            transaction: Transaction { ops: parts.in_order(), ..Transaction::new(family, table) },
            unwanted: unwanted.into_keys().cloned().collect(),
        }
    }
}

impl Difference {
    /// Takes in elements that are wanted.
    fn take(&mut self, elements: &[Element], found: Option<&FoundSet>) {
        for element in elements {
            let held = found.and_then(|found| Some((found, found.elements.find(&element.key)?)));
            if let Some((found, index)) = held {
                self.wanted.resize(found.elements.len(), false);
                self.wanted[index] = true;
                let held = found.elements.at(index);
                if held == *element {
                    continue;
                }
                self.changed.push(named(&held));
            }
            self.adds.push(element.clone());
        }
    }

    /// The elements that have to go, and those that have to come. An element with other data or another comment is both.
    fn finish(self, found: Option<&FoundSet>) -> (Vec<Element>, Vec<Element>) {
        let Self { wanted, changed: mut deletes, adds } = self;
        let found = found.into_iter().flat_map(|found| found.elements.iter());
        let is_unwanted = |(index, _): &(usize, _)| !wanted.get(*index).copied().unwrap_or_default();
        deletes.extend(found.enumerate().filter(is_unwanted).map(|(_, element)| named(&element)));
        (deletes, adds)
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
    fn chain(&mut self, chain: &Chain, rules: Vec<Rule>, texts: &[String], found: Option<&FoundChain>) {
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
        self.rules.extend(rules.into_iter().skip(kept).map(Op::AddRule));
    }

    fn set(&mut self, set: &Arc<Set>, difference: Difference, found: Option<&FoundSet>) {
        if found.is_none() {
            self.sets.push(Op::AddSet(Arc::clone(set)));
        }
        if matches!(set.kind, SetKind::Dynamic { .. }) {
            return;
        }
        let (deletes, adds) = difference.finish(found);
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

/// An element as it is named to delete it.
fn named(element: &Element) -> Element {
    Element { key: element.key, data: Data::None, comment: None }
}

//! An in-memory kernel.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::discriminant;
use std::sync::Arc;

use crate::{
    Chain, CommitError, CommitReport, Data, DataType, Element, Family, Found, Interface, Kernel, Name, Op, ReadError,
    Rejection, Rule, Set, SetKind, Statement, Transaction, Verdict, Words,
};

/// Holds tables and commits transactions as the kernel does: all or nothing, with the kernel's error numbers for what is
/// missing, in use or there already (net/netfilter/nf_tables_api.c). A test commits the same transactions to both.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    tables: BTreeMap<(Family, Name), FakeTable>,
}

/// A table of a [`Fake`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeTable {
    chains: BTreeMap<Name, FakeChain>,
    sets: BTreeMap<Name, FakeSet>,
    flowtables: BTreeMap<Name, BTreeSet<Interface>>,
    counters: BTreeSet<Name>,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeChain {
    /// The chain.
    pub chain: Chain,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// A set and its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeSet {
    /// The set.
    pub set: Arc<Set>,
    /// Its elements by their keys.
    pub elements: BTreeMap<Words, Element>,
}

impl Fake {
    /// A kernel without tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// A table, if there is one of this name.
    pub fn table(&self, family: Family, name: &Name) -> Option<&FakeTable> {
        self.tables.get(&(family, name.clone()))
    }
}

impl Kernel for Fake {
    fn commit(&mut self, transaction: &Transaction) -> Result<CommitReport, CommitError> {
        let id = (transaction.family, transaction.table.clone());
        let mut table = self.tables.get(&id).cloned();
        let mut rejections = Vec::new();
        for (index, op) in transaction.ops.iter().enumerate() {
            if let Err((element, error)) = FakeTable::apply(&mut table, op) {
                rejections.push(Rejection::new(transaction, index, element, error.into()));
            }
        }
        if !rejections.is_empty() {
            return Err(CommitError::Rejected { rejections });
        }
        match table {
            Some(table) => self.tables.insert(id, table),
            None => self.tables.remove(&id),
        };
        Ok(CommitReport::default())
    }

    fn read(&mut self, family: Family, table: &Name) -> Result<Option<Found>, ReadError> {
        Ok(self.table(family, table).map(|table| table.found(family)))
    }

    fn elements(&mut self, family: Family, table: &Name, set: &Name) -> Result<Vec<Element>, ReadError> {
        let set = self.table(family, table).and_then(|table| table.sets.get(set));
        Ok(set.map(|set| set.elements.values().cloned().collect()).unwrap_or_default())
    }
}

/// The kernel's answer, and the index of the element it is about.
type Refusal = (Option<usize>, Errno);

/// The errors of the kernel that matter here.
#[derive(Clone, Copy, Debug)]
enum Errno {
    NoEntry = 2,
    Busy = 16,
    Exists = 17,
    Invalid = 22,
    Full = 23,
    Unsupported = 95,
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno as i32)
    }
}

impl FakeTable {
    /// Its chains.
    pub const fn chains(&self) -> &BTreeMap<Name, FakeChain> {
        &self.chains
    }

    /// Its sets and maps.
    pub const fn sets(&self) -> &BTreeMap<Name, FakeSet> {
        &self.sets
    }

    /// Its flowtables and their devices.
    pub const fn flowtables(&self) -> &BTreeMap<Name, BTreeSet<Interface>> {
        &self.flowtables
    }

    /// Its counters.
    pub const fn counters(&self) -> &BTreeSet<Name> {
        &self.counters
    }

    fn apply(slot: &mut Option<Self>, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::AddTable(_) => {
                slot.get_or_insert_default();
                return Ok(());
            }
            Op::DeleteTable => return slot.take().map(|_| ()).ok_or((None, Errno::NoEntry)),
            _ => {}
        }
        let table = slot.as_mut().ok_or((None, Errno::NoEntry))?;
        match op {
            Op::AddTable(_) | Op::DeleteTable => Ok(()),
            Op::AddChain(chain) => table.add_chain(chain).map_err(whole),
            Op::DeleteChain(name) => table.delete_chain(name).map_err(whole),
            Op::FlushChain(name) => table.chain(name).map(|chain| chain.rules.clear()).map_err(whole),
            Op::AddRule(rule) => table.add_rule(rule).map_err(whole),
            // Rules have no numbers here.
            Op::DeleteRule { .. } => Err(whole(Errno::NoEntry)),
            Op::AddSet(set) => table.add_set(set).map_err(whole),
            Op::DeleteSet(name) => table.delete_set(name).map_err(whole),
            Op::FlushSet(set) => table.set(set).map(|set| set.elements.clear()).map_err(whole),
            Op::AddElements { set, elements } => each(elements, |element| table.add_element(set, element)),
            Op::DeleteElements { set, elements } => each(elements, |element| {
                table.set(set)?.elements.remove(&element.key).map(|_| ()).ok_or(Errno::NoEntry)
            }),
            Op::AddFlowtable { flowtable, devices } => {
                table.flowtables.entry(flowtable.name.clone()).or_default().extend(devices.iter().cloned());
                Ok(())
            }
            Op::DeleteDevices { flowtable, devices } => table.delete_devices(&flowtable.name, devices).map_err(whole),
            Op::DeleteFlowtable(name) if table.uses(name) => Err(whole(Errno::Busy)),
            Op::DeleteFlowtable(name) => table.flowtables.remove(name).map(|_| ()).ok_or(whole(Errno::NoEntry)),
            Op::AddCounter(name) => {
                table.counters.insert(name.clone());
                Ok(())
            }
            Op::DeleteCounter(name) if table.uses(name) => Err(whole(Errno::Busy)),
            Op::DeleteCounter(name) if table.counters.remove(name) => Ok(()),
            Op::DeleteCounter(_) => Err(whole(Errno::NoEntry)),
        }
    }

    fn add_chain(&mut self, chain: &Chain) -> Result<(), Errno> {
        let known = self.chains.entry(chain.name.clone());
        let known = known.or_insert_with(|| FakeChain { chain: chain.clone(), rules: Vec::new() });
        if known.chain.hook == chain.hook { Ok(()) } else { Err(Errno::Exists) }
    }

    fn delete_chain(&mut self, name: &Name) -> Result<(), Errno> {
        if !self.chains.contains_key(name) {
            return Err(Errno::NoEntry);
        }
        if self.refers_to(name) {
            return Err(Errno::Busy);
        }
        self.chains.remove(name);
        Ok(())
    }

    fn refers_to(&self, name: &Name) -> bool {
        let is_target = |verdict: &Verdict| target(verdict) == Some(name);
        let rules = self.chains.values().flat_map(|chain| &chain.rules);
        let mut statements = rules.flat_map(|rule| &rule.statements);
        let mut elements = self.sets.values().flat_map(|set| set.elements.values());
        statements.any(|s| matches!(s, Statement::Verdict(verdict) if is_target(verdict)))
            || elements.any(|e| matches!(&e.data, Data::Verdict(verdict) if is_target(verdict)))
    }

    /// Whether a rule offloads to, or counts with, the object of this name.
    fn uses(&self, name: &Name) -> bool {
        let rules = self.chains.values().flat_map(|chain| &chain.rules);
        let mut statements = rules.flat_map(|rule| &rule.statements);
        statements.any(|s| matches!(s, Statement::Offload(used) | Statement::Count(used) if used == name))
    }

    fn delete_devices(&mut self, flowtable: &Name, devices: &[Interface]) -> Result<(), Errno> {
        let known = self.flowtables.get_mut(flowtable).ok_or(Errno::NoEntry)?;
        if devices.iter().all(|device| known.remove(device)) { Ok(()) } else { Err(Errno::NoEntry) }
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<(), Errno> {
        for statement in &rule.statements {
            if let Some(set) = statement.set() {
                self.set(set)?;
            }
            match statement {
                Statement::Update { map, .. } => self.check_dynamic(map)?,
                Statement::Offload(name) if !self.flowtables.contains_key(name) => return Err(Errno::NoEntry),
                Statement::Count(name) if !self.counters.contains(name) => return Err(Errno::NoEntry),
                Statement::Verdict(verdict) => self.check_target(verdict)?,
                _ => {}
            }
        }
        self.chain(&rule.chain)?.rules.push(rule.clone());
        Ok(())
    }

    fn add_set(&mut self, set: &Arc<Set>) -> Result<(), Errno> {
        let known = self.sets.entry(set.name.clone());
        let known = known.or_insert_with(|| FakeSet { set: Arc::clone(set), elements: BTreeMap::new() });
        let same_kind = discriminant(&known.set.kind) == discriminant(&set.kind);
        if !same_kind || known.set.key != set.key || known.set.data != set.data {
            return Err(Errno::Exists);
        }
        // A new size is taken over.
        if known.set.kind != set.kind {
            known.set = Arc::new(Set { kind: set.kind, ..Set::clone(&known.set) });
        }
        Ok(())
    }

    fn delete_set(&mut self, name: &Name) -> Result<(), Errno> {
        let rules = self.chains.values().flat_map(|chain| &chain.rules);
        let mut statements = rules.flat_map(|rule| &rule.statements);
        if statements.any(|statement| statement.set().is_some_and(|set| set.name == *name)) {
            return Err(Errno::Busy);
        }
        self.sets.remove(name).map(|_| ()).ok_or(Errno::NoEntry)
    }

    fn add_element(&mut self, set: &Set, element: &Element) -> Result<(), Errno> {
        if let Data::Verdict(verdict) = &element.data {
            self.check_target(verdict)?;
        }
        self.set(set)?.add(element)
    }

    fn check_dynamic(&mut self, map: &Set) -> Result<(), Errno> {
        match self.set(map)?.set.kind {
            SetKind::Dynamic { .. } => Ok(()),
            SetKind::Static => Err(Errno::Unsupported),
        }
    }

    fn check_target(&self, verdict: &Verdict) -> Result<(), Errno> {
        match target(verdict) {
            Some(chain) if !self.chains.contains_key(chain) => Err(Errno::NoEntry),
            _ => Ok(()),
        }
    }

    fn chain(&mut self, name: &Name) -> Result<&mut FakeChain, Errno> {
        self.chains.get_mut(name).ok_or(Errno::NoEntry)
    }

    fn set(&mut self, set: &Set) -> Result<&mut FakeSet, Errno> {
        self.sets.get_mut(&set.name).ok_or(Errno::NoEntry)
    }
}

impl FakeSet {
    /// The element with this key.
    pub fn get(&self, key: &Words) -> Option<&Element> {
        self.elements.get(key)
    }

    fn add(&mut self, element: &Element) -> Result<(), Errno> {
        let fits = matches!(
            (&self.set.data, &element.data),
            (None, Data::None)
                | (Some(DataType::Verdict), Data::Verdict(_))
                | (Some(DataType::Value(_)), Data::Value(_))
        );
        if !fits {
            return Err(Errno::Invalid);
        }
        match self.elements.get(&element.key) {
            Some(known) if known.data == element.data => Ok(()),
            Some(_) => Err(Errno::Exists),
            None if self.is_full() => Err(Errno::Full),
            None => {
                self.elements.insert(element.key, element.clone());
                Ok(())
            }
        }
    }

    fn is_full(&self) -> bool {
        matches!(self.set.kind, SetKind::Dynamic { size } if self.elements.len() >= size.get() as usize)
    }
}

impl Statement {
    /// The set that it looks a key up in, or adds one to.
    const fn set(&self) -> Option<&Arc<Set>> {
        match self {
            Self::InSet { set, .. }
            | Self::Update { map: set, .. }
            | Self::VerdictMap { map: set, .. }
            | Self::Dnat { map: set, .. } => Some(set),
            _ => None,
        }
    }
}

const fn target(verdict: &Verdict) -> Option<&Name> {
    match verdict {
        Verdict::Goto(chain) | Verdict::Jump(chain) => Some(chain),
        Verdict::Accept | Verdict::Drop => None,
    }
}

const fn whole(errno: Errno) -> Refusal {
    (None, errno)
}

fn each(elements: &[Element], mut apply: impl FnMut(&Element) -> Result<(), Errno>) -> Result<(), Refusal> {
    for (index, element) in elements.iter().enumerate() {
        apply(element).map_err(|errno| (Some(index), errno))?;
    }
    Ok(())
}

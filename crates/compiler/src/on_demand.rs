//! Sets, each with a rule of its own in a common chain, that exist while something needs them.

use std::collections::{BTreeMap, BTreeSet};

/// Which of them there are, by what tells one from the other. The chain has their rules in order, and is written anew when one
/// comes or goes.
#[derive(Debug)]
pub(crate) struct OnDemand<K> {
    /// How many elements each has or is to have.
    users: BTreeMap<K, u32>,
    /// Those in the table, and whether the last sweep has seen that nothing needs it.
    existing: BTreeMap<K, bool>,
}

/// How the chain is to be changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rewrite<K> {
    /// Sets that come.
    pub(crate) new: BTreeSet<K>,
    /// Sets that go, once the chain is without their rules.
    pub(crate) old: BTreeSet<K>,
    /// Those whose rules the chain has then.
    pub(crate) all: BTreeSet<K>,
}

impl<K> Default for OnDemand<K> {
    fn default() -> Self {
        Self { users: BTreeMap::new(), existing: BTreeMap::new() }
    }
}

impl<K: Copy + Ord> OnDemand<K> {
    /// Nothing is known to be needed, but these are to stay until a sweep finds that they are not.
    pub(crate) fn adopting(existing: &BTreeSet<K>) -> Self {
        Self { users: BTreeMap::new(), existing: existing.iter().map(|key| (*key, false)).collect() }
    }

    /// One more element.
    pub(crate) fn acquire(&mut self, key: K) {
        *self.users.entry(key).or_default() += 1;
        self.existing.entry(key).and_modify(|idle| *idle = false);
    }

    /// One element less.
    pub(crate) fn release(&mut self, key: K) {
        if let Some(users) = self.users.get_mut(&key) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&key);
            }
        }
    }

    /// Everything that is there or needed, for a table that is made from nothing.
    pub(crate) fn create(&mut self) -> BTreeSet<K> {
        self.grow();
        self.existing.keys().copied().collect()
    }

    /// What has to change for elements that are about to come, if anything.
    pub(crate) fn grow(&mut self) -> Option<Rewrite<K>> {
        let new: BTreeSet<_> = self.users.keys().filter(|key| !self.existing.contains_key(key)).copied().collect();
        self.existing.extend(new.iter().map(|key| (*key, false)));
        self.rewrite(new, BTreeSet::new())
    }

    /// What nothing has needed since the last sweep goes.
    pub(crate) fn sweep(&mut self) -> Option<Rewrite<K>> {
        let Self { users, existing } = self;
        let was_idle = |key: &K, idle: &mut bool| std::mem::replace(idle, !users.contains_key(key)) && *idle;
        let old = existing.extract_if(.., was_idle).map(|(key, _)| key).collect();
        self.rewrite(BTreeSet::new(), old)
    }

    /// Whether a sweep would have something to do, now or the next time.
    pub(crate) fn is_unswept(&self) -> bool {
        self.existing.len() > self.users.len()
    }

    fn rewrite(&self, new: BTreeSet<K>, old: BTreeSet<K>) -> Option<Rewrite<K>> {
        let all = || self.existing.keys().copied().collect();
        (!new.is_empty() || !old.is_empty()).then(|| Rewrite { all: all(), new, old })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_and_what_two_sweeps_find_unneeded_goes() {
        let mut sets = OnDemand::adopting(&[5].into());
        sets.acquire(3);
        sets.acquire(3);
        assert_eq!(sets.grow(), Some(Rewrite { new: [3].into(), old: [].into(), all: [3, 5].into() }));
        assert_eq!((sets.grow(), sets.sweep()), (None, None));
        sets.acquire(5);
        sets.release(3);
        assert_eq!((sets.sweep(), sets.is_unswept()), (None, false));
        sets.release(3);
        sets.release(5);
        assert_eq!(sets.sweep(), None);
        sets.acquire(5);
        assert_eq!(sets.sweep(), Some(Rewrite { new: [].into(), old: [3].into(), all: [5].into() }));
        assert_eq!(sets.create(), [5].into());
    }
}

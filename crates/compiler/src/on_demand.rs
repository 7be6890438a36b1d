//! Sets, each with a rule of its own, that are created when they are first needed.

use std::collections::BTreeSet;

/// Which of them there are, by what tells one from the other. They stay until the table is written anew.
#[derive(Debug)]
pub(crate) struct OnDemand<K> {
    known: BTreeSet<K>,
    uncreated: BTreeSet<K>,
}

impl<K> Default for OnDemand<K> {
    fn default() -> Self {
        Self { known: BTreeSet::new(), uncreated: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> OnDemand<K> {
    /// This one is needed.
    pub(crate) fn need(&mut self, key: K) {
        if self.known.insert(key) {
            self.uncreated.insert(key);
        }
    }

    /// Whether none was ever needed.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether those needed since the last [`OnDemand::take_uncreated`] are the first.
    pub(crate) fn are_first(&self) -> bool {
        !self.uncreated.is_empty() && self.uncreated.len() == self.known.len()
    }

    /// Those that are to be created, in order.
    pub(crate) fn take_uncreated(&mut self) -> BTreeSet<K> {
        std::mem::take(&mut self.uncreated)
    }
}

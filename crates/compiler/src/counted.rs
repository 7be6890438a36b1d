//! Elements that several owners need.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Counts the owners of each key, and tells at the end of a change which keys came and went.
#[derive(Debug)]
pub(crate) struct Counted<K> {
    owners: HashMap<K, u32>,
    /// For each key touched since the last [`Counted::settle`], whether it was there before.
    touched: BTreeMap<K, bool>,
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self { owners: HashMap::new(), touched: BTreeMap::new() }
    }
}

impl<K: Copy + Hash + Ord> Counted<K> {
    /// One more owner.
    pub(crate) fn acquire(&mut self, key: K) {
        let owners = self.owners.entry(key).or_insert(0);
        self.touched.entry(key).or_insert(*owners > 0);
        *owners += 1;
    }

    /// One owner less. A key that nobody owns is left alone.
    pub(crate) fn release(&mut self, key: K) {
        let Some(owners) = self.owners.get_mut(&key) else {
            return;
        };
        self.touched.entry(key).or_insert(true);
        *owners -= 1;
        if *owners == 0 {
            self.owners.remove(&key);
        }
    }

    /// The keys that came and those that went, each in order.
    pub(crate) fn settle(&mut self) -> (Vec<K>, Vec<K>) {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        for (key, was_there) in std::mem::take(&mut self.touched) {
            match (was_there, self.owners.contains_key(&key)) {
                (false, true) => came.push(key),
                (true, false) => went.push(key),
                _ => {}
            }
        }
        (came, went)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_net_change_counts() {
        let mut counted = Counted::default();
        for key in [1, 2, 2, 3] {
            counted.acquire(key);
        }
        counted.release(3);
        assert_eq!(counted.settle(), (vec![1, 2], vec![]));
        counted.release(2);
        counted.release(1);
        counted.acquire(1);
        assert_eq!(counted.settle(), (vec![], vec![]));
        counted.release(2);
        counted.release(7);
        assert_eq!(counted.settle(), (vec![], vec![2]));
    }
}

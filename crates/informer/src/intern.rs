//! One copy of each string that many objects share.

use std::collections::HashSet;
use std::sync::Arc;

/// Shares equal strings: namespaces, port names and Service names recur in every slice.
#[derive(Debug, Default)]
pub(crate) struct Pool(HashSet<Arc<str>>);

/// How many strings the pool holds before it starts over: namespaces and names of objects long gone are not kept for ever.
const CAPACITY: usize = 1 << 16;

impl Pool {
    /// The shared copy of `string`.
    pub(crate) fn intern(&mut self, string: &str) -> Arc<str> {
        if let Some(known) = self.0.get(string) {
            return known.clone();
        }
        if self.0.len() >= CAPACITY {
            self.0.clear();
        }
        let new: Arc<str> = string.into();
        self.0.insert(new.clone());
        new
    }
}

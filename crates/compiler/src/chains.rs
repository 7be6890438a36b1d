//! Which load-balancing chains exist and how many elements lead to each.

use std::collections::{BTreeMap, BTreeSet};

use ruleset::{Name, Op, Verdict};

use crate::Options;
use crate::layout::Layout;
use crate::lb::{LbChain, Target};

/// The load-balancing chains of the table. A chain is created when it is first needed; one that is needed no more stays,
/// because the next Service may need it, until it is swept.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    known: BTreeMap<LbChain, Known>,
    created: BTreeSet<LbChain>,
}

#[derive(Debug)]
struct Known {
    name: Name,
    users: u32,
}

impl Chains {
    /// The verdict that leads to `target`, which one more element holds from now on.
    pub(crate) fn acquire(&mut self, target: Target) -> Verdict {
        match target {
            Target::Lb(chain) => Verdict::Goto(self.acquire_chain(chain)),
            other => other.verdict(),
        }
    }

    /// One element less leads to `target`.
    pub(crate) fn release(&mut self, target: Target) {
        if let Target::Lb(chain) = target
            && let Some(known) = self.known.get_mut(&chain)
        {
            known.users -= 1;
        }
    }

    /// The operations that create what was acquired for the first time since the last call.
    pub(crate) fn take_created(&mut self, layout: &Layout, options: &Options) -> Vec<Op> {
        let created = std::mem::take(&mut self.created);
        created.into_iter().flat_map(|chain| layout.create_lb(chain, options)).collect()
    }

    /// The operations that delete the chains nothing leads to.
    pub(crate) fn sweep(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        // Chains that hand over to another come last in order; once they are gone, the other may be unused as well.
        let chains: Vec<_> = self.known.keys().rev().copied().collect();
        for chain in chains {
            if self.known.get(&chain).is_some_and(|known| known.users == 0) {
                self.known.remove(&chain);
                chain.hands_over_to().into_iter().for_each(|next| self.release(Target::Lb(next)));
                ops.push(Op::DeleteChain(chain.name()));
            }
        }
        ops
    }

    fn acquire_chain(&mut self, chain: LbChain) -> Name {
        if !self.known.contains_key(&chain) {
            if let Some(next) = chain.hands_over_to() {
                self.acquire_chain(next);
            }
            self.created.insert(chain);
        }
        let known = self.known.entry(chain).or_insert_with(|| Known { name: chain.name(), users: 0 });
        known.users += 1;
        known.name.clone()
    }
}

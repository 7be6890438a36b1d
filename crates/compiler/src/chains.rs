//! Which load-balancing chains exist and how many elements lead to each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use ruleset::{Name, Op, Verdict};

use crate::Options;
use crate::adopt::Adopted;
use crate::layout::Layout;
use crate::lb::{LbChain, Target};

/// How many chains have a set of frontends of their own. A new connection to a ClusterIP asks one set after the other before
/// it comes to the verdict map, so they must be few; more than a few numbers of endpoints are seldom common.
pub(crate) const MAX_COMMON: usize = 8;

/// The load-balancing chains of the table. A chain is created when it is first needed; one that is needed no more stays,
/// because the next Service may need it, until it is swept.
#[derive(Debug)]
pub(crate) struct Chains {
    known: BTreeMap<LbChain, Known>,
    created: BTreeSet<LbChain>,
    /// Those whose ClusterIP frontends are in a set of their own, in the order in which packets meet them. A chain is chosen
    /// before it has any frontends and for good, so that none has ever to be moved.
    common: Vec<LbChain>,
    /// Those of them whose set does not exist yet.
    uncreated: Vec<LbChain>,
}

#[derive(Debug)]
struct Known {
    name: Name,
    /// How many elements and chains lead to it.
    users: u32,
    /// Whether an element ever has.
    entered: bool,
    /// Whether the last sweep has seen that nothing leads to it, and nothing has since.
    idle: bool,
}

impl Chains {
    /// Those that [`Layout::create`] creates.
    pub(crate) fn new() -> Self {
        let known = Layout::FIXED
            .map(|chain| (chain, Known { name: chain.name(), users: 1, entered: false, idle: false }))
            .into();
        Self { known, created: BTreeSet::new(), common: Vec::new(), uncreated: Vec::new() }
    }

    /// Those too that exist already and their sets, to be created as they are. The chains are unused until they are acquired.
    pub(crate) fn adopting(adopted: &Adopted) -> Self {
        let mut chains = Self::new();
        let common = adopted.common.iter().map(|chain| (*chain, false));
        for (chain, entered) in adopted.chains.iter().copied().chain(common) {
            let known = chains.acquire_chain(chain);
            known.users -= 1;
            known.entered |= entered;
        }
        Self { common: adopted.common.clone(), uncreated: adopted.common.clone(), ..chains }
    }

    /// Chooses the most frequent of `wanted`, the chains that the frontends of ClusterIPs are about to need, to have a set of
    /// their own, while there is room.
    pub(crate) fn choose_common(&mut self, wanted: impl Iterator<Item = LbChain>) {
        if self.common.len() == MAX_COMMON {
            return;
        }
        let is_new = |chain: &LbChain| self.known.get(chain).is_none_or(|known| !known.entered);
        let mut frequencies: BTreeMap<LbChain, usize> = BTreeMap::new();
        wanted
            .filter(|chain| is_new(chain) && !self.is_common(*chain))
            .for_each(|chain| *frequencies.entry(chain).or_default() += 1);
        let mut chains: Vec<_> = frequencies.into_iter().collect();
        chains.sort_by_key(|(chain, frequency)| (Reverse(*frequency), *chain));
        for (chain, _) in chains.into_iter().take(MAX_COMMON - self.common.len()) {
            self.common.push(chain);
            self.uncreated.push(chain);
        }
    }

    /// Whether the ClusterIP frontends that lead to this chain have a set of their own.
    pub(crate) fn is_common(&self, chain: LbChain) -> bool {
        self.common.contains(&chain)
    }

    /// The verdict that leads to `target`, which one more element holds from now on.
    pub(crate) fn acquire(&mut self, target: Target) -> Verdict {
        match target {
            Target::Lb(chain) => {
                let known = self.acquire_chain(chain);
                known.entered = true;
                Verdict::Goto(known.name.clone())
            }
            other => other.verdict(),
        }
    }

    /// An element is about to lead to `target`, so that its chain is created; of one with affinity, the one that it goes on to, as that
    /// is what has the endpoints.
    pub(crate) fn expect(&mut self, target: Target) {
        let Target::Lb(chain) = target else { return };
        if let Some(plain) = iter::successors(Some(chain), |chain| chain.goes_on_to()).find(|chain| !chain.affinity) {
            self.acquire_chain(plain).users -= 1;
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
        let lb = created.iter().flat_map(|chain| layout.create_lb(*chain, options));
        let common = self.uncreated.extract_if(.., |chain| self.known.contains_key(chain));
        lb.chain(common.flat_map(|chain| layout.create_common(chain))).collect()
    }

    /// Whether a sweep would have something to do, now or the next time.
    pub(crate) fn is_unswept(&self) -> bool {
        self.known.iter().any(|(chain, known)| known.users == 0 && !self.is_common(*chain))
    }

    /// The operations that delete the chains nothing has led to since the last call. Those with a set of their own are few, and
    /// stay.
    pub(crate) fn sweep(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        // Chains that go on to another come after it in order; once they are gone, the other may be unused as well.
        let chains: Vec<_> = self.known.keys().rev().copied().collect();
        for chain in chains {
            let is_unused = !self.is_common(chain) && self.known.get(&chain).is_some_and(|known| known.users == 0);
            let was_idle =
                self.known.get_mut(&chain).is_some_and(|known| std::mem::replace(&mut known.idle, is_unused));
            if is_unused && was_idle {
                self.known.remove(&chain);
                chain.goes_on_to().into_iter().for_each(|next| self.release(Target::Lb(next)));
                ops.push(Op::DeleteChain(chain.name()));
            }
        }
        ops
    }

    fn acquire_chain(&mut self, chain: LbChain) -> &mut Known {
        if !self.known.contains_key(&chain) {
            if let Some(next) = chain.goes_on_to() {
                self.acquire_chain(next);
            }
            self.created.insert(chain);
        }
        let new = || Known { name: chain.name(), users: 0, entered: false, idle: false };
        let known = self.known.entry(chain).or_insert_with(new);
        known.users += 1;
        known.idle = false;
        known
    }
}

//! What it holds, and how it says that.

use super::{Fake, FakeChain, FakeSet, FakeTable};
use crate::{Chain, Describe, Family, Found, FoundChain, FoundSet, Rule, Set, SetKind};

impl Describe for Fake {
    fn chain(&self, _: Family, chain: &Chain) -> String {
        declaration(chain)
    }

    fn rule(&self, family: Family, rule: &Rule) -> String {
        rule.display(family).to_string()
    }

    fn set(&self, _: Family, set: &Set) -> String {
        shape(set)
    }
}

impl FakeTable {
    /// The table as it is read.
    pub fn found(&self, family: Family) -> Found {
        let chain = |FakeChain { chain, rules }: &FakeChain| FoundChain {
            declaration: declaration(chain),
            rules: rules.iter().map(|rule| rule.display(family).to_string()).collect(),
        };
        let set = |FakeSet { set, elements }: &FakeSet| FoundSet {
            declaration: shape(set),
            elements: elements.values().filter(|_| set.kind == SetKind::Static).cloned().collect(),
            unspeakable: 0,
        };
        Found {
            chains: self.chains.iter().map(|(name, value)| (name.clone(), chain(value))).collect(),
            sets: self.sets.iter().map(|(name, value)| (name.clone(), set(value))).collect(),
            beyond_repair: false,
        }
    }
}

fn declaration(chain: &Chain) -> String {
    chain.hook.map(|hook| format!("{hook:?}")).unwrap_or_default()
}

fn shape(Set { name: _, key, data, kind, comment }: &Set) -> String {
    format!("{key:?} {data:?} {kind:?} {comment:?}")
}

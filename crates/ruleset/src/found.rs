//! What a kernel holds.

use std::collections::BTreeMap;

use crate::{Chain, Elements, Family, Name, Rule, Set};

/// What a kernel holds of a table at one moment.
///
/// Declarations and rules are texts, to be compared with those that [`Describe`] makes of our own values for the same
/// kernel; nothing else can be done with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its chains.
    pub chains: BTreeMap<Name, FoundChain>,
    /// Its sets and maps, but for those without a name that come and go with a rule.
    pub sets: BTreeMap<Name, FoundSet>,
    /// Whether something is wrong with the table that no change of its objects can mend: it is switched off (`flags dormant`),
    /// or has chains or sets with names that are no [`Name`].
    pub beyond_repair: bool,
}

/// A chain that a kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundChain {
    /// How it was declared, as by [`Describe::chain`].
    pub declaration: String,
    /// Its rules in order, as by [`Describe::rule`].
    pub rules: Vec<String>,
}

/// A set that a kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundSet {
    /// How it was declared, as by [`Describe::set`].
    pub declaration: String,
    /// Its elements; none of a [`crate::SetKind::Dynamic`] set, whose elements are its rules' business.
    /// Data that no transaction of ours would write, such as the verdict `return`, is
    /// [`crate::Data::None`].
    pub elements: Elements,
    /// How many more it has whose keys are no [`crate::Words`], so that no transaction of ours could delete them: those that
    /// match everything (`*`), for instance.
    pub unspeakable: usize,
}

/// Puts what we would have a kernel hold into the same words as what it holds.
pub trait Describe {
    /// How a chain is declared; empty if it is none that packets enter. Without name and comment.
    fn chain(&self, family: Family, chain: &Chain) -> String;

    /// What a rule does, with its comment.
    fn rule(&self, family: Family, rule: &Rule) -> String;

    /// How a set is declared: types, sizes, flags, comment. Without its name.
    fn set(&self, family: Family, set: &Set) -> String;
}

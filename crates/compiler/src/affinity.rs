//! Session affinity: which frontends have it, and what the kernel remembers of clients that must be forgotten.
//!
//! The kernel itself notes where it sent a client, in one map for the whole table ([`SetId::Choices`]), and sends it there again
//! while the note lasts. Notes about an endpoint that left are deleted right after the commit that took it away; until then,
//! and for packets that were on their way at that moment, the pair of frontend and endpoint stands in [`SetId::Gone`], whose
//! connections are dropped: a client sends again a second later and is sent elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;

use model::Family;
use ruleset::{Data, Element, Op};

use crate::Frontend;
use crate::edit::Edit;
use crate::frontend::{Scope, parse_address, parse_socket};
use crate::layout::Layout;
use crate::on_demand::{OnDemand, Rewrite};
use crate::port::View;
use crate::sets::SetId;

/// What is known of affinity beyond what Services want.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    /// Whether anything of affinity is in the table, which it is from the first Service with affinity on.
    exists: bool,
    /// The timeouts in use, each with a set of frontends of its own.
    timeouts: OnDemand<(Scope, NonZeroU32)>,
    /// Frontends with affinity, and endpoints that a port of a Service has taken from them in the change at hand.
    left: BTreeSet<(Frontend, SocketAddr)>,
    /// Frontends and endpoints that do not belong together any more, and whether the last sweep has seen them.
    gone: BTreeMap<(Frontend, SocketAddr), bool>,
    /// Frontends of whose clients nothing may be remembered that is older than the next forgetting.
    outdated: BTreeSet<Frontend>,
    /// Whether there may be notes that are not true any more.
    is_stale: bool,
}

impl Affinity {
    /// Prepares for everything to be compiled anew, where some of it was found in the table. The kernel's notes may be older than
    /// anything that is known.
    pub(crate) fn start_over(&mut self, found: FoundAffinity) {
        let FoundAffinity { exists, timeouts, gone } = found;
        let left = std::mem::take(&mut self.gone).into_keys().chain(gone).collect();
        // Where there are no notes, none is outdated.
        let outdated = if exists { std::mem::take(&mut self.outdated) } else { BTreeSet::new() };
        let timeouts = OnDemand::adopting(&timeouts);
        *self = Self { exists, timeouts, left, outdated, is_stale: true, ..Self::default() };
    }

    /// Follows the change of one frontend.
    pub(crate) fn replace(&mut self, frontend: Frontend, old: &View<'_>, new: &View<'_>, edit: &mut Edit) {
        let (before, after) = (old.affinity(), new.affinity());
        let scope = frontend.scope();
        if before != after {
            if let Some(timeout) = before {
                self.timeouts.release((scope, timeout));
                edit.delete(SetId::Affinity(scope, timeout), frontend.key());
            }
            if let Some(timeout) = after {
                self.timeouts.acquire((scope, timeout));
                edit.add(SetId::Affinity(scope, timeout), only(frontend.key()));
            }
        }
        let endpoints = |view: &View<'_>| view.cluster.iter().chain(view.local).copied().collect::<HashSet<_>>();
        if before.is_some() || self.outdated.contains(&frontend) {
            let stay = endpoints(new);
            let left = endpoints(old).into_iter().filter(|endpoint| !stay.contains(endpoint));
            self.left.extend(left.map(|endpoint| (frontend, endpoint)));
        }
        if before.is_some() && !new.honours_choices_of(old) {
            self.outdated.insert(frontend);
            self.is_stale = true;
        }
    }

    /// The change at hand is complete: `serves` tells whether an endpoint serves a frontend now, whoever has it. What one port gave
    /// up, another may have taken.
    pub(crate) fn settle(&mut self, serves: impl Fn(Frontend, SocketAddr) -> bool, edit: &mut Edit) {
        for (frontend, endpoint) in
            self.gone.extract_if(.., |(frontend, endpoint), _| serves(*frontend, *endpoint)).map(|(pair, _)| pair)
        {
            edit.delete(SetId::Gone(frontend.scope()), frontend.pair_key(endpoint));
        }
        for (frontend, endpoint) in std::mem::take(&mut self.left) {
            if !serves(frontend, endpoint) {
                self.is_stale = true;
                if self.gone.insert((frontend, endpoint), false).is_none() {
                    edit.add(SetId::Gone(frontend.scope()), only(frontend.pair_key(endpoint)));
                }
            }
        }
    }

    /// The operations that create, in a table made from nothing, what was found before or is needed.
    pub(crate) fn create(&mut self, layout: &Layout) -> Vec<Op> {
        let timeouts = self.timeouts.create();
        self.exists |= !timeouts.is_empty() || !self.gone.is_empty() || !self.left.is_empty();
        if !self.exists {
            return Vec::new();
        }
        let sets = timeouts.iter().map(|(scope, timeout)| layout.create_timeout(*scope, *timeout));
        let rules = layout.affinity_rules(&timeouts);
        layout.create_affinity().into_iter().chain(sets).chain(rules).collect()
    }

    /// The operations that create what is needed now and was not before.
    pub(crate) fn grow(&mut self, layout: &Layout) -> Vec<Op> {
        let Some(Rewrite { new, all, .. }) = self.timeouts.grow() else { return Vec::new() };
        let existed = std::mem::replace(&mut self.exists, true);
        let common = layout.create_affinity().into_iter().filter(|_| !existed);
        let sets = new.iter().map(|(scope, timeout)| layout.create_timeout(*scope, *timeout));
        let rules = layout.affinity_rules(&all);
        common.chain(sets).chain([layout.flush_affinity_check()]).chain(rules).collect()
    }

    /// Whether the kernel's notes have to be looked through.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale && self.exists
    }

    /// Whether nothing that is remembered of a frontend's clients counts.
    pub(crate) fn is_outdated(&self, frontend: Frontend) -> bool {
        self.outdated.contains(&frontend)
    }

    /// Notes that were not true have been deleted; others may have been missed. Where there was another policy, clients have
    /// been noted anew.
    pub(crate) fn forgotten(&mut self) {
        self.outdated.clear();
    }

    /// All notes are true.
    pub(crate) fn nothing_is_stale(&mut self) {
        self.outdated.clear();
        self.is_stale = false;
    }

    /// Whether a sweep would have something to do, now or the next time.
    pub(crate) fn is_unswept(&self) -> bool {
        !self.gone.is_empty() || self.timeouts.is_unswept()
    }

    /// The operations that delete what two sweeps have found unneeded: timeouts, and pairs that no packet can be on its way to any
    /// more, because no note leads there.
    pub(crate) fn sweep(&mut self, layout: &Layout) -> Vec<Op> {
        let mut edit = Edit::default();
        if !self.is_stale {
            let was_seen = |_: &_, seen: &mut bool| std::mem::replace(seen, true);
            for ((frontend, endpoint), _) in self.gone.extract_if(.., was_seen) {
                edit.delete(SetId::Gone(frontend.scope()), frontend.pair_key(endpoint));
            }
        }
        let mut ops = edit.deletions(layout);
        if let Some(Rewrite { old, all, .. }) = self.timeouts.sweep() {
            ops.push(layout.flush_affinity_check());
            ops.extend(layout.affinity_rules(&all));
            let name = |(scope, timeout)| layout.set(SetId::Affinity(scope, timeout)).name.clone();
            ops.extend(old.into_iter().map(|key| Op::DeleteSet(name(key))));
        }
        ops
    }
}

/// What of affinity was found in the table.
#[derive(Debug, Default)]
pub(crate) struct FoundAffinity {
    pub(crate) exists: bool,
    pub(crate) timeouts: BTreeSet<(Scope, NonZeroU32)>,
    /// Endpoints that left frontends.
    pub(crate) gone: Vec<(Frontend, SocketAddr)>,
}

/// A note of the kernel: which endpoint a client was sent to.
#[derive(Debug)]
pub(crate) struct Choice {
    /// The frontend it connected to, and the NodePort, if that was none.
    pub(crate) frontends: [Frontend; 2],
    pub(crate) endpoint: SocketAddr,
}

impl Choice {
    /// Reads an element of [`SetId::Choices`].
    pub(crate) fn parse(element: &Element, family: Family) -> Option<Self> {
        let Data::Value(endpoint) = &element.data else { return None };
        let (_client, frontend) = parse_address(family, element.key.as_bytes())?;
        let (_address, node_port) = parse_address(family, frontend)?;
        let parse = |scope, bytes| Frontend::parse(scope, family, &ruleset::Words::from_bytes(bytes)?);
        Some(Self {
            frontends: [parse(Scope::Address, frontend)?, parse(Scope::NodePort, node_port)?],
            endpoint: parse_socket(family, endpoint.as_bytes())?,
        })
    }
}

const fn only(key: ruleset::Words) -> Element {
    Element { key, data: Data::None, comment: None }
}

//! What an earlier run left in the kernel and the next one goes on with: an unchanged restart writes nothing then.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;

use model::Family;
use ruleset::{Data, Found, Name, Verdict, Words};

use crate::Frontend;
use crate::affinity::FoundAffinity;
use crate::chains::MAX_COMMON;
use crate::frontend::{Scope, parse_socket};
use crate::lb::{LbChain, LbKind};
use crate::name;
use crate::port::PortRules;
use crate::sets::{Role, SetId};

/// What stands at a number that no endpoint has. None is wanted there.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// Choices that were made before, and that are as good as any others.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    found: Arc<Found>,
    /// The maps in which frontends have their endpoints.
    endpoints: Vec<(Scope, Role, Name)>,
    /// The load-balancing chains that exist, and whether an element leads to them.
    pub(crate) chains: Vec<(LbChain, bool)>,
    /// Those whose ClusterIP frontends have a set of their own, in the order in which packets meet them.
    pub(crate) common: Vec<LbChain>,
    /// The lengths of source ranges that have a set.
    pub(crate) source_lengths: BTreeSet<NonZeroU8>,
    /// What there is of session affinity.
    pub(crate) affinity: FoundAffinity,
}

impl Adopted {
    /// Recognizes what is ours in a table. What others put there is passed over.
    pub(crate) fn of(found: Arc<Found>, family: Family) -> Self {
        let endpoints = SetId::all().filter_map(|id| match id {
            SetId::Frontends(scope, role @ (Role::Endpoints | Role::LocalEndpoints)) => {
                Some((scope, role, id.define().name))
            }
            _ => None,
        });
        let elements = found.sets.values().flat_map(|set| set.elements.iter());
        let entered: HashSet<_> = elements.filter_map(|element| target(element.data)).collect();
        let chain = |name| LbChain::parse(name).map(|chain| (chain, entered.contains(name)));
        let lengths = found.sets.keys().filter_map(|set| set.as_str().strip_prefix("source-ranges-")?.parse().ok());
        let bits = if family == Family::V4 { 32 } else { 128 };
        let is_length = |length: NonZeroU8| length.get() <= bits;
        let affinity = affinity(&found, family);
        // What leads there would be of no use without it.
        let is_whole = |chain: &LbChain| !chain.affinity || affinity.exists;
        Self {
            endpoints: endpoints.collect(),
            chains: found.chains.keys().filter_map(chain).filter(|(chain, _)| is_whole(chain)).collect(),
            common: common(&found).into_iter().filter(is_whole).collect(),
            source_lengths: lengths
                .filter(|bits| is_length(*bits) && is_named(&found, SetId::Sources(*bits)))
                .collect(),
            affinity,
            found,
        }
    }

    /// The frontends that have led to endpoints.
    pub(crate) fn frontends(&self, family: Family) -> impl Iterator<Item = Frontend> {
        let set = |(scope, _, name): &(Scope, _, Name)| Some((*scope, self.found.sets.get(name)?));
        let elements = self.endpoints.iter().filter_map(set).flat_map(|(scope, set)| {
            // All have at least one, and those that come first have the number 0.
            let first = set.elements.iter().filter(|element| number(&element.key) == Some(0));
            first.map(move |element| (scope, element))
        });
        elements.filter_map(move |(scope, element)| Frontend::parse(scope, family, &element.key))
    }

    /// The numbers that the endpoints of a Service port have had: those of any of its frontends, as they all have the same.
    pub(crate) fn numbers_of(&self, rules: &PortRules) -> Option<PortRules> {
        let list = |role| {
            let mut lists = rules.frontends.iter().map(|frontend| self.endpoints_of(frontend, role));
            lists.find(|list| !list.is_empty()).unwrap_or_default()
        };
        let (cluster, local) = (list(Role::Endpoints), list(Role::LocalEndpoints));
        let any = !cluster.is_empty() || !local.is_empty();
        any.then(|| PortRules { cluster, local, ..PortRules::default() })
    }

    /// The endpoints that a frontend has had in one of the maps, by their numbers.
    fn endpoints_of(&self, frontend: Frontend, role: Role) -> Vec<SocketAddr> {
        let map = self.endpoints.iter().find(|(scope, other, _)| *scope == frontend.scope() && *other == role);
        let Some(set) = map.and_then(|(_, _, name)| self.found.sets.get(name)) else { return Vec::new() };
        let key = frontend.key();
        let elements = set.elements.starting_with(key.as_bytes());
        in_order(elements.filter_map(|element| Some((number(&element.key)?, endpoint(&element.data)?))).collect())
    }
}

/// The chains with a set of their own. As a set stays once it is there, those that are empty have to go when no other number
/// would find room beside them.
fn common(found: &Found) -> Vec<LbChain> {
    let chain_of = |set: &str| {
        let count = set.strip_prefix("service-ips-")?;
        let (affinity, count) = count.strip_prefix("affinity-").map_or((false, count), |count| (true, count));
        let endpoints = count.parse().ok()?;
        let chain = LbChain { scope: Scope::Address, kind: LbKind::Cluster, affinity, endpoints };
        (SetId::Common { affinity, endpoints }.define().name.as_str() == set).then_some(chain)
    };
    let rules = found.chains.get(&name("cluster-services")).map_or(&[][..], |chain| chain.rules.as_slice());
    // However a rule is put into words, the name of its set is one of them.
    let words = rules.iter().flat_map(|rule| rule.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
    let position = |set: &Name| words.clone().position(|word| word == set.as_str()).unwrap_or(usize::MAX);
    let sets = found.sets.iter().filter_map(|(name, set)| Some((chain_of(name.as_str())?, name, set)));
    let mut common: Vec<_> = sets.map(|(chain, name, set)| (position(name), chain, set)).collect();
    if common.len() >= MAX_COMMON {
        common.retain(|(_, _, set)| !set.elements.is_empty());
    }
    common.sort_unstable_by_key(|(position, chain, _)| (*position, *chain));
    common.into_iter().map(|(_, chain, _)| chain).take(MAX_COMMON).collect()
}

/// What there is of session affinity: all of it, or nothing, as it is only made as a whole.
fn affinity(found: &Found, family: Family) -> FoundAffinity {
    let common = [SetId::Choices, SetId::Gone(Scope::Address), SetId::Gone(Scope::NodePort)];
    if !common.into_iter().all(|id| is_named(found, id)) {
        return FoundAffinity::default();
    }
    let timeout = |set: &Name| {
        let (scope, timeout) = match set.as_str().strip_prefix("affinity-nodeports-") {
            Some(timeout) => (Scope::NodePort, timeout),
            None => (Scope::Address, set.as_str().strip_prefix("affinity-ips-")?),
        };
        Some((scope, timeout.parse().ok()?))
    };
    let timeouts = found.sets.keys().filter_map(timeout);
    let timeouts = timeouts.filter(|(scope, timeout)| is_named(found, SetId::Affinity(*scope, *timeout))).collect();
    let gone = |scope| {
        let elements = &found.sets[&SetId::Gone(scope).define().name].elements;
        elements.iter().filter_map(move |element| Frontend::parse_pair(scope, family, &element.key))
    };
    FoundAffinity { exists: true, timeouts, gone: Scope::ALL.into_iter().flat_map(gone).collect() }
}

fn is_named(found: &Found, id: SetId) -> bool {
    found.sets.contains_key(&id.define().name)
}

/// The number of an endpoint, which is the last part of a key in a map of endpoints.
fn number(key: &Words) -> Option<usize> {
    usize::try_from(u32::from_ne_bytes(*key.as_bytes().last_chunk()?)).ok()
}

fn target(data: Data) -> Option<Name> {
    match data {
        Data::Verdict(Verdict::Goto(chain)) => Some(chain),
        _ => None,
    }
}

fn endpoint(data: &Data) -> Option<SocketAddr> {
    let Data::Value(value) = data else { return None };
    let family = if value.as_bytes().len() < 16 { Family::V4 } else { Family::V6 };
    parse_socket(family, value.as_bytes())
}

/// The list with each endpoint at its number. It may have gaps, but none so large that others could make us run out of memory,
/// and an endpoint is in it once.
fn in_order(mut entries: Vec<(usize, SocketAddr)>) -> Vec<SocketAddr> {
    let most = 2 * entries.len() + 16;
    entries.sort_unstable();
    let mut list = Vec::with_capacity(entries.len());
    let mut seen = HashSet::with_capacity(entries.len());
    for (number, endpoint) in entries {
        if number < most && seen.insert(endpoint) {
            list.resize(number, NOBODY);
            list.push(endpoint);
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    #[test]
    fn endpoints_stand_at_their_numbers_and_once() {
        let entries = |numbers: &[(usize, u8)]| numbers.iter().map(|(n, last)| (*n, socket(*last))).collect::<Vec<_>>();
        assert_eq!(in_order(entries(&[(2, 3), (0, 1), (1, 2)])), [socket(1), socket(2), socket(3)]);
        assert_eq!(in_order(entries(&[(2, 3), (0, 1)])), [socket(1), NOBODY, socket(3)]);
        assert_eq!(in_order(entries(&[(0, 1), (1, 1), (2, 2)])), [socket(1), NOBODY, socket(2)]);
        assert_eq!(in_order(entries(&[(0, 1), (4_000_000_000, 2)])), [socket(1)]);
    }
}

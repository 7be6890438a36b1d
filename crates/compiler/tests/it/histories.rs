//! Any history of changes, synced step by step, leads to the same table as compiling its end from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use compiler::{Compiler, Fate, NodePorts, Options, Packet};
use model::{Family, Protocol, ServiceCidr, ServiceName, TrafficPolicy, Update};
use proptest::prelude::*;
use ruleset::{Data, Datum, Element, FakeTable, Field, Kernel, Op, Transaction, Words};

use crate::world::{NODE, OUTSIDE, POD, World, ip, options, port, service, slice, tcp};

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];
const CLUSTER_IPS: [&str; 4] = ["172.30.0.1", "172.30.0.2", "172.30.0.3", "172.30.0.3"];
/// Shared by all Services, so that they get in each other's way.
const SHARED: [&str; 2] = ["5.6.7.8", "172.30.0.1"];
/// More than there are sets for common numbers of endpoints.
const ENDPOINTS: [&str; 12] = [
    "10.0.1.1",
    "10.0.1.2",
    "10.0.1.3",
    "10.0.1.4",
    "10.0.1.5",
    "10.0.1.6",
    "10.0.1.7",
    "10.0.1.8",
    "10.0.1.9",
    "10.0.1.10",
    "10.0.1.11",
    "10.0.1.12",
];
const FLAGS: [&str; 6] = ["", "l", "t", "lt", "-", "d"];

/// Of Services with affinity.
const TIMEOUTS: [Option<u32>; 3] = [None, Some(60), Some(10_800)];
const RANGES: [&str; 4] = ["203.0.113.0/24", "203.0.113.0/25", "10.0.0.0/8", "192.168.0.0/24"];
const SERVICE_CIDRS: [&str; 3] = ["172.30.0.0/16", "172.30.0.0/24", "5.6.7.0/24"];

/// One change to one of a few Services, or to the cluster.
pub(crate) fn change() -> impl Strategy<Value = Update> {
    let index = 0..SERVICES.len();
    prop_oneof![
        3 => service_change(),
        4 => (index.clone(), 79..81u16, prop::collection::btree_map(0..ENDPOINTS.len(), 0..FLAGS.len(), 0..12))
            .prop_map(|(service, target, endpoints)| {
                let endpoints: Vec<_> = endpoints.into_iter().map(|(e, f)| (ENDPOINTS[e], FLAGS[f])).collect();
                slice(SERVICES[service], target, &endpoints)
            }),
        1 => index.clone().prop_map(|i| Update::ServiceGone(ServiceName::new("ns", SERVICES[i]))),
        1 => index.prop_map(|i| Update::SliceGone(ServiceName::new("ns", format!("{}-slice", SERVICES[i])))),
        1 => (0..2u8, prop::sample::subsequence(SERVICE_CIDRS.to_vec(), 0..=2)).prop_map(|(name, prefixes)| {
            let prefixes = prefixes.into_iter().map(|prefix| prefix.parse().unwrap()).collect();
            Update::ServiceCidr(ServiceCidr { name: name.to_string().into(), prefixes })
        }),
        1 => (0..2u8).prop_map(|name| Update::ServiceCidrGone(name.to_string().into())),
    ]
}

/// Index, age, policies, NodePort, shared external IPs, whether there is a second port.
type Plain = (usize, i64, TrafficPolicy, TrafficPolicy, Option<u16>, Vec<&'static str>, bool);
/// Shared load balancer addresses, index of the affinity's timeout, source ranges.
type More = (Vec<&'static str>, usize, Vec<&'static str>);

fn service_change() -> impl Strategy<Value = Update> {
    let policy = || prop_oneof![3 => Just(TrafficPolicy::Cluster), 2 => Just(TrafficPolicy::Local)];
    let node_port = prop::option::of(3000..3003u16);
    let shared = || prop::sample::subsequence(SHARED.to_vec(), 0..=SHARED.len());
    let plain = (0..SERVICES.len(), 0..3i64, policy(), policy(), node_port, shared(), any::<bool>());
    let more = (shared(), 0..TIMEOUTS.len(), prop::sample::subsequence(RANGES.to_vec(), 0..=2));
    let service = |(plain, more): (Plain, More)| {
        let (index, created, internal, external, node_port, shared, two_ports) = plain;
        let (balancers, timeout, ranges) = more;
        let mut service = service(SERVICES[index], CLUSTER_IPS[index]);
        service.created = created;
        service.internal_policy = internal;
        service.external_policy = external;
        service.ports[0].node_port = node_port.map(port);
        service.external_ips = shared.into_iter().map(ip).collect();
        service.load_balancer_ips = balancers.into_iter().map(ip).collect();
        service.affinity = TIMEOUTS[timeout].and_then(NonZeroU32::new);
        service.source_ranges = ranges.into_iter().map(|range| range.parse().unwrap()).collect();
        if two_ports {
            service.ports.push(tcp("other", 81));
        }
        Update::Service(service)
    };
    (plain, more).prop_map(service)
}

/// Every client's packet to every frontend.
fn packets() -> impl Iterator<Item = Packet> {
    let destinations = CLUSTER_IPS.into_iter().chain(SHARED).chain([NODE[0], NODE[1]]);
    destinations.flat_map(|destination| {
        [POD, OUTSIDE, NODE[0], ENDPOINTS[0]].into_iter().flat_map(move |source| {
            let packet =
                move |port| Packet { source: ip(source), destination: ip(destination), protocol: Protocol::Tcp, port };
            [80, 81, 3000, 3001, 3002].into_iter().map(packet)
        })
    })
}

/// What every client sees of every frontend.
fn behaviour(world: &World) -> BTreeMap<Packet, BTreeSet<Fate>> {
    packets().map(|packet| (packet, world.tracer(|tracer| tracer.trace(packet)))).collect()
}

/// Frontends and the endpoints that serve any of their clients, in the words of the maps of endpoints.
fn serving(table: &FakeTable) -> BTreeSet<(Vec<u8>, Datum)> {
    let numbered = table.sets().values().filter(|set| set.set.key.contains(&Field::Index));
    let elements = numbered.flat_map(|set| set.elements.values());
    let pair = |element: &Element| match element.data {
        Data::Value(endpoint) => {
            element.key.as_bytes().split_last_chunk::<4>().map(|(key, _)| (key.to_vec(), endpoint))
        }
        _ => None,
    };
    elements.filter_map(pair).collect()
}

/// Whether a packet went to an endpoint that does not serve its frontend. It may have been dropped.
fn is_astray(packet: &Packet, fate: Fate, serving: &BTreeSet<(Vec<u8>, Datum)>) -> bool {
    let Fate::Delivered { to, .. } = fate else { return fate == Fate::Rejected };
    let node_port = Words::build().protocol(6).port(packet.port).finish();
    let frontend = Words::build().address(packet.destination).protocol(6).port(packet.port).finish();
    let endpoint = Words::build().address(to.ip()).port(to.port()).datum();
    ![node_port, frontend].iter().any(|key| serving.contains(&(key.as_bytes().to_vec(), endpoint)))
}

/// Has the kernel note where it sent some of the clients.
fn remember(world: &mut World) {
    let notes: BTreeMap<_, _> = packets()
        .step_by(7)
        .filter_map(|packet| world.tracer(|tracer| tracer.notes(packet)).pop_last())
        .map(|(key, endpoint, _)| (key, Element { key, data: Data::Value(endpoint), comment: None }))
        .collect();
    let Some(choices) = world.table().sets().get("affinity") else { return };
    let new = notes.into_values().filter(|note| !choices.elements.contains_key(&note.key));
    let add = Op::AddElements { set: choices.set.clone(), elements: new.collect() };
    world.commit(&Transaction { ops: vec![add], ..world.transaction() });
}

/// Deletes what the kernel noted and is not true any more.
fn forget(world: &mut World) {
    while world.compiler.stale_choices().is_some() {
        let choices: Vec<_> = world.table().sets()["affinity"].elements.values().cloned().collect();
        let forget = world.compiler.forget(&choices);
        world.commit(&forget);
        world.compiler.forgotten();
    }
}

/// All elements but for what depends on history: the order of endpoints, which numbers of endpoints are common, and what the
/// kernel remembers of clients.
fn skeleton(table: &FakeTable) -> Vec<String> {
    let mut lines = Vec::new();
    for set in table.sets().values() {
        if set.set.name.as_str() == "affinity" || set.set.name.as_str().starts_with("affinity-gone-") {
            continue;
        }
        let numbered = set.set.key.contains(&Field::Index);
        for element in set.elements.values() {
            let shown = match (set.set.name.as_str().strip_prefix("service-ips-"), &element.data) {
                (Some(count), _) => match count.strip_prefix("affinity-") {
                    Some(count) => format!("service-ips {:?} goto affinity-lb-{count}", element.key),
                    None => format!("service-ips {:?} goto lb-{count}", element.key),
                },
                (None, Data::Verdict(verdict)) => format!("{} {:?} {verdict}", set.set.name, element.key),
                (None, _) if numbered => format!("{} {:?}", set.set.name, element.key),
                (None, data) => format!("{} {:?} {data:?}", set.set.name, element.key),
            };
            lines.push(shown);
        }
    }
    lines.sort();
    lines
}

/// Compiles the state of `world` from scratch on another kernel.
fn from_scratch(world: World, options: Options) -> World {
    let World { state, kernel, .. } = world;
    let mut fresh = World { state, kernel, compiler: Compiler::new(options) };
    let all = fresh.compiler.compile_all(&fresh.state);
    fresh.commit(&all);
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn history_does_not_matter(steps in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..20), any_node_port: bool) {
        let mut options = options(Family::V4);
        if any_node_port {
            options.node_ports = NodePorts::Any;
        }
        let mut world = World::new(options.clone());
        for (n, step) in steps.into_iter().enumerate() {
            world.apply(step);
            if n % 3 == 0 {
                let swept = world.compiler.sweep();
                world.commit(&swept);
            }
        }
        let swept = world.compiler.sweep();
        world.commit(&swept);
        let (found, table) = (behaviour(&world), skeleton(world.table()));
        let fresh = from_scratch(world, options);
        for (packet, right) in behaviour(&fresh) {
            prop_assert_eq!(&found[&packet], &right, "{:?}", packet);
        }
        prop_assert_eq!(table, skeleton(fresh.table()));
    }

    /// Each packet meets all of a Service, or none of it.
    #[test]
    fn a_table_that_is_made_part_by_part_becomes_the_same(changes in prop::collection::vec(change(), 1..40), most in 1..12_usize) {
        let mut world = World::new(options(Family::V4));
        changes.into_iter().for_each(|update| world.state.apply(update));
        let without = behaviour(&World::new(options(Family::V4)));
        let mut whole = World::new(options(Family::V4));
        let all = whole.compiler.compile_all(&world.state);
        whole.commit(&all);
        let right = behaviour(&whole);
        // Of an address that two Services have, which no cluster gives to both, the ports of one are refused until it comes.
        let has = |service: &model::Service, ip: IpAddr| {
            service.cluster_ips.v4 == Some(ip) || service.external_addresses(Family::V4).any(|other| other == ip)
        };
        let services: Vec<_> = world.state.services().cloned().collect();
        let is_shared = |ip| services.iter().filter(|service| has(service, ip)).count() > 1;

        let first = world.compiler.compile_first(&world.state, most);
        world.commit(&first);
        while let Some(next) = world.compiler.compile_next(&world.state, most) {
            for (packet, fates) in behaviour(&world) {
                let is_whole = fates == right[&packet] || fates == without[&packet];
                // Here, the slices of two Services may disagree about whether an endpoint is on this node.
                let to_itself = |fate: &Fate| matches!(fate, Fate::Delivered { to, .. } if to.ip() == packet.source);
                let is_excused = is_shared(packet.destination) || fates.iter().any(to_itself);
                prop_assert!(is_whole || is_excused, "{:?}: {:?}", packet, fates);
            }
            world.commit(&next);
        }
        prop_assert_eq!(behaviour(&world), right);
        prop_assert_eq!(skeleton(world.table()), skeleton(whole.table()));
    }

    /// Whatever the kernel remembers of clients: nobody reaches an endpoint that does not serve the frontend, from the commit on;
    /// and once the kernel was told to forget, nobody one that a client without history would not reach.
    #[test]
    fn affinity_leads_nobody_astray(steps in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..12)) {
        let mut world = World::new(options(Family::V4));
        for (n, step) in steps.into_iter().enumerate() {
            remember(&mut world);
            world.apply(step);
            let before = behaviour(&world);
            forget(&mut world);
            let after = behaviour(&world);
            if n % 2 == 0 {
                let swept = world.compiler.sweep();
                world.commit(&swept);
            }
            let mut other = World::new(options(Family::V4));
            let all = other.compiler.compile_all(&world.state);
            other.commit(&all);
            let right = behaviour(&other);
            let serving = serving(other.table());
            for (packet, right) in &right {
                let (early, late) = (&before[packet], &after[packet]);
                let astray = early.iter().find(|fate| !right.contains(fate) && is_astray(packet, **fate, &serving));
                prop_assert_eq!(astray, None, "{:?}", packet);
                prop_assert!(!late.is_empty() && late.is_subset(right), "{:?}: {:?}, not {:?}", packet, late, right);
            }
        }
    }
}

#[test]
fn syncing_the_same_state_again_changes_nothing() {
    let web =
        || [Update::Service(service("a", CLUSTER_IPS[0])), slice("a", 80, &[("10.0.1.1", ""), ("10.0.1.2", "l")])];
    let mut world = World::new(options(Family::V4)).with(web());
    assert!(world.apply(web()).is_empty());
    let all = ["a", "b"].map(|name| ServiceName::new("ns", name)).into();
    let again = world.compiler.compile(&world.state, &all);
    assert!(again.is_empty(), "{again}");
}

#[test]
fn a_rejected_transaction_leaves_the_table_as_it_was() {
    let mut world = World::new(options(Family::V4))
        .with([Update::Service(service("a", CLUSTER_IPS[0])), slice("a", 80, &[("10.0.1.1", "")])]);
    let before = skeleton(world.table());
    let all = ["a"].map(|name| ServiceName::new("ns", name)).into();
    let mut stranger = Compiler::new(options(Family::V4));
    let conflicting = stranger.compile(&world.state, &all);
    world.apply([slice("a", 80, &[("10.0.1.2", "")])]);
    let after = skeleton(world.table());
    assert!(world.kernel.commit(&conflicting).is_err());
    assert_eq!(before, after, "the skeleton does not hold endpoints");
    assert_eq!(skeleton(world.table()), after);
}

//! Any history of changes, synced step by step, leads to the same table as compiling its end from scratch.

use std::collections::BTreeMap;

use compiler::{Compiler, NodePorts, Options};
use model::{Family, Protocol, ServiceName, TrafficPolicy, Update};
use proptest::prelude::*;
use ruleset::{Data, FakeTable, Field, Kernel};

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

/// One change to one of a few Services.
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
    ]
}

fn service_change() -> impl Strategy<Value = Update> {
    let policy = || prop_oneof![3 => Just(TrafficPolicy::Cluster), 2 => Just(TrafficPolicy::Local)];
    let node_port = prop::option::of(3000..3003u16);
    let shared = prop::sample::subsequence(SHARED.to_vec(), 0..=SHARED.len());
    (0..SERVICES.len(), 0..3i64, policy(), policy(), node_port, shared, any::<bool>()).prop_map(
        |(index, created, internal, external, node_port, shared, two_ports)| {
            let mut service = service(SERVICES[index], CLUSTER_IPS[index]);
            service.created = created;
            service.internal_policy = internal;
            service.external_policy = external;
            service.ports[0].node_port = node_port.map(port);
            service.external_ips = shared.into_iter().map(ip).collect();
            if two_ports {
                service.ports.push(tcp("other", 81));
            }
            Update::Service(service)
        },
    )
}

/// What every client sees of every frontend.
fn behaviour(world: &World) -> BTreeMap<(&'static str, &'static str, u16), String> {
    let destinations = CLUSTER_IPS.into_iter().chain(SHARED).chain([NODE[0], NODE[1]]);
    let mut seen = BTreeMap::new();
    for destination in destinations {
        for source in [POD, OUTSIDE, NODE[0], ENDPOINTS[0]] {
            for port in [80, 81, 3000, 3001, 3002] {
                let fate = world.trace(source, destination, Protocol::Tcp, port);
                seen.insert((source, destination, port), fate);
            }
        }
    }
    seen
}

/// All elements but for what depends on history: the order of endpoints, and which numbers of endpoints are common.
fn skeleton(table: &FakeTable) -> Vec<String> {
    let mut lines = Vec::new();
    for set in table.sets().values() {
        let numbered = set.set.key.contains(&Field::Index);
        for element in set.elements.values() {
            let shown = match (set.set.name.as_str().strip_prefix("service-ips-"), &element.data) {
                (Some(count), _) => format!("service-ips {:?} goto lb-{count}", element.key),
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
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

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
        prop_assert_eq!(found, behaviour(&fresh));
        prop_assert_eq!(table, skeleton(fresh.table()));
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

//! What grows with what: chains, rules and sets with the configuration, elements with Services, changes with changes.

use std::collections::BTreeSet;

use model::{Family, Protocol, ServiceName, TrafficPolicy, Update};
use ruleset::{FakeTable, Op, Transaction};

use crate::world::{POD, World, ip, options, port, service, slice};

/// How many chains, rules and sets a table has.
fn objects(table: &FakeTable) -> (usize, usize, usize) {
    let rules = table.chains().values().map(|chain| chain.rules.len()).sum();
    (table.chains().len(), rules, table.sets().len())
}

/// So many Services of every kind, with one, two and three endpoints.
fn services(count: u16) -> Vec<Update> {
    let service = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let name = format!("s{n}");
        let mut service = service(&name, &format!("172.30.{high}.{low}"));
        service.ports[0].node_port = Some(port(10_000 + n));
        service.external_ips = vec![ip(&format!("5.6.{high}.{low}"))];
        service.external_policy = if n.is_multiple_of(2) { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let endpoints = [("10.0.1.1", "l"), ("10.0.1.2", ""), ("10.0.1.3", "l")];
        [Update::Service(service), slice(&name, 80, &endpoints[..usize::from(n % 4 / 2 + 1)])]
    };
    (0..count).flat_map(service).collect()
}

#[test]
fn chains_rules_and_sets_do_not_grow_with_services() {
    let few = World::new(options(Family::V4)).with(services(8));
    let many = World::new(options(Family::V4)).with(services(2000));
    assert_eq!(objects(few.table()), objects(many.table()));
    let elements = |world: &World| world.table().sets().values().map(|set| set.elements.len()).sum::<usize>();
    assert!(elements(&many) > 200 * elements(&few));
}

#[test]
fn a_change_touches_only_its_own_elements() {
    let mut world = World::new(options(Family::V4)).with(services(500));
    let mut apply = |endpoints: &[(&str, &str)]| world.apply([slice("s3", 80, endpoints)]);
    // s3 has three frontends: ClusterIP, external IP, NodePort.
    apply(&[("10.0.9.1", ""), ("10.0.9.2", "")]);
    let replaced = apply(&[("10.0.9.1", ""), ("10.0.9.3", "")]);
    assert_eq!(replaced.len(), 3 * 2, "{replaced}");
    let added = apply(&[("10.0.9.0", ""), ("10.0.9.1", ""), ("10.0.9.3", "")]);
    // Each leads to another number of endpoints, and has one more. Those with three are the first of their kinds: four chains of two
    // rules, a set and its rule.
    assert_eq!(counts(&added), (3, 3 * 2, 4 * 3 + 2), "{added}");
    let unready = apply(&[("10.0.9.0", ""), ("10.0.9.1", "-"), ("10.0.9.3", "")]);
    assert_eq!(unready.len(), 3 * (2 + 1 + 2), "the last takes the place of the one that left: {unready}");
}

/// kube-proxy's SyncProxyRulesRepeated (contract §12.1): what each change writes, as elements deleted, elements added, and other
/// operations. kube-proxy's are more where it has chains of the Service, which are written anew and deleted later.
#[test]
fn each_change_of_a_sequence_writes_what_it_changes() {
    let with = |name: &str, last: u8| Update::Service(service(name, &format!("172.30.0.{last}")));
    let ends = |name: &str, ends: &[&str]| slice(name, 80, &ends.iter().map(|end| (*end, "l")).collect::<Vec<_>>());
    let mut world = World::new(options(Family::V4));
    let mut steps = vec![
        // Each a ClusterIP, the frontend, the endpoint and its hairpin; and where frontends with one endpoint are kept, with its rule.
        (
            "two Services",
            vec![with("s1", 1), ends("s1", &["10.0.1.1"]), with("s2", 2), ends("s2", &["10.0.2.1"])],
            (0, 8, 2),
        ),
        ("another, with its endpoint", vec![with("s3", 3), ends("s3", &["10.0.3.1"])], (0, 4, 0)),
        ("one is deleted", vec![Update::ServiceGone(ServiceName::new("ns", "s2"))], (4, 0, 0)),
        ("its endpoints are as well", vec![Update::SliceGone(ServiceName::new("ns", "s2-slice"))], (0, 0, 0)),
        ("one without endpoints: ClusterIP and refusal", vec![with("s4", 4)], (0, 2, 0)),
        ("then its endpoint: no refusal any more", vec![ends("s4", &["10.0.4.1"])], (1, 3, 0)),
        ("the endpoint gets another address", vec![ends("s4", &["10.0.4.2"])], (2, 2, 0)),
        // The first of two endpoints: a chain of two rules, a set and the rule that leads from it to the chain.
        ("a second endpoint", vec![ends("s4", &["10.0.4.2", "10.0.4.3"])], (1, 3, 5)),
        ("a second endpoint of another", vec![ends("s3", &["10.0.3.1", "10.0.3.2"])], (1, 3, 0)),
    ];
    let full = || ("all are back", vec![ends("s4", &["10.0.4.2", "10.0.4.3"])], (1, 5, 0));
    steps.extend([("all endpoints go", vec![ends("s4", &[])], (5, 1, 0)), full()]);
    steps.extend([("all go, and it is swept", vec![ends("s4", &[])], (5, 1, 0)), ("", vec![], (0, 0, 0)), full()]);
    steps.push(("no change", vec![with("s4", 4), ends("s4", &["10.0.4.3", "10.0.4.2"])], (0, 0, 0)));
    for (name, change, expected) in steps {
        let sweeps = change.is_empty();
        let written = world.apply(change);
        assert_eq!(counts(&written), expected, "{name}: {written}");
        assert_eq!(written.len(), expected.0 + expected.1 + expected.2);
        if sweeps {
            let swept = [world.compiler.sweep(), world.compiler.sweep()];
            assert!(swept.iter().all(Transaction::is_empty), "no chain is a Service's");
        }
    }
}

/// Elements deleted, elements added, and other operations.
fn counts(transaction: &Transaction) -> (usize, usize, usize) {
    let (mut deleted, mut added, mut others) = (0, 0, 0);
    for op in &transaction.ops {
        let count = match op {
            Op::DeleteElements { .. } => &mut deleted,
            Op::AddElements { .. } => &mut added,
            _ => &mut others,
        };
        *count += op.len();
    }
    (deleted, added, others)
}

#[test]
fn chains_that_nothing_needs_are_swept() {
    let mut world = World::new(options(Family::V4));
    let names = |world: &World| world.table().chains().keys().map(ToString::to_string).collect::<BTreeSet<_>>();
    let empty = names(&world);
    world.apply(services(8));
    assert!(names(&world).contains("nodeport-masq-lb-1"));
    world.apply((0..8).map(|n| Update::ServiceGone(ServiceName::new("ns", format!("s{n}")))));
    assert!(world.compiler.is_unswept() && world.compiler.sweep().is_empty(), "they may be needed again soon");
    while world.compiler.is_unswept() {
        let swept = world.compiler.sweep();
        world.commit(&swept);
    }
    let common = world.table().sets().keys().filter_map(|set| set.as_str().strip_prefix("service-ips-"));
    let common = common.map(|count| format!("lb-{count}")).collect();
    assert_eq!(names(&world), &empty | &common, "only chains of common numbers stay");
    assert!(world.compiler.sweep().is_empty());
}

/// A verdict that leads to a chain has the kernel look at all of them again; an element of a plain set does not.
#[test]
fn common_numbers_of_endpoints_need_no_verdicts() {
    let with_endpoints = |n: usize| {
        let name = format!("s{n}");
        let addresses: Vec<_> = (0..n).map(|e| format!("10.0.{n}.{}", e + 1)).collect();
        let endpoints: Vec<_> = addresses.iter().map(|address| (address.as_str(), "")).collect();
        [Update::Service(service(&name, &format!("172.30.0.{n}"))), slice(&name, 80, &endpoints)]
    };
    let expected = |n: usize| (0..n).map(|e| format!("10.0.{n}.{}:80", e + 1)).collect::<BTreeSet<_>>();
    let mut world = World::new(options(Family::V4)).with((1..=12).flat_map(with_endpoints));
    let seen = |world: &World, n: usize| {
        let seen = world.trace(POD, &format!("172.30.0.{n}"), Protocol::Tcp, 80);
        seen.split(", ").map(str::to_owned).collect::<BTreeSet<_>>()
    };
    for n in 1..=12 {
        assert_eq!(seen(&world, n), expected(n));
    }
    let elements = |world: &World, set: &str| world.table().sets()[set].elements.len();
    let common = world.table().sets().keys().filter(|set| set.as_str().starts_with("service-ips-")).count();
    assert_eq!((common, elements(&world, "service-ips")), (8, 4));

    // From the last common number to the first that is not, and back.
    let endpoints: Vec<_> = expected(9).iter().map(|socket| socket.replace(":80", "")).collect();
    let endpoints: Vec<_> = endpoints.iter().map(|address| (address.as_str(), "")).collect();
    for count in [8, 9, 8] {
        world.apply([slice("s9", 80, &endpoints[..count])]);
        assert_eq!(seen(&world, 9).len(), count);
        assert_eq!(elements(&world, "service-ips"), if count == 9 { 4 } else { 3 });
    }
}

#[test]
fn the_most_frequent_numbers_are_the_common_ones() {
    let one_each = (1..=20).map(|n| (n, n));
    let many_with_twenty = (21..=25).map(|n| (n, 20));
    let updates = one_each.chain(many_with_twenty).flat_map(|(n, count): (usize, usize)| {
        let addresses: Vec<_> = (1..=count).map(|e| format!("10.0.{n}.{e}")).collect();
        let endpoints: Vec<_> = addresses.iter().map(|address| (address.as_str(), "")).collect();
        let name = format!("s{n}");
        [Update::Service(service(&name, &format!("172.30.0.{n}"))), slice(&name, 80, &endpoints)]
    });
    let world = World::new(options(Family::V4)).with(updates);
    assert_eq!(world.table().sets()["service-ips-20"].elements.len(), 6);
}

#[test]
fn output_is_deterministic() {
    let transaction = |reverse: bool| {
        let mut updates = services(50);
        if reverse {
            updates.reverse();
        }
        World::new(options(Family::V4)).apply(updates)
    };
    assert_eq!(transaction(false), transaction(true));
}

#[test]
fn every_chain_and_set_is_documented() {
    let mut options = options(Family::V4);
    options.node_ports = compiler::NodePorts::Only([ip("192.168.0.2")].into());
    let world = World::new(options).with(services(8));
    let text = include_str!("../../../../ARCHITECTURE.md");
    let is_documented = |name: &str| {
        let general = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let general = if general.len() < name.len() { format!("{general}N") } else { name.to_owned() };
        text.contains(&format!("`{general}`"))
    };
    let table = world.table();
    let names = table.chains().keys().chain(table.sets().keys());
    let missing: Vec<_> = names.filter(|name| !is_documented(name.as_str())).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:?}");
}

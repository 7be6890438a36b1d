//! loadBalancerSourceRanges (contract §5.6, §12.1 LoadBalancer).

use model::{Family, Protocol, Service, ServicePort, SlicePort, Update};
use ruleset::Op;

use crate::world::{NODE, OUTSIDE, POD, World, ip, options, port, service, slice};

const CLUSTER_IP: &str = "172.30.0.41";
const LB: [&str; 2] = ["5.6.7.8", "5.6.7.9"];
const EXTERNAL: &str = "192.168.99.22";
/// Within 203.0.113.0/25, as OUTSIDE is, and not.
const BLOCKED: &str = "203.0.113.130";
const MASQUERADED: &str = "10.180.0.1:80 masq";

fn limited(ranges: &[&str]) -> Service {
    let mut web = service("web", CLUSTER_IP);
    web.ports[0].node_port = Some(port(3001));
    web.load_balancer_ips = LB.map(ip).to_vec();
    web.external_ips = vec![ip(EXTERNAL)];
    web.source_ranges = ranges.iter().map(|range| model::parse_prefix(range).unwrap()).collect();
    web
}

fn world(ranges: &[&str]) -> World {
    World::new(options(Family::V4)).with([Update::Service(limited(ranges)), slice("web", 80, &[("10.180.0.1", "")])])
}

fn ranges(world: &World) -> usize {
    let sets = world.table().sets().values().filter(|set| set.set.name.as_str().starts_with("source-ranges-"));
    sets.map(|set| set.elements.len()).sum()
}

#[test]
fn only_sources_in_range_reach_the_load_balancer() {
    world(&["192.168.0.0/24", "203.0.113.0/25"]).check(&[
        (POD, CLUSTER_IP, 80, "10.180.0.1:80"),
        (OUTSIDE, NODE[0], 3001, MASQUERADED),
        (BLOCKED, NODE[0], 3001, MASQUERADED),
        (BLOCKED, EXTERNAL, 80, MASQUERADED),
        (OUTSIDE, LB[0], 80, MASQUERADED),
        (OUTSIDE, LB[1], 80, MASQUERADED),
        (BLOCKED, LB[0], 80, "drop"),
        (BLOCKED, LB[1], 80, "drop"),
        (POD, LB[0], 80, "drop"),
        (POD, LB[1], 80, "drop"),
    ]);
}

/// Every port of the Service is restricted, whatever its protocol, and ports that it does not have are not.
#[test]
fn udp_and_sctp_too() {
    let protocols = [Protocol::Udp, Protocol::Sctp];
    let named = |protocol: Protocol| protocol.to_string().into();
    let mut dns = limited(&["203.0.113.0/25"]);
    dns.ports = protocols
        .map(|protocol| ServicePort { name: named(protocol), protocol, port: port(53), node_port: None })
        .to_vec();
    let Update::Slice(mut ends) = slice("web", 5353, &[("10.180.0.1", "")]) else { unreachable!() };
    ends.ports = protocols.map(|protocol| SlicePort { name: named(protocol), protocol, port: port(5353) }).to_vec();
    let world = World::new(options(Family::V4)).with([Update::Service(dns), Update::Slice(ends)]);
    for protocol in protocols {
        for (source, destination, expected) in [
            (OUTSIDE, LB[0], "10.180.0.1:5353 masq"),
            (BLOCKED, LB[0], "drop"),
            (BLOCKED, LB[1], "drop"),
            (POD, LB[0], "drop"),
            (BLOCKED, EXTERNAL, "10.180.0.1:5353 masq"),
        ] {
            assert_eq!(
                world.trace(source, destination, protocol, 53),
                expected,
                "{protocol}: {source} to {destination}"
            );
        }
    }
    assert_eq!(world.trace(BLOCKED, LB[0], Protocol::Tcp, 53), "5.6.7.8:53", "none of the Service's");
}

#[test]
fn where_the_node_may_connect_the_load_balancers_addresses_may_too() {
    let with_node = world(&["192.168.0.0/24", "203.0.113.0/25"]);
    with_node.check(&[
        (NODE[0], LB[0], 80, MASQUERADED),
        (NODE[0], LB[1], 80, MASQUERADED),
        (LB[0], LB[0], 80, MASQUERADED),
        (LB[1], LB[1], 80, MASQUERADED),
    ]);
    let without_node = world(&["203.0.113.0/25"]);
    without_node.check(&[(NODE[0], LB[0], 80, "drop"), (LB[0], LB[0], 80, "drop")]);
}

#[test]
fn overlapping_and_duplicate_ranges_are_merged() {
    let world = world(&[
        "203.0.113.0/25",
        "203.0.113.0/26",
        "203.0.113.0/25",
        "203.0.113.128/25",
        "5.6.7.0/24",
        "192.168.0.0/16",
    ]);
    assert_eq!(ranges(&world), 2 * 3);
    world.check(&[(OUTSIDE, LB[0], 80, MASQUERADED), (BLOCKED, LB[0], 80, MASQUERADED), (POD, LB[0], 80, "drop")]);
}

#[test]
fn they_hold_without_endpoints_too() {
    let mut world = world(&["203.0.113.0/25"]);
    world.apply([slice("web", 80, &[])]);
    world.check(&[(OUTSIDE, LB[0], 80, "reject"), (BLOCKED, LB[0], 80, "drop")]);
}

#[test]
fn a_change_of_ranges_touches_only_those_that_changed() {
    let mut world = world(&["203.0.113.0/25", "198.51.100.0/24"]);
    let written = world.apply([Update::Service(limited(&["203.0.113.0/24", "198.51.100.0/24"]))]);
    assert_eq!(written.ops.iter().map(Op::len).sum::<usize>(), 2 * 2, "{written}");
    world.check(&[(BLOCKED, LB[0], 80, MASQUERADED)]);
    world.apply([Update::Service(limited(&[]))]);
    world.check(&[(POD, LB[0], 80, MASQUERADED)]);
    assert_eq!(ranges(&world), 0);
    assert!(world.table().sets()["firewalled-ips"].elements.is_empty());
}

/// Contract §4.3: kube-proxy takes ranges of the other family only for none.
#[test]
fn ranges_of_the_other_family_do_not_count() {
    world(&["2001:db8::/32"]).check(&[(POD, LB[0], 80, MASQUERADED)]);
}

#[test]
fn ipv6_too() {
    let mut web = service("web", "fd00:30::41");
    web.load_balancer_ips = vec![ip("2001:db8:5::8")];
    web.source_ranges = vec!["2001:db8:9::/48".parse().unwrap()];
    let world = World::new(options(Family::V6)).with([Update::Service(web), slice("web", 80, &[("fd00:10::1", "")])]);
    world.check(&[
        ("2001:db8:9::9", "2001:db8:5::8", 80, "[fd00:10::1]:80 masq"),
        ("2001:db8:a::9", "2001:db8:5::8", 80, "drop"),
    ]);
}

/// Two halves are everything, which restricts nobody.
#[test]
fn ranges_that_add_up_to_everything_are_none() {
    let world = world(&["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8"]);
    assert_eq!(ranges(&world), 0);
    world.check(&[(OUTSIDE, LB[0], 80, MASQUERADED), (BLOCKED, LB[0], 80, MASQUERADED), (POD, LB[0], 80, MASQUERADED)]);
}

//! What packets see: tables of cases over the packet tracer, after contract §5.7 and §12.1.

use crate::world::{NODE, OUTSIDE, POD, World, ip, options, port, service, slice, tcp};
use model::{Family, PerFamily, Protocol, Service, ServicePort, TrafficPolicy, Update};
use ruleset::{FakeTable, Op, Transaction};

const V4: Family = Family::V4;
const NODE_IP: &str = NODE[0];
const LB: &str = "5.6.7.8";
const EXTERNAL: &str = "192.168.99.22";

fn with_node_port(mut service: Service, number: u16) -> Service {
    service.ports[0].node_port = Some(port(number));
    service
}

/// A Service reachable in every way: ClusterIP, external IP, load balancer and NodePort 3001.
fn everything(name: &str) -> Service {
    let mut service = with_node_port(service(name, "172.30.0.41"), 3001);
    service.external_ips = vec![ip(EXTERNAL)];
    service.load_balancer_ips = vec![ip(LB)];
    service
}

#[test]
fn cluster_ip() {
    World::new(options(V4))
        .with([
            Update::Service(service("one", "172.30.0.41")),
            slice("one", 8080, &[("10.180.0.1", "l")]),
            Update::Service(service("two", "172.30.0.42")),
            slice("two", 80, &[("10.180.0.2", ""), ("10.180.0.3", "")]),
        ])
        .check(&[
            (POD, "172.30.0.41", 80, "10.180.0.1:8080"),
            ("10.180.0.1", "172.30.0.41", 80, "10.180.0.1:8080 masq"),
            (POD, "172.30.0.42", 80, "10.180.0.2:80, 10.180.0.3:80"),
            (OUTSIDE, "172.30.0.41", 80, "10.180.0.1:8080 masq"),
            (NODE_IP, "172.30.0.41", 80, "10.180.0.1:8080 masq"),
            (POD, "172.30.0.41", 81, "reject"),
            (POD, "172.30.0.43", 80, "172.30.0.43:80"),
            (POD, "10.180.0.2", 80, "10.180.0.2:80"),
            // Only what was translated can be a hairpin.
            ("10.180.0.1", "10.180.0.1", 8080, "10.180.0.1:8080"),
        ]);
}

/// Two Services with two ports of the same numbers between them: a number leads to the Service that has it at that address, and to
/// both where they share the address.
#[test]
fn a_port_belongs_to_the_address_that_it_is_on() {
    let with = |name: &str, cluster_ip: &str, port: u16| {
        let mut service = service(name, cluster_ip);
        service.ports = vec![tcp("p80", port)];
        service.external_ips = vec![ip(EXTERNAL)];
        service.load_balancer_ips = vec![ip(LB)];
        Update::Service(service)
    };
    World::new(options(V4))
        .with([
            with("one", "172.30.0.41", 80),
            slice("one", 81, &[("10.180.0.1", "")]),
            with("two", "172.30.0.42", 81),
            slice("two", 80, &[("10.180.0.2", "")]),
        ])
        .check(&[
            (POD, "172.30.0.41", 80, "10.180.0.1:81"),
            (POD, "172.30.0.42", 81, "10.180.0.2:80"),
            (POD, "172.30.0.41", 81, "reject"),
            (POD, "172.30.0.42", 80, "reject"),
            (OUTSIDE, EXTERNAL, 80, "10.180.0.1:81 masq"),
            (OUTSIDE, EXTERNAL, 81, "10.180.0.2:80 masq"),
            (OUTSIDE, LB, 80, "10.180.0.1:81 masq"),
            (OUTSIDE, LB, 81, "10.180.0.2:80 masq"),
        ]);
}

#[test]
fn one_port_number_of_three_protocols() {
    let mut dns = service("dns", "172.30.0.10");
    dns.ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .map(|protocol| ServicePort { name: protocol.to_string().into(), protocol, port: port(53), node_port: None })
        .into();
    let Update::Slice(mut endpoints) = slice("dns", 53, &[("10.180.0.9", "")]) else { unreachable!() };
    let numbers = [(Protocol::Tcp, 5301), (Protocol::Udp, 5302), (Protocol::Sctp, 5303)];
    endpoints.ports = numbers
        .map(|(protocol, number)| model::SlicePort { name: protocol.to_string().into(), protocol, port: port(number) })
        .into();
    let world = World::new(options(V4)).with([Update::Service(dns), Update::Slice(endpoints)]);
    for (protocol, number) in numbers {
        assert_eq!(world.trace(POD, "172.30.0.10", protocol, 53), format!("10.180.0.9:{number}"));
    }

    let world = World::new(options(V4))
        .with([Update::Service(service("web", "172.30.0.41")), slice("web", 80, &[("10.180.0.1", "")])]);
    assert_eq!(world.trace(POD, "172.30.0.41", Protocol::Udp, 80), "reject");
}

#[test]
fn without_endpoints_every_frontend_refuses() {
    let world = World::new(options(V4)).with([Update::Service(everything("none"))]);
    let refused = [
        (POD, "172.30.0.41", 80),
        (OUTSIDE, EXTERNAL, 80),
        (POD, NODE_IP, 3001),
        (OUTSIDE, NODE_IP, 3001),
        (POD, LB, 80),
        (OUTSIDE, LB, 80),
        (NODE_IP, NODE_IP, 3001),
        (NODE_IP, LB, 80),
    ];
    world.check(&refused.map(|(from, to, port)| (from, to, port, "reject")));
}

#[test]
fn external_policy_cluster_masquerades() {
    World::new(options(V4))
        .with([Update::Service(everything("web")), slice("web", 80, &[("10.180.0.1", "l"), ("10.180.2.1", "")])])
        .check(&[
            (POD, "172.30.0.41", 80, "10.180.0.1:80, 10.180.2.1:80"),
            (POD, EXTERNAL, 80, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            (OUTSIDE, EXTERNAL, 80, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            (POD, LB, 80, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            (OUTSIDE, LB, 80, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            (POD, NODE_IP, 3001, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            (OUTSIDE, NODE_IP, 3001, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            (NODE_IP, NODE_IP, 3001, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            // Ports of external addresses that no Service has are none of our business.
            (OUTSIDE, LB, 81, "5.6.7.8:81"),
            (OUTSIDE, NODE_IP, 3002, "192.168.0.2:3002"),
        ]);
}

#[test]
fn external_policy_local_keeps_the_source_and_the_node() {
    let mut web = everything("web");
    web.external_policy = TrafficPolicy::Local;
    World::new(options(V4))
        .with([Update::Service(web), slice("web", 80, &[("10.180.0.1", "l"), ("10.180.2.1", "")])])
        .check(&[
            (POD, "172.30.0.41", 80, "10.180.0.1:80, 10.180.2.1:80"),
            (POD, EXTERNAL, 80, "10.180.0.1:80, 10.180.2.1:80"),
            (OUTSIDE, EXTERNAL, 80, "10.180.0.1:80"),
            (POD, LB, 80, "10.180.0.1:80, 10.180.2.1:80"),
            (OUTSIDE, LB, 80, "10.180.0.1:80"),
            (NODE_IP, LB, 80, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            (POD, NODE_IP, 3001, "10.180.0.1:80, 10.180.2.1:80"),
            (OUTSIDE, NODE_IP, 3001, "10.180.0.1:80"),
            (NODE_IP, NODE_IP, 3001, "10.180.0.1:80 masq, 10.180.2.1:80 masq"),
            // An endpoint that comes back to itself has to see another source than its own.
            ("10.180.0.1", EXTERNAL, 80, "10.180.0.1:80 masq, 10.180.2.1:80"),
            ("10.180.0.1", LB, 80, "10.180.0.1:80 masq, 10.180.2.1:80"),
            ("10.180.0.1", NODE_IP, 3001, "10.180.0.1:80 masq, 10.180.2.1:80"),
        ]);
}

/// Kubernetes issue 131765: pods are not cut off from a load balancer's address where they can be told from clients outside.
#[test]
fn external_policy_local_without_local_endpoints_drops_strangers_only() {
    let mut web = everything("web");
    web.external_policy = TrafficPolicy::Local;
    World::new(options(V4)).with([Update::Service(web), slice("web", 80, &[("10.180.2.1", "")])]).check(&[
        (POD, "172.30.0.41", 80, "10.180.2.1:80"),
        (POD, LB, 80, "10.180.2.1:80"),
        (NODE_IP, LB, 80, "10.180.2.1:80 masq"),
        (POD, NODE_IP, 3001, "10.180.2.1:80"),
        (OUTSIDE, EXTERNAL, 80, "drop"),
        (OUTSIDE, LB, 80, "drop"),
        (OUTSIDE, NODE_IP, 3001, "drop"),
    ]);
}

#[test]
fn internal_policy_local() {
    let world = |endpoints: &[(&str, &str)]| {
        let mut web = service("web", "172.30.0.41");
        web.internal_policy = TrafficPolicy::Local;
        World::new(options(V4)).with([Update::Service(web), slice("web", 80, endpoints)])
    };
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("10.180.0.1", "l"), ("10.180.2.1", "")], "10.180.0.1:80"),
        (&[("10.180.0.1", "l"), ("10.180.0.2", "l"), ("10.180.2.1", "")], "10.180.0.1:80, 10.180.0.2:80"),
        (&[("10.180.2.1", "")], "drop"),
        (&[], "reject"),
    ];
    for (endpoints, expected) in cases {
        let mut world = world(endpoints);
        world.check(&[(POD, "172.30.0.41", 80, expected)]);
        world.apply([slice("web", 80, &[])]);
        world.check(&[(POD, "172.30.0.41", 80, "reject")]);
    }
}

/// Contract §12.1, TerminatingEndpointsTrafficPolicyLocal and -Cluster.
#[test]
fn terminating_endpoints_serve_where_no_other_does() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let check = |policy, cases: &[Case<'_>]| {
        for (endpoints, inside, outside) in cases {
            let mut web = everything("web");
            web.external_policy = policy;
            let mut world = World::new(options(V4)).with([Update::Service(web), slice("web", 80, endpoints)]);
            world.check(&[(POD, "172.30.0.41", 80, inside), (OUTSIDE, LB, 80, outside)]);
            world.apply([slice("web", 80, &[])]);
            world.check(&[(POD, "172.30.0.41", 80, "reject"), (OUTSIDE, LB, 80, "reject")]);
        }
    };
    let ready: &[_] = &[("10.0.1.1", "l"), ("10.0.1.2", "lt"), ("10.0.1.3", "ld"), ("10.0.1.4", ""), ("10.0.1.5", "t")];
    let local_terminating: &[_] = &[("10.0.1.2", "lt"), ("10.0.1.3", "ld"), ("10.0.1.4", "")];
    let remote_terminating: &[_] = &[("10.0.1.3", "ld"), ("10.0.1.5", "t")];
    let all_terminating: &[_] =
        &[("10.0.1.2", "lt"), ("10.0.1.3", "ld"), ("10.0.1.5", "t"), ("10.0.1.7", "lt"), ("10.0.1.8", "t")];
    let unusable: &[_] = &[("10.0.1.3", "ld"), ("10.0.1.6", "-"), ("10.0.1.9", "ls")];
    check(
        TrafficPolicy::Local,
        &[
            (ready, "10.0.1.1:80, 10.0.1.4:80", "10.0.1.1:80"),
            (local_terminating, "10.0.1.4:80", "10.0.1.2:80"),
            (remote_terminating, "10.0.1.5:80", "drop"),
            (all_terminating, "10.0.1.2:80, 10.0.1.5:80, 10.0.1.7:80, 10.0.1.8:80", "10.0.1.2:80, 10.0.1.7:80"),
            (unusable, "reject", "reject"),
        ],
    );
    check(
        TrafficPolicy::Cluster,
        &[
            (ready, "10.0.1.1:80, 10.0.1.4:80", "10.0.1.1:80 masq, 10.0.1.4:80 masq"),
            (&local_terminating[..2], "10.0.1.2:80", "10.0.1.2:80 masq"),
            (remote_terminating, "10.0.1.5:80", "10.0.1.5:80 masq"),
            (
                all_terminating,
                "10.0.1.2:80, 10.0.1.5:80, 10.0.1.7:80, 10.0.1.8:80",
                "10.0.1.2:80 masq, 10.0.1.5:80 masq, 10.0.1.7:80 masq, 10.0.1.8:80 masq",
            ),
            (unusable, "reject", "reject"),
        ],
    );
}

#[test]
fn ipv6_is_the_same() {
    let mut web = with_node_port(service("web", "fd00:30::41"), 3001);
    web.load_balancer_ips = vec![ip("2001:db8:5::8"), ip(LB)];
    let world = World::new(options(Family::V6))
        .with([Update::Service(web), slice("web", 8080, &[("fd00:10::1", "l"), ("fd00:10:2::1", "")])]);
    let (pod, outside) = ("fd00:10::77", "2001:db8:9::9");
    let both_masq = "[fd00:10::1]:8080 masq, [fd00:10:2::1]:8080 masq";
    world.check(&[
        (pod, "fd00:30::41", 80, "[fd00:10::1]:8080, [fd00:10:2::1]:8080"),
        (outside, "fd00:30::41", 80, both_masq),
        (outside, "2001:db8:5::8", 80, both_masq),
        (outside, NODE[2], 3001, both_masq),
        (outside, NODE[3], 3001, "[2001:db8:1::2]:3001"),
        (pod, "fd00:30::41", 81, "reject"),
    ]);
}

#[test]
fn a_family_without_cluster_ip_is_left_alone() {
    let mut web = everything("web");
    web.cluster_ips = PerFamily { v4: None, v6: Some(ip("fd00:30::41")) };
    World::new(options(V4))
        .with([Update::Service(web), slice("web", 80, &[("10.180.0.1", "")])])
        .check(&[(OUTSIDE, NODE_IP, 3001, "192.168.0.2:3001"), (OUTSIDE, LB, 80, "5.6.7.8:80")]);
}

/// kube-proxy's BuildServiceMapServiceUpdate: a Service becomes a load balancer with policy Local, stays so, and is one no more.
#[test]
fn a_service_that_becomes_a_load_balancer_and_is_one_no_more() {
    let plain = || Update::Service(service("web", "172.30.0.41"));
    let balancer = || Update::Service(Service { external_policy: TrafficPolicy::Local, ..everything("web") });
    let ends = slice("web", 80, &[("10.180.0.1", "l"), ("10.180.2.1", "")]);
    let mut world = World::new(options(V4)).with([plain(), ends]);
    let table = world.table().clone();
    let check = |world: &World, outside: [&str; 3]| {
        let [external, balancer, node_port] = outside;
        world.check(&[
            (POD, "172.30.0.41", 80, "10.180.0.1:80, 10.180.2.1:80"),
            (OUTSIDE, EXTERNAL, 80, external),
            (OUTSIDE, LB, 80, balancer),
            (OUTSIDE, NODE_IP, 3001, node_port),
        ]);
    };
    let nobodys = ["192.168.99.22:80", "5.6.7.8:80", "192.168.0.2:3001"];
    check(&world, nobodys);
    world.apply([balancer()]);
    check(&world, ["10.180.0.1:80"; 3]);
    assert!(world.apply([balancer()]).is_empty());
    world.apply([plain()]);
    check(&world, nobodys);
    let elements = |table: &FakeTable| table.sets().values().map(|set| set.elements.clone()).collect::<Vec<_>>();
    assert_eq!(elements(world.table()), elements(&table), "nothing of it is left");
}

#[test]
fn a_port_that_moves_to_another_number_leaves_the_old_one() {
    let mut web = service("web", "172.30.0.41");
    let mut world =
        World::new(options(V4)).with([Update::Service(web.clone()), slice("web", 80, &[("10.180.0.1", "")])]);
    web.ports = vec![tcp("p80", 8000)];
    world.apply([Update::Service(web)]);
    world.check(&[(POD, "172.30.0.41", 80, "reject"), (POD, "172.30.0.41", 8000, "10.180.0.1:80")]);
}

/// The kernel looks up one map after the other, and a commit may come between two lookups: the packet finds the old elements
/// first and the new ones after. What is deleted by hand here is what it misses then.
#[test]
fn a_packet_that_meets_a_change_halfway_finds_an_endpoint() {
    let world = || {
        let mut web = everything("web");
        web.external_ips.clear();
        let endpoints = slice("web", 80, &[("10.180.0.1", "l"), ("10.180.0.2", ""), ("10.180.0.3", "")]);
        World::new(options(V4)).with([Update::Service(web), endpoints])
    };
    let delete = |world: &mut World, is_gone: &dyn Fn(&str) -> bool| {
        let mut transaction = Transaction::new(ruleset::Family::Ip, ruleset::Name::new("kube-proxy").unwrap());
        for set in world.table().sets().values() {
            let set_name = set.set.name.as_str();
            for element in set.elements.values() {
                let text = set.set.display_element(element, ruleset::Family::Ip).to_string();
                if is_gone(&format!("{set_name} {text}")) {
                    transaction.ops.push(Op::DeleteElements { set: set.set.clone(), elements: vec![element.clone()] });
                }
            }
        }
        assert!(!transaction.is_empty());
        world.commit(&transaction);
    };

    // Led to three endpoints, of which one has just gone.
    let mut third_gone = world();
    delete(&mut third_gone, &|text| text.contains("endpoints ") && text.contains(" . 2 : "));
    third_gone.check(&[
        (POD, "172.30.0.41", 80, "10.180.0.1:80, 10.180.0.2:80"),
        (OUTSIDE, LB, 80, "10.180.0.1:80 masq, 10.180.0.2:80 masq"),
        (OUTSIDE, NODE_IP, 3001, "10.180.0.1:80 masq, 10.180.0.2:80 masq"),
    ]);

    // In the set of its new number of endpoints too late, in that of the old one no more.
    let mut between_sets = world();
    delete(&mut between_sets, &|text| text.starts_with("service-ips-3 "));
    between_sets.check(&[
        (POD, "172.30.0.41", 80, "10.180.0.1:80"),
        (OUTSIDE, "172.30.0.41", 80, "10.180.0.1:80 masq"),
        (POD, "172.30.0.41", 81, "reject"),
    ]);
}

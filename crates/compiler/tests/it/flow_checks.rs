//! Flows to be looked at after a change (contract §7): the lines of kube-proxy's `UpdateEndpointsMap` that ask for it, and those
//! that do not (contract §12.1).

use std::sync::Arc;

use TrafficPolicy::{Cluster, Local};
use compiler::{Compiler, FlowCheck, Offloads, Options};
use model::{Family, Protocol, Service, ServiceName, ServicePort, TrafficPolicy, Update};
use ruleset::Kernel as _;

use crate::world::{POD, World, ip, options, port, service, slice};

const LB: &str = "5.6.7.8";
const ENDS: [(&str, &str); 3] = [("10.180.0.1", "l"), ("10.180.0.2", ""), ("10.180.0.3", "t")];

/// A Service with the UDP port 80, at its ClusterIP, a load balancer and NodePort 3001.
fn udp(name: &str, cluster_ip: &str) -> Service {
    let mut service = service(name, cluster_ip);
    service.ports =
        vec![ServicePort { name: "p80".into(), protocol: Protocol::Udp, port: port(80), node_port: Some(port(3001)) }];
    service.load_balancer_ips = vec![ip(LB)];
    service
}

fn udp_slice(service: &str, target: u16, endpoints: &[(&str, &str)]) -> Update {
    let Update::Slice(mut slice) = slice(service, target, endpoints) else { unreachable!() };
    slice.ports[0].protocol = Protocol::Udp;
    Update::Slice(slice)
}

/// Checks as text: frontend and who serves.
fn checks(world: &mut World) -> Vec<String> {
    let told = |FlowCheck { frontend, serving }: FlowCheck| {
        let Some(serving) = serving else { return format!("{frontend} gone") };
        let serving: Vec<_> = serving.iter().map(ToString::to_string).collect();
        format!("{frontend} {}", serving.join(" "))
    };
    world.compiler.take_flow_checks().into_iter().map(told).collect()
}

fn world() -> World {
    let mut world = World::new(options(Family::V4));
    world.apply([Update::Service(udp("dns", "172.30.0.10")), udp_slice("dns", 53, &ENDS)]);
    world
}

/// Terminating endpoints that serve keep their flows (contract §7).
const ALL: &str = "10.180.0.1:53 10.180.0.2:53 10.180.0.3:53";

#[test]
fn every_frontend_of_udp_is_looked_at_when_it_is_new() {
    let mut world = world();
    let expected = ["5.6.7.8:80/udp", "172.30.0.10:80/udp", "node port 3001/udp"].map(|to| format!("{to} {ALL}"));
    assert_eq!(checks(&mut world), expected);
    assert_eq!(checks(&mut world), [""; 0], "each once");
    world.apply([Update::Service(service("web", "172.30.0.41")), slice("web", 80, &ENDS)]);
    assert_eq!(checks(&mut world), [""; 0], "TCP");
    world.compiler.compile_all(&world.state);
    assert_eq!(checks(&mut world), expected, "nobody knows what happened before");
}

#[test]
fn an_endpoint_that_leaves_or_stops_to_serve() {
    let mut world = world();
    checks(&mut world);
    world.apply([udp_slice("dns", 53, &[ENDS[0], ("10.180.0.2", "d"), ENDS[2]])]);
    assert!(checks(&mut world).iter().all(|check| check.ends_with(" 10.180.0.1:53 10.180.0.3:53")));
    world.apply([udp_slice("dns", 54, &ENDS[..1])]);
    assert_eq!(checks(&mut world).len(), 3);
}

/// kube-proxy looks neither at Services without endpoints nor at changes of Services alone (kubernetes issue 139628).
#[test]
fn scale_to_zero_and_deletion() {
    let mut world = world();
    checks(&mut world);
    world.apply([udp_slice("dns", 53, &[])]);
    let nobody = ["5.6.7.8:80/udp ", "172.30.0.10:80/udp ", "node port 3001/udp "];
    assert_eq!(checks(&mut world), nobody);
    world.apply([udp_slice("dns", 53, &ENDS)]);
    checks(&mut world);
    let mut moved = udp("dns", "172.30.0.10");
    moved.ports[0].node_port = Some(port(3002));
    world.apply([Update::Service(moved)]);
    assert_eq!(checks(&mut world), ["node port 3001/udp gone".to_owned(), format!("node port 3002/udp {ALL}")]);
    world.apply([Update::ServiceGone(ServiceName::new("ns", "dns"))]);
    let gone = ["5.6.7.8:80/udp gone", "172.30.0.10:80/udp gone", "node port 3002/udp gone"];
    assert_eq!(checks(&mut world), gone);
}

/// What one Service gives up, another may have taken in the same change, whichever is named first.
#[test]
fn a_frontend_that_changes_hands() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let mut world = World::new(options(Family::V4));
        let with = |name: &str, address: &str, end| [Update::Service(udp(name, address)), udp_slice(name, 53, &[end])];
        world.apply(with(first, "172.30.0.10", ENDS[0]));
        checks(&mut world);
        let gone = Update::ServiceGone(ServiceName::new("ns", first));
        world.apply([gone].into_iter().chain(with(second, "172.30.0.11", ENDS[1])));
        assert_eq!(
            checks(&mut world),
            [
                "5.6.7.8:80/udp 10.180.0.2:53",
                "172.30.0.10:80/udp gone",
                "172.30.0.11:80/udp 10.180.0.2:53",
                "node port 3001/udp 10.180.0.2:53"
            ]
        );
    }
}

/// The same with a ClusterIP only.
fn plain(name: &str, cluster_ip: &str) -> Update {
    let mut service = udp(name, cluster_ip);
    service.ports[0].node_port = None;
    service.load_balancer_ips.clear();
    Update::Service(service)
}

/// A second slice of a Service.
fn second_slice(service: &str, endpoints: &[(&str, &str)]) -> Update {
    let Update::Slice(slice) = udp_slice(service, 53, endpoints) else { unreachable!() };
    Update::Slice(model::EndpointSlice { name: ServiceName::new("ns", format!("{service}-second")), ..slice })
}

/// A slice whose port has another name.
fn renamed(update: Update, name: &str) -> Update {
    let Update::Slice(mut slice) = update else { unreachable!() };
    slice.ports[0].name = name.into();
    Update::Slice(slice)
}

/// What changes, endpoints before and after, and who serves then; `None` where no flow has to be looked at.
#[test]
fn a_change_of_endpoints() {
    let ends = |ends: &[(&str, &str)]| vec![udp_slice("dns", 53, ends)];
    let gone = |slice: &str| Update::SliceGone(ServiceName::new("ns", slice));
    let two = |first: &[(&str, &str)], second: &[(&str, &str)]| {
        vec![udp_slice("dns", 53, first), second_slice("dns", second)]
    };
    let (one, both, [first, second, _]) = (&ENDS[..1], &ENDS[..2], ENDS);
    type Case<'a> = (&'a str, Vec<Update>, Vec<Update>, Option<&'a str>);
    let cases: &[Case<'_>] = &[
        ("the same slice again", ends(&ENDS), ends(&ENDS), None),
        ("the same two slices again", two(one, &[second]), two(one, &[second]), None),
        ("in another order", ends(both), ends(&[second, first]), None),
        ("an endpoint joins", ends(one), ends(both), Some("10.180.0.1:53 10.180.0.2:53")),
        ("an endpoint leaves", ends(both), ends(one), Some("10.180.0.1:53")),
        ("the first endpoint", ends(&[]), ends(one), Some("10.180.0.1:53")),
        ("the first slice", vec![], ends(one), Some("10.180.0.1:53")),
        ("a second slice", ends(one), vec![second_slice("dns", &[second])], Some("10.180.0.1:53 10.180.0.2:53")),
        ("a second slice with what is there", ends(both), vec![second_slice("dns", &[second])], None),
        ("one of two slices goes", two(one, &[second]), vec![gone("dns-slice")], Some("10.180.0.2:53")),
        ("what one slice loses another has", two(both, &[second]), ends(one), None),
        ("the last slice goes", ends(both), vec![gone("dns-slice")], Some("")),
        ("the endpoints' port is renumbered", ends(one), vec![udp_slice("dns", 54, one)], Some("10.180.0.1:54")),
        ("the endpoints' port is renamed", ends(one), vec![renamed(udp_slice("dns", 53, one), "other")], Some("")),
        ("another port of theirs", ends(one), vec![renamed(second_slice("dns", both), "other")], None),
    ];
    for (name, before, after, expected) in cases {
        let mut world = World::new(options(Family::V4));
        world.apply([plain("dns", "172.30.0.10")].into_iter().chain(before.clone()));
        checks(&mut world);
        world.apply(after.clone());
        let expected: Vec<_> = expected.iter().map(|serving| format!("172.30.0.10:80/udp {serving}")).collect();
        assert_eq!(checks(&mut world), expected, "{name}");
    }
}

/// An endpoint that is not ready, but serves, keeps its flows, even where it gets no new ones.
#[test]
fn an_endpoint_that_serves_but_is_not_ready() {
    let cases: &[(&str, &str, &str, Option<&str>)] = &[
        ("", "s", "the other takes new flows", None),
        ("s", "", "it is ready again", None),
        ("s", "-", "it stops to serve", Some("10.180.0.1:53")),
        ("-", "s", "it serves again", Some("10.180.0.1:53 10.180.0.2:53")),
        ("s", "t", "it is shut down", None),
    ];
    for (before, after, name, expected) in cases {
        let mut world = World::new(options(Family::V4));
        let ends = |flags| udp_slice("dns", 53, &[ENDS[0], (ENDS[1].0, flags)]);
        world.apply([plain("dns", "172.30.0.10"), ends(before)]);
        checks(&mut world);
        world.apply([ends(after)]);
        let expected: Vec<_> = expected.iter().map(|serving| format!("172.30.0.10:80/udp {serving}")).collect();
        assert_eq!(checks(&mut world), expected, "{name}");
    }
    // New flows are refused where no other is there, and those that it has stay.
    let mut world = World::new(options(Family::V4));
    world.apply([plain("dns", "172.30.0.10"), udp_slice("dns", 53, &ENDS[..1])]);
    checks(&mut world);
    world.apply([udp_slice("dns", 53, &[(ENDS[0].0, "ls")])]);
    assert_eq!(world.trace(POD, "172.30.0.10", Protocol::Udp, 80), "reject");
    assert_eq!(checks(&mut world), ["172.30.0.10:80/udp 10.180.0.1:53"]);
}

/// kube-proxy's complex case: of the four Services that one sync brings, only those are looked at whose endpoints changed.
#[test]
fn four_services_at_once() {
    let mut world = World::new(options(Family::V4));
    let [first, second, _] = ENDS;
    let service = |number: u8| plain(&format!("s{number}"), &format!("172.30.0.{number}"));
    let ends = |number: u8, ends: &[(&str, &str)]| udp_slice(&format!("s{number}"), 53, ends);
    let (one, both) = ([first], [first, second]);
    let before = [ends(1, &both), second_slice("s2", &both), ends(2, &one), ends(3, &both)];
    world.apply((1..=4).map(service).chain(before));
    checks(&mut world);
    world.apply([
        ends(1, &one),
        Update::SliceGone(ServiceName::new("ns", "s2-second")),
        ends(3, &both),
        service(3),
        ends(4, &both),
    ]);
    let expected = [
        "172.30.0.1:80/udp 10.180.0.1:53",
        "172.30.0.2:80/udp 10.180.0.1:53",
        "172.30.0.4:80/udp 10.180.0.1:53 10.180.0.2:53",
    ];
    assert_eq!(checks(&mut world), expected);
}

/// Whatever the policy: flows stay with every endpoint that serves, on whichever node, and the change of a policy moves none.
#[test]
fn policy_local() {
    for (internal, external) in [(Local, Cluster), (Cluster, Local), (Local, Local)] {
        let with = |internal, external| {
            let mut service = udp("dns", "172.30.0.10");
            (service.internal_policy, service.external_policy) = (internal, external);
            Update::Service(service)
        };
        let mut world = world();
        checks(&mut world);
        world.apply([with(internal, external)]);
        let changed = checks(&mut world);
        assert!(!changed.is_empty() && changed.iter().all(|check| check.ends_with(ALL)), "{changed:?}");

        let frontends = ["5.6.7.8:80/udp", "172.30.0.10:80/udp", "node port 3001/udp"];
        for (change, ends, serving) in [
            ("a remote endpoint leaves", vec![ENDS[0], ENDS[2]], "10.180.0.1:53 10.180.0.3:53"),
            ("the local one leaves", vec![ENDS[2]], "10.180.0.3:53"),
            ("all leave", vec![], ""),
            ("a remote one comes", vec![ENDS[1]], "10.180.0.2:53"),
            ("a local one comes", vec![ENDS[0], ENDS[1]], "10.180.0.1:53 10.180.0.2:53"),
        ] {
            world.apply([udp_slice("dns", 53, &ends)]);
            let expected = frontends.map(|frontend| format!("{frontend} {serving}"));
            assert_eq!(checks(&mut world), expected, "{change}, internal {internal:?}, external {external:?}");
        }
    }
}

/// Of TCP, connections in a flowtable are looked at: they may stay with any endpoint that there is.
#[test]
fn tcp_flows_are_looked_at_when_an_endpoint_or_a_frontend_goes() {
    let mut world = World::new(options(Family::V4));
    world.apply([Update::Service(service("web", "172.30.0.41")), slice("web", 80, &ENDS)]);
    assert_eq!(checks(&mut world), [""; 0], "no connection can be in a flowtable yet");
    for ends in [["-", "", ""], ["", "t", "d"]] {
        let ends = [(ENDS[0].0, ends[0]), (ENDS[1].0, ends[1]), (ENDS[2].0, ends[2])];
        world.apply([slice("web", 80, &ends)]);
        assert_eq!(checks(&mut world), [""; 0], "all are still there");
    }
    world.apply([slice("web", 80, &ENDS[..2])]);
    assert_eq!(checks(&mut world), ["172.30.0.41:80/tcp 10.180.0.1:80 10.180.0.2:80"]);
    world.apply([slice("web", 80, &[])]);
    assert_eq!(checks(&mut world), ["172.30.0.41:80/tcp "]);
    world.apply([Update::ServiceGone(ServiceName::new("ns", "web"))]);
    assert_eq!(checks(&mut world), ["172.30.0.41:80/tcp gone"]);
}

/// Nobody saw what became of them in between: of what is there, all endpoints count, and of what is not, the kernel's table tells.
#[test]
fn after_a_restart_all_that_earlier_flows_may_lead_to_is_looked_at() {
    let (web, dns) = ([Update::Service(service("web", "172.30.0.41")), slice("web", 80, &ENDS)], world());
    let mut before = dns.with(web.clone());
    before.apply([Update::Service(service("gone", "172.30.0.42")), slice("gone", 80, &ENDS)]);
    before.apply([Update::Service(udp("lost", "172.30.0.43")), udp_slice("lost", 53, &ENDS)]);
    let (family, table) = before.compiler.table();
    let found = Arc::new(before.kernel.read(family, &table).unwrap().unwrap());

    for (offloads, tcp) in [(Offloads::ClusterIps, true), (Offloads::Nothing, false)] {
        let mut after = World::new(Options { offloads, ..options(Family::V4) }).with(web.clone());
        checks(&mut after);
        after.compiler = Compiler::new(Options { offloads, ..options(Family::V4) });
        after.compiler.adopt(Arc::clone(&found));
        after.compiler.compile_all(&after.state);
        let mut expected = vec!["5.6.7.8:80/udp gone", "172.30.0.10:80/udp gone"];
        if tcp {
            expected.push("172.30.0.41:80/tcp 10.180.0.1:80 10.180.0.2:80 10.180.0.3:80");
            expected.push("172.30.0.42:80/tcp gone");
        }
        expected.extend(["172.30.0.43:80/udp gone", "node port 3001/udp gone"]);
        assert_eq!(checks(&mut after), expected);
        after.compiler.adopt(Arc::clone(&found));
        after.compiler.compile_all(&after.state);
        assert_eq!(checks(&mut after), [""; 0], "since the start, changes are followed");
    }
}

/// A port that gets another name is another port, and its connections are none the worse for it.
#[test]
fn tcp_flows_stay_with_endpoints_of_whoever_takes_a_frontend_over() {
    let mut world = World::new(options(Family::V4));
    let with = |name: &str| {
        let mut web = service("web", "172.30.0.41");
        web.ports[0].name = name.into();
        let Update::Slice(mut slice) = slice("web", 80, &ENDS) else { unreachable!() };
        slice.ports[0].name = name.into();
        [Update::Service(web), Update::Slice(slice)]
    };
    world.apply(with("http"));
    checks(&mut world);
    world.apply(with("web"));
    assert_eq!(checks(&mut world), ["172.30.0.41:80/tcp 10.180.0.1:80 10.180.0.2:80 10.180.0.3:80"]);
}

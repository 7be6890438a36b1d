//! What the compiler tells besides transactions: flows to be looked at, whose an element is; and what is decided outside of
//! Services.

use compiler::{FlowCheck, Frontend, NodePorts, Offloads, Options};
use model::{Family, Protocol, Service, ServiceName, ServicePort, Update};
use ruleset::Op;

use crate::world::{NODE, OUTSIDE, POD, World, ip, options, port, service, slice};

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
    assert_eq!(checks(&mut world), ["node port 3001/udp ".to_owned(), format!("node port 3002/udp {ALL}")]);
    world.apply([Update::ServiceGone(ServiceName::new("ns", "dns"))]);
    assert_eq!(checks(&mut world), [nobody[0], nobody[1], "node port 3002/udp "]);
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
                "172.30.0.10:80/udp ",
                "172.30.0.11:80/udp 10.180.0.2:53",
                "node port 3001/udp 10.180.0.2:53"
            ]
        );
    }
}

#[test]
fn every_element_has_an_owner() {
    let mut world = World::new(options(Family::V4));
    let mut web = service("web", "172.30.0.41");
    web.ports[0].node_port = Some(port(3002));
    web.load_balancer_ips = vec![ip(LB)];
    web.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    web.affinity = std::num::NonZeroU32::new(60);
    let written =
        world.apply([Update::Service(web), slice("web", 80, &ENDS), Update::Service(service("none", "172.30.0.42"))]);
    let mut owners = std::collections::BTreeSet::new();
    for op in &written.ops {
        let (Op::AddElements { set, elements } | Op::DeleteElements { set, elements }) = op else { continue };
        for element in elements {
            let owner = world.compiler.owner(set, &element.key);
            let shown = set.display_element(element, ruleset::Family::Ip);
            owners.insert(owner.unwrap_or_else(|| panic!("{} {shown} has none", set.name)).to_string());
        }
    }
    assert_eq!(owners.into_iter().collect::<Vec<_>>(), ["ns/none", "ns/web"]);
}

#[test]
fn a_service_set_aside_is_as_if_it_were_not_there() {
    let mut world = World::new(options(Family::V4));
    let updates = || [Update::Service(service("web", "172.30.0.41")), slice("web", 80, &ENDS[..1])];
    world.apply(updates());
    let web = ServiceName::new("ns", "web");
    for (aside, expected) in [(true, "172.30.0.41:80"), (false, "10.180.0.1:80")] {
        world.compiler.set_aside(&web, aside);
        let transaction = world.compiler.compile(&world.state, &[web.clone()].into());
        world.commit(&transaction);
        world.check(&[(POD, "172.30.0.41", 80, expected)]);
    }
    world.compiler.set_aside(&web, true);
    let all = world.compiler.compile_all(&world.state);
    world.commit(&all);
    world.check(&[(POD, "172.30.0.41", 80, "172.30.0.41:80")]);
}

#[test]
fn node_port_addresses_follow() {
    let mut world = World::new(options(Family::V4));
    let mut web = service("web", "172.30.0.41");
    web.ports[0].node_port = Some(port(3001));
    world.apply([Update::Service(web), slice("web", 80, &ENDS[..1])]);
    let open = "10.180.0.1:80 masq";
    world.check(&[(OUTSIDE, NODE[0], 3001, open), (OUTSIDE, NODE[1], 3001, "192.168.1.2:3001")]);
    world.compiler.set_node_ports(NodePorts::Only([ip(NODE[1])].into()));
    let moved = world.apply([]);
    assert_eq!(moved.len(), 2, "{moved}");
    world.check(&[(OUTSIDE, NODE[0], 3001, "192.168.0.2:3001"), (OUTSIDE, NODE[1], 3001, open)]);
    world.compiler.set_node_ports(NodePorts::Any);
    assert!(world.apply([]).is_empty(), "that is decided when the table is made");
}

#[test]
fn frontends_print_as_operators_know_them() {
    let frontend = Frontend::NodePort { protocol: Protocol::Udp, port: port(3001) };
    assert_eq!(frontend.to_string(), "node port 3001/udp");
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
    world.apply([Update::ServiceGone(ServiceName::new("ns", "web"))]);
    assert_eq!(checks(&mut world), ["172.30.0.41:80/tcp "]);
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

#[test]
fn frontends_are_listed_for_the_fast_path() {
    let listed = |world: &World, set: &str| world.table().sets()[set].elements.len();
    let sets = ["external-ips", "slow-path-ips", "fast-path-nodeports"];
    for (offloads, node_ports) in [(Offloads::ClusterIps, 0), (Offloads::AllFrontends, 1)] {
        let mut world = World::new(Options { offloads, ..options(Family::V4) });
        let mut web = service("web", "172.30.0.41");
        web.ports[0].node_port = Some(port(3001));
        web.load_balancer_ips = vec![ip(LB)];
        world.apply([Update::Service(web.clone()), slice("web", 80, &ENDS)]);
        assert_eq!(sets.map(|set| listed(&world, set)), [1, 0, node_ports]);
        assert!(!world.compiler.take_opted_out());
        web.fast_path = false;
        world.apply([Update::Service(web.clone())]);
        assert_eq!(sets.map(|set| listed(&world, set)), [1, 2, 0]);
        assert!(world.compiler.take_opted_out() && !world.compiler.take_opted_out());
        world.apply([Update::ServiceGone(web.name)]);
        assert_eq!(sets.map(|set| listed(&world, set)), [0, 0, 0]);
    }
}

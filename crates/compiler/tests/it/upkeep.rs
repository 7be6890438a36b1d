//! What the compiler tells besides transactions and flows to be looked at: whose an element is; and what is decided outside of
//! Services.

use compiler::{Frontend, NodePorts, Offloads, Options};
use model::{Family, Protocol, ServiceName, Update};
use ruleset::Op;

use crate::world::{NODE, OUTSIDE, POD, World, ip, options, port, service, slice};

const LB: &str = "5.6.7.8";
const ENDS: [(&str, &str); 3] = [("10.180.0.1", "l"), ("10.180.0.2", ""), ("10.180.0.3", "t")];

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

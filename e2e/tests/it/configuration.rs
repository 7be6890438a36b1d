//! What the configuration decides: where NodePorts answer, and who is masqueraded.

use std::net::IpAddr;

use e2e::Expected::{self, Refused};
use e2e::{Destination, Pods, Proxy, Settings, Source, answers};
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Cluster;
use testing::objects;

use crate::world::{HTTP, World, case, everything, node_port, unhandled, ways};

fn all(source: Source) -> Expected {
    answers(&["web-0:8080", "web-1:8080"], source)
}

/// One Service with external policy `policy` and two endpoints, the first on our node.
fn world(policy: &str) -> World {
    let mut world = World::new(&Settings::default());
    let web = everything("web", 1).set("/spec/externalTrafficPolicy", policy);
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "")]);
    world.apply(&[&web, &v4, &v6]);
    world
}

impl World {
    pub(crate) fn configure(&mut self, settings: Settings) {
        self.proxy.stop(Signal::SIGTERM).unwrap();
        self.proxy.run(&settings).unwrap();
    }
}

#[test]
fn node_ports_answer_where_the_configuration_says() {
    let second =
        |family| -> IpAddr { if family == Family::V4 { "192.0.2.11" } else { "2001:db8::11" }.parse().unwrap() };
    let mut world = world("Cluster");
    for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
        world.cluster.node.add_address("eth0", &format!("{}/{length}", second(family))).unwrap();
    }
    // Which of two is primary is not left to a guess.
    let addresses = Family::ALL.map(|family| Cluster::node_address(family).to_string());
    let node = objects::node(Proxy::NODE, &[], &addresses.each_ref().map(String::as_str));
    world.proxy.manifests().put("node.yaml", &[&node]).unwrap();
    // Processes of the node that listen on the same port are reached where it is no NodePort.
    let all_addresses = Family::ALL.into_iter().flat_map(|family| [world.node().address(family), second(family)]);
    let _servers = world.answer_unhandled(all_addresses.map(|address| Destination::tcp(address, node_port(1))));
    let cases: [(&[&str], [bool; 2]); 5] = [
        (&["primary"], [true, false]),
        (&["192.0.2.0/24", "2001:db8::/64"], [true, true]),
        (&["192.0.2.11/32", "2001:db8::11/128"], [false, true]),
        (&["0.0.0.0/0", "::/0"], [true, true]),
        (&["203.0.113.0/24", "2001:db8:9::/64"], [false, false]),
    ];
    for (addresses, [first_answers, second_answers]) in cases {
        world.configure(Settings { node_port_addresses: addresses, ..Settings::default() });
        let name = format!("nodePortAddresses {addresses:?}");
        let expected = |open| if open { all(Source::Node) } else { unhandled() };
        for family in Family::ALL {
            let first = Destination::tcp(world.node().address(family), node_port(1));
            let second = Destination::tcp(second(family), node_port(1));
            world.check([
                case(&name, world.outside(), first, expected(first_answers)),
                case(&name, world.outside(), second, expected(second_answers)),
                case(&name, world.pod(), second, expected(second_answers)),
            ]);
        }
    }
}

#[test]
fn node_ports_never_answer_on_loopback() {
    let mut world = world("Cluster");
    world.configure(Settings { node_port_addresses: &["0.0.0.0/0", "::/0"], ..Settings::default() });
    let loopback: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    world.check(loopback.map(|ip| case("loopback", world.node(), Destination::tcp(ip, node_port(1)), Refused)));
}

/// Contract §12.1, InternalExternalMasquerade: with and without a way to tell pods, with and without masqueradeAll.
#[test]
fn who_is_masqueraded() {
    use Source::{Client, Node};
    let local = || answers(&["web-0:8080"], Client);
    let mut world = world("Local");
    // masqueradeAll, pods known: pod, node and outside to the ClusterIP; pod to the NodePort.
    let cases = [
        (false, true, [Client, Node, Node], all(Client)),
        (false, false, [Client, Client, Client], local()),
        (true, true, [Node, Node, Node], all(Client)),
        (true, false, [Node, Node, Node], local()),
    ];
    for (masquerade_all, knows_pods, [pod, node, outside], pod_to_node_port) in cases {
        let pods = if knows_pods { Pods::ClusterCidr } else { Pods::Untold };
        world.configure(Settings { masquerade_all, pods, ..Settings::default() });
        let name = format!("masqueradeAll {masquerade_all}, pods known {knows_pods}");
        for family in Family::ALL {
            let [(_, cluster_ip), _, _, (_, node_port)] = ways(family, 1);
            world.check([
                case(&name, world.pod(), cluster_ip, all(pod)),
                case(&name, world.node(), cluster_ip, all(node)),
                case(&name, world.outside(), cluster_ip, all(outside)),
                case(&name, world.pod(), node_port, pod_to_node_port.clone()),
                case(&name, world.node(), node_port, all(Node)),
                case(&name, world.outside(), node_port, local()),
            ]);
        }
    }
}

/// The fast path is on by default. Where the kernel has no flowtables, it says so, and Services work.
#[test]
fn a_kernel_without_flowtables_serves_all_the_same() {
    let mut world = world("Cluster");
    let probe = "nft -f - <<'END'\ntable inet probe {\n flowtable f {\n  hook ingress priority 0\n  devices = { lo }\n }\n}\nEND";
    let has_flowtables = world.cluster.client.sh(probe).is_ok();
    let said = if has_flowtables { "the fast path is on" } else { "this kernel has no flowtables" };
    world.proxy.wait(said, |proxy| Ok(proxy.log().contains(said))).unwrap();
    assert!(!world.proxy.log().contains("this process may not"), "it lacks no right");
    let enabled = if has_flowtables { 1.0 } else { 0.0 };
    assert_eq!(world.proxy.metric("kubeproxy_fastpath_enabled").unwrap(), [enabled; 2]);
    for family in Family::ALL {
        world.check(ways(family, 1).map(|(name, to)| case(name, world.outside(), to, all(Source::Node))));
    }
}

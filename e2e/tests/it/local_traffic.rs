//! The ways to tell pods from other hosts (contract §3.11): who is masqueraded on the way to a ClusterIP, and who reaches a
//! NodePort with external policy `Local` without a detour.

use e2e::Source::{Client, Node};
use e2e::{Expected, Host, Pods, Proxy, Settings, Source, answers};
use model::Family;
use testing::objects;

use crate::world::{HTTP, World, case, everything, ways};

const POLICY: &str = "/spec/externalTrafficPolicy";

/// One Service with external policy Local and two endpoints, the first on our node, whose Node object has these prefixes.
fn world(pod_cidrs: [&str; 2]) -> World {
    let mut world = World::new(&Settings::default());
    world.proxy.manifests().put("node.yaml", &[&objects::node(Proxy::NODE, &pod_cidrs, &["192.0.2.10"])]).unwrap();
    let web = everything("web", 1).set(POLICY, "Local");
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "")]);
    world.apply(&[&web, &v4, &v6]);
    world
}

fn all(source: Source) -> Expected {
    answers(&["web-0:8080", "web-1:8080"], source)
}

fn local() -> Expected {
    answers(&["web-0:8080"], Client)
}

/// Under `pods`, these hosts count as pods and others do not; nor do the node and hosts outside.
fn check(world: &mut World, pods: Pods, told: fn(&World) -> Vec<Host<'_>>, untold: fn(&World) -> Vec<Host<'_>>) {
    world.configure(Settings { pods, ..Settings::default() });
    let name = format!("{pods:?}");
    for family in Family::ALL {
        let [(_, cluster_ip), _, _, (_, node_port)] = ways(family, 1);
        for pod in told(world) {
            world.check([case(&name, pod, cluster_ip, all(Client)), case(&name, pod, node_port, all(Client))]);
        }
        for other in untold(world) {
            world.check([case(&name, other, cluster_ip, all(Node)), case(&name, other, node_port, local())]);
        }
        world.check([
            case(&name, world.outside(), cluster_ip, all(Node)),
            case(&name, world.outside(), node_port, local()),
            case(&name, world.node(), cluster_ip, all(Node)),
            case(&name, world.node(), node_port, all(Node)),
        ]);
    }
}

fn shop(world: &World) -> Vec<Host<'_>> {
    vec![world.pod()]
}

fn idle(world: &World) -> Vec<Host<'_>> {
    vec![world.web[2].host()]
}

fn nobody(_: &World) -> Vec<Host<'_>> {
    Vec::new()
}

#[test]
fn by_the_prefixes_of_the_node() {
    check(&mut world(["10.1.0.0/24", "fd00:10:1::/64"]), Pods::NodeCidr, shop, nobody);
    check(&mut world(["10.9.0.0/24", "fd00:10:9::/64"]), Pods::NodeCidr, nobody, shop);
}

#[test]
fn by_the_interface_of_a_bridge() {
    let mut world = world(["10.1.0.0/24", "fd00:10:1::/64"]);
    // There is no bridge between the pods of this node: each has an interface of its own.
    assert_eq!(world.shop.pod().node_interface, "pod5");
    check(&mut world, Pods::BridgeInterface("pod5"), shop, idle);
    check(&mut world, Pods::BridgeInterface("pod"), nobody, shop);
}

#[test]
fn by_the_start_of_the_interfaces_names() {
    let mut world = world(["10.1.0.0/24", "fd00:10:1::/64"]);
    check(&mut world, Pods::InterfaceNamePrefix("pod"), |world| vec![world.pod(), world.web[2].host()], nobody);
    check(&mut world, Pods::InterfaceNamePrefix("veth"), nobody, shop);
}

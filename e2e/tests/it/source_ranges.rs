//! loadBalancerSourceRanges (contract §12.1 LoadBalancer), and addresses that are kept for ClusterIPs.

use e2e::Expected::{self, Lost, Refused};
use e2e::{Destination, Settings, Source, answers};
use model::Family;
use testing::netns::Cluster;
use testing::objects;

use crate::world::{HTTP, World, case, cluster_ip, everything, ways};

const WEB: [&str; 2] = ["web-0:8080", "web-1:8080"];

fn both() -> Expected {
    answers(&WEB, Source::Node)
}

#[test]
fn only_sources_in_range_reach_the_load_balancer() {
    let mut world = World::new(&Settings::default());
    let outside = Family::ALL.map(|family| {
        let length = if family == Family::V4 { 32 } else { 128 };
        format!("{}/{length}", Cluster::client_address(family))
    });
    // Twice, and within a wider one, of which the kernel would take neither; with a blank, as they are found in the wild.
    let ranges = |mine: &[String]| {
        let more = ["198.18.0.0/15", "198.18.0.0/16", "198.18.0.0/15", " 2001:db8:f::/48"].map(str::to_owned);
        more.into_iter().chain(mine.to_vec()).collect::<Vec<_>>()
    };
    let open = everything("web", 1).set("/spec/loadBalancerSourceRanges", ranges(&outside));
    let closed = everything("shut", 2).set("/spec/loadBalancerSourceRanges", ranges(&[]));
    let [web4, web6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    let [shut4, shut6] = world.slices("shut", &[HTTP], &[(0, "l"), (1, "l")]);
    world.apply(&[&open, &web4, &web6, &closed, &shut4, &shut6]);
    for family in Family::ALL {
        let [_, _, (_, open), _] = ways(family, 1);
        let [(_, cluster_ip), (_, external), (_, balancer), (_, node_port)] = ways(family, 2);
        world.check([
            case("allowed from outside", world.outside(), open, both()),
            case("blocked: a pod", world.pod(), open, Lost),
            case("blocked: from outside", world.outside(), balancer, Lost),
            case("the ClusterIP is for everyone", world.pod(), cluster_ip, answers(&WEB, Source::Client)),
            case("so is the NodePort", world.outside(), node_port, both()),
            case("and so is the external IP", world.outside(), external, both()),
        ]);
    }
    world.apply(&[&everything("shut", 2), &shut4, &shut6]);
    for family in Family::ALL {
        world.check([case("open again", world.outside(), ways(family, 2)[2].1, both())]);
    }
}

#[test]
fn where_the_node_may_connect_it_does() {
    let mut world = World::new(&Settings::default());
    let node = Family::ALL.map(|family| {
        let length = if family == Family::V4 { 24 } else { 64 };
        format!("{}/{length}", Cluster::node_address(family))
    });
    let web = everything("web", 1).set("/spec/loadBalancerSourceRanges", node.to_vec());
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    world.apply(&[&web, &v4, &v6]);
    for family in Family::ALL {
        let balancer = ways(family, 1)[2].1;
        world.check([
            case("the node itself", world.node(), balancer, both()),
            case("a pod", world.pod(), balancer, Lost),
        ]);
    }
}

#[test]
fn unallocated_cluster_ips_are_dropped_as_soon_as_their_range_is_known() {
    let mut world = World::new(&Settings::default());
    let web = everything("web", 1);
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    world.apply(&[&web, &v4, &v6]);
    // A host outside has the address and refuses, as long as packets get there.
    let nobody = |family| Destination::tcp(cluster_ip(family, 77), 80);
    for family in Family::ALL {
        let address = cluster_ip(family, 77);
        world.cluster.client.add_address("lo", &address.to_string()).unwrap();
        world.check([case("it is not known yet", world.pod(), nobody(family), Refused)]);
    }
    let cidrs = objects::service_cidr("kubernetes", &["10.96.0.0/16", "fd00:10:96::/112"]);
    world.apply(&[&web, &v4, &v6, &cidrs]);
    for family in Family::ALL {
        let web = cluster_ip(family, 1);
        world.check([
            case("no Service has it: a pod", world.pod(), nobody(family), Lost),
            case("no Service has it: the node", world.node(), nobody(family), Lost),
            case("a Service's", world.pod(), Destination::tcp(web, 80), answers(&WEB, Source::Client)),
            case("another port of it", world.pod(), Destination::tcp(web, 81), Refused),
        ]);
    }
}

//! loadBalancerSourceRanges (contract §12.1 LoadBalancer), and addresses that are kept for ClusterIPs.

use std::thread;

use e2e::Expected::{self, Lost, Refused};
use e2e::{Destination, Proxy, Settings, Source, answers};
use model::Family;
use testing::netns::Cluster;
use testing::objects::{self, Service};
use testing::traffic::{Refusal, ask_tcp};

use crate::world::{HTTP, Port, World, case, cluster_ip, everything, service, unhandled, vip, ways};

const RANGES: &str = "/spec/loadBalancerSourceRanges";
const WEB: [&str; 2] = ["web-0:8080", "web-1:8080"];

/// Gives a load balancer a second address, numbered `number`.
fn with_vip(service: Service, number: u8) -> Service {
    Family::ALL.iter().fold(service, |service, family| service.load_balancer_ip(&vip(*family, number).to_string()))
}

/// The host outside, as ranges of either family. With blanks, as they are found in the wild.
fn only_outside() -> Vec<String> {
    let range =
        |family| format!(" {}/{} ", Cluster::client_address(family), if family == Family::V4 { 32 } else { 128 });
    Family::ALL.map(range).to_vec()
}

fn both() -> Expected {
    answers(&WEB, Source::Node)
}

#[test]
fn only_sources_in_range_reach_the_load_balancer() {
    let mut world = World::new(&Settings::default());
    // Twice, and within a wider one, of which the kernel would take neither.
    let ranges = |mine: &[String]| {
        let more = ["198.18.0.0/15", "198.18.0.0/16", "198.18.0.0/15", " 2001:db8:f::/48"].map(str::to_owned);
        more.into_iter().chain(mine.to_vec()).collect::<Vec<_>>()
    };
    let open = with_vip(everything("web", 1), 11).set(RANGES, ranges(&only_outside()));
    let closed = with_vip(everything("shut", 2), 12).set(RANGES, ranges(&[]));
    let [web4, web6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    let [shut4, shut6] = world.slices("shut", &[HTTP], &[(0, "l"), (1, "l")]);
    world.apply(&[&open, &web4, &web6, &closed, &shut4, &shut6]);
    for family in Family::ALL {
        let [_, _, (_, open), _] = ways(family, 1);
        let [(_, cluster_ip), (_, external), (_, balancer), (_, node_port)] = ways(family, 2);
        let [second_open, second_balancer] = [11, 12].map(|number| Destination::tcp(vip(family, number), 80));
        world.check([
            case("allowed from outside", world.outside(), open, both()),
            case("allowed from outside to the second address", world.outside(), second_open, both()),
            case("blocked: a pod", world.pod(), open, Lost),
            case("blocked: a pod to the second address", world.pod(), second_open, Lost),
            case("blocked: the node", world.node(), open, Lost),
            case("blocked: from outside", world.outside(), balancer, Lost),
            case("blocked: from outside to the second address", world.outside(), second_balancer, Lost),
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
    let web = everything("web", 1).set(RANGES, node.to_vec());
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

/// Where a balancer's address is one of the node's, that is what the node connects to it from. It may, if the node may.
#[test]
fn where_the_node_may_connect_so_may_the_address_itself() {
    const VIPS: [u8; 2] = [1, 11];
    let mut world = World::prepare();
    let addresses = Family::ALL.map(|family| Cluster::node_address(family).to_string());
    let node = objects::node(Proxy::NODE, &[], &addresses.each_ref().map(String::as_str));
    world.proxy.manifests().put("node.yaml", &[&node]).unwrap();
    world.proxy.run(&Settings::default()).unwrap();
    let vips = || Family::ALL.into_iter().flat_map(|family| VIPS.map(|number| vip(family, number)));
    vips().for_each(|vip| world.cluster.node.add_address("lo", &vip.to_string()).unwrap());
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    let node = vec!["192.0.2.8/29", "2001:db8::10/124"];
    let outside = vec!["192.0.2.100/32", "2001:db8::100/128"];
    for (ranges, node_may) in [(node, true), (outside, false)] {
        let web = with_vip(everything("web", 1), VIPS[1]).set(RANGES, ranges.clone());
        world.apply(&[&web, &v4, &v6]);
        let ask = |vip| ask_tcp(&world.cluster.node, Some((vip, 0).into()), (vip, 80).into());
        thread::scope(|scope| {
            let asked = vips().map(|vip| (vip, scope.spawn(move || ask(vip)))).collect::<Vec<_>>();
            for (vip, reply) in asked {
                let seen = reply.join().unwrap().map(|reply| reply.seen_source.ip());
                let masqueraded = Cluster::gateway_address(Family::of(vip));
                let expected = if node_may { Ok(masqueraded) } else { Err(Refusal::TimedOut) };
                assert_eq!(seen, expected, "{vip} to itself, ranges {ranges:?}\n{}", world.proxy.log_tail());
            }
        });
    }
}

/// One protocol of a port says nothing of another.
#[test]
fn udp_too() {
    const DNS: [Port; 2] = [("dns", "UDP", 53, 5353), ("dns-tcp", "TCP", 53, 8080)];
    let mut world = World::new(&Settings::default());
    let dns = with_vip(service("dns", 1, &DNS), 1).set(RANGES, only_outside());
    let [v4, v6] = world.slices("dns", &DNS, &[(0, "l"), (1, "l")]);
    world.apply(&[&dns, &v4, &v6]);
    let udp = answers(&["web-0:5353", "web-1:5353"], Source::Node);
    for family in Family::ALL {
        let [over_udp, over_tcp] = [Destination::udp, Destination::tcp].map(|to| to(vip(family, 1), 53));
        world.check([
            case("allowed over UDP", world.outside(), over_udp, udp.clone()),
            case("allowed over TCP", world.outside(), over_tcp, both()),
            case("blocked over UDP: a pod", world.pod(), over_udp, Lost),
            case("blocked over TCP: a pod", world.pod(), over_tcp, Lost),
        ]);
    }
    world.apply(&[&with_vip(service("dns", 1, &DNS), 1), &v4, &v6]);
    for family in Family::ALL {
        let over_udp = Destination::udp(vip(family, 1), 53);
        world.check([case("open again", world.pod(), over_udp, udp.clone())]);
    }
}

#[test]
fn unallocated_cluster_ips_are_dropped_as_soon_as_their_range_is_known() {
    let mut world = World::new(&Settings::default());
    let web = everything("web", 1);
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    world.apply(&[&web, &v4, &v6]);
    let nobody = |family| Destination::tcp(cluster_ip(family, 77), 80);
    let _servers = world.answer_unhandled(Family::ALL.map(nobody));
    let from_all = |world: &World, name, expected: Expected| {
        for family in Family::ALL {
            let hosts = [world.pod(), world.node(), world.outside()];
            world.check(hosts.map(|from| case(name, from, nobody(family), expected.clone())));
        }
    };
    from_all(&world, "it is not known yet", unhandled());
    let cidrs = objects::service_cidr("kubernetes", &["10.96.0.0/16", "fd00:10:96::/112"]);
    world.apply(&[&web, &v4, &v6, &cidrs]);
    from_all(&world, "no Service has it", Lost);
    for family in Family::ALL {
        let web = cluster_ip(family, 1);
        world.check([
            case("a Service's", world.pod(), Destination::tcp(web, 80), answers(&WEB, Source::Client)),
            case("another port of it", world.pod(), Destination::tcp(web, 81), Refused),
        ]);
    }
}

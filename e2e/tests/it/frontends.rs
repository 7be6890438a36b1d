//! Every kind of frontend, with and without endpoints, and who is masqueraded.

use std::fmt::Display;

use e2e::Expected::{self, Refused};
use e2e::{Destination, Settings, Source, answers};
use model::Family;
use serde_json::{Value, json};
use testing::netns::Cluster;

use crate::world::{
    HTTP, Port, World, case, cluster_ip, everything, external_ip, node_port, service, unhandled, vip, ways,
};

const WEB: [&str; 3] = ["web-0:8080", "web-1:8080", "web-2:8080"];

#[test]
fn every_frontend_reaches_all_endpoints() {
    const ALL: &[(usize, &str)] = &[(0, "l"), (1, "l"), (2, "")];
    const DNS: [Port; 4] = [
        ("dns-tcp", "TCP", 53, 5301),
        ("dns", "UDP", 53, 5302),
        ("dns-sctp", "SCTP", 53, 5303),
        ("metrics", "TCP", 9153, 8081),
    ];
    let mut world = World::new(&Settings::default());
    let (web, dns) = (everything("web", 1), service("dns", 2, &DNS));
    let [web4, web6] = world.slices("web", &[HTTP], ALL);
    let [dns4, dns6] = world.slices("dns", &DNS, &[(1, "l"), (2, "")]);
    world.apply(&[&web, &web4, &web6, &dns, &dns4, &dns6]);

    let (pod, node, outside) = (world.pod(), world.node(), world.outside());
    for family in Family::ALL {
        let (web, dns) = (cluster_ip(family, 1), cluster_ip(family, 2));
        let all = |source| answers(&WEB, source);
        let both = |port: u16| answers(&[&format!("web-1:{port}"), &format!("web-2:{port}")], Source::Client);
        world.check([
            case("a pod to a ClusterIP", pod, Destination::tcp(web, 80), all(Source::Client)),
            case("the node to a ClusterIP", node, Destination::tcp(web, 80), all(Source::Node)),
            case("outside to a ClusterIP", outside, Destination::tcp(web, 80), all(Source::Node)),
            case(
                "an endpoint to its own Service",
                world.web[0].host(),
                Destination::tcp(web, 80),
                all(Source::Client).but(WEB[0], Source::Node),
            ),
            case("one port of three protocols: TCP", pod, Destination::tcp(dns, 53), both(5301)),
            case("one port of three protocols: UDP", pod, Destination::udp(dns, 53), both(5302)),
            case("one port of three protocols: SCTP", pod, Destination::sctp(dns, 53), both(5303)),
            case("another port of the same Service", pod, Destination::tcp(dns, 9153), both(8081)),
            case("a port that the ClusterIP does not have", pod, Destination::tcp(web, 81), Refused),
            case("a port that it has over TCP only", pod, Destination::udp(web, 80), Refused),
            case("such a port, from the node", node, Destination::tcp(web, 81), Refused),
            case("such a port, from outside", outside, Destination::udp(web, 81), Refused),
            case(
                "an endpoint itself",
                pod,
                Destination::tcp(world.web[0].pod().address(family), 8080),
                answers(&WEB[..1], Source::Client),
            ),
        ]);
        for (name, to) in &ways(family, 1)[1..] {
            for from in [pod, node, outside] {
                world.check([case(name, from, *to, all(Source::Node))]);
            }
        }
    }
}

#[test]
fn what_no_service_has_is_left_alone() {
    let mut world = World::new(&Settings::default());
    let web = everything("web", 1);
    let [web4, web6] = world.slices("web", &[HTTP], &[(0, "l")]);
    world.apply(&[&web, &web4, &web6]);
    let nobodys = |family| {
        let node = Cluster::node_address(family);
        [
            ("a ClusterIP of no Service", Destination::tcp(cluster_ip(family, 77), 80)),
            ("another port of an external IP", Destination::tcp(external_ip(family, 1), 81)),
            ("another port of a load balancer", Destination::tcp(vip(family, 1), 81)),
            ("another port of the node", Destination::tcp(node, node_port(9))),
            ("the node at the port of the ClusterIP", Destination::tcp(node, 80)),
        ]
    };
    let _servers = world.answer_unhandled(Family::ALL.into_iter().flat_map(nobodys).map(|(_, to)| to));
    for family in Family::ALL {
        let hosts = [world.pod(), world.node(), world.outside()];
        let all =
            nobodys(family).into_iter().flat_map(|(name, to)| hosts.map(|from| case(name, from, to, unhandled())));
        world.check(all);
    }
}

#[test]
fn without_endpoints_every_frontend_refuses() {
    const UDP: Port = ("udp", "UDP", 53, 5302);
    let mut world = World::new(&Settings::default());
    let tcp = everything("nobody", 1);
    let mut udp = service("nobody-udp", 2, &[UDP]).node_port(node_port(2));
    for family in Family::ALL {
        udp = udp.load_balancer_ip(&vip(family, 2).to_string());
    }
    // One Service has no slice at all, the other one without usable endpoints.
    let [udp4, udp6] = world.slices("nobody-udp", &[UDP], &[(0, "l-"), (1, "ld")]);
    world.apply(&[&tcp, &udp, &udp4, &udp6]);
    let hosts = [world.pod(), world.node(), world.outside()];
    for family in Family::ALL {
        let udp = [
            ("ClusterIP over UDP", Destination::udp(cluster_ip(family, 2), 53)),
            ("load balancer over UDP", Destination::udp(vip(family, 2), 53)),
            ("NodePort over UDP", Destination::udp(world.node().address(family), node_port(2))),
        ];
        let ways: Vec<_> = ways(family, 1).into_iter().chain(udp).collect();
        world.check(ways.iter().flat_map(|(name, to)| hosts.map(|from| case(name, from, *to, Refused))));
    }
}

/// Of `status.loadBalancer`, only addresses that packets arrive with are frontends.
#[test]
fn a_load_balancer_that_is_a_proxy_is_none_of_ours() {
    let mut world = World::new(&Settings::default());
    let modes = [(1, json!("VIP")), (2, json!("Proxy")), (3, Value::Null)];
    let ingress: Vec<_> = Family::ALL
        .iter()
        .flat_map(|family| {
            modes.each_ref().map(|(number, mode)| json!({"ip": vip(*family, *number).to_string(), "ipMode": mode}))
        })
        // What older clusters say of all.
        .chain(Family::ALL.map(|family| json!({"ip": vip(family, 4).to_string()})))
        .collect();
    let web = service("web", 1, &[HTTP]).set("/spec/type", "LoadBalancer").set("/status/loadBalancer/ingress", ingress);
    let [web4, web6] = world.slices("web", &[HTTP], &[(0, "l")]);
    let to = |family, number| Destination::tcp(vip(family, number), 80);
    let _servers =
        world.answer_unhandled(Family::ALL.into_iter().flat_map(|family| [1, 2, 3, 4].map(|n| to(family, n))));
    world.apply(&[&web, &web4, &web6]);
    for family in Family::ALL {
        let masqueraded = || answers(&WEB[..1], Source::Node);
        world.check([
            case("ipMode VIP", world.outside(), to(family, 1), masqueraded()),
            case("ipMode Proxy", world.outside(), to(family, 2), unhandled()),
            case("ipMode null", world.outside(), to(family, 3), masqueraded()),
            case("no ipMode", world.outside(), to(family, 4), masqueraded()),
        ]);
    }
}

/// Whoever asks for a headless Service is told of its endpoints by DNS: there is nothing for a proxy to do.
#[test]
fn a_headless_service_is_none_of_ours() {
    const BOTH: [(&str, u8); 2] = [("web", 1), ("db", 2)];
    let mut world = World::new(&Settings::default());
    let apply = |world: &mut World, headless: bool| {
        let mut objects: Vec<Box<dyn Display>> = Vec::new();
        for (name, number) in BOTH {
            let is_headless = headless && name == "db";
            let service = everything(name, number);
            objects.push(Box::new(if is_headless { service.headless() } else { service }));
            objects.extend(world.slices(name, &[HTTP], &[(0, "l")]).map(|slice| Box::new(slice) as Box<_>));
        }
        world.apply(&objects.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    };
    let _servers = world.answer_unhandled(Family::ALL.into_iter().flat_map(|family| ways(family, 2).map(|(_, to)| to)));
    let check = |world: &World, number, outcome: &Expected| {
        for family in Family::ALL {
            world.check(ways(family, number).map(|(name, to)| case(name, world.outside(), to, outcome.clone())));
        }
    };
    let served = answers(&WEB[..1], Source::Node);
    // With ClusterIPs it works, so that it could have been seen if it did without.
    for (headless, outcome) in [(true, unhandled()), (false, served.clone()), (true, unhandled())] {
        apply(&mut world, headless);
        check(&world, 1, &served);
        check(&world, 2, &outcome);
        let of_pod = |family| Destination::tcp(world.web[0].pod().address(family), 8080);
        let direct = answers(&WEB[..1], Source::Client);
        world.check(Family::ALL.map(|family| case("an endpoint itself", world.pod(), of_pod(family), direct.clone())));
    }
}

/// A Service has what its ClusterIPs have: with one of IPv4 only, its other addresses of IPv6 are left alone.
#[test]
fn a_family_without_cluster_ip_is_left_alone() {
    let mut world = World::new(&Settings::default());
    let mut web = testing::objects::service("default", "web").cluster_ip("10.96.0.1").port("http", "TCP", 80);
    web = web.node_port(node_port(1));
    for family in Family::ALL {
        web = web.external_ip(&external_ip(family, 1).to_string());
    }
    let [web4, web6] = world.slices("web", &[HTTP], &[(0, "l")]);
    world.apply(&[&web, &web4, &web6]);
    let (outside, masqueraded) = (world.outside(), || answers(&WEB[..1], Source::Node));
    let node_port = |family| Destination::tcp(world.node().address(family), node_port(1));
    let external = |family| Destination::tcp(external_ip(family, 1), 80);
    let _servers = world.answer_unhandled([node_port(Family::V6), external(Family::V6)]);
    world.check([
        case("NodePort, IPv4", outside, node_port(Family::V4), masqueraded()),
        case("NodePort, IPv6", outside, node_port(Family::V6), unhandled()),
        case("external IP, IPv4", outside, external(Family::V4), masqueraded()),
        case("external IP, IPv6", outside, external(Family::V6), unhandled()),
    ]);
}

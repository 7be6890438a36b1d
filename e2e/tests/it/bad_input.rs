//! Manifests that no one should write: each mistake is named, and costs no more than what it is in.

use std::fmt::Display;
use std::time::SystemTime;

use e2e::{Destination, Expected, Proxy, Settings, Source, answers};
use model::Family;
use serde_json::json;
use testing::objects;

use crate::world::{HTTP, World, case, cluster_ip, everything, external_ip, node_port, service};

/// All words stand on one line of the log.
fn said(log: &str, words: &[&str]) -> bool {
    log.lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn malformed_manifests_are_named_and_all_else_works() {
    let mut world = World::new(&Settings::default());
    let good = service("good", 1, &[HTTP]);
    let [v4, v6] = world.slices("good", &[HTTP], &[(0, "l"), (1, "l")]);
    world.proxy.apply("good.yaml", &[&good, &v4, &v6]).unwrap();

    let slice = || world.slice(Family::V4, "good", &[HTTP], &[]);
    let not_yaml = "kind: Service\nmetadata: [";
    let not_kubernetes = "just a sentence";
    // File, what is in it, and the words that one line of the log has to have.
    let cases: Vec<(&str, Box<dyn Display>, &[&str])> = vec![
        ("broken.yaml", Box::new(not_yaml), &["broken.yaml", "document 1"]),
        ("prose.yaml", Box::new(not_kubernetes), &["prose.yaml", "document 1"]),
        (
            "ip.yaml",
            Box::new(service("bad-ip", 2, &[HTTP]).set("/spec/clusterIPs", vec!["10.96.0.300"])),
            &["default/bad-ip", "spec.clusterIPs", "10.96.0.300"],
        ),
        (
            "port.yaml",
            Box::new(service("bad-port", 3, &[HTTP]).set("/spec/ports/0/port", 70_000)),
            &["default/bad-port", "spec.ports[0].port", "70000"],
        ),
        (
            "protocol.yaml",
            Box::new(service("bad-protocol", 4, &[HTTP]).set("/spec/ports/0/protocol", "ICMP")),
            &["default/bad-protocol", "spec.ports[0].protocol", "ICMP"],
        ),
        (
            "policy.yaml",
            Box::new(service("bad-policy", 5, &[HTTP]).set("/spec/internalTrafficPolicy", "Nearby")),
            &["default/bad-policy", "spec.internalTrafficPolicy", "Nearby"],
        ),
        (
            "endpoint.yaml",
            Box::new(slice().set("/metadata/name", "bad-end").endpoint("10.1.0.999")),
            &["default/bad-end", "endpoints[0].addresses", "10.1.0.999"],
        ),
        (
            "fqdn.yaml",
            Box::new(slice().set("/metadata/name", "bad-type").set("/addressType", "FQDN")),
            &["default/bad-type", "addressType", "FQDN"],
        ),
        (
            "label.yaml",
            Box::new(slice().set("/metadata/name", "no-label").set("/metadata/labels", json!({}))),
            &["default/no-label", "kubernetes.io/service-name"],
        ),
    ];
    let mut written = SystemTime::now();
    for (file, text, _) in &cases {
        written = world.proxy.manifests().put(file, &[text]).unwrap();
    }
    for (file, text, words) in &cases {
        let wanted = format!("a line of the log about {file} with {words:?}; it has: {text}");
        world.proxy.wait(&wanted, |proxy| Ok(said(&proxy.log(), words))).unwrap();
    }
    world.proxy.wait_synced(written).unwrap();

    // A Service after them is taken in, and those before go on.
    let late = service("late", 9, &[HTTP]);
    let [late4, late6] = world.slices("late", &[HTTP], &[(2, "l")]);
    world.proxy.apply("late.yaml", &[&late, &late4, &late6]).unwrap();
    for family in Family::ALL {
        let to = |number| Destination::tcp(cluster_ip(family, number), 80);
        world.check([
            case("before", world.pod(), to(1), answers(&["web-0:8080", "web-1:8080"], Source::Client)),
            case("after", world.pod(), to(9), answers(&["web-2:8080"], Source::Client)),
        ]);
    }
}

/// Contract §4.1 and §12.1, BadIPs: old objects may have leading zeros, which are decimal. As octal numbers they would mean other
/// addresses, or none. An address that is bad in earnest costs no more than itself.
#[test]
fn zero_padded_addresses_are_decimal_and_bad_ones_are_skipped() {
    let mut world = World::new(&Settings::default());
    let balancers =
        json!([{"ip": "198.051.100.010"}, {"ip": "198.51.100.300"}, {"ip": " "}, {"ip": "198.051.100.011"}]);
    let web = objects::service("default", "web")
        .cluster_ip("010.096.000.010")
        .port("http", "TCP", 80)
        .external_ip("203.000.113.010")
        .external_ip("203.0.113.400")
        .external_ip("203.000.113.011")
        .set("/spec/type", "LoadBalancer")
        .set("/status/loadBalancer/ingress", balancers)
        .set("/spec/loadBalancerSourceRanges", vec!["192.000.002.100/032", "192.0.2.0/33", "all"]);
    let padded = world.web[0].pod().v4.octets().map(|octet| format!("{octet:03}")).join(".");
    let slice = objects::slice("default", "web-1", "web").port("http", "TCP", 8080).endpoint(&padded);
    world.apply(&[&web, &slice.on_node(Proxy::NODE)]);
    let (pod, outside) = (world.pod(), world.outside());
    let to = |address: &str| Destination::tcp(address.parse().unwrap(), 80);
    let reaches = |source| answers(&["web-0:8080"], source);
    world.check([
        case("ClusterIP", pod, to("10.96.0.10"), reaches(Source::Client)),
        case("external IP", outside, to("203.0.113.10"), reaches(Source::Node)),
        case("external IP after a bad one", outside, to("203.0.113.11"), reaches(Source::Node)),
        case("load balancer", outside, to("198.51.100.10"), reaches(Source::Node)),
        case("load balancer after bad ones", outside, to("198.51.100.11"), reaches(Source::Node)),
        case("load balancer, out of range", pod, to("198.51.100.10"), Expected::Lost),
        case("a hairpin", world.web[0].host(), to("10.96.0.10"), reaches(Source::Node)),
    ]);
    let log = world.proxy.log();
    for bad in ["198.51.100.300", "203.0.113.400", "192.0.2.0/33", r#"\"all\""#] {
        assert!(said(&log, &["default/web", bad]), "no word of {bad}: {log}");
    }
}

#[test]
fn names_and_numbers_at_their_limits() {
    let mut world = World::new(&Settings::default());
    let name = format!("a{}z", "-".repeat(61));
    let port = ("a-port-name-15c", "TCP", 65535, 8080);
    let long = service(&name, 1, &[port]).set("/metadata/namespace", "n".repeat(63)).node_port(32767);
    let slice = |world: &World, family| {
        world.slice(family, &name, &[port], &[(0, "l")]).set("/metadata/namespace", "n".repeat(63))
    };
    let (v4, v6) = (slice(&world, Family::V4), slice(&world, Family::V6));
    world.apply(&[&long, &v4, &v6]);
    for family in Family::ALL {
        let to = Destination::tcp(cluster_ip(family, 1), 65535);
        let node_port = Destination::tcp(world.node().address(family), 32767);
        world.check([
            case("the highest port", world.pod(), to, answers(&["web-0:8080"], Source::Client)),
            case("the highest NodePort", world.outside(), node_port, answers(&["web-0:8080"], Source::Node)),
        ]);
    }
}

#[test]
fn a_frontend_of_two_services_is_the_older_ones_and_it_is_said() {
    let mut world = World::new(&Settings::default());
    let created = |name, number, day: &str| {
        let time = format!("2026-01-{day}T00:00:00Z");
        everything(name, number).set("/metadata/creationTimestamp", time)
    };
    let old = created("z-old", 1, "01");
    let mut young = created("a-young", 2, "02").set("/spec/ports/0/nodePort", node_port(1));
    for family in Family::ALL {
        young = young.external_ip(&external_ip(family, 1).to_string());
    }
    let [old4, old6] = world.slices("z-old", &[HTTP], &[(0, "l")]);
    let [young4, young6] = world.slices("a-young", &[HTTP], &[(1, "l")]);
    world.proxy.apply("young.yaml", &[&young, &young4, &young6]).unwrap();
    world.proxy.apply("old.yaml", &[&old, &old4, &old6]).unwrap();
    let check = |world: &World, contested: &str| {
        for family in Family::ALL {
            let (outside, masqueraded) = (world.outside(), |end: &str| answers(&[end], Source::Node));
            let contested = masqueraded(contested);
            let node_port = Destination::tcp(world.node().address(family), node_port(1));
            let own = Destination::tcp(external_ip(family, 2), 80);
            world.check([
                case("contested NodePort", outside, node_port, contested.clone()),
                case("contested external IP", outside, Destination::tcp(external_ip(family, 1), 80), contested),
                case("not contested", outside, own, masqueraded("web-1:8080")),
            ]);
        }
    };
    check(&world, "web-0:8080");
    let log = world.proxy.log();
    assert!(said(&log, &["30001/tcp", "default/a-young", "default/z-old"]), "{log}");
    world.proxy.withdraw("old.yaml").unwrap();
    check(&world, "web-1:8080");
}

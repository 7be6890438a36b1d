//! Objects that mean harm: they cost themselves, and no other Service anything.

use std::net::SocketAddr;

use serde_json::{Value, json};
use testing::api::Resource;
use testing::objects::{service, slice};
use testing::traffic::{Echo, ask_tcp};

use crate::api::Node;
use crate::process::HEALTH_PORT;

/// A node where connections to Services are answered, also to those of [`Node::put`].
fn answering() -> (Node, Echo) {
    let node = Node::new();
    node.namespace.add_address("lo", "10.1.0.2/32").unwrap();
    node.namespace.ip("route add 10.96.0.0/16 dev lo src 10.1.0.2").unwrap();
    let echo = Echo::tcp(&node.namespace, "web", SocketAddr::from(([10, 1, 0, 2], 8080))).unwrap();
    (node, echo)
}

fn is_served(node: &Node, cluster_ip: &str) -> bool {
    ask_tcp(&node.namespace, None, SocketAddr::new(cluster_ip.parse().unwrap(), 80)).is_ok()
}

/// Each is about as large as the API server takes, 1.5 MB, but the slice, which has a hundred times as many endpoints as it takes.
fn enormous() -> Vec<(Resource, Value)> {
    // Each with a name of its own.
    let ports = |n: u32| json!({"name": format!("p{n}"), "port": 1 + n % 65_535, "protocol": "TCP"});
    let address = |start: u32, n: u32| std::net::Ipv4Addr::from(start + n).to_string();
    let web = || service("shop", "enormous").cluster_ip("10.96.1.1").port("http", "TCP", 80);
    let endpoint =
        |n| json!({"addresses": [address(0x0a02_0000, n)], "hints": {"forZones": [{"name": format!("z{n}")}]}});
    let long = || "x".repeat(1_000_000);
    vec![
        (Resource::Services, web().set("/spec/ports", (0..25_000).map(ports).collect::<Vec<_>>()).into()),
        (
            Resource::Services,
            web()
                .set("/metadata/name", "addresses")
                .set("/spec/clusterIPs", json!(["10.96.1.2"]))
                .set("/spec/clusterIP", "10.96.1.2")
                .set("/spec/externalIPs", (0..80_000).map(|n| address(0x0900_0000, n)).collect::<Vec<_>>())
                .into(),
        ),
        (
            Resource::Services,
            web()
                .set("/metadata/name", "square")
                .set("/spec/clusterIPs", json!(["10.96.1.4"]))
                .set("/spec/clusterIP", "10.96.1.4")
                .set("/spec/ports", (0..12_000).map(ports).collect::<Vec<_>>())
                .set("/spec/externalIPs", (0..40_000).rev().map(|n| address(0x0800_0000, n)).collect::<Vec<_>>())
                .into(),
        ),
        (
            Resource::EndpointSlices,
            slice("shop", "endpoints", "endpoints")
                .port("http", "TCP", 8080)
                .set("/endpoints", (0..100_000).map(endpoint).collect::<Vec<_>>())
                .into(),
        ),
        (Resource::Services, service("shop", "endpoints").cluster_ip("10.96.1.3").port("http", "TCP", 80).into()),
        (
            Resource::Services,
            web()
                .set("/metadata/name", "bad-address")
                .set("/spec/externalIPs", [vec![long()], vec!["no address".to_owned(); 30]].concat())
                .into(),
        ),
        (
            Resource::Services,
            web().set("/metadata/name", "bad-policy").set("/spec/internalTrafficPolicy", long()).into(),
        ),
        (Resource::Services, web().set("/metadata/name", "bad-port").set("/spec/ports/0/name", long()).into()),
        (Resource::Services, web().set("/metadata/name", long()).into()),
    ]
}

#[test]
fn enormous_objects_hold_up_nobody() {
    let (node, _echo) = answering();
    let proxy = node.start_with("");
    proxy.wait("the first Service", || is_served(&node, "10.96.0.10"));
    for (number, (resource, object)) in enormous().into_iter().enumerate() {
        node.api.put_raw(resource, "shop", &format!("enormous-{number}"), object);
        let next = format!("10.96.2.{number}");
        node.put(&format!("next-{number}"), &next);
        proxy.wait(format_args!("the Service after enormous object {number}"), || is_served(&node, &next));
    }
    let (_, ports) = enormous().swap_remove(0);
    let mut changed = ports.clone();
    changed["spec"]["ports"][0]["port"] = 7.into();
    for (number, object) in [changed, ports].into_iter().enumerate() {
        node.api.put_raw(Resource::Services, "shop", "enormous-0", object);
        let next = format!("10.96.3.{number}");
        node.put(&format!("after-{number}"), &next);
        proxy.wait("the Service after a change of an enormous one", || is_served(&node, &next));
    }
    assert!(is_served(&node, "10.96.0.10"), "what was there before them");
    for told in [
        "Service shop/bad-address: spec.externalIPs[0]: ",
        "Service shop/addresses: spec.externalIPs: has 80000 addresses, for 1 ports: only the first 10000 are served",
        "Service shop/square: spec.externalIPs: has 40000 addresses, for 12000 ports: only the first 1 are served",
        "more problems of this object are not shown",
        "Service shop/bad-policy: spec.internalTrafficPolicy: ",
        "Service shop/bad-port: spec.ports[0].name: ",
        r#"metadata.name: \"xxx"#,
    ] {
        proxy.wait_for_log(told);
    }
    let longest = proxy.log().lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 2_000, "a line of {longest} bytes in the log");
    let memory = proxy.peak_memory();
    assert!(memory < 512 << 20, "{} MiB", memory >> 20);
}

/// Who may write Services may ask for any address.
#[test]
fn an_external_ip_leads_nobody_astray() {
    let (node, _echo) = answering();
    node.namespace.add_address("lo", "10.1.0.3/32").unwrap();
    let _thief = Echo::tcp(&node.namespace, "thief", SocketAddr::from(([10, 1, 0, 3], 8080))).unwrap();
    let thief = service("evil", "a").cluster_ip("10.96.0.66").port("http", "TCP", 80);
    let thief = thief.set("/metadata/creationTimestamp", "2020-01-01T00:00:00Z");
    node.api.put(thief.clone());
    node.api.put(slice("evil", "a", "a").port("http", "TCP", 8080).endpoint("10.1.0.3"));
    let proxy = node.start_with("");
    let reached = |address: &str| ask_tcp(&node.namespace, None, address.parse().unwrap()).map(|reply| reply.endpoint);
    proxy.wait("both Services", || is_served(&node, "10.96.0.10") && is_served(&node, "10.96.0.66"));
    node.api.put(thief.external_ip("10.96.0.10"));
    proxy.wait_for_log("10.96.0.10:80/tcp is claimed by shop/web:http and evil/a:http: shop/web:http has it");
    assert_eq!(reached("10.96.0.10:80").as_deref(), Ok("web"));
    assert_eq!(reached("10.96.0.66:80").as_deref(), Ok("thief"), "it costs itself only what is not its own");
}

/// The API server takes none of them; whoever stands in for it, or writes files, may.
#[test]
fn names_are_names() {
    let (node, _echo) = answering();
    let proxy = node.start_with("");
    let odd = ["a\nERROR nothing works", "b\" drop # ", "c\u{1b}[31mred", "d/e", "", &"f".repeat(254), "ü"];
    for (number, name) in odd.into_iter().enumerate() {
        let service = service("shop", name).cluster_ip(&format!("10.96.4.{number}")).port("http", "TCP", 80);
        node.api.put_raw(Resource::Services, "shop", &format!("odd-{number}"), service.into());
    }
    // Two names that differ in case, and the longest.
    for (name, address) in [("WEB", "10.96.5.1"), (&*"w".repeat(253), "10.96.5.2")] {
        node.put(name, address);
        proxy.wait(name, || is_served(&node, address));
    }
    assert!(is_served(&node, "10.96.0.10"));
    let (log, rules) = (proxy.log(), node.namespace.sh("nft list table ip kube-proxy").unwrap());
    for number in 0..odd.len() {
        assert!(!rules.contains(&format!("10.96.4.{number}")), "{number}");
    }
    // Escaped by who says it, and as a part of a line.
    assert!(log.contains(r#"metadata.name: \"a\\nERROR nothing works\" is not a name"#), "{log}");
    assert!(log.lines().all(|line| !line.starts_with("ERROR") && !line.contains('\u{1b}')), "{log}");
}

/// Each of these fields has been seen to be right before, and what it said then stays.
#[test]
fn an_odd_node_object_changes_nothing() {
    let (node, _echo) = answering();
    let proxy = node.start_with("");
    proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
    let odd = [
        json!({"metadata": {"name": "node-1", "labels": []}}),
        json!({"metadata": {"name": "node-1"}, "spec": {"taints": {"key": "ToBeDeletedByClusterAutoscaler"}}}),
        json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": "10.1.0.0/24"}}),
        json!({"metadata": {"name": "node-1"}, "status": {"addresses": 7}}),
    ];
    for (number, object) in odd.into_iter().enumerate() {
        node.api.put_raw(Resource::Nodes, "", "node-1", object);
        let next = format!("10.96.6.{number}");
        node.put(&format!("next-{number}"), &next);
        proxy.wait(format_args!("the Service after odd Node {number}"), || is_served(&node, &next));
    }
    for field in ["metadata.labels: ", "spec.taints: ", "spec.podCIDRs: ", "status.addresses: "] {
        proxy.wait_for_log(field);
    }
    assert_eq!(proxy.get(HEALTH_PORT, "/healthz").unwrap().0, 200);
}

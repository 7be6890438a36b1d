//! Services.

use std::num::{NonZeroU16, NonZeroU32};

use super::*;

#[test]
fn a_plain_service() {
    let service = good_service(json!({}));
    assert_eq!(service.name.to_string(), "shop/web");
    assert_eq!(service.created, 1_767_323_045);
    assert_eq!(service.cluster_ips.v4, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(service.cluster_ips.v6, None);
    assert_eq!(service.ports.len(), 1);
    let port = &service.ports[0];
    assert_eq!((&*port.name, port.protocol, port.port.get(), port.node_port), ("http", Protocol::Tcp, 80, None));
}

#[test]
fn a_service_that_nobody_gave_a_cluster_ip_is_reported() {
    for patch in [json!({"clusterIP": "", "clusterIPs": []}), json!({"clusterIP": null, "clusterIPs": null})] {
        let (update, problems) = service(json!({"spec": patch}));
        assert!(matches!(update, Update::ServiceGone(_)), "{update:?}");
        assert!(problems[0].starts_with("spec.clusterIP: is missing"), "{problems:?}");
    }
}

#[test]
fn a_service_may_be_left_out_of_the_fast_path() {
    let annotated = |value: Value| service(json!({"metadata": {"annotations": {"slipstream.dev/fastpath": value}}}));
    for (value, expected, problem) in [
        (json!("off"), false, None),
        (json!("on"), true, None),
        (json!("false"), true, Some("is not on or off: taken as on")),
        (json!(false), true, Some("it is ignored")),
    ] {
        let (update, problems) = annotated(value);
        let Update::Service(service) = update else { panic!("{update:?}") };
        assert_eq!(service.fast_path, expected);
        assert_eq!(problems.len(), usize::from(problem.is_some()), "{problems:?}");
        assert!(problem.is_none_or(|problem| problems[0].contains(problem)), "{problems:?}");
    }
    assert!(good_service(json!({})).fast_path);
}

#[test]
fn load_balancers_with_policy_local_have_a_port_for_health_checks() {
    let of = |kind: &str, policy: &str, port: Value| {
        let spec = json!({"type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": port});
        let (update, problems) = service(json!({"spec": spec}));
        let Update::Service(service) = update else { panic!("{update:?}") };
        (service.health_check_node_port.map(NonZeroU16::get), problems)
    };
    assert_eq!(of("LoadBalancer", "Local", json!(32_100)), (Some(32_100), vec![]));
    for (kind, policy) in [("LoadBalancer", "Cluster"), ("NodePort", "Local"), ("ClusterIP", "Local")] {
        assert_eq!(of(kind, policy, json!(32_100)), (None, vec![]), "{kind} {policy}");
    }
    for wrong in [json!(0), json!(70_000), json!("http"), json!(null)] {
        let (port, problems) = of("LoadBalancer", "Local", wrong);
        assert_eq!(port, None);
        assert!(problems[0].starts_with("spec.healthCheckNodePort: "), "{problems:?}");
    }
}

#[test]
fn session_affinity() {
    let affinity = |spec: Value| good_service(json!({"spec": spec})).affinity.map(NonZeroU32::get);
    let timeout = |seconds: Value| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
    assert_eq!(affinity(json!({})), None);
    assert_eq!(affinity(json!({"sessionAffinity": "None", "sessionAffinityConfig": null})), None);
    assert_eq!(affinity(json!({"sessionAffinity": "ClientIP"})), Some(10_800));
    assert_eq!(
        affinity(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": null}})),
        Some(10_800)
    );
    for seconds in [1, 60, 10_800, 86_400] {
        assert_eq!(affinity(timeout(json!(seconds))), Some(seconds));
    }
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds: ";
    for bad in [json!(0), json!(-1), json!(86_401), json!(1_u64 << 40), json!("60"), json!(1.5)] {
        let (service, problem) = odd_service(json!({"spec": timeout(bad)}));
        assert_eq!(service.affinity.map(NonZeroU32::get), Some(10_800));
        assert!(problem.starts_with(field) && problem.ends_with("taken as 10800"), "{problem}");
    }
    for bad in [json!("Cookie"), json!(1), json!([])] {
        let (service, problem) = odd_service(json!({"spec": {"sessionAffinity": bad}}));
        assert_eq!(service.affinity, None);
        assert!(problem.starts_with("spec.sessionAffinity: ") && problem.ends_with("taken as None"), "{problem}");
    }
    let (service, problem) = odd_service(json!({"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": 5}}));
    assert_eq!(service.affinity.map(NonZeroU32::get), Some(10_800));
    assert!(problem.starts_with("spec.sessionAffinityConfig: "), "{problem}");
}

fn ranges(service: &Service) -> Vec<String> {
    service.source_ranges.iter().map(ToString::to_string).collect()
}

#[test]
fn load_balancer_source_ranges() {
    let good = |list: Value| ranges(&good_service(json!({"spec": {"loadBalancerSourceRanges": list}})));
    assert_eq!(good(json!([])), [""; 0]);
    assert_eq!(good(json!(null)), [""; 0]);
    assert_eq!(good(json!(["192.168.0.0/24", " 203.0.113.7/25 "])), ["192.168.0.0/24", "203.0.113.0/25"]);
    assert_eq!(
        good(json!(["203.000.113.000/025", "10.0.0.1/32", "10.0.0.1/32", ""])),
        ["10.0.0.1/32", "203.0.113.0/25"]
    );
    // Order does not matter, and overlaps stay.
    assert_eq!(good(json!(["10.1.0.0/16", "10.0.0.0/8"])), good(json!(["10.0.0.0/8", "10.1.0.0/16"])));
    assert_eq!(good(json!(["fd00::/8", "10.0.0.0/8"])), ["10.0.0.0/8", "fd00::/8"]);
    // Everyone of that family.
    assert_eq!(good(json!(["10.0.0.0/8", "fd00::/8", "0.0.0.0/0"])), ["fd00::/8"]);
    assert_eq!(good(json!(["10.0.0.0/8", "::/0"])), ["10.0.0.0/8"]);
}

#[test]
fn a_bad_source_range_costs_only_itself() {
    for bad in [json!("10.0.0.0"), json!("10.0.0.0/33"), json!("all"), json!(5)] {
        let (service, problem) = odd_service(json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24", bad]}}));
        assert_eq!(ranges(&service), ["192.0.2.0/24"]);
        assert!(problem.starts_with("spec.loadBalancerSourceRanges[1]: ") && problem.ends_with("skipped"), "{problem}");
    }
    let (update, problems) = service(json!({"spec": {"loadBalancerSourceRanges": ["all"]}}));
    assert!(matches!(update, Update::Service(_)));
    assert!(problems[1].ends_with("has no usable range: the load balancer's addresses are open to everyone"));
    let (update, _) = service(json!({"spec": {"loadBalancerSourceRanges": "10.0.0.0/8"}}));
    assert!(matches!(update, Update::Unreadable(..)), "nobody is let in by mistake");
}

#[test]
fn cluster_ips_of_both_families() {
    let ips = |patch: Value| {
        let ips = good_service(json!({"spec": patch})).cluster_ips;
        [ips.v4, ips.v6].map(|ip| ip.map_or_else(String::new, |ip| ip.to_string()))
    };
    let both = json!(["fd00::1", "10.0.0.1"]);
    assert_eq!(
        ips(json!({"clusterIP": "fd00::1", "clusterIPs": both, "ipFamilies": ["IPv6", "IPv4"]})),
        ["10.0.0.1", "fd00::1"]
    );
    // Only as many as there are families.
    assert_eq!(ips(json!({"clusterIP": "fd00::1", "clusterIPs": both, "ipFamilies": ["IPv6"]})), ["", "fd00::1"]);
    // What manifests may leave to the API server to fill in.
    assert_eq!(ips(json!({"clusterIPs": null, "ipFamilies": null})), ["10.0.0.1", ""]);
    assert_eq!(ips(json!({"clusterIP": null, "ipFamilies": null})), ["10.0.0.1", ""]);
    assert_eq!(ips(json!({"clusterIP": null, "clusterIPs": both, "ipFamilies": null})), ["10.0.0.1", "fd00::1"]);
    // Zero-padded octets are decimal.
    assert_eq!(ips(json!({"clusterIP": "172.30.0.041", "clusterIPs": ["172.30.0.041"]})), ["172.30.0.41", ""]);
}

#[test]
fn a_bad_cluster_ip_leaves_the_other_family() {
    let both = |v6: &str| json!({"spec": {"clusterIPs": ["10.0.0.1", v6], "ipFamilies": ["IPv4", "IPv6"]}});
    for bad in ["fd00::x", "10.0.0.2"] {
        let (service, problem) = odd_service(both(bad));
        assert!(service.cluster_ips.v4.is_some() && service.cluster_ips.v6.is_none());
        assert!(problem.starts_with("spec.clusterIPs: ") && problem.contains("not served"), "{problem}");
    }
    let (update, problems) = service(json!({"spec": {"clusterIP": "x", "clusterIPs": ["x"]}}));
    assert!(matches!(update, Update::ServiceGone(_)));
    assert_eq!(problems.len(), 1);
    let (_, problem) = odd_service(json!({"spec": {"ipFamilies": ["IPv5"]}}));
    assert_eq!(problem, "spec.ipFamilies[0]: \"IPv5\" is not IPv4 or IPv6: the address tells");
}

#[test]
fn a_bad_port_costs_only_itself() {
    let good = json!({"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053});
    for (bad, wanted) in [
        (
            json!({"name": "a", "port": 70000}),
            "spec.ports[0].port: 70000 is not a port number (1 to 65535): the port is skipped",
        ),
        (
            json!({"name": "a", "port": 0}),
            "spec.ports[0].port: 0 is not a port number (1 to 65535): the port is skipped",
        ),
        (
            json!({"name": "a", "port": -1}),
            "spec.ports[0].port: -1 is not a port number (1 to 65535): the port is skipped",
        ),
        (json!({"name": "a"}), "spec.ports[0].port: is missing: the port is skipped"),
        (
            json!({"name": "a", "port": "http"}),
            "spec.ports[0].port: invalid type: string \"http\", expected a whole number: the port is skipped",
        ),
        (
            json!({"name": "a", "port": 1, "protocol": "QUIC"}),
            "spec.ports[0].protocol: \"QUIC\" is not TCP, UDP or SCTP: the port is skipped",
        ),
        (
            json!({"name": "a", "port": 1, "protocol": 6}),
            "spec.ports[0].protocol: invalid type: integer `6`, expected a string: the port is skipped",
        ),
        (
            json!({"name": 5, "port": 1}),
            "spec.ports[0].name: invalid type: integer `5`, expected a string: the port is skipped",
        ),
        (json!("80"), "spec.ports[0]: invalid type: string \"80\", expected an object: it is skipped"),
    ] {
        let (service, problem) = odd_service(json!({"spec": {"ports": [bad, good]}}));
        assert_eq!(problem, wanted);
        assert_eq!(service.ports.len(), 1);
        assert_eq!(service.ports[0].protocol, Protocol::Udp);
        assert_eq!(service.ports[0].node_port, NonZeroU16::new(30053));
    }
    let (service, problem) = odd_service(json!({"spec": {"ports": [{"port": 80, "nodePort": 99999}]}}));
    assert_eq!(problem, "spec.ports[0].nodePort: 99999 is not a port number (1 to 65535): the port has no NodePort");
    assert_eq!(service.ports[0].node_port, None);
}

#[test]
fn the_first_of_equal_ports_wins() {
    let port = |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let ports = [port("a", "TCP", 1), port("a", "UDP", 2), port("a", "TCP", 3), port("b", "TCP", 4)];
    let (service, problem) = odd_service(json!({"spec": {"ports": ports}}));
    assert_eq!(service.ports.iter().map(|p| p.port.get()).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(problem, "spec.ports[2].name: the name \"a\" is used before by another tcp port: this one is skipped");
    // Protocol TCP is the default, no node port may be written as 0.
    assert_eq!(good_service(json!({"spec": {"ports": [{"port": 1, "nodePort": 0}]}})).ports[0].protocol, Protocol::Tcp);
}

#[test]
fn external_and_load_balancer_addresses() {
    let patch = json!({"spec": {"externalIPs": ["192.0.2.1", "", " ", "x", "fd00::9", "192.0.2.1"]}});
    let (service, problem) = odd_service(patch);
    assert_eq!(service.external_ips, ["192.0.2.1", "fd00::9"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(problem, "spec.externalIPs[3]: \"x\" is not an IP address: it is skipped");

    let ingress = json!([
        {"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "VIP"}, {"ip": "198.51.100.3", "ipMode": "Proxy"},
        {"hostname": "lb.example"}, {"ip": ""},
    ]);
    let service = good_service(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
    let expected = ["198.51.100.1", "198.51.100.2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
    assert_eq!(service.load_balancer_ips, expected);
    for bad in [json!({"ip": "x"}), json!({"ip": "1.2.3.4", "ipMode": "Magic"}), json!({"ip": 5}), json!([])] {
        let ingress = json!([bad, {"ip": "198.51.100.1"}]);
        let (service, problem) = odd_service(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        assert_eq!(service.load_balancer_ips.len(), 1);
        assert!(problem.starts_with("status.loadBalancer.ingress[0]"), "{problem}");
    }
}

/// kube-proxy's BadIPs: objects from before the API server was strict may have octets with leading zeros, which are decimal.
#[test]
fn zero_padded_addresses_are_read_as_decimal() {
    let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<std::net::IpAddr>>();
    let spec = json!({
        "clusterIP": "172.030.000.041", "clusterIPs": ["172.030.000.041"],
        "externalIPs": ["192.168.099.022", "192.168.99.22", "010.0.0.08"],
        "loadBalancerSourceRanges": ["203.000.113.000/025"],
    });
    let ingress = json!([{"ip": "005.006.007.008"}, {"ip": "5.6.7.8"}, {"ip": "198.51.100.010", "ipMode": "VIP"}]);
    let service = good_service(json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}}));
    assert_eq!(service.cluster_ips.v4, Some("172.30.0.41".parse().unwrap()));
    assert_eq!(service.external_ips, ips(&["192.168.99.22", "10.0.0.8"]), "each once, however it is written");
    assert_eq!(service.load_balancer_ips, ips(&["5.6.7.8", "198.51.100.10"]));
    assert_eq!(ranges(&service), ["203.0.113.0/25"]);
}

/// A load balancer may be known by a host name, alone or beside an address. It is no address, whatever it looks like.
#[test]
fn host_names_of_load_balancers_are_ignored() {
    let addresses = |ingress: Value| {
        let service =
            good_service(json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": ingress}}}));
        service.load_balancer_ips.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = [""; 0];
    assert_eq!(addresses(json!([{"hostname": "lb.example"}])), none);
    assert_eq!(addresses(json!([{"hostname": "198.51.100.9"}])), none);
    assert_eq!(addresses(json!([{"hostname": "lb.example", "ip": null}, {"hostname": "lb.example", "ip": ""}])), none);
    assert_eq!(addresses(json!([{"hostname": "lb.example", "ip": "198.51.100.1"}])), ["198.51.100.1"]);
    let with_others = json!([{"ip": "198.51.100.1"}, {"hostname": "lb.example"}, {"ip": "2001:db8::5"}, {}]);
    assert_eq!(addresses(with_others), ["198.51.100.1", "2001:db8::5"]);
}

#[test]
fn traffic_policies() {
    let external = |service_type: &str, ips: &[&str]| {
        let spec = json!({"type": service_type, "externalIPs": ips, "externalTrafficPolicy": "Local", "healthCheckNodePort": 32_100});
        good_service(json!({"spec": spec})).external_policy
    };
    assert_eq!(external("NodePort", &[]), TrafficPolicy::Local);
    assert_eq!(external("LoadBalancer", &[]), TrafficPolicy::Local);
    assert_eq!(external("ClusterIP", &["192.0.2.1"]), TrafficPolicy::Local);
    assert_eq!(external("ClusterIP", &[]), TrafficPolicy::Cluster);
    assert_eq!(good_service(json!({})).internal_policy, TrafficPolicy::Cluster);
    let local = good_service(json!({"spec": {"internalTrafficPolicy": "Local"}}));
    assert_eq!(local.internal_policy, TrafficPolicy::Local);
    for bad in [json!("Nearby"), json!(1)] {
        let (service, problem) = odd_service(json!({"spec": {"internalTrafficPolicy": bad}}));
        assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
        assert!(problem.starts_with("spec.internalTrafficPolicy: ") && problem.ends_with("taken as Cluster"));
    }
}

#[test]
fn odd_values_that_have_a_default() {
    let (_, problem) = odd_service(json!({"spec": {"type": "Mystery"}}));
    assert_eq!(problem, "spec.type: \"Mystery\" is not a type of Service: taken as ClusterIP");
    for bad in [json!("yesterday"), json!(5)] {
        let (service, problem) = odd_service(json!({"metadata": {"creationTimestamp": bad}}));
        assert_eq!(service.created, i64::MAX);
        assert!(problem.starts_with("metadata.creationTimestamp: "));
    }
    assert_eq!(good_service(json!({"metadata": {"namespace": null}})).name.to_string(), "default/web");
}

/// Each list is short, and all combinations of their entries are not.
#[test]
fn a_service_has_no_more_frontends_than_the_kernel_should_hold() {
    let ports: Vec<_> = (1..=5_000).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let ranges = (0..30).flat_map(|n| [format!("192.0.{n}.0/24"), format!("2001:db8:{n}::/48")]).collect::<Vec<_>>();
    let balancer = json!({"ingress": [{"ip": "198.51.100.1"}, {"ip": "198.51.100.2"}, {"ip": "198.51.100.3"}]});
    let patch = json!({
        "spec": {
            "type": "LoadBalancer", "ports": ports, "loadBalancerSourceRanges": ranges,
            "externalIPs": ["203.0.113.1", "203.0.113.2"],
        },
        "status": {"loadBalancer": balancer},
    });
    let (update, problems) = service(patch);
    let Update::Service(service) = update else { panic!("{update:?}") };
    assert_eq!((service.ports.len(), service.load_balancer_ips.len(), service.external_ips.len()), (5_000, 2, 0));
    for family in Family::ALL {
        let of_family = service.source_ranges.iter().filter(|range| Family::of_prefix(range) == family);
        assert_eq!(of_family.count(), 10, "{family}: without any, everyone would be let in");
    }
    let told: Vec<_> = problems.iter().map(|problem| problem.split(" has ").next().unwrap()).collect();
    assert_eq!(
        told,
        [
            "status.loadBalancer.ingress:",
            "spec.externalIPs:",
            "spec.loadBalancerSourceRanges:",
            "spec.loadBalancerSourceRanges:"
        ]
    );
}

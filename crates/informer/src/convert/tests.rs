//! Tables: what one object becomes, and what is said about it.

use std::num::NonZeroU16;

use model::{EndpointSlice, Family, Protocol, Service, TrafficPolicy};
use serde_json::{Value, json};

use super::*;

fn convert<T: Proxied + serde::de::DeserializeOwned>(object: Value) -> Converted {
    let raw = serde_json::from_value(object).unwrap();
    T::convert(&mut Converter::new("here".into()), &raw)
}

/// A Service whose parts are replaced by `patch`, and what was reported as `field: message`.
fn service(patch: Value) -> (Update, Vec<String>) {
    let mut object = json!({
        "metadata": {"namespace": "shop", "name": "web", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}]},
    });
    merge(&mut object, patch);
    read::<slim::Service>(object)
}

fn slice(patch: Value) -> (Update, Vec<String>) {
    let mut object = json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true}, "nodeName": "here"}],
    });
    merge(&mut object, patch);
    read::<slim::EndpointSlice>(object)
}

fn read<T: Proxied + serde::de::DeserializeOwned>(object: Value) -> (Update, Vec<String>) {
    let Converted { update, problems, .. } = convert::<T>(object);
    (update.unwrap(), problems.into_iter().map(|p| format!("{}: {}", p.field, p.message)).collect())
}

/// Merges objects key by key; anything else is replaced, and `null` deletes.
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn good_service(patch: Value) -> Service {
    match service(patch) {
        (Update::Service(service), problems) if problems.is_empty() => service,
        other => panic!("{other:?}"),
    }
}

fn odd_service(patch: Value) -> (Service, String) {
    match service(patch) {
        (Update::Service(service), problems) if problems.len() == 1 => (service, problems[0].clone()),
        other => panic!("{other:?}"),
    }
}

fn good_slice(patch: Value) -> EndpointSlice {
    match slice(patch) {
        (Update::Slice(slice), problems) if problems.is_empty() => slice,
        other => panic!("{other:?}"),
    }
}

fn odd_slice(patch: Value) -> (EndpointSlice, String) {
    match slice(patch) {
        (Update::Slice(slice), problems) if problems.len() == 1 => (slice, problems[0].clone()),
        other => panic!("{other:?}"),
    }
}

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
fn what_is_not_to_be_proxied_is_gone() {
    for patch in [
        json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
        json!({"spec": {"type": "ExternalName"}}),
        json!({"spec": null}),
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}),
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": ""}}}),
    ] {
        let (update, problems) = service(patch.clone());
        assert!(matches!(update, Update::ServiceGone(_)), "{patch}: {update:?}");
        assert!(problems.is_empty(), "{patch}: {problems:?}");
    }
    let (update, problems) = slice(json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}}));
    assert!(matches!(update, Update::SliceGone(_)) && problems.is_empty());
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
fn what_is_not_done_is_said() {
    let (_, problem) = odd_service(json!({"spec": {"sessionAffinity": "ClientIP"}}));
    assert!(problem.starts_with("spec.sessionAffinity: this version does not"), "{problem}");
    let (_, problem) = odd_service(json!({"spec": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}));
    assert!(problem.contains("open to everyone"), "{problem}");
    good_service(json!({"spec": {"sessionAffinity": "None", "loadBalancerSourceRanges": []}}));
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
    assert_eq!(service.load_balancer_ips.len(), 2);
    for bad in [json!({"ip": "x"}), json!({"ip": "1.2.3.4", "ipMode": "Magic"}), json!({"ip": 5}), json!([])] {
        let ingress = json!([bad, {"ip": "198.51.100.1"}]);
        let (service, problem) = odd_service(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        assert_eq!(service.load_balancer_ips.len(), 1);
        assert!(problem.starts_with("status.loadBalancer.ingress[0]"), "{problem}");
    }
}

#[test]
fn traffic_policies() {
    let external = |service_type: &str, ips: &[&str]| {
        let spec = json!({"type": service_type, "externalIPs": ips, "externalTrafficPolicy": "Local"});
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

#[test]
fn a_part_of_the_wrong_shape_makes_the_object_unreadable() {
    for (patch, field) in [
        (json!({"spec": 5}), "spec: "),
        (json!({"spec": []}), "spec: "),
        (json!({"spec": {"ports": "x"}}), "spec.ports: "),
        (json!({"spec": {"clusterIP": 5}}), "spec.clusterIP: "),
        (json!({"spec": {"clusterIPs": [5]}}), "spec.clusterIPs[0]: "),
        (json!({"spec": {"externalIPs": {}}}), "spec.externalIPs: "),
        (json!({"status": {"loadBalancer": 1}}), "status.loadBalancer: "),
        (json!({"metadata": {"labels": "x"}}), "metadata.labels: "),
    ] {
        let (update, problems) = service(patch);
        assert!(matches!(update, Update::Unreadable(Kind::Service, ref name) if name.to_string() == "shop/web"));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with(field) && problems[0].contains("stays in use"), "{problems:?}");
    }
    for patch in [json!({"endpoints": 5}), json!({"ports": {}}), json!({"addressType": []})] {
        let (update, problems) = slice(patch);
        assert!(matches!(update, Update::Unreadable(Kind::EndpointSlice, _)) && problems.len() == 1);
    }
}

#[test]
fn an_object_without_a_name_is_only_reported() {
    for (object, field) in [
        (json!("text"), ""),
        (json!({}), "metadata"),
        (json!({"metadata": 5}), "metadata"),
        (json!({"metadata": {"namespace": "shop"}}), "metadata.name"),
        (json!({"metadata": {"name": ""}}), "metadata.name"),
        (json!({"metadata": {"name": {}}}), "metadata.name"),
    ] {
        let converted = convert::<slim::Service>(object);
        assert!(converted.update.is_none());
        assert_eq!(converted.problems[0].field, field);
    }
}

#[test]
fn a_plain_slice() {
    let slice = good_slice(json!({"metadata": {"annotations": {
        "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05.123456789Z"}}}));
    assert_eq!((slice.name.to_string().as_str(), slice.service.to_string().as_str()), ("shop/web-1", "shop/web"));
    assert_eq!(slice.family, Family::V4);
    assert_eq!((&*slice.ports[0].name, slice.ports[0].port.get()), ("http", 8080));
    let endpoint = &slice.endpoints[0];
    assert!(endpoint.ready && endpoint.serving && !endpoint.terminating && endpoint.local);
    let since = slice.triggered.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!((since.as_secs(), since.subsec_nanos()), (1_767_323_045, 123_456_789));
}

#[test]
fn conditions_and_locality() {
    let endpoint = |patch: Value| {
        let mut object = json!({"addresses": ["10.1.0.1", "10.1.0.2"]});
        merge(&mut object, patch);
        let e = &good_slice(json!({"endpoints": [object]})).endpoints[0];
        (e.ready, e.serving, e.terminating, e.local)
    };
    assert_eq!(endpoint(json!({})), (true, true, false, false));
    assert_eq!(endpoint(json!({"conditions": {"ready": null, "serving": null}})), (true, true, false, false));
    assert_eq!(
        endpoint(json!({"conditions": {"ready": false, "serving": true, "terminating": true}})),
        (false, true, true, false)
    );
    assert!(!endpoint(json!({"nodeName": "there"})).3);
    assert!(endpoint(json!({"nodeName": "here"})).3);
    let (slice, problem) =
        odd_slice(json!({"endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": "no"}}]}));
    assert!(slice.endpoints[0].ready);
    assert!(problem.starts_with("endpoints[0].conditions.ready: "), "{problem}");
}

#[test]
fn a_bad_endpoint_costs_only_itself() {
    for (bad, field) in [
        (json!({"addresses": ["x"]}), "endpoints[0].addresses[0]: \"x\" is not an IP address"),
        (json!({"addresses": ["fd00::1"]}), "endpoints[0].addresses[0]: fd00::1 is not an IPv4 address"),
        (json!({"addresses": ["127.0.0.1"]}), "endpoints[0].addresses[0]: 127.0.0.1 is a loopback address"),
        (json!({"addresses": ["0.0.0.0"]}), "endpoints[0].addresses[0]: 0.0.0.0 is the unspecified address"),
        (json!({"addresses": ["224.0.0.1"]}), "endpoints[0].addresses[0]: 224.0.0.1 is a multicast address"),
        (json!({"addresses": []}), "endpoints[0].addresses: is empty"),
        (json!({"addresses": 5}), "endpoints[0].addresses: invalid type"),
        (json!({"addresses": [5]}), "endpoints[0].addresses[0]: invalid type"),
        (json!(7), "endpoints[0]: invalid type"),
    ] {
        let (slice, problem) = odd_slice(json!({"endpoints": [bad, {"addresses": ["10.1.0.2"]}]}));
        assert_eq!(slice.endpoints.len(), 1);
        assert!(problem.starts_with(field) && problem.ends_with("skipped"), "{problem}");
    }
}

#[test]
fn slice_ports() {
    // The API server would fill in name and protocol.
    let slice = good_slice(json!({"ports": [{"port": 80}]}));
    assert_eq!((&*slice.ports[0].name, slice.ports[0].protocol), ("", Protocol::Tcp));
    for bad in
        [json!({"name": "a"}), json!({"name": "a", "port": 0}), json!({"port": 65536}), json!({"name": 1, "port": 1})]
    {
        let (slice, problem) = odd_slice(json!({"ports": [bad, {"name": "b", "port": 1}]}));
        assert_eq!(slice.ports.len(), 1);
        assert!(problem.starts_with("ports[0]."), "{problem}");
    }
}

#[test]
fn slices_that_cannot_be_used_are_gone() {
    for (patch, field) in [
        (json!({"addressType": "FQDN"}), "addressType: host names (FQDN)"),
        (json!({"addressType": "IPX"}), "addressType: \"IPX\""),
        (json!({"addressType": null}), "addressType: is missing"),
        (json!({"metadata": {"labels": null}}), "metadata.labels[kubernetes.io/service-name]: is missing"),
        (
            json!({"metadata": {"labels": {"kubernetes.io/service-name": ""}}}),
            "metadata.labels[kubernetes.io/service-name]: is missing",
        ),
    ] {
        let (update, problems) = slice(patch);
        assert!(matches!(update, Update::SliceGone(ref name) if name.to_string() == "shop/web-1"), "{update:?}");
        assert!(problems.len() == 1 && problems[0].starts_with(field), "{problems:?}");
    }
}

#[test]
fn many_problems_of_one_object_are_cut_short() {
    let (update, problems) = slice(json!({"endpoints": vec![json!({"addresses": ["x"]}); 1000]}));
    assert!(matches!(update, Update::Slice(_)));
    assert_eq!(problems.len(), 21);
    assert_eq!(problems[20], ": 980 more problems of this object are not shown");
}

#[test]
fn a_list_with_odd_items_keeps_all_others() {
    let good = |n: usize| {
        json!({"metadata": {"namespace": "n", "name": format!("s{n}"), "resourceVersion": "7"},
               "spec": {"clusterIP": format!("10.0.{}.{}", n / 250, n % 250 + 1), "ports": [{"port": 80}]}})
    };
    let mut items: Vec<Value> = (0..10_000).map(good).collect();
    items[10]["spec"] = json!("x");
    items[20] = json!(["what"]);
    items[30]["metadata"]["resourceVersion"] = json!(5);
    let list = json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items});
    let list: kube::core::ObjectList<slim::Item<slim::Service>> = serde_json::from_str(&list.to_string()).unwrap();
    let mut converter = Converter::new("here".into());
    let mut counts = [0; 3];
    for item in &list.items {
        match slim::Service::convert(&mut converter, &item.object).update {
            Some(Update::Service(_)) => counts[0] += 1,
            Some(Update::Unreadable(..)) => counts[1] += 1,
            _ => counts[2] += 1,
        }
    }
    assert_eq!(counts, [9_998, 1, 1]);
}

#[test]
fn watch_events_decode_in_either_order_of_keys() {
    type Event = kube::api::WatchEvent<slim::Item<slim::Service>>;
    let object = r#"{"metadata": {"name": "a", "resourceVersion": "3"}, "spec": {"ports": "x"}}"#;
    for line in [format!(r#"{{"type":"ADDED","object":{object}}}"#), format!(r#"{{"object":{object},"type":"ADDED"}}"#)]
    {
        let Ok(Event::Added(item)) = serde_json::from_str(&line) else { panic!("{line}") };
        assert_eq!(kube::Resource::meta(&item).resource_version.as_deref(), Some("3"));
        assert!(item.object.value().unwrap().spec.value().unwrap().ports.oddity().is_some());
    }
}

#[test]
fn nodes() {
    let read = |object: Value| node(&serde_json::from_value(object).unwrap());
    let (found, problems) = read(json!({
        "metadata": {"name": "here"},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64", "x"]},
        "status": {"addresses": [
            {"type": "Hostname", "address": "here"}, {"type": "ExternalIP", "address": "192.0.2.1"},
            {"type": "InternalIP", "address": "10.9.0.1"}, {"type": "InternalIP", "address": "nonsense"},
            {"type": "InternalIP", "address": "fd00::1"}]},
    }));
    let node = found.unwrap();
    let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!((&*node.name, &addresses[..]), ("here", &["10.9.0.1", "fd00::1", "192.0.2.1"].map(String::from)[..]));
    assert_eq!(node.pod_cidrs.len(), 2);
    assert_eq!(node.primary(Family::V6), Some("fd00::1".parse().unwrap()));
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["status.addresses[3].address", "spec.podCIDRs"]);
    assert_eq!(
        read(json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.1.0.0/24"}})).0.unwrap().pod_cidrs.len(),
        1
    );
    assert!(read(json!({"metadata": {}})).0.is_none());
}

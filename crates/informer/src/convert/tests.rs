//! Tables: what one object becomes, and what is said about it.

mod services;
mod slices;

use model::{EndpointSlice, Family, Hints, NodeHint, Protocol, Service, TrafficPolicy};
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
fn service_cidrs() {
    let object = |spec: Value| json!({"metadata": {"name": "kubernetes"}, "spec": spec});
    let read = |spec: Value| match read::<slim::ServiceCidr>(object(spec)) {
        (Update::ServiceCidr(cidr), problems) => {
            (cidr.name.to_string(), cidr.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(), problems)
        }
        other => panic!("{other:?}"),
    };
    let (name, prefixes, problems) = read(json!({"cidrs": ["fd00::/112", "10.96.0.0/12"]}));
    assert_eq!((&*name, problems.len()), ("kubernetes", 0));
    assert_eq!(prefixes, ["10.96.0.0/12", "fd00::/112"]);
    let (_, prefixes, problems) = read(json!({"cidrs": ["10.96.0.0/12", "10.96.0.0/99"]}));
    assert_eq!(prefixes, ["10.96.0.0/12"]);
    assert!(problems[0].starts_with("spec.cidrs[1]: ") && problems[0].ends_with("skipped"), "{problems:?}");
    let (_, prefixes, problems) = read(json!(null));
    assert!(prefixes.is_empty() && problems.is_empty());

    let odd = convert::<slim::ServiceCidr>(object(json!({"cidrs": 5})));
    assert_eq!(odd.object, "kubernetes", "it has no namespace");
    assert!(matches!(odd.update, Some(Update::Unreadable(Kind::ServiceCidr, name)) if &*name.name == "kubernetes"));
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
    let read = |object: Value| {
        let NodeRead { node, problems, .. } = node(&serde_json::from_value(object).unwrap());
        (node, problems)
    };
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

#[test]
fn zones_of_nodes_and_nodes_that_leave() {
    let read = |patch: Value| {
        let mut object = json!({"metadata": {"name": "here"}});
        merge(&mut object, patch);
        let NodeRead { node, problems, .. } = node(&serde_json::from_value(object).unwrap());
        assert!(problems.is_empty(), "{problems:?}");
        let node = node.unwrap();
        (node.zone.map(|zone| zone.to_string()), node.is_leaving)
    };
    let zone = |zone: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
    let taints = |keys: &[&str]| {
        let taint = |key: &&str| json!({"key": key, "value": "1", "effect": "NoSchedule"});
        json!({"spec": {"taints": keys.iter().map(taint).collect::<Vec<_>>()}})
    };
    assert_eq!(read(json!({})), (None, false));
    assert_eq!(read(zone("zone-a")), (Some("zone-a".to_owned()), false));
    assert_eq!(read(zone("")), (None, false));
    assert_eq!(read(taints(&["node.kubernetes.io/unschedulable"])), (None, false));
    assert_eq!(read(taints(&["a", "ToBeDeletedByClusterAutoscaler"])), (None, true));
    assert_eq!(read(json!({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}})), (None, true));
    assert_eq!(read(json!({"metadata": {"deletionTimestamp": null}})), (None, false));
}

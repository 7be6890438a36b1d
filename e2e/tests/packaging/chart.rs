//! The Helm chart yields what the manifests do.

use serde_json::{Value, json};

use crate::render::{find, helm, helm_in, kustomize, parse};
use crate::schema::check;

const API_SERVER: &str = "https://control-plane.example:6443";

/// In an order of their own, and files in ConfigMaps parsed: comments do not matter.
fn comparable(mut objects: Vec<Value>) -> Vec<Value> {
    for object in objects.iter_mut().filter(|object| object["kind"] == "ConfigMap") {
        for file in object["data"].as_object_mut().unwrap().values_mut() {
            *file = parse(file.as_str().unwrap()).remove(0);
        }
    }
    objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
    objects
}

#[test]
fn without_hardening_it_is_the_base() {
    let objects = helm(&json!({"apiServer": API_SERVER, "hardened": false})).unwrap();
    assert_eq!(comparable(objects), comparable(kustomize("base")));
}

#[test]
fn by_default_its_daemon_set_is_the_hardened_one() {
    let objects = helm(&json!({"apiServer": API_SERVER})).unwrap();
    assert_eq!([find(&objects, "DaemonSet", "kube-proxy").clone()][..], kustomize("overlays/hardened"));
}

#[test]
fn monitoring_adds_the_same_objects() {
    let objects = helm(&json!({"apiServer": API_SERVER, "hardened": false, "monitoring": true})).unwrap();
    let all = [kustomize("base"), kustomize("overlays/monitoring")].concat();
    assert_eq!(comparable(objects), comparable(all));
}

#[test]
fn values_arrive() {
    let values = json!({
        "apiServer": "https://192.0.2.1:6443",
        "image": {"repository": "registry.example/slipstream", "tag": "1"},
        "config": {"clusterCIDR": "10.1.0.0/16", "nftables": {"fastpathScope": "All"}},
        "resources": {"limits": {"memory": "1Gi"}},
    });
    let objects = helm(&values).unwrap();
    for object in &objects {
        check(object).unwrap();
    }
    let pod = &find(&objects, "DaemonSet", "kube-proxy")["spec"]["template"]["spec"];
    for container in [&pod["containers"][0], &pod["initContainers"][0]] {
        assert_eq!(container["image"], "registry.example/slipstream:1");
    }
    assert_eq!(pod["containers"][0]["resources"]["limits"]["memory"], "1Gi");
    let files = comparable(objects).into_iter().find(|object| object["kind"] == "ConfigMap").unwrap()["data"].take();
    assert_eq!(files["kubeconfig.conf"]["clusters"][0]["cluster"]["server"], "https://192.0.2.1:6443");
    assert_eq!(files["config.conf"]["clusterCIDR"], "10.1.0.0/16");
    assert_eq!(files["config.conf"]["nftables"]["fastpathScope"], "All");
    assert_eq!(files["config.conf"]["mode"], "nftables");
}

#[test]
fn what_cannot_work_is_refused() {
    assert!(helm(&json!({})).unwrap_err().contains("/apiServer"));
    assert!(helm(&json!({"apiServer": API_SERVER, "hardend": true})).unwrap_err().contains("hardend"));
    let elsewhere = helm_in("proxies", &json!({"apiServer": API_SERVER}));
    assert!(elsewhere.unwrap_err().contains("add --namespace kube-system"));
}

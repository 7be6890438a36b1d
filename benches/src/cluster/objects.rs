//! Objects as heavy as those of a real cluster, whose owners and field managers weigh more than what a proxy reads.

use serde_json::{Value, json};
use testing::objects;
use testing::scale::{LOCAL_NODE, Scale};

/// A kubelet tells of so many images (`nodeStatusMaxImages`).
const IMAGES: u32 = 50;

/// Service `i`, as made from a manifest.
pub(crate) fn service(scale: Scale, i: u32) -> Value {
    let mut service = scale.service_object(i);
    let name = service["metadata"]["name"].clone();
    let applied = service.to_string();
    let metadata = &mut service["metadata"];
    metadata["labels"] = labels(&name);
    metadata["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": applied});
    let fields = ["f:internalTrafficPolicy", "f:ports", "f:selector", "f:sessionAffinity", "f:type"];
    metadata["managedFields"] = managed("kubectl-client-side-apply", "v1", &fields);
    let spec = &mut service["spec"];
    spec["selector"] = labels(&name);
    spec["sessionAffinity"] = "None".into();
    spec["internalTrafficPolicy"] = "Cluster".into();
    service["status"] = json!({"loadBalancer": {}});
    service
}

/// The slice of Service `i`, as made by the controller. In one of two places, by `n`, is its first endpoint.
pub(crate) fn slice(scale: Scale, i: u32, n: u32) -> Value {
    let mut slice = scale.slice_objects(i).next().unwrap_or_default();
    slice["endpoints"][0]["addresses"][0] = format!("10.{}.{}.{}", 252 + n % 2, i / 250 % 250, i % 250 + 1).into();
    let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].clone();
    for (index, endpoint) in slice["endpoints"].as_array_mut().into_iter().flatten().enumerate() {
        let pod = format!("{}-6f5d8c7b9-{index:05}", text(&service));
        endpoint["zone"] = "europe-west-1b".into();
        endpoint["targetRef"] = json!({"kind": "Pod", "namespace": "scale", "name": pod, "uid": uid(i, index)});
    }
    let metadata = &mut slice["metadata"];
    metadata["generateName"] = format!("{}-", text(&service)).into();
    metadata["generation"] = (n + 1).into();
    metadata["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"});
    metadata["labels"]["endpointslice.kubernetes.io/managed-by"] = "endpointslice-controller.k8s.io".into();
    let owner = json!({"apiVersion": "v1", "kind": "Service", "name": service, "uid": uid(i, 0), "controller": true});
    metadata["ownerReferences"] = json!([owner]);
    metadata["managedFields"] = managed(
        "kube-controller-manager",
        "discovery.k8s.io/v1",
        &["f:addressType", "f:endpoints", "f:ports", "f:metadata", "f:ownerReferences"],
    );
    slice
}

/// Our own Node after its `n`th heartbeat.
pub(crate) fn node(n: u32) -> Value {
    let mut node = objects::node(LOCAL_NODE, &["10.128.0.0/24"], &["192.0.2.10"]);
    let image = |i| {
        let name = format!("registry.example/platform/component-{i:02}");
        json!({"names": [format!("{name}@sha256:{:064x}", i), format!("{name}:v1.2.{i}")], "sizeBytes": 52_428_800 + i})
    };
    node["status"]["images"] = (0..IMAGES).map(image).collect();
    let condition = |kind: &str| {
        let time = format!("2026-01-01T00:{:02}:00Z", n % 60);
        json!({"type": kind, "status": "False", "lastHeartbeatTime": time, "lastTransitionTime": "2026-01-01T00:00:00Z",
               "reason": format!("KubeletHasNo{kind}"), "message": format!("kubelet has no {kind}")})
    };
    let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];
    node["status"]["conditions"] = conditions.map(condition).into_iter().collect();
    node["metadata"]["managedFields"] = managed("kubelet", "v1", &["f:metadata", "f:status"]);
    node
}

fn labels(name: &Value) -> Value {
    json!({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/managed-by": "Helm"})
}

fn managed(manager: &str, version: &str, fields: &[&str]) -> Value {
    let fields: Value = fields.iter().map(|field| ((*field).to_owned(), json!({".": {}}))).collect();
    json!([{"manager": manager, "operation": "Update", "apiVersion": version, "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields}}])
}

fn uid(i: u32, index: usize) -> String {
    format!("{i:08x}-1111-4222-8333-{index:012x}")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

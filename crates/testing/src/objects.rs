//! Kubernetes objects, built in one line each, as JSON: for the fake API server, or printed into a file of a manifest
//! directory (JSON is YAML).
//!
//! ```
//! use testing::objects::{service, slice};
//!
//! let web = service("default", "web").cluster_ip("10.96.0.10").port("http", "TCP", 80).node_port(30080);
//! let pods = slice("default", "web-1", "web").port("http", "TCP", 8080).endpoint("10.1.0.2").on_node("node");
//! assert!(format!("---\n{web}\n---\n{pods}\n").contains("30080"));
//! ```

use std::fmt;

use serde_json::{Value, json};

/// A Service; see [`service`].
#[derive(Clone, Debug)]
pub struct Service(Value);

/// An EndpointSlice; see [`slice()`].
#[derive(Clone, Debug)]
pub struct Slice(Value);

/// A Service of type ClusterIP, with neither address nor ports yet.
pub fn service(namespace: &str, name: &str) -> Service {
    Service(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"type": "ClusterIP"},
    }))
}

/// An EndpointSlice of the Service `service` in the same namespace, with neither ports nor endpoints yet. It is an IPv6
/// one if its first endpoint is.
pub fn slice(namespace: &str, name: &str, service: &str) -> Slice {
    let labels = json!({"kubernetes.io/service-name": service});
    Slice(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "addressType": "IPv4",
        "ports": [],
        "endpoints": [],
    }))
}

/// A Node with these pod CIDRs and internal addresses.
pub fn node(name: &str, pod_cidrs: &[&str], addresses: &[&str]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {"addresses": addresses},
    })
}

/// A ServiceCIDR.
pub fn service_cidr(name: &str, cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": cidrs},
    })
}

impl Service {
    /// Adds a ClusterIP: the first is the primary one, a second has to be of the other family.
    pub fn cluster_ip(mut self, address: &str) -> Self {
        let spec = &mut self.0["spec"];
        if spec["clusterIP"].is_null() {
            spec["clusterIP"] = address.into();
        }
        push(&mut spec["clusterIPs"], address.into());
        push(&mut spec["ipFamilies"], family(address).into());
        spec["ipFamilyPolicy"] =
            if spec["clusterIPs"][1].is_null() { "SingleStack" } else { "RequireDualStack" }.into();
        self
    }

    /// Makes it headless.
    pub fn headless(self) -> Self {
        self.set("/spec/clusterIP", "None").set("/spec/clusterIPs", vec!["None"])
    }

    /// Adds a port. The protocol is spelt `TCP`, `UDP` or `SCTP`.
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        push(
            &mut self.0["spec"]["ports"],
            json!({"name": name, "protocol": protocol, "port": port, "targetPort": port}),
        );
        self
    }

    /// Gives the port that was added last a NodePort, and the Service the type that goes with it.
    pub fn node_port(mut self, node_port: u16) -> Self {
        last(&mut self.0["spec"]["ports"])["nodePort"] = node_port.into();
        if self.0["spec"]["type"] == "ClusterIP" { self.set("/spec/type", "NodePort") } else { self }
    }

    /// Adds an external IP.
    pub fn external_ip(mut self, address: &str) -> Self {
        push(&mut self.0["spec"]["externalIPs"], address.into());
        self
    }

    /// Makes it of type LoadBalancer and adds a load balancer address.
    pub fn load_balancer_ip(mut self, address: &str) -> Self {
        push(&mut self.0["status"]["loadBalancer"]["ingress"], json!({"ip": address, "ipMode": "VIP"}));
        self.set("/spec/type", "LoadBalancer")
    }

    /// Sets any field, by JSON pointer (RFC 6901): `.set("/spec/internalTrafficPolicy", "Local")`.
    pub fn set(self, pointer: &str, value: impl Into<Value>) -> Self {
        Self(set(self.0, pointer, value.into()))
    }
}

impl Slice {
    /// Adds a port of all endpoints. The protocol is spelt `TCP`, `UDP` or `SCTP`.
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        push(&mut self.0["ports"], json!({"name": name, "protocol": protocol, "port": port}));
        self
    }

    /// Adds an endpoint that is ready, on no known node.
    pub fn endpoint(mut self, address: &str) -> Self {
        if self.0["endpoints"][0].is_null() {
            self.0["addressType"] = family(address).into();
        }
        let conditions = json!({"ready": true, "serving": true, "terminating": false});
        push(&mut self.0["endpoints"], json!({"addresses": [address], "conditions": conditions}));
        self
    }

    /// Puts the endpoint that was added last on a node.
    pub fn on_node(mut self, node: &str) -> Self {
        last(&mut self.0["endpoints"])["nodeName"] = node.into();
        self
    }

    /// Sets the conditions of the endpoint that was added last.
    pub fn conditions(mut self, ready: bool, serving: bool, terminating: bool) -> Self {
        last(&mut self.0["endpoints"])["conditions"] =
            json!({"ready": ready, "serving": serving, "terminating": terminating});
        self
    }

    /// Sets any field, by JSON pointer (RFC 6901).
    pub fn set(self, pointer: &str, value: impl Into<Value>) -> Self {
        Self(set(self.0, pointer, value.into()))
    }
}

impl From<Service> for Value {
    fn from(service: Service) -> Self {
        service.0
    }
}

impl From<Slice> for Value {
    fn from(slice: Slice) -> Self {
        slice.0
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

/// Appends to an array, which is made if missing.
fn push(array: &mut Value, item: Value) {
    match array {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// The last item of an array.
fn last(array: &mut Value) -> &mut Value {
    array.as_array_mut().and_then(|items| items.last_mut()).expect("nothing was added yet that this could be about")
}

/// Sets a field; objects on the way to it are made if missing.
fn set(mut object: Value, pointer: &str, value: Value) -> Value {
    let mut field = &mut object;
    for token in pointer.split('/').skip(1) {
        let key = token.replace("~1", "/").replace("~0", "~");
        field = match field {
            Value::Array(items) => key.parse().ok().and_then(|index: usize| items.get_mut(index)),
            other => Some(&mut other[key]),
        }
        .unwrap_or_else(|| panic!("no item at {pointer}"));
    }
    *field = value;
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dual_stack_service_has_both_families_in_order() {
        let service = Value::from(service("a", "b").cluster_ip("fd00::1").cluster_ip("10.0.0.1"));
        assert_eq!(service["spec"]["clusterIP"], "fd00::1");
        assert_eq!(service["spec"]["clusterIPs"], json!(["fd00::1", "10.0.0.1"]));
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    }

    #[test]
    fn set_makes_what_is_missing_and_reaches_into_arrays() {
        let service = service("a", "b").port("", "TCP", 80).set("/spec/ports/0/targetPort", "web");
        let service = Value::from(service.set("/metadata/labels/k8s.io~1x", ""));
        assert_eq!(service["spec"]["ports"][0]["targetPort"], "web");
        assert_eq!(service["metadata"]["labels"]["k8s.io/x"], "");
    }
}

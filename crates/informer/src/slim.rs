//! The API objects, with the fields that matter here and no others.
//!
//! They take a quarter to a sixth of the memory of the full types. Everything is [`Lenient`]: what the values mean is
//! decided by the conversion.

use kube::core::{ClusterResourceScope, NamespaceResourceScope, ObjectMeta};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;

use crate::lenient::Lenient;

/// A string field.
pub(crate) type Text = Lenient<String>;
/// A list field.
pub(crate) type List<T> = Lenient<Vec<Lenient<T>>>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct Meta {
    pub(crate) name: Text,
    pub(crate) namespace: Text,
    pub(crate) resource_version: Text,
    pub(crate) creation_timestamp: Text,
    pub(crate) deletion_timestamp: Text,
    pub(crate) labels: Lenient<Labels>,
    pub(crate) annotations: Lenient<Annotations>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct Labels {
    #[serde(rename = "service.kubernetes.io/service-proxy-name")]
    pub(crate) proxy_name: Text,
    #[serde(rename = "service.kubernetes.io/headless")]
    pub(crate) headless: Text,
    #[serde(rename = "kubernetes.io/service-name")]
    pub(crate) service_name: Text,
    #[serde(rename = "topology.kubernetes.io/zone")]
    pub(crate) zone: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct Annotations {
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub(crate) last_change: Text,
    #[serde(rename = "slipstream.dev/fastpath")]
    pub(crate) fast_path: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct Service {
    pub(crate) metadata: Lenient<Meta>,
    pub(crate) spec: Lenient<ServiceSpec>,
    pub(crate) status: Lenient<ServiceStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct ServiceSpec {
    pub(crate) r#type: Text,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Text,
    #[serde(rename = "clusterIPs")]
    pub(crate) cluster_ips: List<String>,
    pub(crate) ip_families: List<String>,
    #[serde(rename = "externalIPs")]
    pub(crate) external_ips: List<String>,
    pub(crate) internal_traffic_policy: Text,
    pub(crate) external_traffic_policy: Text,
    pub(crate) health_check_node_port: Lenient<i64>,
    pub(crate) session_affinity: Text,
    pub(crate) session_affinity_config: Lenient<SessionAffinityConfig>,
    pub(crate) load_balancer_source_ranges: List<String>,
    pub(crate) ports: List<ServicePort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub(crate) client_ip: Lenient<ClientIpConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct ClientIpConfig {
    pub(crate) timeout_seconds: Lenient<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct ServicePort {
    pub(crate) name: Text,
    pub(crate) protocol: Text,
    pub(crate) port: Lenient<i64>,
    pub(crate) node_port: Lenient<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct ServiceStatus {
    pub(crate) load_balancer: Lenient<LoadBalancer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct LoadBalancer {
    pub(crate) ingress: List<Ingress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct Ingress {
    pub(crate) ip: Text,
    pub(crate) ip_mode: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Lenient<Meta>,
    pub(crate) address_type: Text,
    pub(crate) endpoints: List<Endpoint>,
    pub(crate) ports: List<SlicePort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct Endpoint {
    pub(crate) addresses: List<String>,
    pub(crate) conditions: Lenient<Conditions>,
    pub(crate) node_name: Text,
    pub(crate) hints: Lenient<Hints>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(crate) struct Hints {
    pub(crate) for_nodes: List<Hint>,
    pub(crate) for_zones: List<Hint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct Hint {
    pub(crate) name: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct Conditions {
    pub(crate) ready: Lenient<bool>,
    pub(crate) serving: Lenient<bool>,
    pub(crate) terminating: Lenient<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct SlicePort {
    pub(crate) name: Text,
    pub(crate) protocol: Text,
    pub(crate) port: Lenient<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct Node {
    pub(crate) metadata: Lenient<Meta>,
    pub(crate) spec: Lenient<NodeSpec>,
    pub(crate) status: Lenient<NodeStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: Text,
    #[serde(rename = "podCIDRs")]
    pub(crate) pod_cidrs: List<String>,
    pub(crate) taints: List<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct Taint {
    pub(crate) key: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct NodeStatus {
    pub(crate) addresses: List<NodeAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct NodeAddress {
    pub(crate) r#type: Text,
    pub(crate) address: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct ServiceCidr {
    pub(crate) metadata: Lenient<Meta>,
    pub(crate) spec: Lenient<ServiceCidrSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct ServiceCidrSpec {
    pub(crate) cidrs: List<String>,
}

/// A kind of object in the API.
pub(crate) trait ApiObject: Default {
    /// Whether its objects live in namespaces.
    type Scope: Scope;
    const KIND: &'static str;
    const GROUP: &'static str;
    const PLURAL: &'static str;
    fn metadata(&self) -> &Lenient<Meta>;
}

/// Where objects live.
pub(crate) trait Scope {
    /// Whether it is in namespaces.
    const NAMESPACED: bool;
}

impl Scope for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl Scope for ClusterResourceScope {
    const NAMESPACED: bool = false;
}

/// Implements [`ApiObject`], which all have in version `v1`.
macro_rules! api_object {
    ($type:ty, $kind:literal, $group:literal, $plural:literal, $scope:ty) => {
        impl ApiObject for $type {
            type Scope = $scope;
            const KIND: &'static str = $kind;
            const GROUP: &'static str = $group;
            const PLURAL: &'static str = $plural;

            fn metadata(&self) -> &Lenient<Meta> {
                &self.metadata
            }
        }
    };
}

api_object!(Service, "Service", "", "services", NamespaceResourceScope);
api_object!(EndpointSlice, "EndpointSlice", "discovery.k8s.io", "endpointslices", NamespaceResourceScope);
api_object!(ServiceCidr, "ServiceCIDR", "networking.k8s.io", "servicecidrs", ClusterResourceScope);
api_object!(Node, "Node", "", "nodes", ClusterResourceScope);

/// An object as kube's client wants it: with full metadata, of which it reads the resource version only.
#[derive(Clone, Debug)]
pub(crate) struct Item<T> {
    pub(crate) object: Lenient<T>,
    meta: ObjectMeta,
}

impl<'de, T: ApiObject + Deserialize<'de>> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Lenient::<T>::deserialize(deserializer)?;
        let read = object.value().and_then(|object| object.metadata().value());
        let resource_version = read.and_then(|meta| meta.resource_version.value()).cloned();
        Ok(Self { meta: ObjectMeta { resource_version, ..ObjectMeta::default() }, object })
    }
}

impl<T: ApiObject> kube::Resource for Item<T> {
    type DynamicType = ();
    type Scope = T::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

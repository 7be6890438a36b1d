//! The file as written: `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! Every field of the API is here (contract §2.2), the ones for Windows and for other modes included, so that an unknown
//! field is a real mistake. Each may be missing or `null`, which mean the same: kubeadm writes out many as `null`.
//! The fields of each block are documented where they are acted on, in [`Config`](crate::Config).

#![expect(missing_docs, reason = "the fields have the names and the meaning that Kubernetes documents")]

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::GoDuration;

/// The `apiVersion` of the file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The `kind` of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// What kind of object a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypeMeta {
    pub api_version: Option<String>,
    pub kind: Option<String>,
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyConfiguration {
    pub api_version: Option<String>,
    pub kind: Option<String>,
    pub feature_gates: Option<BTreeMap<String, Option<bool>>>,
    #[serde(deserialize_with = "null_as_default")]
    pub client_connection: ClientConnection,
    #[serde(deserialize_with = "null_as_default")]
    pub logging: Logging,
    pub hostname_override: Option<String>,
    pub bind_address: Option<String>,
    pub healthz_bind_address: Option<String>,
    pub metrics_bind_address: Option<String>,
    pub bind_address_hard_fail: Option<bool>,
    pub enable_profiling: Option<bool>,
    pub show_hidden_metrics_for_version: Option<String>,
    pub mode: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub iptables: Iptables,
    #[serde(deserialize_with = "null_as_default")]
    pub ipvs: Ipvs,
    #[serde(deserialize_with = "null_as_default")]
    pub nftables: Nftables,
    #[serde(deserialize_with = "null_as_default")]
    pub winkernel: Winkernel,
    pub detect_local_mode: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Option<String>,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    #[serde(deserialize_with = "null_as_default")]
    pub conntrack: Conntrack,
    pub config_sync_period: Option<GoDuration>,
    /// Obsolete: accepted and ignored.
    pub port_range: Option<String>,
    pub windows_run_as_service: Option<bool>,
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    pub kubeconfig: Option<String>,
    pub accept_content_types: Option<String>,
    pub content_type: Option<String>,
    pub qps: Option<f32>,
    pub burst: Option<i32>,
}

/// How to log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    pub format: Option<String>,
    pub flush_frequency: Option<DurationOrNanos>,
    pub verbosity: Option<u32>,
    pub vmodule: Option<Vec<VModule>>,
    #[serde(deserialize_with = "null_as_default")]
    pub options: LoggingOptions,
}

/// The verbosity of some source files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VModule {
    pub file_pattern: Option<String>,
    pub verbosity: Option<u32>,
}

/// What is special to a log format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggingOptions {
    #[serde(deserialize_with = "null_as_default")]
    pub text: OutputRouting,
    #[serde(deserialize_with = "null_as_default")]
    pub json: OutputRouting,
}

/// Where a log format writes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutputRouting {
    pub split_stream: Option<bool>,
    pub info_buffer_size: Option<Quantity>,
}

/// Settings of iptables mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Iptables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: Option<bool>,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: Option<GoDuration>,
    pub min_sync_period: Option<GoDuration>,
}

/// Settings of ipvs mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipvs {
    pub sync_period: Option<GoDuration>,
    pub min_sync_period: Option<GoDuration>,
    pub scheduler: Option<String>,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: Option<bool>,
    pub tcp_timeout: Option<GoDuration>,
    pub tcp_fin_timeout: Option<GoDuration>,
    pub udp_timeout: Option<GoDuration>,
}

/// Settings of nftables mode. Those of the fast path are ours; the first of them has the name that was proposed for kube-proxy
/// (KEP-4963).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Nftables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: Option<bool>,
    pub sync_period: Option<GoDuration>,
    pub min_sync_period: Option<GoDuration>,
    pub fastpath_packet_threshold: Option<i32>,
    pub fastpath_scope: Option<String>,
    pub fastpath_dry_run: Option<bool>,
    pub fastpath_exclude_interfaces: Option<Vec<String>>,
    pub fastpath_interface_sync_period: Option<GoDuration>,
    pub fastpath_min_interface_sync_period: Option<GoDuration>,
    pub fastpath_revalidation_period: Option<GoDuration>,
}

/// Settings of Windows nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Winkernel {
    pub network_name: Option<String>,
    pub source_vip: Option<String>,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: Option<bool>,
    pub root_hns_endpoint_name: Option<String>,
    pub forward_health_check_vip: Option<bool>,
}

/// What the interface modes of local-traffic detection go by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocal {
    pub bridge_interface: Option<String>,
    pub interface_name_prefix: Option<String>,
}

/// Connection tracking sysctls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: Option<bool>,
    pub udp_timeout: Option<GoDuration>,
    pub udp_stream_timeout: Option<GoDuration>,
}

/// A duration that may also be a bare number, then of nanoseconds: `logging.flushFrequency` alone (contract §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationOrNanos(pub GoDuration);

impl<'de> Deserialize<'de> for DurationOrNanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = DurationOrNanos;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 5s, or a number of nanoseconds")
            }

            fn visit_i64<E: Error>(self, nanos: i64) -> Result<Self::Value, E> {
                Ok(DurationOrNanos(GoDuration::from_nanos(nanos)))
            }

            fn visit_u64<E: Error>(self, nanos: u64) -> Result<Self::Value, E> {
                self.visit_i64(i64::try_from(nanos).map_err(E::custom)?)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(DurationOrNanos).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A Kubernetes quantity such as `64Ki`, or a bare number; not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity(pub String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 64Ki")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Quantity(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

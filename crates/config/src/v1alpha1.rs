//! The file as written: `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! Every field of the API is here (contract §2.2), the ones for Windows and for other modes included, so that an unknown
//! field is a real mistake. Each may be missing or `null`, which mean the same: kubeadm writes out many as `null`. For most,
//! the zero value means it as well; the others are `Option`s. [`KubeProxyConfiguration::read`] puts defaults in their place.
//! The fields of each block are documented where they are acted on, in [`Config`](crate::Config).

#![expect(missing_docs, reason = "the fields have the names and the meaning that Kubernetes documents")]

mod defaults;
mod scalars;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::GoDuration;

pub use defaults::with_port;
pub use scalars::{DurationOrNanos, ParseQuantityError, Quantity};

/// The `apiVersion` of the file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The `kind` of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// Objects of which every field may be missing or `null`, and then has its zero value.
macro_rules! objects {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$about:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $(#[serde(deserialize_with = "scalars::null_as_zero")] $(#[$about])* pub $field: $type,)*
        }
    )*};
}

objects! {
    /// What kind of object a file holds.
    pub struct TypeMeta {
        pub api_version: String,
        pub kind: String,
    }

    /// The whole file.
    pub struct KubeProxyConfiguration {
        pub api_version: String,
        pub kind: String,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub feature_gates: BTreeMap<String, bool>,
        pub client_connection: ClientConnection,
        pub logging: Logging,
        pub hostname_override: String,
        pub bind_address: String,
        pub healthz_bind_address: String,
        pub metrics_bind_address: String,
        pub bind_address_hard_fail: bool,
        pub enable_profiling: bool,
        pub show_hidden_metrics_for_version: String,
        pub mode: String,
        pub iptables: Iptables,
        pub ipvs: Ipvs,
        pub nftables: Nftables,
        pub winkernel: Winkernel,
        pub detect_local_mode: String,
        pub detect_local: DetectLocal,
        #[serde(rename = "clusterCIDR")]
        pub cluster_cidr: String,
        pub node_port_addresses: Option<Vec<String>>,
        pub oom_score_adj: Option<i32>,
        pub conntrack: Conntrack,
        pub config_sync_period: GoDuration,
        /// Obsolete: accepted and ignored.
        pub port_range: String,
        #[serde(skip_serializing_if = "scalars::is_zero")]
        pub windows_run_as_service: bool,
    }

    /// How to reach the API server.
    pub struct ClientConnection {
        pub kubeconfig: String,
        pub accept_content_types: String,
        pub content_type: String,
        #[serde(serialize_with = "scalars::short_float")]
        pub qps: f32,
        pub burst: i32,
    }

    /// How to log.
    pub struct Logging {
        pub format: String,
        pub flush_frequency: DurationOrNanos,
        pub verbosity: u32,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub vmodule: Vec<VModule>,
        pub options: LoggingOptions,
    }

    /// The verbosity of some source files.
    pub struct VModule {
        pub file_pattern: String,
        pub verbosity: u32,
    }

    /// What is special to a log format.
    pub struct LoggingOptions {
        pub text: OutputRouting,
        pub json: OutputRouting,
    }

    /// Where a log format writes to.
    pub struct OutputRouting {
        #[serde(skip_serializing_if = "scalars::is_zero")]
        pub split_stream: bool,
        pub info_buffer_size: Quantity,
    }

    /// Settings of iptables mode.
    pub struct Iptables {
        pub masquerade_bit: Option<i32>,
        pub masquerade_all: bool,
        pub localhost_node_ports: Option<bool>,
        pub sync_period: GoDuration,
        pub min_sync_period: GoDuration,
    }

    /// Settings of ipvs mode.
    pub struct Ipvs {
        pub sync_period: GoDuration,
        pub min_sync_period: GoDuration,
        pub scheduler: String,
        #[serde(rename = "excludeCIDRs")]
        pub exclude_cidrs: Option<Vec<String>>,
        #[serde(rename = "strictARP")]
        pub strict_arp: bool,
        pub tcp_timeout: GoDuration,
        pub tcp_fin_timeout: GoDuration,
        pub udp_timeout: GoDuration,
    }

    /// Settings of nftables mode. Those of the fast path are ours; the first of them has the name that was proposed for
    /// kube-proxy (KEP-4963).
    pub struct Nftables {
        pub masquerade_bit: Option<i32>,
        pub masquerade_all: bool,
        pub sync_period: GoDuration,
        pub min_sync_period: GoDuration,
        pub fastpath_packet_threshold: Option<i32>,
        pub fastpath_scope: String,
        pub fastpath_dry_run: bool,
        pub fastpath_exclude_interfaces: Vec<String>,
        pub fastpath_interface_sync_period: GoDuration,
        pub fastpath_min_interface_sync_period: GoDuration,
        /// `None` also when defaults have been filled in: the default depends on the kernel.
        pub fastpath_revalidation_period: Option<GoDuration>,
    }

    /// Settings of Windows nodes.
    pub struct Winkernel {
        pub network_name: String,
        pub source_vip: String,
        #[serde(rename = "enableDSR")]
        pub enable_dsr: bool,
        pub root_hns_endpoint_name: String,
        pub forward_health_check_vip: bool,
    }

    /// What the interface modes of local-traffic detection go by.
    pub struct DetectLocal {
        pub bridge_interface: String,
        pub interface_name_prefix: String,
    }

    /// Connection tracking sysctls.
    pub struct Conntrack {
        pub max_per_core: Option<i32>,
        pub min: Option<i32>,
        pub tcp_established_timeout: Option<GoDuration>,
        pub tcp_close_wait_timeout: Option<GoDuration>,
        pub tcp_be_liberal: bool,
        pub udp_timeout: GoDuration,
        pub udp_stream_timeout: GoDuration,
    }
}

impl KubeProxyConfiguration {
    /// The object as JSON, `apiVersion` and `kind` included, with its keys sorted.
    pub fn to_json(&self) -> serde_json::Value {
        // Only a map whose keys are no strings or a number that is none could fail.
        serde_json::to_value(self).expect("the configuration is made of what JSON can say")
    }

    /// The same as YAML.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(&self.to_json()).expect("YAML can say what JSON can")
    }
}

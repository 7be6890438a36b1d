//! The flags that make up a configuration where there is no file.

use clap::Args;
use config::GoDuration;
use config::v1alpha1::{
    ClientConnection, Conntrack, DetectLocal, Iptables, Ipvs, KubeProxyConfiguration, Nftables, with_port,
};

use super::command;

/// With `--config`, they are ignored (contract §1.3). Without, they are what kube-proxy makes of them.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Without --config")]
pub(super) struct Settings {
    /// How to reach the API server; without one, the service account of the pod
    #[arg(long, value_name = "FILE", default_value = "")]
    kubeconfig: String,

    /// Ignored: it is JSON
    #[arg(long, value_name = "TYPE", default_value = "application/vnd.kubernetes.protobuf")]
    kube_api_content_type: String,

    /// Ignored: only changes are asked for
    #[arg(long, value_name = "QPS", default_value_t = 5.0)]
    kube_api_qps: f32,

    /// Ignored: only changes are asked for
    #[arg(long, value_name = "REQUESTS", default_value_t = 10)]
    kube_api_burst: i32,

    /// Features to be switched on or off
    #[arg(long, value_name = "GATE=BOOL,...", value_delimiter = ',', value_parser = command::feature_gate)]
    feature_gates: Vec<Option<(String, bool)>>,

    /// nftables, or nothing, which is the same; iptables and ipvs take --force-nftables
    #[arg(long, value_name = "MODE", default_value = "")]
    proxy_mode: String,

    /// The node's address, if it is not the one in its Node object; it is never bound to
    #[arg(long, value_name = "IP", default_value = "0.0.0.0", value_parser = command::address)]
    bind_address: String,

    /// Where /healthz and /livez are served
    #[arg(long, value_name = "IP[:PORT]", default_value = "0.0.0.0:10256")]
    healthz_bind_address: String,

    /// Where /metrics is served
    #[arg(long, value_name = "IP[:PORT]", default_value = "127.0.0.1:10249")]
    metrics_bind_address: String,

    /// Deprecated: the port of --healthz-bind-address if that has none; 0: /healthz is not served
    #[arg(long, value_name = "PORT", default_value_t = 10256)]
    healthz_port: i32,

    /// Deprecated: the port of --metrics-bind-address if that has none
    #[arg(long, value_name = "PORT", default_value_t = 10249)]
    metrics_port: i32,

    /// Exit if one of these addresses is taken, rather than try again
    #[arg(long)]
    bind_address_hard_fail: bool,

    /// Show what goes on inside under /debug, beside /metrics
    #[arg(long)]
    profiling: bool,

    /// Show metrics that were hidden with the version before this one: 1.35
    #[arg(long, value_name = "VERSION", default_value = "")]
    show_hidden_metrics_for_version: String,

    /// Masquerade all connections to ClusterIPs
    #[arg(long)]
    masquerade_all: bool,

    /// The bit of the packet mark that asks for masquerading, with --force-nftables; with nftables it is 14
    #[arg(long, value_name = "BIT", default_value_t = 14)]
    iptables_masquerade_bit: i32,

    /// Ignored
    #[arg(long, default_value = "true")]
    iptables_localhost_nodeports: bool,

    /// The longest wait before a failed sync is tried again
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    iptables_sync_period: GoDuration,

    /// The pause after a sync, in which changes are collected
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    iptables_min_sync_period: GoDuration,

    /// The same as --iptables-sync-period, with mode ipvs and --force-nftables
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    ipvs_sync_period: GoDuration,

    /// The same as --iptables-min-sync-period, with mode ipvs and --force-nftables
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    ipvs_min_sync_period: GoDuration,

    /// Ignored
    #[arg(long, value_name = "SCHEDULER", default_value = "")]
    ipvs_scheduler: String,

    /// Ignored
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    ipvs_exclude_cidrs: Vec<String>,

    /// Ignored
    #[arg(long)]
    ipvs_strict_arp: bool,

    /// Ignored
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    ipvs_tcp_timeout: GoDuration,

    /// Ignored
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    ipvs_tcpfin_timeout: GoDuration,

    /// Ignored
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    ipvs_udp_timeout: GoDuration,

    /// How pods are told from everything else: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix
    #[arg(long, value_name = "MODE", default_value = "")]
    detect_local_mode: String,

    /// The interface that packets of pods come in by, with detect-local-mode BridgeInterface
    #[arg(long, value_name = "NAME", default_value = "")]
    pod_bridge_interface: String,

    /// What the names of pods' interfaces start with, with detect-local-mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pod_interface_name_prefix: String,

    /// The addresses of pods, with detect-local-mode ClusterCIDR: a prefix, or one of each family
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "")]
    cluster_cidr: String,

    /// Where NodePorts answer: prefixes, or primary
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    nodeport_addresses: Vec<String>,

    /// How unlikely the kernel is to kill this process when memory runs out, -1000 to 1000
    #[arg(long, value_name = "SCORE", default_value_t = -999)]
    oom_score_adj: i32,

    /// Entries of the connection tracking table per CPU; 0 leaves its size alone
    #[arg(long, value_name = "ENTRIES", default_value_t = 32_768)]
    conntrack_max_per_core: i32,

    /// Entries of that table at least
    #[arg(long, value_name = "ENTRIES", default_value_t = 131_072)]
    conntrack_min: i32,

    /// How long idle TCP connections are tracked; 0s leaves it alone, as with the others
    #[arg(long, value_name = "DURATION", default_value = "24h0m0s")]
    conntrack_tcp_timeout_established: GoDuration,

    /// How long TCP connections in CLOSE_WAIT are tracked
    #[arg(long, value_name = "DURATION", default_value = "1h0m0s")]
    conntrack_tcp_timeout_close_wait: GoDuration,

    /// Do not drop packets outside of the TCP window
    #[arg(long)]
    conntrack_tcp_be_liberal: bool,

    /// How long UDP flows without an answer are tracked
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    conntrack_udp_timeout: GoDuration,

    /// How long UDP flows with answers are tracked
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    conntrack_udp_timeout_stream: GoDuration,

    /// Ignored: what is watched is always complete
    #[arg(long, value_name = "DURATION", default_value = "15m0s")]
    config_sync_period: GoDuration,

    /// Ignored
    #[arg(long, value_name = "FILES", default_value = "/proc/sys/kernel/random/boot_id")]
    boot_id_file: String,

    /// Ignored
    #[arg(long, value_name = "FILES", default_value = "/etc/machine-id,/var/lib/dbus/machine-id")]
    machine_id_file: String,
}

impl Settings {
    /// What they say in the form of a file. Who does something that kube-proxy cannot do (`is_ours`) does not have to be told
    /// what its default mode would be.
    pub(super) fn configuration(&self, is_ours: bool) -> KubeProxyConfiguration {
        let defaults = KubeProxyConfiguration::defaults();
        KubeProxyConfiguration {
            feature_gates: self.feature_gates.iter().flatten().cloned().collect(),
            client_connection: ClientConnection {
                kubeconfig: self.kubeconfig.clone(),
                content_type: self.kube_api_content_type.clone(),
                qps: self.kube_api_qps,
                burst: self.kube_api_burst,
                ..defaults.client_connection
            },
            // An empty address is as good as none: it leaves the default.
            bind_address: or(&self.bind_address, defaults.bind_address),
            healthz_bind_address: server(&self.healthz_bind_address, self.healthz_port, defaults.healthz_bind_address),
            metrics_bind_address: server(&self.metrics_bind_address, self.metrics_port, defaults.metrics_bind_address),
            bind_address_hard_fail: self.bind_address_hard_fail,
            enable_profiling: self.profiling,
            show_hidden_metrics_for_version: self.show_hidden_metrics_for_version.clone(),
            mode: or(&self.proxy_mode, if is_ours { "nftables" } else { "" }.to_owned()),
            iptables: self.iptables(),
            ipvs: self.ipvs(),
            // There are no flags for nftables mode alone (contract §1.2).
            nftables: Nftables {
                masquerade_all: self.masquerade_all,
                sync_period: self.iptables_sync_period,
                min_sync_period: self.iptables_min_sync_period,
                ..defaults.nftables
            },
            detect_local_mode: self.detect_local_mode.clone(),
            detect_local: DetectLocal {
                bridge_interface: self.pod_bridge_interface.clone(),
                interface_name_prefix: self.pod_interface_name_prefix.clone(),
            },
            cluster_cidr: self.cluster_cidr.clone(),
            node_port_addresses: Some(list(&self.nodeport_addresses)),
            oom_score_adj: Some(self.oom_score_adj),
            conntrack: self.conntrack(),
            config_sync_period: self.config_sync_period,
            ..defaults
        }
    }

    fn iptables(&self) -> Iptables {
        Iptables {
            masquerade_bit: Some(self.iptables_masquerade_bit),
            masquerade_all: self.masquerade_all,
            localhost_node_ports: Some(self.iptables_localhost_nodeports),
            sync_period: self.iptables_sync_period,
            min_sync_period: self.iptables_min_sync_period,
        }
    }

    fn ipvs(&self) -> Ipvs {
        Ipvs {
            sync_period: self.ipvs_sync_period,
            min_sync_period: self.ipvs_min_sync_period,
            scheduler: self.ipvs_scheduler.clone(),
            exclude_cidrs: Some(list(&self.ipvs_exclude_cidrs)),
            strict_arp: self.ipvs_strict_arp,
            tcp_timeout: self.ipvs_tcp_timeout,
            tcp_fin_timeout: self.ipvs_tcpfin_timeout,
            udp_timeout: self.ipvs_udp_timeout,
        }
    }

    fn conntrack(&self) -> Conntrack {
        Conntrack {
            max_per_core: Some(self.conntrack_max_per_core),
            min: Some(self.conntrack_min),
            tcp_established_timeout: Some(self.conntrack_tcp_timeout_established),
            tcp_close_wait_timeout: Some(self.conntrack_tcp_timeout_close_wait),
            tcp_be_liberal: self.conntrack_tcp_be_liberal,
            udp_timeout: self.conntrack_udp_timeout,
            udp_stream_timeout: self.conntrack_udp_timeout_stream,
        }
    }
}

fn or(text: &str, default: String) -> String {
    if text.is_empty() { default } else { text.to_owned() }
}

/// The address of a server; none if its port is 0.
fn server(address: &str, port: i32, default: String) -> String {
    if port == 0 { String::new() } else { with_port(&or(address, default), port) }
}

/// `--flag=` is the empty list.
fn list(items: &[String]) -> Vec<String> {
    items.iter().filter(|item| !item.is_empty()).cloned().collect()
}

//! What the proxy runs on.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::complete::Completed;
use crate::features::FeatureGates;
use crate::v1alpha1::KubeProxyConfiguration;
use crate::values::{Hostname, LocalTraffic, LogFormat, MasqueradeBit, NodePortAddresses};

/// The configuration, complete and valid. [`Config::default`] is what holds without a file (contract §2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How pod traffic is recognised (`detectLocalMode`, `clusterCIDR`).
    pub local_traffic: LocalTraffic,
    /// What is masqueraded, and by which mark.
    pub masquerade: Masquerade,
    /// Where NodePorts answer (`nodePortAddresses`).
    pub node_port_addresses: NodePortAddresses,
    /// The node's address if it is not unspecified; never bound to (`bindAddress`).
    pub bind_address: IpAddr,
    /// Whether to give up when a server's address is taken, rather than to try again (`bindAddressHardFail`).
    pub bind_address_hard_fail: bool,
    /// Where `/healthz` and `/livez` are served, if anywhere (`healthzBindAddress`).
    pub healthz_address: Option<SocketAddr>,
    /// Where `/metrics` is served (`metricsBindAddress`).
    pub metrics_address: SocketAddr,
    /// Whether what goes on inside is shown beside the metrics (`enableProfiling`).
    pub profiling: bool,
    /// How long after a failed sync it is tried again, and half of the time after which a waiting change counts as
    /// unhealthy (`nftables.syncPeriod`). More than zero.
    pub sync_period: Duration,
    /// How long at least from the end of a sync to the start of the next (`nftables.minSyncPeriod`). At most
    /// `sync_period`.
    pub min_sync_period: Duration,
    /// How long connections leave the slow path; `None` if they never do (`nftables.fastpathPacketThreshold: 0`).
    pub fast_path: Option<FastPath>,
    /// How often everything watched is delivered anew (`configSyncPeriod`). More than zero.
    pub config_sync_period: Duration,
    /// The kubeconfig file; without one, the service account of the pod (`clientConnection.kubeconfig`).
    pub kubeconfig: Option<PathBuf>,
    /// The node's name, if it is not the machine's (`hostnameOverride`).
    pub hostname_override: Option<Hostname>,
    /// How to log.
    pub logging: Logging,
    /// Which features are on (`featureGates`).
    pub features: FeatureGates,
    /// Connection tracking sysctls.
    pub conntrack: Conntrack,
    /// The process's `oom_score_adj`, -1000 to 1000 (`oomScoreAdj`).
    pub oom_score_adj: i16,
}

/// What is masqueraded, and by which mark (`nftables.masqueradeBit`, `nftables.masqueradeAll`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// The bit of the packet mark that asks for it.
    pub bit: MasqueradeBit,
    /// Whether all connections to ClusterIPs are, and not only those from outside of the cluster.
    pub all: bool,
}

/// How established Service connections are offloaded to a flowtable (`nftables.fastpath...`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastPath {
    /// After how many packets, both directions together (`fastpathPacketThreshold`).
    pub threshold: NonZeroU32,
    /// Whether connections to NodePorts, external IPs and load balancer addresses take it, too, and not only those to ClusterIPs
    /// (`fastpathScope: All`).
    pub all_frontends: bool,
    /// Whether to count only what would be offloaded (`fastpathDryRun`).
    pub dry_run: bool,
    /// Names of interfaces that do not take part, a `*` at the end standing for any rest (`fastpathExcludeInterfaces`).
    pub exclude_interfaces: Vec<String>,
    /// How often at most the devices change (`fastpathMinInterfaceSyncPeriod`).
    pub min_interface_sync_period: Duration,
    /// How often all interfaces are looked at, whatever the kernel tells (`fastpathInterfaceSyncPeriod`). More than zero.
    pub interface_sync_period: Duration,
    /// How long a connection may skip the rules before one packet has to follow them again (`fastpathRevalidationPeriod`).
    pub revalidation: Revalidation,
}

/// When connections in the flowtable have to follow the rules again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revalidation {
    /// It depends on the kernel, some of which lose connections that never do.
    #[default]
    ByKernel,
    /// When they have been idle, and not before (`0s`).
    Never,
    /// After this time, which is more than zero.
    Every(Duration),
}

/// How to log (`logging`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// The form of the lines.
    pub format: LogFormat,
    /// How much: 0 is the least.
    pub verbosity: u32,
}

/// Connection tracking sysctls (`conntrack`). `None` leaves the kernel's value alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries per CPU, which sets the table's size.
    pub max_per_core: Option<NonZeroU32>,
    /// Entries at least, if the table's size is set at all.
    pub min: u32,
    /// `nf_conntrack_tcp_timeout_established`.
    pub tcp_established_timeout: Option<Duration>,
    /// `nf_conntrack_tcp_timeout_close_wait`.
    pub tcp_close_wait_timeout: Option<Duration>,
    /// Whether to set `nf_conntrack_tcp_be_liberal`.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_udp_timeout`.
    pub udp_timeout: Option<Duration>,
    /// `nf_conntrack_udp_timeout_stream`.
    pub udp_stream_timeout: Option<Duration>,
}

impl Config {
    /// Port of the health server if none is given.
    pub const HEALTHZ_PORT: u16 = 10256;
    /// Port of the metrics server if none is given.
    pub const METRICS_PORT: u16 = 10249;
}

impl Default for Config {
    fn default() -> Self {
        let defaults =
            Completed::new(KubeProxyConfiguration::defaults(), Vec::new(), false).expect("no feature gate is set");
        defaults.validate().expect("the defaults are valid").config
    }
}

//! What the proxy runs on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::PerFamily;

use crate::error::{ConfigError, Warning};
use crate::values::{Hostname, LocalTraffic, LogFormat, MasqueradeBit, NodePortAddresses};
use crate::{read, validate};

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
    /// Where `/healthz` and `/livez` are served (`healthzBindAddress`).
    pub healthz_address: SocketAddr,
    /// Where `/metrics` is served (`metricsBindAddress`).
    pub metrics_address: SocketAddr,
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

    /// Reads a file and all that follows from it.
    ///
    /// # Errors
    /// The file cannot be read or parsed, is of another kind, or has values that are not allowed: all of them are
    /// reported. Unknown and repeated fields are warnings (contract §2.1).
    pub fn load(file: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        let (written, mut warnings) = read::read(file)?;
        let (config, more) =
            validate::validate(&written).map_err(|errors| ConfigError::Invalid { file: file.to_owned(), errors })?;
        warnings.extend(more);
        Ok((config, warnings))
    }

    /// Applies `--fastpath-packet-threshold`, which wins over the file. Zero switches the fast path off.
    pub fn override_fastpath_packet_threshold(&mut self, threshold: u32) {
        let settings = self.fast_path.take().unwrap_or_default();
        self.fast_path = NonZeroU32::new(threshold).map(|threshold| FastPath { threshold, ..settings });
    }

    /// Applies `--hostname-override`, which wins over the file.
    pub fn override_hostname(&mut self, name: Hostname) {
        self.hostname_override = Some(name);
    }

    /// Applies `-v`, which wins over the file.
    pub const fn override_verbosity(&mut self, verbosity: u32) {
        self.logging.verbosity = verbosity;
    }

    /// Applies `--logging-format`, which wins over the file.
    pub const fn override_log_format(&mut self, format: LogFormat) {
        self.logging.format = format;
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            local_traffic: LocalTraffic::ClusterCidr(PerFamily::default()),
            masquerade: Masquerade::default(),
            node_port_addresses: NodePortAddresses::PRIMARY,
            bind_address: Ipv4Addr::UNSPECIFIED.into(),
            bind_address_hard_fail: false,
            healthz_address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, Self::HEALTHZ_PORT)),
            metrics_address: SocketAddr::from((Ipv4Addr::LOCALHOST, Self::METRICS_PORT)),
            sync_period: Duration::from_secs(30),
            min_sync_period: Duration::from_secs(1),
            fast_path: Some(FastPath::default()),
            config_sync_period: Duration::from_mins(15),
            kubeconfig: None,
            hostname_override: None,
            logging: Logging::default(),
            conntrack: Conntrack::default(),
            oom_score_adj: -999,
        }
    }
}

impl Default for FastPath {
    fn default() -> Self {
        Self {
            // KEP-4963: elephant flows begin at 15 packets, and five more to be sure.
            threshold: const { NonZeroU32::new(20).expect("not zero") },
            all_frontends: false,
            dry_run: false,
            exclude_interfaces: Vec::new(),
            min_interface_sync_period: Duration::from_secs(5),
            interface_sync_period: Duration::from_mins(1),
            revalidation: Revalidation::ByKernel,
        }
    }
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_per_core: NonZeroU32::new(32_768),
            min: 131_072,
            tcp_established_timeout: Some(Duration::from_hours(24)),
            tcp_close_wait_timeout: Some(Duration::from_hours(1)),
            tcp_be_liberal: false,
            udp_timeout: None,
            udp_stream_timeout: None,
        }
    }
}

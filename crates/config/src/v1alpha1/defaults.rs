//! What fields mean that are not set (contract §2.2).

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::parse_address;

use super::scalars::is_zero;
use super::{API_VERSION, DurationOrNanos, KIND, KubeProxyConfiguration};
use crate::{Config, GoDuration};

impl KubeProxyConfiguration {
    /// What holds without a file.
    pub fn defaults() -> Self {
        let mut defaults = Self::default();
        defaults.fill_in();
        defaults
    }

    /// Gives every field that is not set its default.
    pub(crate) fn fill_in(&mut self) {
        self.api_version = API_VERSION.to_owned();
        self.kind = KIND.to_owned();
        self.fill_in_addresses();
        fill(&mut self.config_sync_period, GoDuration::from_secs(15 * 60));
        fill(&mut self.oom_score_adj, Some(-999));

        let connection = &mut self.client_connection;
        fill(&mut connection.content_type, "application/vnd.kubernetes.protobuf".to_owned());
        fill(&mut connection.qps, 5.0);
        fill(&mut connection.burst, 10);

        fill(&mut self.logging.format, "text".to_owned());
        fill(&mut self.logging.flush_frequency, DurationOrNanos(GoDuration::from_secs(5)));

        let conntrack = &mut self.conntrack;
        fill(&mut conntrack.max_per_core, Some(32 << 10));
        fill(&mut conntrack.min, Some(128 << 10));
        fill(&mut conntrack.tcp_established_timeout, Some(GoDuration::from_secs(24 * 60 * 60)));
        fill(&mut conntrack.tcp_close_wait_timeout, Some(GoDuration::from_secs(60 * 60)));
        self.fill_in_modes();
        // Obsolete, and always written back like this.
        self.port_range.clear();
    }

    /// Where the servers listen follows the family of the bind address, whether or not that is a good one.
    fn fill_in_addresses(&mut self) {
        fill(&mut self.bind_address, Ipv4Addr::UNSPECIFIED.to_string());
        let (healthz, metrics): (IpAddr, IpAddr) = match parse_address(&self.bind_address) {
            Ok(IpAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
            _ => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        };
        fill(&mut self.healthz_bind_address, healthz.to_string());
        fill(&mut self.metrics_bind_address, metrics.to_string());
        self.healthz_bind_address = with_port(&self.healthz_bind_address, Config::HEALTHZ_PORT);
        self.metrics_bind_address = with_port(&self.metrics_bind_address, Config::METRICS_PORT);
    }

    fn fill_in_modes(&mut self) {
        let (period, min_period) = (GoDuration::from_secs(30), GoDuration::from_secs(1));
        let iptables = &mut self.iptables;
        fill(&mut iptables.masquerade_bit, Some(14));
        fill(&mut iptables.localhost_node_ports, Some(true));
        fill(&mut iptables.sync_period, period);
        fill(&mut iptables.min_sync_period, min_period);
        fill(&mut self.ipvs.sync_period, period);

        let nftables = &mut self.nftables;
        fill(&mut nftables.masquerade_bit, Some(14));
        fill(&mut nftables.sync_period, period);
        fill(&mut nftables.min_sync_period, min_period);
        // KEP-4963: elephant flows begin at 15 packets, and five more to be sure.
        fill(&mut nftables.fastpath_packet_threshold, Some(20));
        fill(&mut nftables.fastpath_scope, "ClusterIP".to_owned());
        fill(&mut nftables.fastpath_interface_sync_period, GoDuration::from_secs(60));
        fill(&mut nftables.fastpath_min_interface_sync_period, GoDuration::from_secs(5));
    }

    /// What depends on the platform, which here is nftables: the defaults that kube-proxy does not put into the file's own,
    /// and so not into place of what flags leave empty either.
    pub(crate) fn fill_in_platform(&mut self) {
        fill(&mut self.detect_local_mode, "ClusterCIDR".to_owned());
        if self.node_port_addresses.as_ref().is_none_or(Vec::is_empty) {
            self.node_port_addresses = Some(vec!["primary".to_owned()]);
        }
    }
}

/// A server's address with this port, if it is one without.
pub fn with_port(address: &str, port: impl Display) -> String {
    match parse_address(address) {
        Ok(IpAddr::V4(ip)) => format!("{ip}:{port}"),
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        Err(_) => address.to_owned(),
    }
}

fn fill<T: Default + PartialEq>(field: &mut T, default: T) {
    if is_zero(field) {
        *field = default;
    }
}

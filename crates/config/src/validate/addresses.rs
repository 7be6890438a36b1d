//! Addresses, prefixes and what tells local traffic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use model::{Family, PerFamily, parse_address, parse_prefix};

use super::{Check, non_empty, quoted};
use crate::config::Config;
use crate::error::ErrorKind;
use crate::v1alpha1::KubeProxyConfiguration;
use crate::values::{Hostname, InterfaceName, LocalTraffic, NodePortAddresses};

const DETECT_LOCAL_MODES: &str =
    "supported values: \"ClusterCIDR\", \"NodeCIDR\", \"BridgeInterface\", \"InterfaceNamePrefix\", \"\"";
const CLUSTER_CIDRS: &str = "DetectLocalConfiguration.ClusterCIDRs";

impl Check {
    pub(super) fn bind_address(&mut self, written: &KubeProxyConfiguration) -> IpAddr {
        let default = Config::default().bind_address;
        let Some(text) = non_empty(&written.bind_address) else {
            return default;
        };
        parse_address(text).unwrap_or_else(|_| {
            self.invalid("BindAddress", quoted(text), "not a valid textual representation of an IP address");
            default
        })
    }

    pub(super) fn healthz_address(&mut self, written: &KubeProxyConfiguration, bind: IpAddr) -> SocketAddr {
        let default: IpAddr = match Family::of(bind) {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let default = SocketAddr::new(default, Config::HEALTHZ_PORT);
        self.server_address("HealthzBindAddress", non_empty(&written.healthz_bind_address), default)
    }

    pub(super) fn metrics_address(&mut self, written: &KubeProxyConfiguration, bind: IpAddr) -> SocketAddr {
        let default: IpAddr = match Family::of(bind) {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        let default = SocketAddr::new(default, Config::METRICS_PORT);
        self.server_address("MetricsBindAddress", non_empty(&written.metrics_bind_address), default)
    }

    /// An address alone gets the default's port.
    fn server_address(&mut self, path: &str, written: Option<&str>, default: SocketAddr) -> SocketAddr {
        let Some(text) = written else { return default };
        if let Ok(address) = parse_address(text) {
            return SocketAddr::new(address, default.port());
        }
        let Some((host, port)) = split_host_port(text) else {
            self.invalid(path, quoted(text), "must be IP:port");
            return default;
        };
        let address = parse_address(host);
        if address.is_err() {
            self.invalid(path, quoted(host), "must be a valid IP");
        }
        let port = port.parse().ok().filter(|port| *port != 0);
        if port.is_none() {
            self.invalid(path, quoted(text), "must be a valid port");
        }
        match (address, port) {
            (Ok(address), Some(port)) => SocketAddr::new(address, port),
            _ => default,
        }
    }

    pub(super) fn node_port_addresses(&mut self, written: &KubeProxyConfiguration) -> NodePortAddresses {
        let entries = written.node_port_addresses.as_deref().unwrap_or_default();
        if entries.is_empty() {
            return NodePortAddresses::PRIMARY;
        }
        let mut addresses = NodePortAddresses { primary: false, cidrs: Vec::new() };
        for (i, entry) in entries.iter().enumerate() {
            match (entry.as_str(), parse_prefix(entry)) {
                ("primary", _) => addresses.primary = true,
                ("localhost", _) => addresses.cidrs.extend(NodePortAddresses::LOCALHOST),
                ("all", _) => addresses.cidrs.extend(NodePortAddresses::ALL),
                (_, Ok(net)) => addresses.cidrs.push(net),
                (_, Err(_)) => {
                    self.invalid(&format!("NodePortAddresses[{i}]"), quoted(entry), "must be a valid CIDR");
                }
            }
        }
        addresses
    }

    pub(super) fn local_traffic(&mut self, written: &KubeProxyConfiguration) -> LocalTraffic {
        let detect = &written.detect_local;
        let none = LocalTraffic::ClusterCidr(PerFamily::default());
        match non_empty(&written.detect_local_mode) {
            None | Some("ClusterCIDR") => {
                LocalTraffic::ClusterCidr(self.cluster_cidrs(non_empty(&written.cluster_cidr)))
            }
            Some("NodeCIDR") => LocalTraffic::NodeCidr,
            Some("BridgeInterface") => self
                .interface("DetectLocalConfiguration.InterfaceName", &detect.bridge_interface)
                .map_or(none, LocalTraffic::BridgeInterface),
            Some("InterfaceNamePrefix") => self
                .interface("DetectLocalConfiguration.InterfacePrefix", &detect.interface_name_prefix)
                .map_or(none, LocalTraffic::InterfaceNamePrefix),
            Some(mode) => {
                let path = "KubeProxyConfiguration.DetectLocalMode".to_owned();
                self.add(path, ErrorKind::Unsupported, quoted(mode), DETECT_LOCAL_MODES);
                none
            }
        }
    }

    fn interface(&mut self, path: &str, written: &Option<String>) -> Option<InterfaceName> {
        let text = written.as_deref().unwrap_or_default();
        match text.parse() {
            Ok(name) => Some(name),
            Err(_) if text.is_empty() => {
                self.invalid(path, quoted(text), "must not be empty");
                None
            }
            Err(error) => {
                self.invalid(path, quoted(text), error);
                None
            }
        }
    }

    fn cluster_cidrs(&mut self, written: Option<&str>) -> PerFamily<Option<ipnet::IpNet>> {
        let mut cidrs = PerFamily::default();
        let Some(text) = written else { return cidrs };
        let entries: Vec<_> = text.split(',').collect();
        let mut pair = entries.len() <= 2;
        for (i, entry) in entries.iter().enumerate() {
            let Ok(net) = parse_prefix(entry) else {
                let detail = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
                self.invalid(&format!("{CLUSTER_CIDRS}[{i}]"), quoted(entry), detail);
                continue;
            };
            let cidr = cidrs.get_mut(Family::of_prefix(&net));
            pair &= cidr.is_none();
            cidr.get_or_insert(net);
        }
        if !pair {
            let detail = "must be either a single CIDR or a dual-stack pair (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)";
            self.invalid(CLUSTER_CIDRS, quoted(text), detail);
        }
        cidrs
    }

    pub(super) fn hostname(&mut self, written: &KubeProxyConfiguration) -> Option<Hostname> {
        let text = non_empty(&written.hostname_override)?;
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.invalid("HostnameOverride", quoted(text), error);
                None
            }
        }
    }
}

/// Splits `host:port` and `[host]:port`; a host with colons needs the brackets.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:");
    }
    text.split_once(':').filter(|(_, port)| !port.contains(':'))
}

//! Addresses, prefixes and what tells local traffic.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use model::{Family, PerFamily, parse_address, parse_prefix};

use super::{Check, non_empty, quoted};
use crate::error::ErrorKind;
use crate::v1alpha1::KubeProxyConfiguration;
use crate::values::{Hostname, InterfaceName, LocalTraffic, NodePortAddresses};

const DETECT_LOCAL_MODES: &str =
    "supported values: \"ClusterCIDR\", \"NodeCIDR\", \"BridgeInterface\", \"InterfaceNamePrefix\", \"\"";
const CLUSTER_CIDRS: &str = "DetectLocalConfiguration.ClusterCIDRs";

impl Check {
    pub(super) fn bind_address(&mut self, written: &KubeProxyConfiguration) -> IpAddr {
        parse_address(&written.bind_address).unwrap_or_else(|_| {
            let detail = "not a valid textual representation of an IP address";
            self.invalid("BindAddress", quoted(&written.bind_address), detail);
            Ipv4Addr::UNSPECIFIED.into()
        })
    }

    /// `None` if there is to be none.
    pub(super) fn healthz_address(&mut self, written: &KubeProxyConfiguration) -> Option<SocketAddr> {
        self.server_address("HealthzBindAddress", non_empty(&written.healthz_bind_address)?)
    }

    pub(super) fn metrics_address(&mut self, written: &KubeProxyConfiguration) -> SocketAddr {
        let address = self.server_address("MetricsBindAddress", &written.metrics_bind_address);
        address.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// `None` only after a mistake.
    fn server_address(&mut self, path: &str, text: &str) -> Option<SocketAddr> {
        let Some((host, port)) = split_host_port(text) else {
            self.invalid(path, quoted(text), "must be IP:port");
            return None;
        };
        let address = parse_address(host);
        if address.is_err() {
            self.invalid(path, quoted(host), "must be a valid IP");
        }
        let port = port.parse().ok().filter(|port| *port != 0);
        if port.is_none() {
            self.invalid(path, quoted(text), "must be a valid port");
        }
        Some(SocketAddr::new(address.ok()?, port?))
    }

    pub(super) fn node_port_addresses(&mut self, written: &KubeProxyConfiguration) -> NodePortAddresses {
        let entries = written.node_port_addresses.as_deref().unwrap_or_default();
        let mut cidrs = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let path = format!("NodePortAddresses[{i}]");
            if entry == "primary" {
                if entries.len() > 1 {
                    self.invalid(&path, quoted(entry), "can't use both 'primary' and CIDRs");
                }
                return NodePortAddresses::Primary;
            }
            match parse_prefix(entry) {
                Ok(net) => cidrs.push(net),
                Err(_) => self.invalid(&path, quoted(entry), "must be a valid CIDR"),
            }
        }
        if cidrs.is_empty() {
            return NodePortAddresses::Primary;
        }
        let addresses = NodePortAddresses::Cidrs(cidrs);
        let any = Family::ALL.iter().all(|family| addresses.prefixes(*family, None).is_none());
        if any { NodePortAddresses::Any } else { addresses }
    }

    pub(super) fn local_traffic(&mut self, written: &KubeProxyConfiguration) -> LocalTraffic {
        let detect = &written.detect_local;
        let none = LocalTraffic::ClusterCidr(PerFamily::default());
        match &written.detect_local_mode[..] {
            "ClusterCIDR" => LocalTraffic::ClusterCidr(self.cluster_cidrs(non_empty(&written.cluster_cidr))),
            "NodeCIDR" => LocalTraffic::NodeCidr,
            "BridgeInterface" => self
                .interface("DetectLocalConfiguration.InterfaceName", &detect.bridge_interface)
                .map_or(none, LocalTraffic::BridgeInterface),
            "InterfaceNamePrefix" => self
                .interface("DetectLocalConfiguration.InterfacePrefix", &detect.interface_name_prefix)
                .map_or(none, LocalTraffic::InterfaceNamePrefix),
            mode => {
                let path = "KubeProxyConfiguration.DetectLocalMode".to_owned();
                self.add(path, ErrorKind::Unsupported, quoted(mode), DETECT_LOCAL_MODES);
                none
            }
        }
    }

    fn interface(&mut self, path: &str, text: &str) -> Option<InterfaceName> {
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

//! What in a valid configuration makes little sense on this node.

use std::net::SocketAddr;

use config::{Config, LocalTraffic};
use ipnet::IpNet;
use model::Family;
use tracing::warn;

/// Warns of what is hardly meant (contract §3.7). `pod_cidrs` are those of the Node.
pub(crate) fn warn_of_doubts(config: &Config, primary: Family, families: &[Family], pod_cidrs: &[IpNet]) {
    let doubts = doubts(config, primary, families, pod_cidrs);
    if !doubts.is_empty() {
        warn!("Kube-proxy configuration may be incomplete or incorrect: {}", doubts.join("; "));
    }
}

fn doubts(config: &Config, primary: Family, families: &[Family], pod_cidrs: &[IpNet]) -> Vec<String> {
    let mut doubts = Vec::new();
    let other = if primary == Family::V4 { Family::V6 } else { Family::V4 };
    let has_both = match &config.local_traffic {
        LocalTraffic::ClusterCidr(prefixes) => prefixes.v4.is_some() && prefixes.v6.is_some(),
        _ => false,
    };
    let are_of = |family| pod_cidrs.iter().any(|prefix| Family::of_prefix(prefix) == family);
    let is_dual_stack = has_both || Family::ALL.into_iter().all(are_of);
    let node_ports = &config.node_port_addresses;
    let is_open = |family| families.contains(&family) && node_ports.prefixes(family, None).is_none();
    if !node_ports.primary && !node_ports.cidrs.is_empty() {
        let everywhere = |family| {
            format!("nodePortAddresses has no {family} prefix, so that NodePorts answer on all {family} addresses")
        };
        if is_open(other) && !is_open(primary) && is_dual_stack {
            doubts.push(format!("the cluster has pods of both families, but {}", everywhere(other)));
        }
        if is_open(primary) && !is_open(other) {
            doubts.push(format!("{primary} is the node's primary family, but {}", everywhere(primary)));
        }
    }
    if families.len() == 1 {
        let servers =
            [("healthzBindAddress", config.healthz_address), ("metricsBindAddress", Some(config.metrics_address))];
        let of_other = |address: &SocketAddr| !address.ip().is_unspecified() && Family::of(address.ip()) == other;
        for (setting, address) in servers {
            if let Some(address) = address.filter(of_other) {
                doubts.push(format!("{setting} is {address}, but the node has only {primary}"));
            }
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use config::NodePortAddresses;

    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn of(config: &Config, families: &[Family], pod_cidrs: &[&str]) -> String {
        doubts(config, Family::V4, families, &nets(pod_cidrs)).join("; ")
    }

    #[test]
    fn node_port_addresses_of_one_family_leave_the_other_open() {
        let with = |cidrs: &[&str]| {
            let node_port_addresses = NodePortAddresses { primary: false, cidrs: nets(cidrs) };
            Config { node_port_addresses, ..Config::default() }
        };
        let (v4, both) = (&["10.1.0.0/24"][..], &["10.1.0.0/24", "fd00:1::/64"][..]);
        let (only, dual) = (&Family::ALL[..1], &Family::ALL[..]);
        for (config, families, pod_cidrs, wanted) in [
            (Config::default(), dual, both, ""),
            (with(&["192.0.2.0/24"]), dual, v4, ""),
            (with(&["192.0.2.0/24"]), dual, both, "pods of both families, but nodePortAddresses has no IPv6 prefix"),
            (with(&["192.0.2.0/24"]), only, both, ""),
            (with(&["192.0.2.0/24", "2001:db8::/64"]), dual, both, ""),
            (with(&["0.0.0.0/0"]), dual, both, ""),
            (
                with(&["2001:db8::/64"]),
                dual,
                v4,
                "IPv4 is the node's primary family, but nodePortAddresses has no IPv4 prefix",
            ),
            (with(&["2001:db8::/64"]), only, v4, "but nodePortAddresses has no IPv4 prefix"),
        ] {
            let told = of(&config, families, pod_cidrs);
            assert!(
                told.contains(wanted) && told.is_empty() == wanted.is_empty(),
                "{:?}: {told}",
                config.node_port_addresses
            );
        }
    }

    #[test]
    fn servers_are_of_a_family_that_the_node_has() {
        let config = Config {
            healthz_address: Some("[2001:db8::1]:10256".parse().unwrap()),
            metrics_address: "[::]:10249".parse().unwrap(),
            ..Config::default()
        };
        assert_eq!(of(&config, &Family::ALL, &[]), "");
        let told = of(&config, &Family::ALL[..1], &[]);
        assert_eq!(told, "healthzBindAddress is [2001:db8::1]:10256, but the node has only IPv4");
    }
}

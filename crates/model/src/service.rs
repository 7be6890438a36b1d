//! Services.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Family, PerFamily, PortNumber, Protocol, ServiceName, ServicePortName};

/// A Service that has to be proxied: it has a ClusterIP and is neither headless nor of type ExternalName (contract §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// When it was created, in seconds since the Unix epoch; decides who owns a frontend that two Services claim.
    pub created: i64,
    /// The ClusterIP of each family.
    pub cluster_ips: PerFamily<Option<IpAddr>>,
    /// `spec.externalIPs`, of either family.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of `status.loadBalancer` whose ipMode is `VIP` or unset, of either family.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who serves traffic to the ClusterIP.
    pub internal_policy: TrafficPolicy,
    /// Who serves traffic to NodePorts, external IPs and load balancer addresses. `Local` only where it has a meaning
    /// (contract §4.3).
    pub external_policy: TrafficPolicy,
    /// Where load balancers ask whether this node has endpoints (`spec.healthCheckNodePort`); only where clients outside are served
    /// by endpoints on this node.
    pub health_check_node_port: Option<PortNumber>,
    /// For how many seconds after its last connection a client is sent to the same endpoint again (sessionAffinity ClientIP);
    /// `None` if any endpoint will do for each connection.
    pub affinity: Option<NonZeroU32>,
    /// Whether its connections may take the fast path.
    pub fast_path: bool,
    /// Who may connect to the load balancer addresses of the same family; where a family has none, everyone may (contract
    /// §4.3).
    pub source_ranges: Vec<IpNet>,
    /// Its ports. Name and protocol together are unique.
    pub ports: Vec<ServicePort>,
}

/// Which endpoints may serve a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Only endpoints on this node.
    Local,
}

/// A port of a [`Service`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty is allowed for a Service with one port.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the ClusterIP, external and load balancer addresses.
    pub port: PortNumber,
    /// The port on the node's own addresses, if one is allocated.
    pub node_port: Option<PortNumber>,
}

impl Service {
    /// One that nothing leads to yet: without addresses and ports, and with the API's defaults for all else.
    pub const fn new(name: ServiceName) -> Self {
        Self {
            name,
            created: 0,
            cluster_ips: PerFamily { v4: None, v6: None },
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            affinity: None,
            fast_path: true,
            source_ranges: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// The full name of one of its ports.
    pub fn port_name(&self, port: &ServicePort) -> ServicePortName {
        ServicePortName { service: self.name.clone(), port: port.name.clone(), protocol: port.protocol }
    }

    /// External and load balancer addresses of one family, in the order of the object.
    pub fn external_addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.external_ips.iter().chain(&self.load_balancer_ips);
        all.copied().filter(move |address| Family::of(*address) == family)
    }

    /// Whether clients outside the cluster can reach `port` over `family` (contract §4.3).
    pub fn is_externally_accessible(&self, port: &ServicePort, family: Family) -> bool {
        port.node_port.is_some() || self.external_addresses(family).next().is_some()
    }
}

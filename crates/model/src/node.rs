//! The node that the proxy runs on.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::Family;

/// What is known of a node (contract §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, which endpoints are compared with to tell whether they are local.
    pub name: Arc<str>,
    /// Its InternalIPs, then its ExternalIPs, each in the order of the object.
    pub addresses: Vec<IpAddr>,
    /// The prefixes its pods get their addresses from (`spec.podCIDRs`).
    pub pod_cidrs: Vec<IpNet>,
    /// The zone it is in (label `topology.kubernetes.io/zone`).
    pub zone: Option<Arc<str>>,
    /// It is being deleted, or the cluster autoscaler is about to delete it (taint `ToBeDeletedByClusterAutoscaler`): load
    /// balancers had better send new connections elsewhere (contract §8.1).
    pub is_leaving: bool,
}

/// What is known of our own node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeStatus {
    /// Nothing yet: the source has not answered.
    #[default]
    Unknown,
    /// There is no such Node.
    Missing,
    /// There is one, and it is like this.
    Known(Node),
}

impl Node {
    /// The node's main address of one family: the first that is listed.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// What kube-proxy calls its NodeIPs: the first of its addresses, and the first one of the other family.
    pub fn ips(&self) -> Vec<IpAddr> {
        let Some(first) = self.addresses.first() else { return Vec::new() };
        let other = self.addresses.iter().find(|address| Family::of(**address) != Family::of(*first));
        [first].into_iter().chain(other).copied().collect()
    }
}

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
}

impl Node {
    /// The node's main address of one family: the first that is listed.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

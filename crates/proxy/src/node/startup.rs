//! What is waited for at the start.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use config::LocalTraffic;
use model::{Node, NodeStatus};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info};

/// How long a node may take to appear or to be given an address before we go on without (contract §3.2).
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to be given prefixes for its pods where the proxy goes by these (contract §3.2).
const POD_CIDR_PATIENCE: Duration = Duration::from_mins(5);

/// What is known of the node at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) name: Arc<str>,
    /// The Node object, if there is one.
    pub(crate) node: Option<Node>,
    /// Its addresses, the primary one first; none if they are not known.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether load balancers may send traffic here.
    pub(crate) eligible: bool,
}

impl NodeFacts {
    /// From a Node that was found, or of which it is known that there is none.
    pub(crate) fn new(name: Arc<str>, node: Option<Node>) -> Self {
        let addresses = node.as_ref().map(|node| node.addresses.clone()).unwrap_or_default();
        Self { name, eligible: node.as_ref().is_some_and(|node| !node.is_leaving), node, addresses }
    }
}

/// Waits until an API server tells of the node `name`, as long as it takes, and then until it has what the proxy needs, for
/// a while.
///
/// # Errors
/// The mode of telling pods goes by the node's prefixes, and it has none.
pub(crate) async fn wait(
    name: Arc<str>,
    status: &mut watch::Receiver<NodeStatus>,
    local_traffic: &LocalTraffic,
) -> Result<NodeFacts> {
    status.wait_for(|status| *status != NodeStatus::Unknown).await?;
    let found = until(status, PATIENCE, |node| !node.addresses.is_empty()).await;
    match &found {
        Ok(node) => info!(NodeIPs = ?node.ips(), "Successfully retrieved NodeIPs"),
        Err(NodeStatus::Known(_)) => {
            error!(node = %name, "Timed out waiting for node to be assigned IPs; going on without");
        }
        Err(_) => error!(
            node = %name,
            "Timed out waiting for node to exist; going on without its addresses: check that there is a Node of this name, or \
             give --hostname-override"
        ),
    }
    if *local_traffic != LocalTraffic::NodeCidr {
        return Ok(NodeFacts::new(name, known(status)));
    }
    let minutes = POD_CIDR_PATIENCE.as_secs() / 60;
    match until(status, POD_CIDR_PATIENCE, |node| !node.pod_cidrs.is_empty()).await {
        Ok(node) => {
            info!(PodCIDRs = ?node.pod_cidrs, "the node's prefixes tell its pods");
            Ok(NodeFacts::new(name, Some(node)))
        }
        Err(NodeStatus::Known(_)) => bail!(
            "timeout waiting for PodCIDR allocation on node {name:?}: detectLocalMode NodeCIDR goes by spec.podCIDRs of the \
             Node, which has none after {minutes} minutes; have the cluster allocate them (--allocate-node-cidrs of \
             kube-controller-manager), or set another detectLocalMode"
        ),
        Err(_) => bail!(
            "timeout waiting for node {name:?} to exist: detectLocalMode NodeCIDR goes by its spec.podCIDRs; check that there \
             is a Node of this name, or give --hostname-override"
        ),
    }
}

/// The node once it satisfies `wanted`, or what is known of it when that has taken too long.
async fn until(
    status: &mut watch::Receiver<NodeStatus>,
    patience: Duration,
    wanted: impl Fn(&Node) -> bool,
) -> Result<Node, NodeStatus> {
    let satisfied = |status: &NodeStatus| matches!(status, NodeStatus::Known(node) if wanted(node));
    let in_time = timeout(patience, status.wait_for(satisfied)).await;
    let found = in_time.is_ok_and(|found| found.is_ok());
    let status = status.borrow_and_update().clone();
    match status {
        NodeStatus::Known(node) if found || wanted(&node) => Ok(node),
        other => Err(other),
    }
}

fn known(status: &mut watch::Receiver<NodeStatus>) -> Option<Node> {
    match &*status.borrow_and_update() {
        NodeStatus::Known(node) => Some(node.clone()),
        NodeStatus::Unknown | NodeStatus::Missing => None,
    }
}

//! What is waited for at the start.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
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
    status.wait_for(|status| *status != NodeStatus::Unknown).await.context("nobody watches the Node any more")?;
    let found = until(status, PATIENCE, |node| !node.addresses.is_empty()).await;
    match &found {
        Ok(node) => info!(NodeIPs = ?node.ips(), "Successfully retrieved NodeIPs"),
        Err(NodeStatus::Known(_)) => {
            error!(
                node = %name,
                "Timed out waiting for node to be assigned IPs; going on without: check status.addresses of the Node, which the \
                 kubelet or the cloud controller fills"
            );
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

#[cfg(test)]
mod tests {
    use model::PerFamily;
    use tokio::time::{Instant, sleep};

    use super::*;

    const CLUSTER_CIDR: LocalTraffic = LocalTraffic::ClusterCidr(PerFamily { v4: None, v6: None });

    fn node(addresses: &[&str], pod_cidrs: &[&str]) -> NodeStatus {
        NodeStatus::Known(Node {
            name: "here".into(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_cidrs: pod_cidrs.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            zone: None,
            is_leaving: false,
        })
    }

    /// What comes of these statuses, each so many seconds after the one before, and after how many seconds.
    async fn started(traffic: LocalTraffic, statuses: Vec<(u64, NodeStatus)>) -> (Result<NodeFacts>, u64) {
        let (sender, mut receiver) = watch::channel(NodeStatus::Unknown);
        let start = Instant::now();
        let waiting = tokio::spawn(async move { wait("here".into(), &mut receiver, &traffic).await });
        for (seconds, status) in statuses {
            sleep(Duration::from_secs(seconds)).await;
            sender.send_replace(status);
        }
        let facts = waiting.await.unwrap();
        (facts, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_waited_for_without_limit() {
        let (facts, seconds) = started(CLUSTER_CIDR, vec![(86_400, node(&["192.0.2.1"], &[]))]).await;
        let facts = facts.unwrap();
        assert_eq!((seconds, facts.eligible, facts.addresses.len()), (86_400, true, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_waited_for_and_then_done_without() {
        let (facts, seconds) = started(CLUSTER_CIDR, vec![(0, NodeStatus::Missing)]).await;
        assert_eq!((seconds, facts.unwrap()), (30, NodeFacts::new("here".into(), None)));
        let appears = vec![(1, NodeStatus::Missing), (20, node(&[], &[])), (5, node(&["192.0.2.1"], &[]))];
        let (facts, seconds) = started(CLUSTER_CIDR, appears).await;
        assert_eq!((seconds, facts.unwrap().addresses.len()), (26, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_without_addresses_is_there_all_the_same() {
        let (facts, seconds) = started(CLUSTER_CIDR, vec![(1, node(&[], &[]))]).await;
        let facts = facts.unwrap();
        assert!(facts.eligible && facts.node.is_some() && facts.addresses.is_empty());
        assert_eq!(seconds, 31);
    }

    #[tokio::test(start_paused = true)]
    async fn prefixes_of_pods_are_waited_for_where_they_are_gone_by() {
        let late = || vec![(0, node(&["192.0.2.1"], &[])), (200, node(&["192.0.2.1"], &["10.1.0.0/24"]))];
        let (facts, seconds) = started(LocalTraffic::NodeCidr, late()).await;
        assert_eq!((seconds, facts.unwrap().node.unwrap().pod_cidrs.len()), (200, 1));
        let (facts, seconds) = started(CLUSTER_CIDR, late()).await;
        assert!(facts.is_ok());
        assert_eq!(seconds, 200, "the test's own time: nothing was waited for");

        let (failed, seconds) = started(LocalTraffic::NodeCidr, vec![(0, node(&["192.0.2.1"], &[]))]).await;
        assert_eq!(seconds, 300);
        assert!(failed.unwrap_err().to_string().starts_with("timeout waiting for PodCIDR allocation on node \"here\""));
        let (failed, seconds) = started(LocalTraffic::NodeCidr, vec![(0, NodeStatus::Missing)]).await;
        assert_eq!(seconds, 330);
        assert!(failed.unwrap_err().to_string().starts_with("timeout waiting for node \"here\" to exist"));
    }
}

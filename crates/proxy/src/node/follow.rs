//! What happens to the Node object while the proxy runs.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use config::{Config, LocalTraffic};
use ipnet::IpNet;
use model::{Node, NodeStatus, Update};
use telemetry::Health;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::addresses::NodeAddresses;
use super::startup::NodeFacts;

/// What the proxy runs on of its Node, and what it does when that changes (contract §3.2).
#[derive(Debug)]
pub(crate) struct Follower<'a> {
    config: &'a Config,
    name: Arc<str>,
    health: Arc<Health>,
    /// Whether there is a Node object, as far as is known.
    exists: bool,
    zone: Option<Arc<str>>,
    ips: Vec<IpAddr>,
    /// The prefixes that tell pods, if they are told by these.
    pod_cidrs: Option<Vec<IpNet>>,
    addresses: watch::Sender<NodeAddresses>,
}

impl<'a> Follower<'a> {
    /// One that has told `health` and `updates` what there was at the start; what its addresses are from then on goes to
    /// `addresses`.
    pub(crate) async fn start(
        config: &'a Config,
        facts: &NodeFacts,
        health: Arc<Health>,
        updates: &mpsc::Sender<Vec<Update>>,
        addresses: watch::Sender<NodeAddresses>,
    ) -> Self {
        health.set_node_eligible(facts.eligible);
        let node = facts.node.as_ref();
        let zone = node.and_then(|node| node.zone.clone());
        // Before anything else, so that the first rules know of it.
        drop(updates.send(vec![Update::Zone(zone.clone())]).await);
        let goes_by_cidrs = config.local_traffic == LocalTraffic::NodeCidr;
        Self {
            config,
            name: facts.name.clone(),
            health,
            exists: node.is_some(),
            zone,
            ips: node.map(Node::ips).unwrap_or_default(),
            pod_cidrs: goes_by_cidrs.then(|| node.map(|node| node.pod_cidrs.clone()).unwrap_or_default()),
            addresses,
        }
    }

    /// Acts on every change, until nobody tells or listens any more.
    ///
    /// # Errors
    /// The prefixes that tell pods have changed: the proxy has to be started anew.
    pub(crate) async fn run(
        mut self,
        mut status: watch::Receiver<NodeStatus>,
        updates: mpsc::Sender<Vec<Update>>,
    ) -> Result<()> {
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(update) = self.take(&now)? {
                drop(updates.send(vec![update]).await);
            }
            if status.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// What the model has to know of it, if anything.
    fn take(&mut self, status: &NodeStatus) -> Result<Option<Update>> {
        match status {
            NodeStatus::Known(node) => self.take_node(node),
            NodeStatus::Missing => {
                if std::mem::replace(&mut self.exists, false) {
                    warn!(node = %self.name, "the Node object is gone; what was known of it stays in use");
                }
                Ok(None)
            }
            NodeStatus::Unknown => Ok(None),
        }
    }

    fn take_node(&mut self, node: &Node) -> Result<Option<Update>> {
        let name = &self.name;
        if let Some(old) = self.pod_cidrs.as_ref().filter(|old| **old != node.pod_cidrs) {
            bail!(
                "PodCIDRs changed for the node {name:?}, from {old:?} to {:?}: the proxy has to be started anew to tell its pods",
                node.pod_cidrs
            );
        }
        self.exists = true;
        self.health.set_node_eligible(!node.is_leaving);
        let ips = node.ips();
        if self.ips != ips {
            info!(
                node = %name, NodeIPs = ?ips, old = ?self.ips,
                "NodeIPs changed for the node; source ranges of load balancers go by the old ones until the proxy is started anew"
            );
            self.ips = ips;
            self.addresses.send_replace(NodeAddresses::new(&node.addresses, self.config));
        }
        if self.zone == node.zone {
            return Ok(None);
        }
        info!(node = %name, zone = node.zone.as_deref().unwrap_or("none"), "the node is in another zone");
        self.zone.clone_from(&node.zone);
        Ok(Some(Update::Zone(node.zone.clone())))
    }
}

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use telemetry::Moment;

    use super::*;

    fn node() -> Node {
        Node {
            name: "here".into(),
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            pod_cidrs: ["10.1.0.0/24", "fd00:1::/64"].map(|prefix| prefix.parse().unwrap()).to_vec(),
            zone: Some("a".into()),
            is_leaving: false,
        }
    }

    struct World<'a> {
        follower: Follower<'a>,
        health: Arc<Health>,
        addresses: watch::Receiver<NodeAddresses>,
        first: Vec<Update>,
    }

    async fn start(config: &Config, node: Option<Node>) -> World<'_> {
        let facts = NodeFacts::new("here".into(), node);
        let health = Arc::new(Health::new(Duration::from_secs(60), false));
        let (updates, mut sent) = mpsc::channel(1);
        let (sender, addresses) = watch::channel(NodeAddresses::new(&facts.addresses, config));
        let follower = Follower::start(config, &facts, health.clone(), &updates, sender).await;
        World { follower, health, addresses, first: sent.recv().await.unwrap() }
    }

    impl World<'_> {
        /// Takes in a status; the zone that is sent on, if one is.
        fn take(&mut self, status: NodeStatus) -> Option<Option<String>> {
            match self.follower.take(&status).unwrap()? {
                Update::Zone(zone) => Some(zone.map(|zone| zone.to_string())),
                other => panic!("{other:?}"),
            }
        }

        fn is_eligible(&self) -> bool {
            self.health.healthz(Moment::now()).status == 200
        }
    }

    #[tokio::test]
    async fn load_balancers_hear_of_a_node_that_leaves_and_stays() {
        let config = Config::default();
        let mut world = start(&config, Some(node())).await;
        assert!(world.is_eligible());
        for (is_leaving, eligible) in [(true, false), (true, false), (false, true)] {
            world.take(NodeStatus::Known(Node { is_leaving, ..node() }));
            assert_eq!(world.is_eligible(), eligible);
        }
        world.take(NodeStatus::Missing);
        assert!(world.is_eligible(), "what was known of it stays in use");

        let leaving = Node { is_leaving: true, ..node() };
        assert!(!start(&config, Some(leaving)).await.is_eligible());
        let mut world = start(&config, None).await;
        assert!(!world.is_eligible(), "it was never seen");
        world.take(NodeStatus::Missing);
        assert!(!world.is_eligible());
        world.take(NodeStatus::Known(node()));
        assert!(world.is_eligible());
    }

    #[tokio::test]
    async fn the_zone_is_told_first_and_when_it_changes() {
        let config = Config::default();
        let mut world = start(&config, Some(node())).await;
        assert!(matches!(&world.first[..], [Update::Zone(Some(zone))] if **zone == *"a"), "{:?}", world.first);
        let zone = |zone: Option<&str>| NodeStatus::Known(Node { zone: zone.map(Into::into), ..node() });
        assert_eq!(world.take(zone(Some("a"))), None);
        assert_eq!(world.take(zone(Some("b"))), Some(Some("b".to_owned())));
        assert_eq!(world.take(zone(Some("b"))), None);
        assert_eq!(world.take(NodeStatus::Missing), None);
        assert_eq!(world.take(zone(None)), Some(None));
        assert!(matches!(start(&config, None).await.first[..], [Update::Zone(None)]));
    }

    #[tokio::test]
    async fn new_addresses_are_passed_on_once() {
        let config = Config::default();
        let mut world = start(&config, Some(node())).await;
        world.take(NodeStatus::Known(node()));
        assert!(!world.addresses.has_changed().unwrap());
        let addresses = vec!["192.0.2.2".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        let moved = NodeStatus::Known(Node { addresses: addresses.clone(), ..node() });
        world.take(moved.clone());
        assert_eq!(world.addresses.borrow_and_update().main.v4, Some(addresses[0]));
        world.take(moved);
        assert!(!world.addresses.has_changed().unwrap());
    }

    #[tokio::test]
    async fn changed_prefixes_of_pods_are_fatal_where_they_are_gone_by() {
        let config = Config { local_traffic: LocalTraffic::NodeCidr, ..Config::default() };
        let mut world = start(&config, Some(node())).await;
        world.take(NodeStatus::Known(node()));
        world.take(NodeStatus::Missing);
        // Their order counts, as it does for kube-proxy.
        let mut swapped = node();
        swapped.pod_cidrs.reverse();
        let error = world.follower.take(&NodeStatus::Known(swapped.clone())).unwrap_err().to_string();
        assert!(
            error.starts_with("PodCIDRs changed for the node \"here\", from [10.1.0.0/24, fd00:1::/64]"),
            "{error}"
        );
        let config = Config::default();
        assert_eq!(start(&config, Some(node())).await.take(NodeStatus::Known(swapped)), None);
    }
}

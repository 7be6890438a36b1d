//! The addresses that NodePorts answer on, which follow those of the interfaces.

use std::net::IpAddr;
use std::time::Duration;

use compiler::NodePorts;
use config::NodePortAddresses;
use model::{Family, PerFamily};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::addresses::{NodeAddresses, interface_addresses};
use super::monitor::AddressMonitor;

/// How long after an address came or went they are read: several that come together are one change.
const SETTLE: Duration = Duration::from_millis(100);
/// Or so many times as long as the last reading took, if that is longer: while thousands of devices come and go, each takes a while, and
/// there is always something new.
const SHARE: u32 = 20;
/// How often they are read although nothing was heard.
const POLL: Duration = Duration::from_secs(30);

/// Which of the node's addresses take NodePort traffic (contract §3.5).
///
/// kube-proxy reads the interfaces once in a while. Here they are followed, because a virtual address that moves to this node
/// is to work when it arrives. Whether a family is limited to some addresses at all is decided at the start, for rules depend
/// on it: a node that is given its first address of a family later, under `primary`, has to be started anew.
#[derive(Debug)]
pub(crate) struct PortAddresses {
    wanted: NodePortAddresses,
    node: NodeAddresses,
    families: Vec<Family>,
    current: PerFamily<NodePorts>,
}

impl PortAddresses {
    /// Those that the configuration wants, given the addresses of the interfaces.
    pub(crate) fn new(wanted: &NodePortAddresses, node: NodeAddresses, families: &[Family], local: &[IpAddr]) -> Self {
        let current = |family| node.node_ports(family, wanted, local);
        let current = PerFamily { v4: current(Family::V4), v6: current(Family::V6) };
        let new = Self { wanted: wanted.clone(), node, families: families.to_vec(), current };
        new.explain(local);
        new
    }

    /// Those of each family.
    pub(crate) const fn all(&self) -> &PerFamily<NodePorts> {
        &self.current
    }

    /// Those of one family.
    pub(crate) const fn get(&self, family: Family) -> &NodePorts {
        self.current.get(family)
    }

    /// Sends to `changed` what is new, whenever an interface gains or loses an address, or the node's own addresses are others.
    /// Ends when nobody listens, or if there is nothing to follow.
    pub(crate) async fn follow(
        mut self,
        mut node: watch::Receiver<NodeAddresses>,
        changed: mpsc::Sender<(Family, NodePorts)>,
    ) {
        if self.families.iter().all(|family| *self.get(*family) == NodePorts::Any) {
            return;
        }
        let mut monitor = AddressMonitor::open().inspect_err(|error| warn!("{error}: {DEAF}")).ok();
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settle = SETTLE;
        loop {
            tokio::select! {
                () = changed.closed() => return,
                () = heard(&mut monitor) => sleep(settle).await,
                _ = poll.tick() => {}
                Ok(()) = node.changed() => self.node = *node.borrow_and_update(),
            }
            let began = Instant::now();
            let local = spawn_blocking(interface_addresses).await;
            settle = (began.elapsed() * SHARE).clamp(SETTLE, POLL);
            match local {
                Ok(Ok(local)) => {
                    for new in self.refresh(&local) {
                        // If nobody listens any more, the program is about to end.
                        drop(changed.send(new).await);
                    }
                }
                Ok(Err(error)) => warn!("{error:#}; NodePorts answer where they did"),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// What differs from before, given the addresses that the interfaces have now.
    fn refresh(&mut self, local: &[IpAddr]) -> Vec<(Family, NodePorts)> {
        let mut changed = Vec::new();
        for family in &self.families {
            let current = self.current.get_mut(*family);
            match (&*current, self.node.node_ports(*family, &self.wanted, local)) {
                (NodePorts::Only(old), NodePorts::Only(new)) if *old != new => {
                    let addresses: Vec<_> = new.iter().map(ToString::to_string).collect();
                    info!(ipFamily = %family, addresses = addresses.join(","), "the addresses that NodePorts answer on have changed");
                    *current = NodePorts::Only(new);
                    changed.push((*family, current.clone()));
                }
                _ => {}
            }
        }
        changed
    }

    /// Says what one may not expect of the configuration.
    fn explain(&self, local: &[IpAddr]) {
        for family in &self.families {
            let (main, has_localhost) = (*self.node.main.get(*family), self.wanted.has_localhost(*family));
            match self.get(*family) {
                NodePorts::Any if self.wanted == NodePortAddresses::PRIMARY && main.is_none() => {
                    info!(ipFamily = %family, "NodePorts answer on all addresses of the node: it has no primary one of this family");
                }
                NodePorts::Only(addresses) if addresses.is_empty() && has_localhost => {
                    info!(ipFamily = %family, "TCP NodePorts answer on localhost, and NodePorts nowhere else");
                }
                NodePorts::Only(addresses) if addresses.is_empty() => warn!(
                    ipFamily = %family,
                    "no NodePort answers: no interface has an address within nodePortAddresses; they will once one has"
                ),
                NodePorts::Any | NodePorts::Only(_) => {}
            }
            let prefixes = self.wanted.prefixes(*family, main).unwrap_or_default();
            let within = |address: &&IpAddr| prefixes.iter().any(|prefix| prefix.contains(*address));
            for address in local.iter().filter(within).filter(|address| address.is_loopback() && !has_localhost) {
                warn!(%address, "NodePorts do not answer on loopback addresses unless nodePortAddresses has localhost");
            }
        }
    }
}

/// What follows from not hearing of addresses.
const DEAF: &str = "interface addresses that come and go are not heard of, and looked for twice a minute";

/// Waits for an address that comes or goes; for ever if that cannot be heard of.
async fn heard(monitor: &mut Option<AddressMonitor>) {
    if let Some(listening) = monitor {
        match listening.changed().await {
            Ok(()) => return,
            Err(error) => warn!("{error}: {DEAF}"),
        }
        *monitor = None;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use config::Config;
    use testing::netns::Namespace;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn only(list: &[&str]) -> NodePorts {
        NodePorts::Only(list.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    /// Follows the interfaces of a namespace; `steps` run in it, one after the other, and lead to these addresses.
    fn follow(wanted: &NodePortAddresses, node: &str, steps: &[(&str, NodePorts)]) {
        let namespace = Namespace::new("node").unwrap();
        namespace.ip("link add eth0 type veth peer name eth1").unwrap();
        namespace.run(|| {
            // Its threads belong to the namespace.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let node = NodeAddresses::new(&[node.parse().unwrap()], &Config::default());
                let ports = PortAddresses::new(wanted, node, &Family::ALL, &interface_addresses().unwrap());
                assert_eq!(*ports.get(Family::V4), only(&[]));
                let (_addresses, addresses) = watch::channel(node);
                let (sender, mut changed) = mpsc::channel(1);
                let following = tokio::spawn(ports.follow(addresses, sender));
                for (step, wanted) in steps {
                    namespace.ip(step).unwrap();
                    let (family, new) = timeout(PATIENCE, changed.recv()).await.expect(step).unwrap();
                    assert_eq!((family, &new), (Family::V4, wanted), "{step}");
                }
                drop(changed);
                timeout(PATIENCE, following).await.expect("nobody listens").unwrap();
            });
        });
    }

    #[test]
    fn prefixes_take_in_whatever_address_comes() {
        let cidrs = ["192.0.2.0/24", "127.0.0.0/8"].map(|net| net.parse().unwrap()).to_vec();
        let wanted = NodePortAddresses { primary: false, cidrs };
        follow(
            &wanted,
            "198.51.100.1",
            &[
                ("address add 192.0.2.7/32 dev lo", only(&["192.0.2.7"])),
                ("address add 192.0.2.10/24 dev eth0", only(&["192.0.2.7", "192.0.2.10"])),
                ("address del 192.0.2.7/32 dev lo", only(&["192.0.2.10"])),
                ("link del eth0", only(&[])),
            ],
        );
    }

    #[test]
    fn the_primary_address_may_come_late() {
        let steps = [("address add 192.0.2.7/32 dev lo", only(&["192.0.2.7"]))];
        follow(&NodePortAddresses::PRIMARY, "192.0.2.7", &steps);
    }

    #[tokio::test]
    async fn where_all_addresses_count_there_is_nothing_to_follow() {
        let any = NodePortAddresses { primary: false, cidrs: NodePortAddresses::ALL.to_vec() };
        let node = NodeAddresses::new(&[], &Config::default());
        let ports = PortAddresses::new(&any, node, &Family::ALL, &[]);
        let ((_addresses, addresses), (sender, _changed)) = (watch::channel(node), mpsc::channel(1));
        timeout(PATIENCE, ports.follow(addresses, sender)).await.expect("it ends at once");
    }

    #[test]
    fn another_primary_address_is_used_and_none_changes_nothing() {
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let local = ips(&["192.0.2.10", "192.0.2.11"]);
        let node = |list: &[&str]| NodeAddresses::new(&ips(list), &Config::default());
        let mut ports = PortAddresses::new(&NodePortAddresses::PRIMARY, node(&["192.0.2.10"]), &Family::ALL, &local);
        assert_eq!(ports.refresh(&local), []);
        ports.node = node(&["192.0.2.11"]);
        assert_eq!(ports.refresh(&local), [(Family::V4, only(&["192.0.2.11"]))]);
        ports.node = node(&[]);
        assert_eq!(ports.refresh(&local), []);
        ports.node = node(&["192.0.2.11", "2001:db8::1"]);
        assert_eq!(ports.refresh(&local), [], "IPv6 was open to all at the start, and stays so");
    }
}

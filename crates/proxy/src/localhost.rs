//! NodePorts on `127.0.0.1` and `::1` (KEP-6032), for whoever lists `localhost` in `nodePortAddresses`.
//!
//! The kernel does not let packets from a loopback address leave the node, so that rules alone cannot do this. In their place, a
//! process listens, this one, and connects to an endpoint for each client. That is for TCP only, where a connection has two ends and
//! the bytes in between are all that counts.
//!
//! [`Exposed`] looks at the TCP NodePorts of each sync, and says what serves them once it has succeeded; a task of its own,
//! [`Localhost`], runs one [`Port`] for each.

mod backends;
mod port;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::sync::Arc;

use anyhow::Result;
use compiler::ServedPort;
use config::NodePortAddresses;
use model::{Family, PerFamily, PortNumber, Protocol, ServiceName, State};
use nix::sys::resource::{Resource, getrlimit};
use telemetry::Metrics;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::info;

use self::port::{Port, Room};
use crate::table::{Compiled, Table};

/// How many connections there may be, all NodePorts together. More are reset.
const MAX_CONNECTIONS: usize = 4096;
/// How many file descriptors a connection takes: two sockets, and the two ends of a pipe for each direction.
const DESCRIPTORS: u64 = 6;

/// The syncer's part: which TCP NodePorts there are, and what is to serve them once they are written.
#[derive(Debug)]
pub(crate) struct Exposed {
    news: UnboundedSender<(Family, Served)>,
    families: PerFamily<Option<Known>>,
}

/// NodePorts in a family that is served on localhost.
#[derive(Debug, Default)]
struct Known {
    /// Those of each Service that has any, whether or not another one has them as well.
    wanted: BTreeMap<ServiceName, BTreeSet<PortNumber>>,
    /// What serves some of them once a sync succeeds; of several that did not, the last counts.
    waiting: Served,
}

/// NodePorts, and what serves them, if a Service has them.
type Served = BTreeMap<PortNumber, Option<ServedPort>>;

impl Exposed {
    /// The syncer's part, and the task, which is to be run; for those of these families that are wanted on localhost. Where there is
    /// one, the limit of open files is raised.
    pub(crate) fn new(wanted: &NodePortAddresses, families: &[Family], metrics: Arc<Metrics>) -> (Self, Localhost) {
        let (sender, news) = unbounded_channel();
        let mut exposed = Self { news: sender, families: PerFamily::default() };
        for family in families.iter().filter(|family| wanted.has_localhost(**family)) {
            metrics.localhost_wanted(*family);
            *exposed.families.get_mut(*family) = Some(Known::default());
        }
        let is_wanted = Family::ALL.iter().any(|family| exposed.families.get(*family).is_some());
        let room = Room::new(if is_wanted { connections() } else { 0 });
        (exposed, Localhost { news, room, metrics, ports: BTreeMap::new() })
    }

    /// A table begins to be written, so that it is true to `state`.
    pub(crate) fn compiled(&mut self, table: &Table, state: &State, compiled: &Compiled) {
        let Some(Known { wanted, waiting }) = self.families.get_mut(table.family()) else { return };
        let everything: BTreeSet<_>;
        let services = match compiled {
            Compiled::Services(services) => services,
            Compiled::Everything => {
                let there = state.services().map(|service| service.name.clone());
                everything = there.chain(wanted.keys().cloned()).collect();
                &everything
            }
        };
        for service in services {
            let ports = node_ports(state, service);
            let gone = wanted.remove(service).unwrap_or_default();
            // Whoever of several Services has a port may change with any of them.
            waiting.extend(ports.union(&gone).map(|port| (*port, table.tcp_node_port(*port))));
            if !ports.is_empty() {
                wanted.insert(service.clone(), ports);
            }
        }
    }

    /// What was compiled last has been written: it may be served on localhost, too.
    pub(crate) fn synced(&mut self, family: Family) {
        let Some(known) = self.families.get_mut(family) else { return };
        let ports = take(&mut known.waiting);
        if !ports.is_empty() {
            // Nobody listens once the program is about to end.
            self.news.send((family, ports)).ok();
        }
    }
}

fn node_ports(state: &State, service: &ServiceName) -> BTreeSet<PortNumber> {
    let ports = state.service(service).map_or(&[][..], |service| &service.ports);
    ports.iter().filter(|port| port.protocol == Protocol::Tcp).filter_map(|port| port.node_port).collect()
}

/// The task that has ports served.
#[derive(Debug)]
pub(crate) struct Localhost {
    news: UnboundedReceiver<(Family, Served)>,
    room: Room,
    metrics: Arc<Metrics>,
    ports: BTreeMap<(Family, PortNumber), Port>,
}

impl Localhost {
    /// Works until there are no more news.
    ///
    /// # Errors
    /// None: it has the form of the tasks that it is run with.
    pub(crate) async fn run(mut self) -> Result<()> {
        while let Some((family, ports)) = self.news.recv().await {
            for (number, served) in ports {
                self.set((family, number), served).await;
            }
        }
        Ok(())
    }

    /// What it has been told of a family since the last call: which ports, of whom, and how many endpoints.
    #[cfg(test)]
    pub(crate) fn told(&mut self, family: Family) -> Vec<(u16, Option<(String, usize)>)> {
        let mut told = Vec::new();
        while let Ok((of, ports)) = self.news.try_recv() {
            let shown = |served: ServedPort| (served.owner.service.name.to_string(), served.endpoints.len());
            told.extend(
                ports.into_iter().filter(|_| of == family).map(|(port, served)| (port.get(), served.map(shown))),
            );
        }
        told
    }

    async fn set(&mut self, key: (Family, PortNumber), served: Option<ServedPort>) {
        let is_another = |port: &mut Port| served.as_ref().is_none_or(|served| port.owner() != served.owner);
        if let Some((_, port)) = self.ports.extract_if(key..=key, |_, port| is_another(port)).next() {
            port.end().await;
        }
        let Some(served) = served else { return };
        match self.ports.get(&key) {
            Some(port) => port.set(served),
            None => {
                let (family, number) = key;
                let port = Port::start(family, number, served, self.room.clone(), Arc::clone(&self.metrics));
                self.ports.insert(key, port);
            }
        }
    }
}

/// How many connections this process may have. Half of its file descriptors stay for all else: listeners, of which there are as many as
/// NodePorts, the API server, health checks.
fn connections() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let most = usize::try_from(files / 2 / DESCRIPTORS).unwrap_or(usize::MAX).min(MAX_CONNECTIONS);
    if most < MAX_CONNECTIONS {
        info!(
            most,
            files, "few connections to NodePorts on localhost at a time: raise the limit of open files for more"
        );
    }
    most
}

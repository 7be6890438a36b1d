//! What load balancers ask of a node: whether it has endpoints of a Service (contract §8.2).
//!
//! A Service of type LoadBalancer whose external traffic policy is `Local` has a port for that question. [`Questions`] looks at the
//! Services of each sync, and says what is true of them once it has succeeded; a task of its own listens and answers.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use compiler::NodePorts;
use model::{Family, PerFamily, PortNumber, ServiceName, State};
use telemetry::Health;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;
use tracing::{error, info};

use self::server::Server;
use crate::events::{Event, Events};
use crate::table::{Compiled, Table};

/// How long until it is tried again to listen on a port that is taken.
const RETRY: Duration = Duration::from_secs(5);

/// The syncer's part: which Services have such a port, and what is to be answered once they are written.
#[derive(Debug)]
pub(crate) struct Questions {
    news: UnboundedSender<News>,
    families: PerFamily<Asked>,
}

/// Services in a family.
#[derive(Debug, Default)]
struct Asked {
    /// Those that have such a port.
    known: BTreeSet<ServiceName>,
    /// What is true of some of them once a sync succeeds; of several that did not, the last counts.
    waiting: Changed,
}

/// Services, and what is to be answered for them, if anything.
type Changed = BTreeMap<ServiceName, Option<Question>>;

/// What the task has to know.
#[derive(Debug)]
enum News {
    /// Services as they are now in a family.
    Synced(Family, Changed),
    /// The node's addresses to listen on.
    Addresses(Family, NodePorts),
}

/// What is to be answered, and where.
#[derive(Clone, Copy, Debug)]
struct Question {
    port: PortNumber,
    /// Addresses on this node that are ready to serve.
    endpoints: usize,
}

impl Questions {
    /// The syncer's part, and the task, which is to be run.
    pub(crate) fn new(health: Arc<Health>, events: Events, addresses: PerFamily<NodePorts>) -> (Self, Answers) {
        let (sender, news) = unbounded_channel();
        let questions = Self { news: sender, families: PerFamily::default() };
        (questions, Answers { news, health, events, addresses, known: BTreeMap::new() })
    }

    /// A table begins to be written, so that it is true to `state`.
    pub(crate) fn compiled(&mut self, table: &Table, state: &State, compiled: Compiled) {
        let family = table.family();
        let Asked { known, waiting } = self.families.get_mut(family);
        let names = match compiled {
            Compiled::Services(names) => names,
            Compiled::Everything => {
                let asked = state.services().filter(|service| service.health_check_node_port.is_some());
                asked.map(|service| service.name.clone()).chain(known.iter().cloned()).collect()
            }
        };
        for name in names {
            let question = question(&name, table, state);
            let was_known = if question.is_some() { !known.insert(name.clone()) } else { known.remove(&name) };
            if question.is_some() || was_known {
                waiting.insert(name, question);
            }
        }
    }

    /// What was compiled last has been written: what is answered may be, too.
    pub(crate) fn synced(&mut self, family: Family) {
        let services = take(&mut self.families.get_mut(family).waiting);
        if !services.is_empty() {
            // Nobody listens once the program is about to end.
            self.news.send(News::Synced(family, services)).ok();
        }
    }

    /// NodePorts of a family answer on these addresses now, and so do these ports.
    pub(crate) fn set_addresses(&self, family: Family, addresses: NodePorts) {
        self.news.send(News::Addresses(family, addresses)).ok();
    }
}

fn question(name: &ServiceName, table: &Table, state: &State) -> Option<Question> {
    let family = table.family();
    let service = state.service(name).filter(|service| service.cluster_ips.get(family).is_some())?;
    let port = service.health_check_node_port?;
    // Where it has no rules, no endpoint can be reached.
    let endpoints = if table.leaves_out(name) { 0 } else { state.ready_on_this_node(name, family) };
    Some(Question { port, endpoints })
}

/// The task that listens and answers.
#[derive(Debug)]
pub(crate) struct Answers {
    news: UnboundedReceiver<News>,
    health: Arc<Health>,
    events: Events,
    addresses: PerFamily<NodePorts>,
    known: BTreeMap<(Family, ServiceName), Known>,
}

/// A Service in a family.
#[derive(Debug)]
struct Known {
    server: Server,
    /// Whether it listens wherever it should.
    is_complete: bool,
    /// Whether it was said that it does not.
    is_told: bool,
}

impl Answers {
    /// Works until there are no more news.
    ///
    /// # Errors
    /// None: it has the form of the tasks that it is run with.
    pub(crate) async fn run(mut self) -> Result<()> {
        loop {
            let is_complete = self.known.values().all(|known| known.is_complete);
            tokio::select! {
                news = self.news.recv() => match news {
                    None => return Ok(()),
                    Some(News::Synced(family, services)) => for (name, question) in services {
                        self.set(family, name, question).await;
                    },
                    Some(News::Addresses(family, addresses)) => self.move_to(family, addresses),
                },
                () = sleep(RETRY), if !is_complete => {}
            }
            self.listen().await;
        }
    }

    /// What it has been told: of which Service, and how many endpoints that has, if anyone may ask.
    #[cfg(test)]
    pub(crate) fn told(&mut self) -> Vec<(Family, String, Option<usize>)> {
        let mut told = Vec::new();
        while let Ok(News::Synced(family, services)) = self.news.try_recv() {
            let endpoints = |(name, question): (ServiceName, Option<Question>)| {
                (family, name.name.to_string(), question.map(|question| question.endpoints))
            };
            told.extend(services.into_iter().map(endpoints));
        }
        told
    }

    async fn set(&mut self, family: Family, name: ServiceName, question: Option<Question>) {
        let key = (family, name);
        let port = question.map(|question| question.port);
        if let Some(known) = self.known.get(&key).filter(|known| Some(known.server.port()) != port) {
            info!(service = %key.1, ipFamily = %family, port = known.server.port(), "Closing healthcheck");
            if let Some(known) = self.known.remove(&key) {
                known.server.end().await;
            }
        }
        let Some(Question { port, endpoints }) = question else { return };
        let known = self.known.entry(key).or_insert_with_key(|(family, service)| {
            info!(%service, ipFamily = %family, port, "Opening healthcheck");
            let server = Server::new(port, service.clone(), Arc::clone(&self.health));
            Known { server, is_complete: false, is_told: false }
        });
        known.server.set_endpoints(endpoints);
    }

    fn move_to(&mut self, family: Family, addresses: NodePorts) {
        *self.addresses.get_mut(family) = addresses;
        let of_family = self.known.iter_mut().filter(|((of, _), _)| *of == family);
        of_family.for_each(|(_, known)| known.is_complete = false);
    }

    /// Has those listen that do not.
    async fn listen(&mut self) {
        for ((family, service), known) in self.known.iter_mut().filter(|(_, known)| !known.is_complete) {
            let listening = known.server.listen_on(&listening_addresses(*family, self.addresses.get(*family))).await;
            known.is_complete = listening.is_ok();
            let was_told = std::mem::replace(&mut known.is_told, listening.is_err());
            if let Some(error) = listening.err().filter(|_| !was_told) {
                error!(
                    %service,
                    "load balancers cannot ask whether this node has endpoints, will try again every {RETRY:?}: {error:#}"
                );
                self.events.tell(Event::NoServiceHealthServer(
                    service.clone(),
                    known.server.port(),
                    format!("{error:#}"),
                ));
            }
        }
    }
}

/// Where health checks are answered: where NodePorts are.
fn listening_addresses(family: Family, node_ports: &NodePorts) -> BTreeSet<IpAddr> {
    match (node_ports, family) {
        (NodePorts::Any, Family::V4) => BTreeSet::from([Ipv4Addr::UNSPECIFIED.into()]),
        (NodePorts::Any, Family::V6) => BTreeSet::from([Ipv6Addr::UNSPECIFIED.into()]),
        (NodePorts::Only(addresses), _) => addresses.clone(),
    }
}

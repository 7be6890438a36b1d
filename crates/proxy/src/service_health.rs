//! What load balancers ask of a node: whether it has endpoints of a Service (contract §8.2).
//!
//! A Service of type LoadBalancer whose external traffic policy is `Local` has a port for that question. [`Questions`] follows the
//! Services along with the syncer, and after each sync says what changed; a task of its own listens and answers.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use compiler::NodePorts;
use model::{Changes, Family, PerFamily, PortNumber, ServiceName, State};
use telemetry::Health;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;
use tracing::{debug, error};

use self::server::{Answer, Server};

/// How long until it is tried again to listen on a port that is taken.
const RETRY: Duration = Duration::from_secs(5);

/// The syncer's part: which Services have such a port, and which answers may have changed.
#[derive(Debug)]
pub(crate) struct Questions {
    news: UnboundedSender<News>,
    /// Services that have such a port.
    asked: BTreeSet<ServiceName>,
    /// Those that changed since the last sync of a family.
    changed: PerFamily<BTreeSet<ServiceName>>,
}

/// What the task has to know.
#[derive(Debug)]
enum News {
    /// Services as they are now in a family.
    Synced(Family, Vec<(ServiceName, Option<Question>)>),
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
    pub(crate) fn new(health: Arc<Health>, addresses: PerFamily<NodePorts>) -> (Self, Answers) {
        let (sender, news) = unbounded_channel();
        let questions = Self { news: sender, asked: BTreeSet::new(), changed: PerFamily::default() };
        (questions, Answers { news, health, addresses, known: BTreeMap::new() })
    }

    /// Takes note of Services that changed.
    pub(crate) fn changed(&mut self, state: &State, changes: &Changes) {
        for name in &changes.services {
            let is_asked = state.service(name).is_some_and(|service| service.health_check_node_port.is_some());
            let was_asked = if is_asked { !self.asked.insert(name.clone()) } else { self.asked.remove(name) };
            for family in Family::ALL.into_iter().filter(|_| is_asked || was_asked) {
                self.changed.get_mut(family).insert(name.clone());
            }
        }
    }

    /// The rules of a family are true to `state`: what is answered may be, too.
    pub(crate) fn synced(&mut self, family: Family, state: &State) {
        let changed = std::mem::take(self.changed.get_mut(family));
        if changed.is_empty() {
            return;
        }
        let question = |name: ServiceName| {
            let service = state.service(&name).filter(|service| service.cluster_ips.get(family).is_some());
            let port = service.and_then(|service| service.health_check_node_port);
            let question = port.map(|port| Question { port, endpoints: state.ready_on_this_node(&name, family) });
            (name, question)
        };
        // Nobody listens once the program is about to end.
        self.news.send(News::Synced(family, changed.into_iter().map(question).collect())).ok();
    }

    /// NodePorts of a family answer on these addresses now, and so do these ports.
    pub(crate) fn set_addresses(&self, family: Family, addresses: NodePorts) {
        self.news.send(News::Addresses(family, addresses)).ok();
    }
}

/// The task that listens and answers.
#[derive(Debug)]
pub(crate) struct Answers {
    news: UnboundedReceiver<News>,
    health: Arc<Health>,
    addresses: PerFamily<NodePorts>,
    known: BTreeMap<(Family, ServiceName), Known>,
}

/// A Service in a family.
#[derive(Debug)]
struct Known {
    port: PortNumber,
    endpoints: Arc<AtomicUsize>,
    /// Not there where its port is taken.
    server: Option<Server>,
}

impl Answers {
    /// Works until there are no more news.
    ///
    /// # Errors
    /// None: it has the form of the tasks that it is run with.
    pub(crate) async fn run(mut self) -> Result<()> {
        loop {
            let is_complete = self.known.values().all(|known| known.server.is_some());
            tokio::select! {
                news = self.news.recv() => match news {
                    None => return Ok(()),
                    Some(News::Synced(family, services)) => services.into_iter().for_each(|(name, question)| self.set(family, name, question)),
                    Some(News::Addresses(family, addresses)) => self.move_to(family, addresses),
                },
                () = sleep(RETRY), if !is_complete => {}
            }
            self.listen();
        }
    }

    fn set(&mut self, family: Family, name: ServiceName, question: Option<Question>) {
        let key = (family, name);
        let Some(Question { port, endpoints }) = question else {
            if let Some(known) = self.known.remove(&key) {
                known.endpoints.store(0, Ordering::Relaxed);
                debug!(service = %key.1, %family, "load balancers cannot ask for the Service any more");
            }
            return;
        };
        match self.known.get(&key).filter(|known| known.port == port) {
            Some(known) => known.endpoints.store(endpoints, Ordering::Relaxed),
            None => {
                self.known.insert(key, Known { port, endpoints: Arc::new(endpoints.into()), server: None });
            }
        }
    }

    fn move_to(&mut self, family: Family, addresses: NodePorts) {
        *self.addresses.get_mut(family) = addresses;
        let of_family = self.known.iter_mut().filter(|((of, _), _)| *of == family);
        of_family.for_each(|(_, known)| known.server = None);
    }

    /// Starts the servers that are missing.
    fn listen(&mut self) {
        for ((family, service), known) in &mut self.known {
            if known.server.is_some() {
                continue;
            }
            let answer = Answer {
                service: service.clone(),
                endpoints: Arc::clone(&known.endpoints),
                health: Arc::clone(&self.health),
            };
            match Server::start(*family, self.addresses.get(*family), known.port, answer) {
                Ok(server) => known.server = Some(server),
                Err(error) => error!(
                    %service,
                    "load balancers cannot ask whether this node has endpoints, will try again in {RETRY:?}: {error:#}"
                ),
            }
        }
    }
}

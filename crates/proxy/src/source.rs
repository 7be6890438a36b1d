//! Where Services, endpoint slices and the node's own facts come from.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use config::Config;
use informer::{ApiServer, Reporter, RequestError};
use model::{Node, Update};
use telemetry::Health;
use tokio::sync::mpsc::Sender;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::flags::Flags;
use crate::node;

/// How long a node may take to appear or to be given an address before we go on without (contract §3.2).
const NODE_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked for meanwhile.
const NODE_POLL: Duration = Duration::from_secs(1);
/// How long to wait at most between two tries to reach the API server.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// How often the same failure is logged while it lasts.
const REMINDER: Duration = Duration::from_secs(60);

/// Where the objects are.
#[derive(Debug)]
pub(crate) enum Source {
    Api(ApiServer),
    Directory(PathBuf),
}

/// What the source tells of the node, once, at the start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) name: Arc<str>,
    /// Its addresses, the primary one first; none if they are not known.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether there is a Node object, or none to be expected.
    pub(crate) known: bool,
}

impl Source {
    /// The source that flags and configuration ask for.
    ///
    /// # Errors
    /// There is no way to reach an API server with this configuration.
    pub(crate) async fn new(flags: &Flags, config: &Config) -> Result<Self> {
        if let Some(directory) = &flags.manifest_dir {
            return Ok(Self::Directory(directory.clone()));
        }
        if config.kubeconfig.is_none() {
            info!("no kubeconfig is given, using the service account of this pod");
        }
        Ok(Self::Api(ApiServer::configure(config.kubeconfig.as_deref()).await?))
    }

    /// What is to be known of the node `name`. Waits for an API server that cannot be reached as long as it takes.
    ///
    /// # Errors
    /// The manifest directory cannot be read or says nothing definite.
    pub(crate) async fn node(&self, name: &str, reporter: &Reporter) -> Result<NodeFacts> {
        match self {
            Self::Api(server) => Ok(node_of_api(server, name, reporter).await),
            Self::Directory(directory) => {
                let (directory, name, reporter) = (directory.clone(), name.to_owned(), reporter.clone());
                spawn_blocking(move || node_of_directory(&directory, &name, &reporter)).await?
            }
        }
    }

    /// Sends what there is, and what changes, for ever. `name` is that of the node; `health` learns when its Node object
    /// appears, if that is not `known`.
    ///
    /// # Errors
    /// The manifest directory cannot be read or followed.
    pub(crate) async fn run(
        self,
        facts: NodeFacts,
        updates: Sender<Vec<Update>>,
        reporter: Reporter,
        health: Arc<Health>,
    ) -> Result<()> {
        match self {
            Self::Api(server) => {
                let watch = informer::watch_api(server.clone(), facts.name.clone(), updates, reporter.clone());
                tokio::join!(watch, wait_for_node(&server, &facts, &reporter, &health));
            }
            Self::Directory(directory) => {
                informer::watch_directory(directory, facts.name, updates, reporter).await?;
            }
        }
        bail!("the source of Services and endpoint slices has ended")
    }
}

fn node_of_directory(directory: &Path, name: &str, reporter: &Reporter) -> Result<NodeFacts> {
    Ok(match informer::node_in_directory(directory, name, reporter)? {
        Some(node) => NodeFacts { name: node.name, addresses: node.addresses, known: true },
        None => {
            let addresses = node::guess_addresses(&node::interface_addresses()?);
            NodeFacts { name: name.into(), addresses, known: true }
        }
    })
}

async fn node_of_api(server: &ApiServer, name: &str, reporter: &Reporter) -> NodeFacts {
    let mut asked = None;
    let node = loop {
        let node = node_when_reachable(server, name, reporter).await;
        let deadline = *asked.get_or_insert_with(|| Instant::now() + NODE_PATIENCE);
        let complete = node.as_ref().is_some_and(|node| !node.addresses.is_empty());
        if complete || Instant::now() >= deadline {
            break node;
        }
        sleep(NODE_POLL).await;
    };
    match &node {
        None => error!(
            node = name,
            "Timed out waiting for node to exist; going on without its addresses: check that there is a Node of this name, or \
             give --hostname-override"
        ),
        Some(node) if node.addresses.is_empty() => {
            error!(node = name, "Timed out waiting for node to be assigned IPs; going on without");
        }
        Some(node) => info!(NodeIPs = ?node.addresses, "Successfully retrieved NodeIPs"),
    }
    let known = node.is_some();
    NodeFacts { name: name.into(), addresses: node.map(|node| node.addresses).unwrap_or_default(), known }
}

/// Once there is a Node object, load balancers may send traffic here.
async fn wait_for_node(server: &ApiServer, facts: &NodeFacts, reporter: &Reporter, health: &Health) {
    let mut known = facts.known;
    while !known {
        sleep(MAX_RETRY).await;
        known = node_when_reachable(server, &facts.name, reporter).await.is_some();
    }
    health.set_node_eligible(true);
}

async fn node_when_reachable(server: &ApiServer, name: &str, reporter: &Reporter) -> Option<Node> {
    let mut delay = Duration::from_secs(1);
    let mut told: Option<(Instant, RequestError)> = None;
    loop {
        match server.node(name, reporter).await {
            Ok(node) => return node,
            Err(error) => {
                let lasts = |(when, last): &(Instant, RequestError)| *last == error && when.elapsed() < REMINDER;
                if !told.as_ref().is_some_and(lasts) {
                    warn!("{error}; no rules are written before the node is known; trying again until it works");
                    told = Some((Instant::now(), error));
                }
                sleep(delay).await;
                delay = (delay * 2).min(MAX_RETRY);
            }
        }
    }
}

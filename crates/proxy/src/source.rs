//! Where Services, endpoint slices and the node's own facts come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use config::{Config, LocalTraffic};
use informer::{ApiServer, Reporter};
use model::{NodeStatus, Update};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::info;

use crate::events::Events;
use crate::flags::Flags;
use crate::node::{self, NodeFacts};

/// Where the objects are.
#[derive(Debug)]
pub(crate) enum Source {
    Api(ApiServer),
    Directory(PathBuf),
}

/// A source that has told of the node, and goes on to; of everything else, it tells once it is run.
#[derive(Debug)]
pub(crate) enum Feed {
    Api { server: ApiServer, node_name: Arc<str>, node: JoinHandle<()> },
    Directory { directory: PathBuf, node_name: Arc<str>, status: watch::Sender<NodeStatus> },
}

impl Source {
    /// The source that flags and configuration ask for. The reporter is told of requests to the API server.
    ///
    /// # Errors
    /// There is no way to reach an API server with this configuration.
    pub(crate) async fn new(flags: &Flags, config: &Config, reporter: &Reporter) -> Result<Self> {
        if let Some(directory) = &flags.manifest_dir {
            return Ok(Self::Directory(directory.clone()));
        }
        let master = Some(&flags.master[..]).filter(|url| !url.is_empty());
        if config.kubeconfig.is_none() && master.is_none() {
            info!("Neither kubeconfig file nor master URL was specified, falling back to in-cluster config");
        }
        Ok(Self::Api(ApiServer::configure(config.kubeconfig.as_deref(), master, reporter).await?))
    }

    /// Who takes events about the node `name`.
    pub(crate) fn events(&self, name: &str) -> Events {
        match self {
            Self::Api(server) => {
                let host = node::host_name().unwrap_or_else(|_| name.to_owned());
                Events::send_by(server.client(), name.to_owned(), &host)
            }
            Self::Directory(_) => Events::nowhere(),
        }
    }

    /// What is to be known of the node `name` before anything else, and what becomes of it. Waits for an API server that
    /// cannot be reached as long as it takes.
    ///
    /// # Errors
    /// The manifest directory cannot be read or says nothing definite; what the configuration goes by is not to be had.
    pub(crate) async fn open(
        self,
        name: String,
        config: &Config,
        reporter: &Reporter,
    ) -> Result<(NodeFacts, watch::Receiver<NodeStatus>, Feed)> {
        let (sender, mut status) = watch::channel(NodeStatus::Unknown);
        match self {
            Self::Api(server) => {
                let node_name: Arc<str> = name.into();
                let watching = informer::watch_node(server.clone(), node_name.clone(), sender, reporter.clone());
                let node = tokio::spawn(watching);
                let facts = node::wait(node_name.clone(), &mut status, &config.local_traffic).await?;
                Ok((facts, status, Feed::Api { server, node_name, node }))
            }
            Self::Directory(directory) => {
                let (read, reporter) = (directory.clone(), reporter.clone());
                let facts = spawn_blocking(move || node_in_directory(&read, &name, &reporter)).await??;
                let has_cidrs = facts.node.as_ref().is_some_and(|node| !node.pod_cidrs.is_empty());
                ensure!(
                    config.local_traffic != LocalTraffic::NodeCidr || has_cidrs,
                    "manifest directory {} has no Node {:?} with spec.podCIDRs, which detectLocalMode NodeCIDR goes by: add it, \
                     or set another detectLocalMode",
                    directory.display(),
                    facts.name,
                );
                let node_name = facts.name.clone();
                Ok((facts, status, Feed::Directory { directory, node_name, status: sender }))
            }
        }
    }
}

impl Feed {
    /// Sends what there is, and what changes, for ever.
    ///
    /// # Errors
    /// The manifest directory cannot be read or followed.
    pub(crate) async fn run(self, updates: Sender<Vec<Update>>, reporter: Reporter) -> Result<()> {
        match self {
            Self::Api { server, node_name, node } => {
                // In kube-proxy's words, which are looked for (contract §10.5).
                for resource in ["service", "endpoint slice", "serviceCIDR", "node"] {
                    info!("Starting {resource} config controller");
                }
                tokio::select! {
                    () = informer::watch_api(server, node_name, updates, reporter) => {}
                    ended = node => ended?,
                }
            }
            Self::Directory { directory, node_name, status } => {
                informer::watch_directory(directory, node_name, updates, status, reporter).await?;
            }
        }
        bail!("the source of Services and endpoint slices has ended")
    }
}

/// Where there is no Node, none is to be expected: the interfaces tell its addresses.
fn node_in_directory(directory: &Path, name: &str, reporter: &Reporter) -> Result<NodeFacts> {
    Ok(match informer::node_in_directory(directory, name, reporter)? {
        Some(node) => NodeFacts::new(node.name.clone(), Some(node)),
        None => {
            let addresses = node::guess_addresses(&node::interface_addresses()?);
            NodeFacts { addresses, eligible: true, ..NodeFacts::new(name.into(), None) }
        }
    })
}

//! The API server as a source: list, then watch, for ever.

mod failure;
mod retry;
mod sinks;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use kube::runtime::watcher::Config;
use model::{NodeStatus, Update};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch::Sender as WatchSender;
use tokio::task::JoinSet;

use self::sinks::{OwnNode, Updates};
use self::watch::Watch;
use crate::client::ApiServer;
use crate::problem::Reporter;
use crate::slim;

/// Lists and watches Services, endpoint slices and ServiceCIDRs until the receiver of `updates` is dropped. Each update is a
/// message of its own.
///
/// Endpoints on the node `node_name` are local. Failures are logged and retried for ever, with jittered backoff; what was
/// learned before stays valid meanwhile. Dropping the future ends the watches.
pub async fn watch_api(server: ApiServer, node_name: Arc<str>, updates: Sender<Vec<Update>>, reporter: Reporter) {
    let sink = || Updates::new(&node_name, &updates, &reporter);
    let services = Watch::<slim::Service, _>::new(&server, sink(), &reporter);
    let slices = Watch::<slim::EndpointSlice, _>::new(&server, sink(), &reporter);
    let cidrs = Watch::<slim::ServiceCidr, _>::new(&server, sink(), &reporter);
    let mut tasks = JoinSet::new();
    // The selectors are those of kube-proxy (contract §3.10).
    let not_ours = "!service.kubernetes.io/service-proxy-name";
    tasks.spawn(services.run(Config::default().labels(not_ours).fields("spec.clusterIP!=None")));
    tasks.spawn(slices.run(Config::default().labels("!service.kubernetes.io/headless")));
    tasks.spawn(cidrs.run(Config::default()));
    drop(updates);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Lists and watches the Node of this name, as [`watch_api`] does, until all receivers of `status` are dropped. A Node that
/// cannot be understood leaves the status as it was.
pub async fn watch_node(server: ApiServer, name: Arc<str>, status: WatchSender<NodeStatus>, reporter: Reporter) {
    let selector = Config::default().fields(&format!("metadata.name={name}"));
    Watch::<slim::Node, _>::new(&server, OwnNode::new(name, status, &reporter), &reporter).run(selector).await;
}

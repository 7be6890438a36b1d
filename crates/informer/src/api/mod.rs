//! The API server as a source: list, then watch, for ever.

mod failure;
pub(crate) mod list;
mod retry;
mod sinks;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use model::{NodeStatus, Update};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch::Sender as WatchSender;
use tokio::task::JoinSet;

use self::sinks::{OwnNode, Updates};
use self::watch::{Selectors, Watch};
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
    tasks.spawn(services.run(Selectors {
        labels: Some("!service.kubernetes.io/service-proxy-name"),
        fields: Some("spec.clusterIP!=None"),
    }));
    tasks.spawn(slices.run(Selectors { labels: Some("!service.kubernetes.io/headless"), fields: None }));
    tasks.spawn(cidrs.run(Selectors::default()));
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
    let name_is = format!("metadata.name={name}");
    let selectors = Selectors { labels: None, fields: Some(&name_is) };
    Watch::<slim::Node, _>::new(&server, OwnNode::new(name, status, &reporter), &reporter).run(selectors).await;
}

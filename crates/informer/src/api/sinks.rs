//! What becomes of the objects that watches see.

use std::sync::Arc;

use model::{NodeStatus, Update};
use tokio::sync::{mpsc, watch};

use super::watch::{Seen, Sink, Unwanted};
use crate::convert::{Converted, Converter, NodeRead, Proxied, node};
use crate::problem::Reporter;
use crate::slim::{self, ApiObject as _};

/// Sends updates of the model.
pub(super) struct Updates {
    converter: Converter,
    updates: mpsc::Sender<Vec<Update>>,
    reporter: Reporter,
}

impl Updates {
    /// To `updates`, where endpoints on this node are local.
    pub(super) fn new(node_name: &Arc<str>, updates: &mpsc::Sender<Vec<Update>>, reporter: &Reporter) -> Self {
        Self { converter: Converter::new(node_name.clone()), updates: updates.clone(), reporter: reporter.clone() }
    }
}

impl<T: Proxied + Send + Sync> Sink<T> for Updates {
    const OPTIONAL: bool = T::OPTIONAL;

    async fn take(&mut self, seen: Seen<T>) -> Result<(), Unwanted> {
        let update = match seen {
            Seen::ListStarted => Some(Update::ListStarted(T::MODEL_KIND)),
            Seen::ListComplete => Some(Update::ListComplete(T::MODEL_KIND)),
            Seen::Object(raw) => {
                let Converted { object, update, problems } = T::convert(&mut self.converter, &raw);
                self.reporter.report(T::KIND, &object, &problems);
                update
            }
            Seen::Gone(raw) => {
                let Converted { object, update, .. } = self.converter.gone(&raw);
                self.reporter.forget(T::KIND, &object);
                update
            }
        };
        match update {
            Some(update) => self.updates.send(vec![update]).await.map_err(|_| Unwanted),
            None => Ok(()),
        }
    }

    fn closed(&self) -> impl Future<Output = ()> + Send + use<T> {
        let updates = self.updates.clone();
        async move { updates.closed().await }
    }
}

/// Tells what is known of our own node.
pub(super) struct OwnNode {
    name: Arc<str>,
    status: Arc<watch::Sender<NodeStatus>>,
    reporter: Reporter,
    /// Whether the list on its way has it, readable or not.
    listed: bool,
}

impl OwnNode {
    /// The node of this name, to `status`.
    pub(super) fn new(name: Arc<str>, status: watch::Sender<NodeStatus>, reporter: &Reporter) -> Self {
        Self { name, status: Arc::new(status), reporter: reporter.clone(), listed: false }
    }

    fn set(&self, status: NodeStatus) {
        // The API server repeats itself: heartbeats change nothing that matters here.
        self.status.send_if_modified(|known| {
            let differs = *known != status;
            *known = status;
            differs
        });
    }
}

impl Sink<slim::Node> for OwnNode {
    const OPTIONAL: bool = false;

    async fn take(&mut self, seen: Seen<slim::Node>) -> Result<(), Unwanted> {
        match seen {
            Seen::ListStarted => self.listed = false,
            Seen::ListComplete => {
                // One that could not be read is as good as none, unless it could be before.
                if !self.listed || *self.status.borrow() == NodeStatus::Unknown {
                    self.set(NodeStatus::Missing);
                }
            }
            Seen::Object(raw) => {
                let NodeRead { name, node, problems } = node(&raw);
                self.reporter.report(slim::Node::KIND, &name, &problems);
                self.listed = true;
                if let Some(node) = node.filter(|node| node.name == self.name) {
                    self.set(NodeStatus::Known(node));
                }
            }
            Seen::Gone(_) => {
                self.reporter.forget(slim::Node::KIND, &self.name);
                self.set(NodeStatus::Missing);
            }
        }
        Ok(())
    }

    fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let status = self.status.clone();
        async move { status.closed().await }
    }
}

//! The owner of what is known of the cluster.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::Poll;
use std::time::SystemTime;

use anyhow::{Result, anyhow};
use compiler::NodePorts;
use model::{Changes, Family, State, Update};
use netlink::ForeignEdit;
use telemetry::{Health, Metrics};
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use crate::commit::Outcome;
use crate::live::Live;
use crate::localhost::Exposed;
use crate::service_health::Questions;
use crate::table::Table;

/// How many messages are taken in before the tables are looked at again.
const BATCH: usize = 4096;

/// Takes in updates and keeps the table of each family true to them.
///
/// Nothing is written before Services and endpoint slices were listed once: until then, absence means nothing. While a table is
/// being committed, updates are still taken in, and the tables do not wait for each other.
pub(crate) struct Syncer {
    state: State,
    tables: Vec<Table>,
    telemetry: Telemetry,
    /// Whether the tables may be written.
    complete: bool,
    /// What load balancers may ask, if they can.
    questions: Option<Questions>,
    /// Whether Services are served by their external IPs.
    external_ips: bool,
    /// What is served on localhost, if anything is.
    exposed: Option<Exposed>,
    /// Who waits for first writes, if anyone does.
    firsts: Option<Firsts>,
}

/// Who is told when a table has been written for the first time.
struct Firsts {
    told: Sender<BTreeSet<Family>>,
    /// The families whose table has not been written.
    unwritten: BTreeSet<Family>,
}

/// What the syncer is told.
pub(crate) struct Inputs {
    /// What the source tells of the cluster.
    pub(crate) updates: Receiver<Vec<Update>>,
    /// Which of the node's addresses take NodePort traffic, whenever that changes.
    pub(crate) node_ports: Receiver<(Family, NodePorts)>,
    /// What other programs do to the tables.
    pub(crate) edits: Receiver<ForeignEdit>,
    /// The settings that may change.
    pub(crate) live: watch::Receiver<Live>,
}

/// Who is told how the syncs go.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    /// The metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// The health state.
    pub(crate) health: Arc<Health>,
}

impl Syncer {
    /// One that knows nothing of the cluster yet.
    pub(crate) fn new(tables: Vec<Table>, telemetry: Telemetry) -> Self {
        Self {
            state: State::new(SystemTime::now()),
            tables,
            telemetry,
            complete: false,
            questions: None,
            external_ips: true,
            exposed: None,
            firsts: None,
        }
    }

    /// Has load balancers told where Services have endpoints on this node.
    #[must_use]
    pub(crate) fn with_questions(self, questions: Questions) -> Self {
        Self { questions: Some(questions), ..self }
    }

    /// Has `spec.externalIPs` of Services served or not (feature gate `AllowServiceExternalIPs`).
    #[must_use]
    pub(crate) fn with_external_ips(self, external_ips: bool) -> Self {
        Self { external_ips, ..self }
    }

    /// Has NodePorts served on localhost.
    #[must_use]
    pub(crate) fn with_exposed(self, exposed: Exposed) -> Self {
        Self { exposed: Some(exposed), ..self }
    }

    /// Whenever a table has been written for the first time, has it told which families' tables have not been yet.
    #[must_use]
    pub(crate) fn with_firsts(self, told: Sender<BTreeSet<Family>>) -> Self {
        let unwritten = self.tables.iter().map(Table::family).collect();
        Self { firsts: Some(Firsts { told, unwritten }), ..self }
    }

    /// Works until there are no more updates to come.
    ///
    /// # Errors
    /// A committing thread has died, which only a defect of this program can bring about.
    pub(crate) async fn run(mut self, inputs: Inputs) -> Result<()> {
        let Inputs { mut updates, mut node_ports, mut edits, mut live } = inputs;
        self.tables.iter().for_each(Table::loop_started);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let now = Instant::now();
            self.tables.iter_mut().for_each(|table| table.start_what_is_due(&self.state, now));
            self.pass_on_syncs();
            let wake = self.tables.iter().filter_map(Table::wake).min();
            tokio::select! {
                count = updates.recv_many(&mut batch, BATCH) => match count {
                    0 => return Ok(()),
                    _ => self.take(&mut batch),
                },
                Some((family, addresses)) = node_ports.recv() => self.set_node_ports(family, addresses),
                finished = finished(&mut self.tables) => {
                    let (index, outcome) = finished?;
                    self.tables[index].finish(outcome, &self.state, Instant::now());
                    self.pass_on_syncs();
                }
                Some(edit) = edits.recv() => self.pass_on_edit(&edit),
                Ok(()) = live.changed() => self.set_live(&live.borrow_and_update()),
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    fn take(&mut self, batch: &mut Vec<Vec<Update>>) {
        let (mut services, mut slices) = (0, 0);
        for mut update in batch.drain(..).flatten() {
            match &mut update {
                Update::Service(service) => {
                    services += 1;
                    if !self.external_ips {
                        service.external_ips.clear();
                    }
                }
                Update::ServiceGone(_) => services += 1,
                Update::Slice(_) | Update::SliceGone(_) => slices += 1,
                Update::ListStarted(_)
                | Update::ListComplete(_)
                | Update::Unreadable(..)
                | Update::ServiceCidr(_)
                | Update::ServiceCidrGone(_)
                | Update::Zone(_) => {}
            }
            self.state.apply(update);
        }
        self.pass_on_changes();
        let pending = self.tables.iter().map(Table::pending).max().unwrap_or_default();
        let metrics = &self.telemetry.metrics;
        if services > 0 {
            metrics.services_changed(services * self.tables.len(), pending);
        }
        if slices > 0 {
            metrics.endpoints_changed(slices, pending);
        }
    }

    fn set_node_ports(&mut self, family: Family, node_ports: NodePorts) {
        if let Some(table) = self.tables.iter_mut().find(|table| table.family() == family) {
            if let Some(questions) = &self.questions {
                questions.set_addresses(family, node_ports.clone());
            }
            table.set_node_ports(node_ports);
            if self.complete {
                table.request(&Changes::default(), Instant::now());
            }
        }
    }

    fn set_live(&mut self, settings: &Live) {
        self.telemetry.health.set_timeout(settings.health_timeout());
        for table in &mut self.tables {
            if table.set_live(settings) && self.complete {
                table.request(&Changes::default(), Instant::now());
            }
        }
    }

    /// Before a table has been written for the first time, it is not ours yet.
    fn pass_on_edit(&mut self, edit: &ForeignEdit) {
        let concerns = |table: &&mut Table| match edit {
            ForeignEdit::Seen { family, .. } => table.is_of(*family),
            ForeignEdit::Missed | ForeignEdit::Deaf(_) => true,
        };
        if matches!(edit, ForeignEdit::Missed | ForeignEdit::Deaf(_)) {
            self.telemetry.metrics.foreign_edits_missed();
        }
        if let ForeignEdit::Deaf(why) = edit {
            error!("what other programs do to the rules is not noticed any more, restart the proxy: {why}");
        }
        if self.complete {
            self.tables.iter_mut().filter(concerns).for_each(|table| table.edited(edit, Instant::now()));
        }
    }

    fn pass_on_changes(&mut self) {
        if !self.state.is_complete() {
            return;
        }
        let changed = self.state.has_changes();
        let changes = self.state.take_changes();
        if !self.complete {
            self.complete = true;
            info!(
                services = self.state.services().count(),
                "Caches are synced: Services and endpoint slices have been received"
            );
        } else if !changed {
            return;
        }
        let now = Instant::now();
        self.tables.iter_mut().for_each(|table| table.request(&changes, now));
    }

    /// Has load balancers, and who serves localhost, told what tables say once they have been written, and whoever waits for the
    /// first time.
    fn pass_on_syncs(&mut self) {
        for table in &mut self.tables {
            let family = table.family();
            if let Some(compiled) = table.take_compiled() {
                if let Some(exposed) = &mut self.exposed {
                    exposed.compiled(table, &self.state, &compiled);
                }
                if let Some(questions) = &mut self.questions {
                    questions.compiled(table, &self.state, compiled);
                }
            }
            if table.take_synced() {
                self.exposed.iter_mut().for_each(|exposed| exposed.synced(family));
                self.questions.iter_mut().for_each(|questions| questions.synced(family));
                if let Some(Firsts { told, unwritten }) = &mut self.firsts
                    && unwritten.remove(&family)
                {
                    // Whoever waited may have ended.
                    drop(told.send(unwritten.clone()));
                }
            }
        }
    }
}

/// The next table whose job has ended, by its index, and how.
async fn finished(tables: &mut [Table]) -> Result<(usize, Outcome)> {
    poll_fn(|context| {
        for (index, table) in tables.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = table.poll_job(context) {
                let family = table.family();
                let died = || anyhow!("the thread that commits {family} rules has died: report it with this log");
                return Poll::Ready(outcome.map(|outcome| (index, outcome)).ok_or_else(died));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;

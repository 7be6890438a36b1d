//! The fast path: established Service connections leave the tables of rules, and come back when they end.
//!
//! It has a thread of its own, because it waits for the kernel, and writes transactions of its own, into tables that the syncer has
//! written: what goes wrong here is logged and counted, and never in the way of a Service.

mod accounting;
mod kernel;
mod neighbours;
mod part;
mod selftest;
mod task;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use compiler::Offloads;
use model::Family;
use netlink::{Monitor, NfTables};
use telemetry::Metrics;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tracing::warn;

pub(crate) use self::kernel::version_of_kernel;
use self::task::Task;
use crate::live::Live;

/// Tells the fast path what happened to a family's table.
#[derive(Clone, Debug)]
pub(crate) struct Teller(UnboundedSender<(Family, News)>);

/// What happened to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// All of it was looked at, and written where it had to be.
    Written,
    /// Services have opted out of the fast path.
    OptedOut,
}

impl Teller {
    /// The table is there as it should be, but for the fast path.
    pub(crate) fn written(&self, family: Family) {
        self.0.send((family, News::Written)).ok();
    }

    /// Connections have to leave the fast path.
    pub(crate) fn opted_out(&self, family: Family) {
        self.0.send((family, News::OptedOut)).ok();
    }
}

/// What the tables of Services have to provide for.
pub(crate) fn offloads(settings: Option<&config::FastPath>) -> Offloads {
    match settings {
        None => Offloads::Nothing,
        Some(settings) if settings.all_frontends => Offloads::AllFrontends,
        Some(_) => Offloads::ClusterIps,
    }
}

/// Starts the fast path of these families in the network namespace of the calling thread, or, where it is switched off, what takes
/// away the one that an earlier start has left. It goes on with other settings whenever there are any.
///
/// # Errors
/// There is no socket or no thread to spare.
pub(crate) fn start(
    settings: watch::Receiver<Live>,
    families: Vec<Family>,
    monitor: &Monitor,
    metrics: Arc<Metrics>,
) -> Result<Teller> {
    let (sender, news) = unbounded_channel();
    let mailbox = Mailbox { news, settings, tables: BTreeSet::new() };
    let kernel = NfTables::open()?.known_to(monitor)?;
    let driver = Driver { families, kernel, metrics, is_tried: false };
    let named = thread::Builder::new().name("fastpath".to_owned());
    let thread = named.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(driver.run(mailbox)),
            Err(error) => tell_off(&error.into()),
        }
    });
    thread.context("cannot start the thread of the fast path")?;
    Ok(Teller(sender))
}

fn tell_off(error: &anyhow::Error) {
    warn!("the fast path is off, all connections take the slow path: {error:#}");
}

/// What the thread of the fast path is told.
struct Mailbox {
    news: UnboundedReceiver<(Family, News)>,
    settings: watch::Receiver<Live>,
    /// The families whose tables have been written at least once.
    tables: BTreeSet<Family>,
}

/// Why there are no more news for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There are other settings.
    OtherSettings,
    /// There are no more tables.
    Closed,
}

impl Mailbox {
    /// The settings of the fast path now; `None` if it is to be off.
    fn settings(&mut self) -> Option<config::FastPath> {
        self.settings.borrow_and_update().fast_path.clone()
    }

    /// Whether there is a table to add the fast path to.
    fn has_table(&self, family: Family) -> bool {
        self.tables.contains(&family)
    }

    /// What happens next, as long as these are the settings.
    async fn next(&mut self, settings: Option<&config::FastPath>) -> Result<(Family, News), End> {
        tokio::select! {
            told = self.news.recv() => {
                self.tables.extend(told.map(|(family, _)| family));
                told.ok_or(End::Closed)
            }
            Ok(_) = self.settings.wait_for(|live| live.fast_path.as_ref() != settings) => Err(End::OtherSettings),
        }
    }
}

/// Has the fast path on or off, as the settings want it.
struct Driver {
    families: Vec<Family>,
    /// The only socket, because each that is known to the monitor costs it something.
    kernel: NfTables,
    metrics: Arc<Metrics>,
    /// Whether this kernel has passed the trial.
    is_tried: bool,
}

impl Driver {
    /// Works until there are no more tables.
    async fn run(mut self, mut mailbox: Mailbox) {
        loop {
            let settings = mailbox.settings();
            for family in &self.families {
                self.metrics.fast_path_enabled(*family, false);
                self.metrics.fast_path_devices(*family, 0);
            }
            let switched = match &settings {
                Some(settings) => self.switch_on(settings, &mut mailbox).await.map_err(|error| tell_off(&error)).ok(),
                None => None,
            };
            // What does not work must not stay from an earlier start or earlier settings either.
            let end = match switched {
                Some(end) => end,
                None => self.keep_off(settings.as_ref(), &mut mailbox).await,
            };
            if end == End::Closed {
                return;
            }
        }
    }

    /// Works as long as these are the settings.
    ///
    /// # Errors
    /// This kernel will not do.
    async fn switch_on(&mut self, settings: &config::FastPath, mailbox: &mut Mailbox) -> Result<End> {
        if !self.is_tried {
            try_out(settings, &self.families, &mut self.kernel)?;
            // A dry run tries nothing.
            self.is_tried = !settings.dry_run;
        }
        Task::new(settings.clone(), &self.families, &mut self.kernel, self.metrics.clone())?.run(mailbox).await
    }

    /// Takes what there is of the fast path away from each table that is there or will be, as long as these are the settings.
    async fn keep_off(&mut self, settings: Option<&config::FastPath>, mailbox: &mut Mailbox) -> End {
        let mut tables = mailbox.tables.clone();
        loop {
            for family in std::mem::take(&mut tables) {
                if let Err(error) = part::remove(family, &mut self.kernel) {
                    warn!(
                        ipFamily = %family,
                        "what there was of the fast path is still there, and tried again with the next sync of everything: {error:#}"
                    );
                }
            }
            match mailbox.next(settings).await {
                Ok((family, _)) => tables.insert(family),
                Err(end) => return end,
            };
        }
    }
}

/// Makes sure that the kernel can do it.
fn try_out(settings: &config::FastPath, families: &[Family], kernel: &mut NfTables) -> Result<()> {
    kernel::probe(kernel)?;
    kernel::warn_of_defects(kernel::revalidation_period(settings.revalidation));
    // A dry run does nothing that could go wrong.
    if settings.dry_run { Ok(()) } else { selftest::run(families) }
}

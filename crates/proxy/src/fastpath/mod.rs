//! The fast path: established Service connections leave the tables of rules, and come back when they end.
//!
//! It has a thread of its own, because it waits for the kernel, and writes transactions of its own, into tables that the syncer has
//! written: what goes wrong here is logged and counted, and never in the way of a Service.

mod accounting;
mod kernel;
mod neighbours;
mod part;
mod selftest;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use compiler::{FastPath, Offloads};
use ifsync::{Links, Members, Pattern, Policy};
use model::Family;
use netlink::{Conntrack, Monitor, NfTables};
use telemetry::Metrics;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use self::accounting::Accounting;
use self::neighbours::Neighbours;
use self::part::Part;

/// How often what was counted is asked for.
const COUNTING: Duration = Duration::from_secs(10);

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

/// Starts the fast path of these families in the network namespace of the calling thread, or, if it is switched off, what takes away
/// the one that an earlier start has left.
///
/// # Errors
/// There is no thread to spare.
pub(crate) fn start(
    settings: Option<config::FastPath>,
    families: Vec<Family>,
    monitor: Monitor,
    metrics: Arc<Metrics>,
) -> Result<Teller> {
    let (sender, news) = unbounded_channel();
    for family in &families {
        metrics.fast_path_enabled(*family, false);
    }
    let work = move || {
        // What does not work must not stay from an earlier start either.
        let settings = settings.filter(|settings| try_out(settings, &families, &monitor).inspect_err(tell_off).is_ok());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            match settings {
                Some(settings) => Task::new(settings, &families, &monitor, metrics)?.run(news).await,
                None => remove(&monitor, news).await,
            }
        })
    };
    let named = thread::Builder::new().name("fastpath".to_owned());
    let thread = named.spawn(move || drop(work().inspect_err(tell_off)));
    thread.context("cannot start the thread of the fast path")?;
    Ok(Teller(sender))
}

fn tell_off(error: &anyhow::Error) {
    warn!("the fast path is off, all connections take the slow path: {error:#}");
}

/// Makes sure that the kernel can do it.
fn try_out(settings: &config::FastPath, families: &[Family], monitor: &Monitor) -> Result<()> {
    kernel::probe(&mut NfTables::open()?.known_to(monitor)?)?;
    kernel::warn_of_defects(kernel::revalidation_period(settings.revalidation));
    // A dry run does nothing that could go wrong.
    if settings.dry_run { Ok(()) } else { selftest::run(families) }
}

/// Takes away what an earlier start has left of the fast path in each table, once it is known to be there.
async fn remove(monitor: &Monitor, mut news: UnboundedReceiver<(Family, News)>) -> Result<()> {
    let mut kernel = NfTables::open()?.known_to(monitor)?;
    while let Some((family, _)) = news.recv().await {
        if let Err(error) = part::remove(family, &mut kernel) {
            warn!(%family, "the fast path of an earlier start is still there, and tried again with the next sync of everything: {error:#}");
        }
    }
    Ok(())
}

struct Task {
    settings: config::FastPath,
    /// How long connections may skip the rules.
    revalidation_period: Option<Duration>,
    policy: Policy,
    kernel: NfTables,
    conntrack: Option<Conntrack>,
    metrics: Arc<Metrics>,
    parts: Vec<Part>,
    accounting: Accounting,
    neighbours: Neighbours,
    /// The reasons that were last told of why links do not take part.
    members: Members,
    /// When the devices may be changed again.
    earliest: Instant,
}

/// What the fast path does next, and when.
struct Schedule {
    /// The links, if they are to be looked at.
    links: Option<Instant>,
    counts: Instant,
    /// When connections have to follow the rules again.
    revalidation: Option<Instant>,
}

impl Task {
    fn new(settings: config::FastPath, families: &[Family], monitor: &Monitor, metrics: Arc<Metrics>) -> Result<Self> {
        let exclude: Result<Vec<_>, _> = settings.exclude_interfaces.iter().map(|text| Pattern::parse(text)).collect();
        let part = |family: &Family| {
            let config::FastPath { threshold, all_frontends, dry_run, .. } = settings;
            Part::new(FastPath { family: *family, threshold, all_frontends, dry_run })
        };
        let revalidation_period = kernel::revalidation_period(settings.revalidation);
        if let Some(period) = revalidation_period {
            info!(?period, "of each connection in the fast path, one packet follows the rules again after each period");
        }
        let conntrack = Conntrack::open().inspect_err(|error| warn!("offloaded connections are not counted: {error}"));
        Ok(Self {
            policy: Policy { exclude: exclude.context("fastpathExcludeInterfaces")? },
            parts: families.iter().map(part).collect(),
            settings,
            revalidation_period,
            kernel: NfTables::open()?.known_to(monitor)?,
            conntrack: conntrack.ok(),
            metrics,
            accounting: Accounting::default(),
            neighbours: Neighbours::default(),
            members: Members::default(),
            earliest: Instant::now(),
        })
    }

    /// Ends when the tables do.
    async fn run(mut self, mut news: UnboundedReceiver<(Family, News)>) -> Result<()> {
        let mut links = Links::open()?;
        let now = Instant::now();
        let revalidation = self.revalidation_period.map(|period| now + period);
        let mut schedule = Schedule { links: None, counts: now + COUNTING, revalidation };
        loop {
            // Before there is a table, nothing can be done about the links.
            let links_at = schedule.links.filter(|_| self.parts.iter().any(Part::is_ready));
            let next = links_at.into_iter().chain([schedule.counts]).chain(schedule.revalidation).min();
            tokio::select! {
                told = news.recv() => {
                    let Some((family, news)) = told else { return Ok(()) };
                    self.parts.iter_mut().filter(|part| part.family() == family).for_each(|part| match news {
                        News::Written => part.table_written(),
                        News::OptedOut => part.renew(),
                    });
                    // What is to be declared does not wait for what has been changed before.
                    schedule.links = Some(Instant::now());
                }
                () = links.changed() => {
                    schedule.links = schedule.links.map_or(Some(self.earliest), |at| Some(at.min(self.earliest)));
                }
                () = sleep_until(next.unwrap_or(schedule.counts)) => {}
            }
            self.work(&links, &mut schedule).await;
        }
    }

    /// Does what is due.
    async fn work(&mut self, links: &Links, schedule: &mut Schedule) {
        let now = Instant::now();
        if schedule.revalidation.is_some_and(|at| at <= now) {
            schedule.revalidation = self.revalidation_period.map(|period| now + period);
            debug!("connections in the fast path follow the rules for one packet");
            self.parts.iter_mut().for_each(Part::renew);
            schedule.links = Some(now);
        }
        if schedule.links.is_some_and(|at| at <= now) && self.parts.iter().any(Part::is_ready) {
            let retry = self.sync(links).await;
            let period = self.settings.interface_sync_period;
            schedule.links = Some(if retry { self.earliest } else { Instant::now() + period });
        }
        if schedule.counts <= now {
            schedule.counts = now + COUNTING;
            for part in &mut self.parts {
                part.count(&mut self.kernel, self.conntrack.as_mut(), &self.metrics);
            }
        }
    }

    /// Has the kernel know the links that are there now. Returns whether that is to be tried again soon.
    async fn sync(&mut self, links: &Links) -> bool {
        let mut failed = false;
        for index in 0..self.parts.len() {
            if !self.parts[index].is_ready() {
                continue;
            }
            let began = Instant::now();
            let outcome = self.parts[index].sync(&mut self.kernel, async || {
                let links = links.list().await?;
                Ok(Members::of(&links, &self.policy))
            });
            match outcome.await {
                Ok(synced) => {
                    synced.report(self.parts[index].family(), began.elapsed(), &self.metrics);
                    if synced.changed {
                        self.earliest = Instant::now() + self.settings.min_interface_sync_period;
                    }
                    self.explain(synced.members);
                }
                Err(error) => {
                    failed = true;
                    self.earliest = Instant::now() + self.settings.min_interface_sync_period;
                    self.parts[index].report_failure(&error, began.elapsed(), &self.metrics);
                }
            }
        }
        self.accounting.keep();
        self.neighbours.look(&mut self.kernel);
        failed
    }

    /// Says of which links it is known that they do not take part, and why.
    fn explain(&mut self, members: Members) {
        for (index, device) in &members.devices {
            if self.members.devices.get(index) != Some(device) {
                debug!(interface = device.name(), "takes part in the fast path");
            }
        }
        for (name, reason) in &members.others {
            if self.members.others.get(name) != Some(reason) {
                debug!(interface = name, "takes no part in the fast path: {reason}");
            }
        }
        if self.members.devices.is_empty() && !members.devices.is_empty() {
            info!(threshold = self.settings.threshold, devices = members.devices.len(), "the fast path is on");
        }
        self.members = members;
    }
}

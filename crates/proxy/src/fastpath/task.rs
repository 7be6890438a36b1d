//! The fast path while it is on: what is declared, counted and kept true as links come and go.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use compiler::FastPath;
use ifsync::{Links, Members, Pattern, Policy};
use model::Family;
use netlink::{Conntrack, NfTables};
use telemetry::Metrics;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::accounting::Accounting;
use super::neighbours::Neighbours;
use super::part::Part;
use super::{End, Mailbox, News, kernel};

/// How often what was counted is asked for.
const COUNTING: Duration = Duration::from_secs(10);

/// The fast path of all families with the same settings.
pub(super) struct Task<'a> {
    settings: config::FastPath,
    /// How long connections may skip the rules.
    revalidation_period: Option<Duration>,
    policy: Policy,
    kernel: &'a mut NfTables,
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

impl<'a> Task<'a> {
    /// One that has declared nothing yet.
    ///
    /// # Errors
    /// A pattern of interfaces makes no sense, which the configuration does not let through.
    pub(super) fn new(
        settings: config::FastPath,
        families: &[Family],
        kernel: &'a mut NfTables,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
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
            kernel,
            conntrack: conntrack.ok(),
            metrics,
            accounting: Accounting::default(),
            neighbours: Neighbours::default(),
            members: Members::default(),
            earliest: Instant::now(),
        })
    }

    /// Works until there are other settings, or no more tables. Returns which.
    ///
    /// # Errors
    /// The kernel does not tell of links.
    pub(super) async fn run(mut self, mailbox: &mut Mailbox) -> Result<End> {
        let mut links = Links::open()?;
        let now = Instant::now();
        self.parts.iter_mut().filter(|part| mailbox.has_table(part.family())).for_each(Part::table_written);
        let revalidation = self.revalidation_period.map(|period| now + period);
        let mut schedule = Schedule { links: Some(now), counts: now + COUNTING, revalidation };
        loop {
            // Before there is a table, nothing can be done about the links.
            let links_at = schedule.links.filter(|_| self.parts.iter().any(Part::is_ready));
            let next = links_at.into_iter().chain([schedule.counts]).chain(schedule.revalidation).min();
            tokio::select! {
                told = mailbox.next(Some(&self.settings)) => {
                    let (family, news) = match told {
                        Ok(told) => told,
                        Err(end) => return Ok(end),
                    };
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
                part.count(self.kernel, self.conntrack.as_mut(), &self.metrics);
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
            let outcome = self.parts[index].sync(self.kernel, async || {
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
        self.neighbours.look(self.kernel);
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

//! Putting it all together.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::{fs, future};

use anyhow::{Context as _, Result};
use compiler::{Compiler, Mark, Options};
use config::{Config, KUBERNETES_VERSION, Loaded};
use informer::Reporter;
use model::Family;
use netlink::{Committer, Monitor, NfTables};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use telemetry::{Health, Metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::events::{Event, Events};
use crate::flags::Flags;
use crate::http::{Pages, Server, health_routes, metrics_routes};
use crate::live::Live;
use crate::localhost::Exposed;
use crate::node::{self, Follower, NodeAddresses, NodeFacts, PortAddresses};
use crate::pacer::Pacer;
use crate::pods;
use crate::reload::{self, InForce};
use crate::service_health::Questions;
use crate::source::Source;
use crate::syncer::{Inputs, Syncer, Telemetry};
use crate::table::Table;
use crate::{cleanup, clock, fastpath, flows, initialize};

/// How many messages of updates may wait to be taken in. The sources wait when it is reached.
const UPDATES: usize = 4096;

/// How many edits of other programs may wait to be looked at.
const EDITS: usize = 64;

/// Runs the proxy until it is told to end by a signal. The rules stay in the kernel then, and go on working.
///
/// # Errors
/// It cannot start, or cannot go on.
pub async fn run(flags: &Flags, loaded: &Loaded) -> Result<()> {
    let config = &loaded.config;
    info!(version = env!("CARGO_PKG_VERSION"), "Version info");
    // At the start, before anything is waited for: without it, nothing else is of use.
    initialize::prepare(config)?;
    let name = node::name(config)?;
    let telemetry = Telemetry {
        metrics: Arc::new(Metrics::new().context("cannot register the metrics")?),
        health: Arc::new(Health::new(Live::of(config).health_timeout(), false)),
    };
    let reporter = reporter(telemetry.metrics.clone());
    let source = Source::new(flags, config, &reporter).await?;
    let events = source.events(&name);
    let (live, settings) = watch::channel(Live::of(config));
    let (configuration, shown) = watch::channel(loaded.effective.to_json());
    let metrics_server = metrics_server(config, telemetry.metrics.clone(), Pages::new(flags, config, shown))?;
    let clock = clock::watch(telemetry.metrics.clone());
    set_oom_score(config.oom_score_adj);
    raise_open_files();
    events.tell(Event::Starting);
    // What has a task of its own is not held up by the others.
    let followed = tokio::spawn(reload::follow(flags.clone(), loaded.clone(), InForce { live, configuration }));
    let health_server = tokio::spawn(health_server(config.clone(), telemetry.clone()));
    let metrics_server = tokio::spawn(metrics_server.run());
    tokio::select! {
        ended = proxy(config, settings, name, source, reporter, telemetry, events.clone()) => ended,
        failed = followed => failed?.map(|never| match never {}),
        failed = health_server => {
            let Err(error) = failed?;
            events.tell_last(Event::NoHealthServer(format!("{error:#}"))).await;
            Err(error)
        }
        failed = metrics_server => {
            let Err(error) = failed?;
            events.tell_last(Event::NoMetricsServer(format!("{error:#}"))).await;
            Err(error)
        }
        never = clock => match never {},
        signal = termination() => {
            info!("{} received: exiting, the rules stay in place", signal?);
            Ok(())
        }
    }
}

async fn health_server(config: Config, telemetry: Telemetry) -> Result<Infallible> {
    let Some(address) = config.healthz_address else {
        return future::pending().await;
    };
    let server = Server {
        name: "health",
        setting: "healthzBindAddress",
        address,
        hard_fail: config.bind_address_hard_fail,
        routes: health_routes(telemetry),
    };
    server.run().await
}

fn metrics_server(config: &Config, metrics: Arc<Metrics>, pages: Pages) -> Result<Server> {
    metrics.stands_in_for(KUBERNETES_VERSION);
    for (name, stage, enabled) in config.features.iter() {
        metrics.feature(name, &stage.to_string(), enabled);
    }
    Ok(Server {
        name: "metrics",
        setting: "metricsBindAddress",
        address: config.metrics_address,
        hard_fail: config.bind_address_hard_fail,
        routes: metrics_routes(metrics, pages).context("cannot register the metrics")?,
    })
}

/// Has what a source tells of counted.
fn reporter(metrics: Arc<Metrics>) -> Reporter {
    Reporter::new(move |event| match event {
        informer::Event::Problem(problem) => metrics.object_problem(problem.kind),
        informer::Event::WatchFailed(resource) => metrics.watch_failed(resource),
        informer::Event::Answered { method, host, status } => metrics.request_answered(status, method, host),
        informer::Event::Completed { method, host, elapsed, sent, received } => {
            metrics.request_completed(method, host, elapsed, sent, received);
        }
    })
}

/// Connects the source to the tables. Ends only with an error.
async fn proxy(
    config: &Config,
    live: watch::Receiver<Live>,
    name: String,
    source: Source,
    reporter: Reporter,
    telemetry: Telemetry,
    events: Events,
) -> Result<()> {
    let (facts, status, feed) = source.open(name, config, &reporter).await?;
    let addresses = NodeAddresses::new(&facts.addresses, config);
    let families = node::families(addresses.primary, Path::new("/proc"))?;
    let local = node::interface_addresses()?;
    let ports = PortAddresses::new(&config.node_port_addresses, addresses, &families, &local);
    let (edits, edited) = mpsc::channel(EDITS);
    // While there is no room, the monitor waits, and what the kernel cannot tell it meanwhile counts as missed.
    let monitor = Monitor::spawn(compiler::table_name(), move |edit| drop(edits.blocking_send(edit)))?;
    let fast_path = fastpath::start(live.clone(), families.clone(), &monitor, telemetry.metrics.clone())?;
    let tables = tables(config, &facts, addresses, &families, &ports, &telemetry, &monitor)?;
    let tables = tables.into_iter().map(|table| table.with_fast_path(fast_path.clone())).collect();

    let (updates, received) = mpsc::channel(UPDATES);
    let (node_ports, changed) = mpsc::channel(1);
    let (new_addresses, addresses) = watch::channel(addresses);
    let (questions, answers) = Questions::new(telemetry.health.clone(), events, ports.all().clone());
    let (exposed, localhost) = Exposed::new(&config.node_port_addresses, &families, telemetry.metrics.clone());
    let follower = Follower::start(config, &facts, telemetry.health.clone(), &updates, new_addresses).await;
    let following = follower.run(status, updates.clone());
    // As tasks of their own they go on while this process ends, so that no commit has to be waited for.
    let external_ips = config.features.allow_service_external_ips();
    let syncer =
        Syncer::new(tables, telemetry).with_questions(questions).with_exposed(exposed).with_external_ips(external_ips);
    let syncer = syncer.with_firsts(cleanup::leftovers());
    let syncer = tokio::spawn(syncer.run(Inputs { updates: received, node_ports: changed, edits: edited, live }));
    let (feed, ports) = (tokio::spawn(feed.run(updates, reporter)), tokio::spawn(ports.follow(addresses, node_ports)));
    tokio::try_join!(
        async { feed.await? },
        async { syncer.await? },
        async { Ok(ports.await?) },
        answers.run(),
        localhost.run(),
        following
    )?;
    Ok(())
}

fn tables(
    config: &Config,
    facts: &NodeFacts,
    addresses: NodeAddresses,
    families: &[Family],
    ports: &PortAddresses,
    telemetry: &Telemetry,
    monitor: &Monitor,
) -> Result<Vec<Table>> {
    let node_cidrs = facts.node.as_ref().map_or(&[][..], |node| &node.pod_cidrs);
    node::warn_of_doubts(config, addresses.primary, families, node_cidrs);
    let pods = pods::detection(&config.local_traffic, node_cidrs, addresses.primary, families)?;
    let mark = Mark::from_bit(config.masquerade.bit.number()).context("masqueradeBit is above 31")?;
    let flows = flows::start(telemetry.metrics.clone())?;
    let (min, max) = (config.min_sync_period, config.sync_period);
    debug!(minSyncPeriod = ?min, syncPeriod = ?max, "NFTables sync params");
    debug!(mark = format_args!("{:#010x}", config.masquerade.bit.mark()), "Using nftables mark for masquerade");
    let table = |family: &Family| {
        info!(ipFamily = %family, "Using nftables Proxier");
        let compiler = Compiler::new(Options {
            family: *family,
            mark,
            masquerade_all: config.masquerade.all,
            pods: pods.get(*family).clone(),
            node_address: *addresses.main.get(*family),
            node_ports: ports.get(*family).clone(),
            offloads: fastpath::offloads(config.fast_path.as_ref()),
        });
        let kernel = NfTables::open()?.known_to(monitor).context("cannot tell our commits from those of others")?;
        let committer = Committer::spawn(kernel).context("cannot start the thread that commits")?;
        let pacer = Pacer::new(Instant::now(), min, max);
        let table = Table::new(compiler, committer, pacer, telemetry.clone());
        Ok(match &flows {
            Some(flows) => table.with_flows(flows.clone()),
            None => table,
        })
    };
    families.iter().map(table).collect()
}

/// Lets the process have all the open files that it may, as Go's runtime does by itself: listeners and connections are as many as Services
/// and those who ask want.
fn raise_open_files() {
    let files = Resource::RLIMIT_NOFILE;
    if let Err(error) = getrlimit(files).and_then(|(_, hard)| setrlimit(files, hard, hard)) {
        warn!("the limit of open files cannot be raised to its maximum, which takes no privilege: {error}");
    }
}

/// Makes the process a less likely victim when memory runs out. Without the privilege it goes on as it is.
fn set_oom_score(score: i16) {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string()) {
        info!(score, "oom_score_adj stays as it is, which takes the capability SYS_RESOURCE to lower: {error}");
    }
}

/// Waits for a signal that asks to end.
async fn termination() -> Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = hangup.recv() => "SIGHUP",
    })
}

//! Putting it all together.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use compiler::{Compiler, Mark, Options, Pods};
use config::{Config, LocalTraffic};
use informer::{Event, Reporter};
use model::Family;
use netlink::{Committer, Monitor, NfTables};
use telemetry::{Health, Metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use crate::flags::Flags;
use crate::http::{Server, health_routes, metrics_routes};
use crate::node::{self, NodeAddresses};
use crate::pacer::Pacer;
use crate::source::{NodeFacts, Source};
use crate::syncer::{Syncer, Telemetry};
use crate::table::Table;

/// How many messages of updates may wait to be taken in. The sources wait when it is reached.
const UPDATES: usize = 4096;

/// How many edits of other programs may wait to be looked at.
const EDITS: usize = 64;

/// Runs the proxy until it is told to end by a signal. The rules stay in the kernel then, and go on working.
///
/// # Errors
/// It cannot start, or cannot go on.
pub async fn run(flags: &Flags, config: &Config) -> Result<()> {
    info!(version = env!("CARGO_PKG_VERSION"), "Version info");
    // At the start, before anything is waited for: without it, nothing else is of use.
    NfTables::open()?;
    let name = node::name(config)?;
    let source = Source::new(flags, config).await?;
    let telemetry = Telemetry {
        metrics: Arc::new(Metrics::new().context("cannot register the metrics")?),
        health: Arc::new(Health::new(config.sync_period * 2, false)),
    };
    set_oom_score(config.oom_score_adj);
    tokio::select! {
        ended = proxy(config, &name, source, telemetry.clone()) => ended,
        failed = health_server(config, telemetry.clone()).run() => failed.map(|never| match never {}),
        failed = metrics_server(config, telemetry).run() => failed.map(|never| match never {}),
        signal = termination() => {
            info!("{} received: exiting, the rules stay in place", signal?);
            Ok(())
        }
    }
}

fn health_server(config: &Config, telemetry: Telemetry) -> Server {
    Server {
        name: "health",
        setting: "healthzBindAddress",
        address: config.healthz_address,
        hard_fail: config.bind_address_hard_fail,
        routes: health_routes(telemetry),
    }
}

fn metrics_server(config: &Config, telemetry: Telemetry) -> Server {
    Server {
        name: "metrics",
        setting: "metricsBindAddress",
        address: config.metrics_address,
        hard_fail: config.bind_address_hard_fail,
        routes: metrics_routes(telemetry),
    }
}

/// Connects the source to the tables. Ends only with an error.
async fn proxy(config: &Config, name: &str, source: Source, telemetry: Telemetry) -> Result<()> {
    let metrics = telemetry.metrics.clone();
    let reporter = Reporter::new(move |event| match event {
        Event::Problem(problem) => metrics.object_problem(problem.kind),
        Event::WatchFailed(resource) => metrics.watch_failed(resource),
    });
    let facts = source.node(name, &reporter).await?;
    telemetry.health.set_node_eligible(facts.known);
    let (edits, edited) = mpsc::channel(EDITS);
    // Those that find no room are seen to with those that wait.
    let monitor = Monitor::spawn(compiler::table_name(), move |edit| drop(edits.try_send(edit)))?;
    let tables = tables(config, &facts, &telemetry, &monitor)?;

    let (updates, received) = mpsc::channel(UPDATES);
    let source = source.run(facts, updates, reporter, telemetry.health.clone());
    // As tasks of their own they go on while this process ends, so that no commit has to be waited for.
    let (source, syncer) = (tokio::spawn(source), tokio::spawn(Syncer::new(tables, telemetry).run(received, edited)));
    tokio::try_join!(async { source.await? }, async { syncer.await? })?;
    Ok(())
}

fn tables(config: &Config, facts: &NodeFacts, telemetry: &Telemetry, monitor: &Monitor) -> Result<Vec<Table>> {
    let addresses = NodeAddresses::new(&facts.addresses, config);
    let local = node::interface_addresses()?;
    let families = node::families(addresses.primary, Path::new("/proc"))?;
    let table = |family| {
        let compiler = Compiler::new(options(config, &addresses, family, &local)?);
        let kernel = NfTables::open()?.known_to(monitor).context("cannot tell our commits from those of others")?;
        let committer = Committer::spawn(kernel).context("cannot start the thread that commits")?;
        let pacer = Pacer::new(Instant::now(), config.min_sync_period, config.sync_period);
        Ok(Table::new(compiler, committer, pacer, telemetry.clone()))
    };
    families.into_iter().map(table).collect()
}

fn options(config: &Config, addresses: &NodeAddresses, family: Family, local: &[IpAddr]) -> Result<Options> {
    let LocalTraffic::ClusterCidr(pod_cidrs) = &config.local_traffic;
    let pod_cidr = *pod_cidrs.get(family);
    if pod_cidr.is_none() && family == addresses.primary {
        info!(
            "Detect-local-mode set to ClusterCIDR, but no cluster CIDR specified for primary IP family: connections to \
             ClusterIPs are not masqueraded; set clusterCIDR to the addresses of the pods"
        );
    }
    Ok(Options {
        family,
        mark: Mark::from_bit(config.masquerade.bit.number()).context("masqueradeBit is above 31")?,
        masquerade_all: config.masquerade.all,
        pods: pod_cidr.map(Pods::From),
        node_address: *addresses.main.get(family),
        node_ports: addresses.node_ports(family, &config.node_port_addresses, local),
    })
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

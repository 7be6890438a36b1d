//! `make bench`: what the whole process costs with an API server of many Services, from its start to its idle hours.
//!
//! The API server is the fake one of the tests, in the process that measures: it takes CPU time beside kube-proxy on the same
//! machine. Writes `target/bench/process.json` and prints a table.

mod node;

use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testing::scale::Scale;

use self::node::{Node, Proxy, Start};

const ENDPOINTS: u32 = 10;
const SIZES: [u32; 3] = [1_000, 10_000, 30_000];
/// How often it is started with no rules there, and with those of the last time.
const STARTS: usize = 3;
/// How many changes are timed one by one.
const CHANGES: u32 = 500;
/// How many changes a second, and for how long, while CPU time is counted.
const RATE: u32 = 100;
const BUSY: Duration = Duration::from_mins(1);
/// For how long nothing changes, and CPU time is counted.
const IDLE: Duration = Duration::from_mins(1);

fn main() -> Result<()> {
    println!("Services x {ENDPOINTS} endpoints; the process, with an API server; starts are medians of {STARTS}");
    println!("{HEADER}");
    let results = SIZES.iter().map(|services| measure(*services)).collect::<Result<Vec<_>>>()?;
    fs::create_dir_all("target/bench")?;
    fs::write("target/bench/process.json", serde_json::to_string_pretty(&results)? + "\n")
        .context("cannot write results")?;
    println!("written: target/bench/process.json");
    Ok(())
}

const HEADER: &str = "| Services | start | of that after the lists | unchanged restart | change p50 | p99 | 100 changes/s | idle | peak RSS |\n\
                      |---|---|---|---|---|---|---|---|---|";

fn measure(services: u32) -> Result<Value> {
    let scale = Scale::new(services, ENDPOINTS);
    let cold = (0..STARTS).map(|_| Ok(Node::new(scale)?.start("1s")?.1)).collect::<Result<Vec<_>>>()?;
    let node = Node::new(scale)?;
    let (mut proxy, _) = node.start("1ms")?;
    let changes = changes(&node, scale, services)?;
    let mut unchanged = Vec::new();
    for _ in 0..STARTS {
        drop(proxy);
        let started;
        (proxy, started) = node.start("1s")?;
        unchanged.push(started);
    }
    let idle = proxy.cpu(|| {
        thread::sleep(IDLE);
        Ok(())
    })?;
    let busy = busy(&proxy, scale, services)?;
    let rss = proxy.peak_rss_mib()?;

    let (whole, from_lists) = (median(&cold, |start| start.whole), median(&cold, |start| start.from_lists));
    let restart = median(&unchanged, |start| start.whole);
    let written = unchanged.iter().map(|start| start.operations).max().unwrap_or_default();
    let [p50, p99] = [50, 99].map(|percent| changes[changes.len() * percent / 100]);
    println!(
        "| {services} | {whole:.0?} | {from_lists:.0?} | {restart:.0?}, {written} operations | {p50:.0?} | {p99:.0?} | {:.1} % | {:.2} % | {rss:.1} MiB |",
        busy * 100.0,
        idle * 100.0
    );
    Ok(json!({
        "services": services,
        "endpoints": ENDPOINTS,
        "start_ms": milliseconds(whole),
        "lists_to_commit_ms": milliseconds(from_lists),
        "unchanged_restart_ms": milliseconds(restart),
        "unchanged_restart_lists_to_commit_ms": milliseconds(median(&unchanged, |start| start.from_lists)),
        "unchanged_restart_operations": written,
        "change_p50_ms": milliseconds(p50),
        "change_p99_ms": milliseconds(p99),
        "busy_cpu_percent": busy * 100.0,
        "idle_cpu_percent": idle * 100.0,
        "peak_rss_mib": rss,
    }))
}

/// From the API server's knowing of a changed endpoint to its commit, sorted. Each change waits for the one before.
fn changes(node: &Node, scale: Scale, services: u32) -> Result<Vec<Duration>> {
    let mut times = (0..CHANGES)
        .map(|n| {
            let slice = changed(scale, n * (services / CHANGES).max(1) % services, n);
            node.time(|api| api.put(slice))
        })
        .collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times)
}

/// The part of a CPU it takes to follow [`RATE`] changes a second.
fn busy(proxy: &Proxy<'_>, scale: Scale, services: u32) -> Result<f64> {
    let pause = Duration::from_secs(1) / RATE;
    proxy.cpu(|| {
        let began = Instant::now();
        let mut n = 0;
        while began.elapsed() < BUSY {
            proxy.node().api.put(changed(scale, n * 7 % services, n + 1));
            n += 1;
            thread::sleep((began + pause * n).saturating_duration_since(Instant::now()));
        }
        Ok(())
    })
}

/// The slice of Service `i` with its first endpoint elsewhere, in one of two places by `n`.
fn changed(scale: Scale, i: u32, n: u32) -> Value {
    let mut slice = scale.slice_object(i);
    let third = 2 + n % 2;
    slice["endpoints"][0]["addresses"][0] = format!("10.{}.{}.{}", 250 + third, i / 250 % 250, i % 250 + 1).into();
    slice
}

fn median(starts: &[Start], of: impl Fn(&Start) -> Duration) -> Duration {
    let mut all: Vec<_> = starts.iter().map(of).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

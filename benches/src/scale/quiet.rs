//! Waiting for the machine to have nothing to do.

use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result};

/// How long is waited at most: something else may keep the machine busy.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);
/// The share of all CPUs that counts as nothing.
const LITTLE: f64 = 0.1;

/// Waits for what the kernel still does for the measurement before: rules and namespaces that are gone are freed later, by its
/// own threads.
pub(crate) fn wait() -> Result<()> {
    let began = Instant::now();
    let mut before = ticks()?;
    while began.elapsed() < PATIENCE {
        thread::sleep(POLL);
        let now = ticks()?;
        if now.0 - before.0 <= LITTLE * (now.1 - before.1) {
            break;
        }
        before = now;
    }
    Ok(())
}

/// The clock ticks that CPUs were at work, and all of them (proc_stat(5)).
fn ticks() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat has no sum")?;
    let ticks: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
    let all: f64 = ticks.iter().take(8).sum();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

//! The whole process with an API server.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use testing::scale::Scale;

use crate::figures::{Times, median, milliseconds};
use crate::node::{Node, Start};
use crate::quiet;

/// How often it is started with the rules of the last time.
const RESTARTS: usize = 3;
/// How many changes are timed one by one.
const CHANGES: u32 = 500;
/// How many changes a second, and for how long, while CPU time is counted.
const RATE: u32 = 100;
const BUSY: Duration = Duration::from_mins(1);
/// A prime, so that all Services have their turn.
const STRIDE: u32 = 7919;
/// For how long nothing changes, and CPU time is counted.
const IDLE: Duration = Duration::from_secs(30);

/// What the process costs. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) services: u32,
    /// From the start of the process until all rules are in place, where none were.
    pub(crate) start_ms: f64,
    /// Of that, from when all lists were complete.
    pub(crate) lists_to_commit_ms: f64,
    /// Of that, the kernel's part.
    pub(crate) kernel_ms: f64,
    /// What the kernel took for the longest transaction.
    pub(crate) longest_commit_ms: f64,
    /// From the API server's knowing of a changed endpoint to its commit, median.
    pub(crate) change_p50_ms: f64,
    /// The same, 99th percentile.
    pub(crate) change_p99_ms: f64,
    /// After these changes.
    pub(crate) peak_rss_mib: f64,
    #[serde(flatten)]
    pub(crate) later: Option<Later>,
}

/// What it costs after a restart that changes nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Later {
    pub(crate) unchanged_restart_ms: f64,
    /// The most of all restarts.
    pub(crate) unchanged_restart_operations: u64,
    pub(crate) idle_cpu_percent: f64,
    pub(crate) busy_cpu_percent: f64,
    /// After the last restart and the busy time.
    pub(crate) restarted_peak_rss_mib: f64,
    /// The longest that another program waited to commit, during a cold start.
    pub(crate) longest_wait_ms: f64,
}

/// A node with so many Services.
pub(crate) struct Bench {
    node: Node,
    scale: Scale,
    services: u32,
}

/// Measures a single start, and changes.
pub(crate) fn briefly(name: &str, scale: Scale, services: u32) -> Result<Process> {
    let bench = Bench::new(scale, services)?;
    bench.changed(name, &[bench.cold_start()?])
}

impl Bench {
    pub(crate) fn new(scale: Scale, services: u32) -> Result<Self> {
        Ok(Self { node: Node::new(scale)?, scale, services })
    }

    /// Starts it where no rules are, and leaves none.
    pub(crate) fn cold_start(&self) -> Result<Start> {
        quiet::wait()?;
        self.node.cold_start()
    }

    /// Measures all but cold starts, of which it takes the median.
    pub(crate) fn measure(&self, name: &str, starts: &[Start]) -> Result<Process> {
        let longest_wait = self.node.longest_wait()?;
        let process = self.changed(name, starts)?;
        let mut restarts = (1..RESTARTS).map(|_| Ok(self.node.start("1s")?.1)).collect::<Result<Vec<_>>>()?;
        let (proxy, last) = self.node.start("1s")?;
        restarts.push(last);
        let idle_cpu = proxy.cpu(|| thread::sleep(IDLE))?;
        let busy_cpu = proxy.cpu(|| self.busy())?;
        let later = Later {
            unchanged_restart_ms: median(&restarts, |start| milliseconds(start.whole)),
            unchanged_restart_operations: restarts.iter().map(|start| start.operations).max().unwrap_or_default(),
            idle_cpu_percent: idle_cpu * 100.0,
            busy_cpu_percent: busy_cpu * 100.0,
            restarted_peak_rss_mib: proxy.peak_rss_mib()?,
            longest_wait_ms: milliseconds(longest_wait),
        };
        Ok(Process { later: Some(later), ..process })
    }

    /// Measures changes, each of which waits for the one before. Rules stay.
    fn changed(&self, name: &str, starts: &[Start]) -> Result<Process> {
        let (proxy, _) = self.node.start("1ms")?;
        let changes = Times::new(self.node.time((0..CHANGES).map(|n| self.change(n)))?);
        let of = |part: fn(&Start) -> Duration| median(starts, |start| milliseconds(part(start)));
        Ok(Process {
            name: name.to_owned(),
            services: self.services,
            start_ms: of(|start| start.whole),
            lists_to_commit_ms: of(|start| start.from_lists),
            kernel_ms: of(|start| start.kernel),
            longest_commit_ms: of(|start| start.longest),
            change_p50_ms: changes.percentile(50),
            change_p99_ms: changes.percentile(99),
            peak_rss_mib: proxy.peak_rss_mib()?,
            later: None,
        })
    }

    /// Makes [`RATE`] changes a second.
    fn busy(&self) {
        let pause = Duration::from_secs(1) / RATE;
        let began = Instant::now();
        for n in 1.. {
            self.node.api.put(self.change(CHANGES + n));
            thread::sleep((began + pause * n).saturating_duration_since(Instant::now()));
            if began.elapsed() >= BUSY {
                break;
            }
        }
    }

    /// A slice whose first endpoint is where none has ever been. Slices that follow each other are far from each other.
    fn change(&self, n: u32) -> Value {
        let mut slice = self.scale.slice_objects(n * STRIDE % self.services).next().unwrap_or_default();
        slice["endpoints"][0]["addresses"][0] = format!("10.252.{}.{}", n / 250, n % 250 + 1).into();
        slice
    }
}

//! Figures of one case, and their medians.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What one case costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Lists complete to commit acknowledged.
    pub(crate) cold_sync_ms: f64,
    /// The kernel's part of it.
    pub(crate) kernel_ms: f64,
    /// A change taken to commit acknowledged, median.
    pub(crate) incremental_p50_us: f64,
    /// The same, 99th percentile.
    pub(crate) incremental_p99_us: f64,
    /// The peak of the memory of the process that does it.
    pub(crate) rss_mib: f64,
}

/// The fields by name, to be written and read alike.
type Field = (&'static str, fn(&mut Figures) -> &mut f64);

const FIELDS: [Field; 5] = [
    ("cold_sync_ms", |f| &mut f.cold_sync_ms),
    ("kernel_ms", |f| &mut f.kernel_ms),
    ("incremental_p50_us", |f| &mut f.incremental_p50_us),
    ("incremental_p99_us", |f| &mut f.incremental_p99_us),
    ("rss_mib", |f| &mut f.rss_mib),
];

impl Figures {
    pub(crate) const HEADER: &str =
        "services  shape            cold sync ms  kernel ms  change p50 µs  change p99 µs  RSS MiB";

    const ZERO: Self =
        Self { cold_sync_ms: 0.0, kernel_ms: 0.0, incremental_p50_us: 0.0, incremental_p99_us: 0.0, rss_mib: 0.0 };

    pub(crate) fn new(cold_sync: Duration, kernel: Duration, mut changes: Vec<Duration>, rss_mib: f64) -> Self {
        changes.sort_unstable();
        let at = |share: f64| {
            let index = ((changes.len() as f64 * share).ceil() as usize).clamp(1, changes.len()) - 1;
            changes[index].as_secs_f64() * 1e6
        };
        Self {
            cold_sync_ms: cold_sync.as_secs_f64() * 1e3,
            kernel_ms: kernel.as_secs_f64() * 1e3,
            incremental_p50_us: at(0.5),
            incremental_p99_us: at(0.99),
            rss_mib,
        }
    }

    /// The median of each figure.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let mut median = Self::ZERO;
        for (_, field) in FIELDS {
            let mut values: Vec<f64> = rounds.iter().map(|round| *field(&mut round.clone())).collect();
            values.sort_unstable_by(f64::total_cmp);
            *field(&mut median) = values[values.len() / 2];
        }
        median
    }

    pub(crate) fn row(&self, services: u32, shape: &str) -> String {
        format!(
            "{services:>8}  {shape:<15}  {:>12.1}  {:>9.1}  {:>13.0}  {:>13.0}  {:>7.1}",
            self.cold_sync_ms, self.kernel_ms, self.incremental_p50_us, self.incremental_p99_us, self.rss_mib
        )
    }

    pub(crate) fn to_json(self) -> Value {
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        FIELDS
            .iter()
            .map(|(name, field)| ((*name).to_owned(), Value::from(rounded(*field(&mut self.clone())))))
            .collect()
    }

    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let mut figures = Self::ZERO;
        for (name, field) in FIELDS {
            *field(&mut figures) = value.get(name)?.as_f64()?;
        }
        Some(figures)
    }

    pub(crate) fn to_result(self, services: u32, endpoints_per_service: u32, shape: &str) -> Value {
        let mut result =
            json!({ "services": services, "endpoints_per_service": endpoints_per_service, "shape": shape });
        if let (Value::Object(result), Value::Object(figures)) = (&mut result, self.to_json()) {
            result.extend(figures);
        }
        result
    }
}

/// The peak resident memory of this process, in MiB (`VmHWM`, proc(5)).
pub(crate) fn peak_rss_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

//! Figures of one case, their medians, and where they come from.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What one case costs. Times are in milliseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Figures {
    /// Lists complete to commit acknowledged.
    pub(crate) cold_sync_ms: f64,
    /// The kernel's part of it.
    pub(crate) cold_sync_kernel_ms: f64,
    /// A change taken to commit acknowledged, median.
    pub(crate) change_p50_ms: f64,
    /// The same, 99th percentile.
    pub(crate) change_p99_ms: f64,
    /// The kernel's part of a change, median.
    pub(crate) change_kernel_p50_ms: f64,
    /// What is not the kernel's, median.
    pub(crate) change_own_p50_ms: f64,
    /// The peak of the memory of the process that does it.
    pub(crate) peak_rss_mib: f64,
}

/// How long a sync took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) whole: Duration,
    /// The kernel's part of it.
    pub(crate) kernel: Duration,
}

impl Figures {
    pub(crate) fn new(cold: Took, changes: &[Took], peak_rss_mib: f64) -> Self {
        let of = |part: fn(&Took) -> Duration| Times::new(changes.iter().map(part));
        let (whole, kernel) = (of(|took| took.whole), of(|took| took.kernel));
        Self {
            cold_sync_ms: milliseconds(cold.whole),
            cold_sync_kernel_ms: milliseconds(cold.kernel),
            change_p50_ms: whole.percentile(50),
            change_p99_ms: whole.percentile(99),
            change_kernel_p50_ms: kernel.percentile(50),
            change_own_p50_ms: of(|took| took.whole.saturating_sub(took.kernel)).percentile(50),
            peak_rss_mib,
        }
    }

    /// The median of each figure.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds, figure);
        Self {
            cold_sync_ms: of(|round| round.cold_sync_ms),
            cold_sync_kernel_ms: of(|round| round.cold_sync_kernel_ms),
            change_p50_ms: of(|round| round.change_p50_ms),
            change_p99_ms: of(|round| round.change_p99_ms),
            change_kernel_p50_ms: of(|round| round.change_kernel_p50_ms),
            change_own_p50_ms: of(|round| round.change_own_p50_ms),
            peak_rss_mib: of(|round| round.peak_rss_mib),
        }
    }
}

/// Times in order.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }

    /// The least time that so many percent of them do not exceed, in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(index).map_or(f64::NAN, |time| milliseconds(*time))
    }
}

/// The median of a figure of some rounds; not a number if there are none.
pub(crate) fn median<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    let mut figures: Vec<_> = rounds.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// To the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The peak resident memory of a process, in MiB (`VmHWM`, proc(5)).
pub(crate) fn peak_rss_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).with_context(|| format!("no VmHWM in {path}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let times = Times::new((1..=200).rev().map(Duration::from_millis));
        assert_eq!([50, 99, 100].map(|percent| times.percentile(percent)), [100.0, 198.0, 200.0]);
        assert!(Times::new([]).percentile(50).is_nan());
    }
}

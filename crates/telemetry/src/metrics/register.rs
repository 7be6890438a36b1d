//! Making and registering metrics, and their buckets.

use std::cell::RefCell;
use std::collections::BTreeMap;

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

use super::process::{LogLines, Process};
use super::{FAMILY, MetricsError};

/// Makes metrics and registers them.
pub(super) struct Register<'a> {
    registry: &'a Registry,
    /// How many families there are of each level of stability, by which Kubernetes' begin their help.
    stabilities: RefCell<BTreeMap<String, u64>>,
}

type Result<T> = std::result::Result<T, MetricsError>;

impl<'a> Register<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self { registry, stabilities: RefCell::default() }
    }

    /// What this process uses, and the log lines that it lost.
    pub(super) fn process(&self) -> Result<()> {
        self.registry.register(Box::new(Process::new()))?;
        self.registry.register(Box::new(LogLines::new()?))
    }

    /// A constant that tells which version runs.
    pub(super) fn build_info(&self) -> Result<()> {
        let help = "Always 1; the version that runs is in the label";
        self.gauges("slipstream_build_info", help, "version")?.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(())
    }

    /// How many metrics there are, as Kubernetes' components tell it; to be called when all others are registered. None is hidden or
    /// switched off.
    pub(super) fn totals(self) -> Result<()> {
        let help = "[BETA] Metrics under Kubernetes' names, by their level of stability";
        let labels = ["stability_level", "deprecated_version"];
        let registered = self.counters_by("registered_metrics_total", help, &labels)?;
        self.counter("disabled_metrics_total", "[BETA] Metrics that are switched off, of which there are none")?;
        self.counter("hidden_metrics_total", "[BETA] Metrics that are hidden, of which there are none")?;
        for (stability, count) in self.stabilities.into_inner() {
            registered.with_label_values(&[stability.as_str(), ""]).inc_by(count);
        }
        Ok(())
    }

    /// Of each family.
    pub(super) fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<HistogramVec> {
        self.histograms_by(name, help, &[FAMILY], buckets)
    }

    pub(super) fn histograms_by(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?)
    }

    pub(super) fn float_gauges(&self, name: &str, help: &str) -> Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), &[FAMILY])?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec> {
        self.gauges_by(name, help, &[label])
    }

    pub(super) fn gauges_by(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec> {
        self.counters_by(name, help, &[label])
    }

    pub(super) fn counters_by(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        let descriptions = metric.desc();
        let stabilities = descriptions.iter().filter_map(|description| stability(&description.help));
        for stability in stabilities {
            *self.stabilities.borrow_mut().entry(stability.to_owned()).or_default() += 1;
        }
        Ok(metric)
    }
}

/// The level in `[LEVEL] Some help`.
fn stability(help: &str) -> Option<&str> {
    Some(help.strip_prefix('[')?.split_once(']')?.0)
}

/// 1 ms doubled up to 16.384 s (contract §9, "D15").
pub(super) fn sync_buckets() -> Result<Vec<f64>> {
    exponential_buckets(0.001, 2.0, 15)
}

/// A quarter of a second up to five minutes, in steps that grow (contract §9).
pub(super) fn programming_buckets() -> Vec<f64> {
    let whole = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(whole.map(f64::from)).collect()
}

/// 50 µs to 10 s: a change of one endpoint takes well below a millisecond, a full load of a large cluster seconds.
pub(super) fn commit_buckets() -> Vec<f64> {
    vec![0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
}

/// 5 ms to a minute: requests to the API server (contract §9).
pub(super) fn request_buckets() -> Vec<f64> {
    vec![0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0]
}

/// 64 bytes to 16 MiB: what is sent to the API server and comes from it (contract §9).
pub(super) fn size_buckets() -> Vec<f64> {
    vec![64.0, 256.0, 512.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0]
}

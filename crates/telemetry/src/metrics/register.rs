//! Making and registering metrics, and their buckets.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

use super::{FAMILY, MetricsError};

/// Makes metrics and registers them.
pub(super) struct Register<'a>(pub(super) &'a Registry);

type Result<T> = std::result::Result<T, MetricsError>;

impl Register<'_> {
    /// CPU, memory and files of this process, as `process_*`.
    pub(super) fn process(&self) -> Result<()> {
        self.0.register(Box::new(ProcessCollector::for_self()))
    }

    /// A constant that tells which version runs.
    pub(super) fn build_info(&self, version: &str) -> Result<()> {
        let help = "Always 1; the version that runs is in the label";
        self.gauges("slipstream_build_info", help, "version")?.with_label_values(&[version]).set(1);
        Ok(())
    }

    pub(super) fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &[FAMILY])?)
    }

    pub(super) fn float_gauges(&self, name: &str, help: &str) -> Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), &[FAMILY])?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    /// Of each family, by another label too, which comes first.
    pub(super) fn gauges_by(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), &[label, FAMILY])?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
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

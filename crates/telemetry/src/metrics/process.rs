//! What this process uses, as `process_*`.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use prometheus::Counter;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;

/// All that there is to know: CPU, memory, files, threads, and when it started.
pub(super) struct Process(ProcessCollector);

/// Only when it started.
pub(super) struct StartTime(ProcessCollector);

const CPU: &str = "process_cpu_seconds_total";
const START: &str = "process_start_time_seconds";

impl Process {
    pub(super) fn new() -> Self {
        Self(ProcessCollector::for_self())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        if let Some(cpu) = cpu() {
            families.retain(|family| family.name() != CPU);
            families.extend(cpu);
        }
        families
    }
}

impl StartTime {
    pub(super) fn new() -> Self {
        Self(ProcessCollector::for_self())
    }
}

impl Collector for StartTime {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc().into_iter().filter(|description| description.fq_name == START).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect().into_iter().filter(|family| family.name() == START).collect()
    }
}

/// CPU time to the microsecond. The library counts whole seconds, of which this process needs few: a rate would be zero, and one
/// now and then.
fn cpu() -> Option<Vec<MetricFamily>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let counter = Counter::new(CPU, "Total user and system CPU time spent in seconds.").ok()?;
    counter.inc_by(seconds(usage.user_time()) + seconds(usage.system_time()));
    Some(counter.collect())
}

//! What this process uses, as `process_*`.

use std::collections::HashMap;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntCounter};

use crate::logging;

/// All that there is to know: CPU, memory, files, threads, and when it started.
pub(super) struct Process(ProcessCollector);

/// Log lines that were lost.
pub(super) struct LogLines(Desc);

/// Only when it started.
pub(super) struct StartTime(ProcessCollector);

const CPU: &str = "process_cpu_seconds_total";
const LOST: &str = "slipstream_log_lines_lost_total";
const LOST_HELP: &str = "Log lines that standard error did not take: the disk behind it is full, or nobody reads them";
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

impl LogLines {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        Ok(Self(Desc::new(LOST.to_owned(), LOST_HELP.to_owned(), Vec::new(), HashMap::new())?))
    }
}

impl Collector for LogLines {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let counter = IntCounter::new(LOST, LOST_HELP).inspect(|counter| counter.inc_by(logging::lost()));
        counter.map(|counter| counter.collect()).unwrap_or_default()
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

//! Log lines on standard error.

mod klog;
mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::sync::OnceLock;
use std::time::Duration;
use std::{io, panic};

use tracing::field::display;
use tracing::level_filters::LevelFilter;
use tracing::{Subscriber, error};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::klog::Klog;
use self::lines::Lines;
pub(crate) use self::lines::lost;

/// Says again, in other words, what `informer` says.
const REPEATING: [&str; 2] = ["kube_client", "kube_runtime"];

/// The crates whose lines `-v` rules over. From all others only warnings are of interest.
const OWN_CRATES: [&str; 9] =
    ["compiler", "config", "informer", "kube_proxy", "model", "netlink", "proxy", "ruleset", "telemetry"];

/// How long the end of the process waits for lines to be written, which takes no time unless who reads them has stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Level, time, process, place in the source, message and `key=value` fields.
    #[default]
    Text,
    /// The same as one JSON object per line.
    Json,
}

/// What is logged by the process while it runs, and where it goes.
static LOGGING: OnceLock<(Filter, Lines)> = OnceLock::new();

type Filter = reload::Handle<Targets, Registry>;

/// Sends all log lines of the process to standard error from now on, panics included. `verbosity` is that of `-v`: up to 1 for what
/// an operator needs to know, 2 and 3 for what is being done, 4 and above for everything.
///
/// Whoever logs does not wait: a thread writes, and lines are lost and counted while standard error takes none.
///
/// # Errors
/// It was called before, or there is no thread to spare.
pub fn init(format: Format, verbosity: u32) -> io::Result<()> {
    let lines = Lines::to(io::stderr(), format)?;
    let writer = lines.clone();
    let (subscriber, filter) = subscriber(format, verbosity, move || writer.clone());
    subscriber.try_init().map_err(io::Error::other)?;
    LOGGING.get_or_init(|| (filter, lines));
    panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        let trace = (trace.status() == BacktraceStatus::Captured).then(|| display(trace));
        error!(trace, "{panic}; this is a defect of this program: report it with this log");
        // It may be the end.
        flush();
    }));
    Ok(())
}

/// Waits for all lines to be written, for a second at most: to be called at the end of the process.
pub fn flush() {
    if let Some((_, lines)) = LOGGING.get() {
        lines.flush_within(PATIENCE);
    }
}

/// Logs as much as `verbosity` says from now on, as if it had been given to [`init`]. Without that, nothing is logged and
/// nothing happens.
pub fn set_verbosity(verbosity: u32) {
    if let Some((current, _)) = LOGGING.get() {
        set(current, verbosity);
    }
}

fn set(current: &Filter, verbosity: u32) {
    // It fails when the subscriber is gone, and with it all that could be filtered.
    drop(current.reload(filter(verbosity)));
}

fn subscriber<W>(format: Format, verbosity: u32, writer: W) -> (impl Subscriber + Send + Sync, Filter)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // Colours would be noise in a file, and that standard error is gone cannot be reported there.
    let lines = fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false).event_format(Klog(format));
    let (filter, handle) = reload::Layer::new(filter(verbosity));
    (tracing_subscriber::registry().with(lines.with_filter(filter)), handle)
}

fn filter(verbosity: u32) -> Targets {
    let level = match verbosity {
        0 | 1 => LevelFilter::INFO,
        2 | 3 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_targets(REPEATING.map(|name| (name, LevelFilter::OFF)))
        .with_targets(OWN_CRATES.map(|name| (name, level)))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use jiff::Timestamp;
    use jiff::civil::DateTime;
    use jiff::fmt::strtime;
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    /// What is logged by one of our crates and by another, each at all levels.
    fn logged(format: Format, verbosity: u32) -> Vec<String> {
        logged_after(format, verbosity, |_| {})
    }

    /// The same after something was done to the filter.
    fn logged_after(format: Format, verbosity: u32, change: impl Fn(&Filter)) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = Buffer(Arc::clone(&written));
        let (subscriber, filter) = subscriber(format, verbosity, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            change(&filter);
            tracing::warn!(target: "netlink::batch", ipFamily = "IPv4", operations = 3, full = true, "commit failed");
            tracing::info!(target: "netlink::batch", "own info");
            tracing::debug!(target: "netlink::batch", took = ?Duration::from_millis(1500), "own debug");
            tracing::trace!(target: "netlink::batch", "own trace");
            tracing::warn!(target: "hyper", "other warning");
            tracing::error!(target: "netlink::batch", err = %"no \"table\"\n\tat\u{1b} C:\\é", "own failure");
            tracing::error!(target: "kube_runtime::watcher", "hyper has failed");
            tracing::info!(target: "hyper", "other info");
        });
        let written = written.lock().unwrap();
        std::str::from_utf8(&written).unwrap().lines().map(str::to_owned).collect()
    }

    #[derive(Clone)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn verbosity_opens_up_our_own_crates_only() {
        for (verbosity, own) in [(0, 3), (1, 3), (2, 4), (3, 4), (4, 5), (10, 5)] {
            let changed = logged_after(Format::Text, 4 - verbosity.min(4), |filter| set(filter, verbosity));
            for lines in [logged(Format::Text, verbosity), changed] {
                let count =
                    |of: &[&str]| lines.iter().filter(|line| of.iter().any(|words| line.contains(words))).count();
                let counts = (count(&["own ", "commit failed"]), count(&["other ", "hyper"]));
                assert_eq!(counts, (own, 1), "-v {verbosity}: {lines:#?}");
            }
        }
    }

    /// Contract §1.8.
    #[test]
    fn text_lines_are_klogs() {
        let before = Timestamp::now();
        let lines = logged(Format::Text, 4);
        let (times, rest): (Vec<_>, Vec<_>) = lines
            .iter()
            .map(|line| {
                let (time, rest) = line[1..].split_at("mmdd hh:mm:ss.uuuuuu".len());
                let (process, rest) = rest.split_once(" logging.rs:").unwrap();
                assert_eq!(process, format!(" {:7}", std::process::id()));
                let (number, message) = rest.split_once(']').unwrap();
                assert!(number.parse::<u32>().is_ok(), "{line}");
                (time.to_owned(), format!("{}{message}", &line[..1]))
            })
            .unzip();
        for time in times {
            let year = TimeZone::UTC.to_datetime(before).year();
            let time: DateTime =
                strtime::parse("%Y%m%d %H:%M:%S%.f", format!("{year}{time}")).unwrap().to_datetime().unwrap();
            let time = TimeZone::UTC.to_timestamp(time).unwrap();
            assert!((before.as_microsecond()..=Timestamp::now().as_microsecond()).contains(&time.as_microsecond()));
        }
        assert_eq!(
            rest,
            [
                r#"W "commit failed" ipFamily="IPv4" operations=3 full=true"#,
                r#"I "own info""#,
                r#"I "own debug" took="1.5s""#,
                r#"I "own trace""#,
                r#"W "other warning""#,
                r#"E "own failure" err="no \"table\"\n\tat\u001b C:\\é""#,
            ]
        );
    }

    /// Contract §1.8.
    #[test]
    fn json_lines_are_klogs() {
        let before = Timestamp::now();
        let lines: Vec<serde_json::Value> = logged(Format::Json, 4)
            .iter()
            .map(|line| {
                let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
                let object = line.as_object_mut().unwrap();
                let milliseconds = object.remove("ts").unwrap().as_f64().unwrap();
                let range = before.as_microsecond() as f64 / 1e3..=Timestamp::now().as_microsecond() as f64 / 1e3;
                assert!(range.contains(&milliseconds), "{milliseconds}, which is not in {range:?}");
                let caller = object.remove("caller").unwrap();
                let number = caller.as_str().unwrap().strip_prefix("logging.rs:").unwrap();
                assert!(number.parse::<u32>().is_ok(), "{caller}");
                line
            })
            .collect();
        assert_eq!(
            lines,
            [
                json!({"msg": "commit failed", "v": 0, "ipFamily": "IPv4", "operations": 3, "full": true}),
                json!({"msg": "own info", "v": 0}),
                json!({"msg": "own debug", "v": 2, "took": "1.5s"}),
                json!({"msg": "own trace", "v": 4}),
                json!({"msg": "other warning", "v": 0}),
                json!({"msg": "own failure", "err": "no \"table\"\n\tat\u{1b} C:\\é"}),
            ]
        );
    }
}

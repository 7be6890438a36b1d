//! Log lines on standard error.

mod lines;

use std::io;
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::lines::Lines;
pub(crate) use self::lines::lost;

/// Says again, in other words, what `informer` says.
const REPEATING: [&str; 2] = ["kube_client", "kube_runtime"];

/// The crates whose lines `-v` rules over. From all others only warnings are of interest.
const OWN_CRATES: [&str; 9] =
    ["compiler", "config", "informer", "kube_proxy", "model", "netlink", "proxy", "ruleset", "telemetry"];

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Time, level, module, message and `key=value` fields.
    #[default]
    Text,
    /// The same as one JSON object per line.
    Json,
}

/// What is logged by the process, while it runs.
static FILTER: OnceLock<Filter> = OnceLock::new();

type Filter = reload::Handle<Targets, Registry>;

/// Sends all log lines of the process to standard error from now on. `verbosity` is that of `-v`: up to 1 for what an
/// operator needs to know, 2 and 3 for what is being done, 4 and above for everything.
///
/// # Errors
/// It was called before.
pub fn init(format: Format, verbosity: u32) -> Result<(), TryInitError> {
    let (subscriber, filter) = subscriber(format, verbosity, move || Lines { to: io::stderr(), format });
    subscriber.try_init()?;
    FILTER.get_or_init(|| filter);
    Ok(())
}

/// Logs as much as `verbosity` says from now on, as if it had been given to [`init`]. Without that, nothing is logged and
/// nothing happens.
pub fn set_verbosity(verbosity: u32) {
    if let Some(current) = FILTER.get() {
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
    let lines = fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
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
            tracing::warn!(target: "netlink::batch", family = "IPv4", operations = 3, "commit failed");
            tracing::info!(target: "netlink::batch", "own info");
            tracing::debug!(target: "netlink::batch", "own debug");
            tracing::trace!(target: "netlink::batch", "own trace");
            tracing::warn!(target: "hyper", "other warning");
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
        for (verbosity, own) in [(0, 2), (1, 2), (2, 3), (3, 3), (4, 4), (10, 4)] {
            let changed = logged_after(Format::Text, 4 - verbosity.min(4), |filter| set(filter, verbosity));
            for lines in [logged(Format::Text, verbosity), changed] {
                let count = |from: &str| lines.iter().filter(|line| line.contains(from)).count();
                assert_eq!((count("netlink"), count("hyper")), (own, 1), "-v {verbosity}: {lines:#?}");
            }
        }
    }

    #[test]
    fn text_lines_read_well() {
        let line = &logged(Format::Text, 0)[0];
        let (_time, rest) = line.split_once("  WARN ").unwrap();
        assert_eq!(rest, "netlink::batch: commit failed family=\"IPv4\" operations=3");
    }

    #[test]
    fn json_lines_are_flat_objects() {
        let line: serde_json::Value = serde_json::from_str(&logged(Format::Json, 0)[0]).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["target"], "netlink::batch");
        assert_eq!(line["message"], "commit failed");
        assert_eq!(line["family"], "IPv4");
        assert_eq!(line["operations"], 3);
    }
}

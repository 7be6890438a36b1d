//! What is wrong with objects, and telling it once.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tracing::warn;

/// Something in an object, or a file of objects, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The kind of object, as the API calls it, or `file`.
    pub kind: &'static str,
    /// The object as `namespace/name`, or the path of the file.
    pub object: String,
    /// The field, such as `spec.ports[1].port`, or the place in the file; empty where it is the object as a whole.
    pub field: String,
    /// What is wrong with it, and what is done about it.
    pub message: String,
}

/// How long the message of a problem may be, in bytes: whoever writes objects must not fill the log with a value of a megabyte.
const LONGEST_MESSAGE: usize = 600;

impl Problem {
    /// A problem with `field` of an object. Of a long message, the middle is left out: its end says what is done.
    pub(crate) fn new(
        kind: &'static str,
        object: impl Into<String>,
        field: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        if message.len() > LONGEST_MESSAGE {
            let (start, end) = (LONGEST_MESSAGE / 2, message.len() - LONGEST_MESSAGE / 2);
            message.replace_range(message.floor_char_boundary(start)..message.ceil_char_boundary(end), "[…]");
        }
        Self { kind, object: object.into(), field: field.to_string(), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.kind, self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// What a source has to tell besides updates.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Something in an object cannot be used.
    Problem(&'a Problem),
    /// A list or watch of this resource failed, and is tried again. What happens in any healthy cluster, such as watches
    /// that end, does not count.
    WatchFailed(&'static str),
    /// A request to the API server, a watch included, has got the head of an answer, or none.
    Answered {
        /// The HTTP method.
        method: &'a str,
        /// Name or address of the server, and the port, if its URL has one.
        host: &'a str,
        /// The HTTP status code.
        status: Option<u16>,
    },
    /// A request to the API server that is not a watch is over.
    Completed {
        /// The HTTP method.
        method: &'a str,
        /// Name or address of the server, and the port, if its URL has one.
        host: &'a str,
        /// Since it was sent.
        elapsed: Duration,
        /// Bytes in its body.
        sent: u64,
        /// Bytes in the body of the answer, if there was one.
        received: Option<u64>,
    },
}

/// Logs problems, and hands events to a callback for metrics. Cheap to clone; clones share what they know.
///
/// A problem is told when it is new, not again each time its object is read, and again if it went away and came back.
/// Logging is rate-limited: at most [`BURST`] at once and one per second.
#[derive(Clone)]
pub struct Reporter(Arc<Inner>);

/// How many warnings about objects may be logged at once.
pub const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

/// How many objects with problems are remembered. Problems of further ones are logged each time they are read, within the
/// rate limit.
const REMEMBERED: usize = 10_000;

struct Inner {
    told: Mutex<HashMap<(&'static str, String), BTreeSet<u64>>>,
    limit: DefaultDirectRateLimiter,
    unlogged: AtomicU64,
    on_event: Box<dyn Fn(Event<'_>) + Send + Sync>,
}

impl Reporter {
    /// A reporter that also calls `on_event` for every event, new problems among them, whether or not it was logged.
    pub fn new(on_event: impl Fn(Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            told: Mutex::default(),
            limit: RateLimiter::direct(Quota::per_second(NonZeroU32::MIN).allow_burst(BURST)),
            unlogged: AtomicU64::new(0),
            on_event: Box::new(on_event),
        }))
    }

    /// How many objects have problems at present.
    pub fn troubled_objects(&self) -> usize {
        self.lock().len()
    }

    /// Tells all that is wrong with one object now; earlier problems that are not among them are gone.
    pub fn report(&self, kind: &'static str, object: &str, problems: &[Problem]) {
        for problem in self.remember(kind, object, problems) {
            self.tell(problem);
        }
    }

    /// Drops what was known about an object that no longer exists.
    pub fn forget(&self, kind: &'static str, object: &str) {
        self.report(kind, object, &[]);
    }

    /// Hands an event to the callback.
    pub(crate) fn tell_of(&self, event: Event<'_>) {
        (self.0.on_event)(event);
    }

    /// Replaces what is known about an object; returns what is new.
    fn remember<'a>(&self, kind: &'static str, object: &str, problems: &'a [Problem]) -> Vec<&'a Problem> {
        let mut told = self.lock();
        if problems.is_empty() {
            if !told.is_empty() {
                told.remove(&(kind, object.to_owned()));
            }
            return Vec::new();
        }
        let key = (kind, object.to_owned());
        let old = told.get(&key);
        let new =
            problems.iter().filter(|problem| old.is_none_or(|old| !old.contains(&fingerprint(problem)))).collect();
        if old.is_some() || told.len() < REMEMBERED {
            told.insert(key, problems.iter().map(fingerprint).collect());
        }
        new
    }

    fn tell(&self, problem: &Problem) {
        (self.0.on_event)(Event::Problem(problem));
        if self.0.limit.check().is_err() {
            self.0.unlogged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let unlogged = self.0.unlogged.swap(0, Ordering::Relaxed);
        if unlogged > 0 {
            warn!(unlogged, "more problems were found in objects than can be logged; the metrics count them all");
        }
        warn!("{problem}");
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(&'static str, String), BTreeSet<u64>>> {
        // Nothing panics while it holds the lock, and a map of hashes has no state that could be half-changed.
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("troubled_objects", &self.troubled_objects()).finish_non_exhaustive()
    }
}

fn fingerprint(problem: &Problem) -> u64 {
    let mut hasher = DefaultHasher::new();
    problem.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(field: &str) -> Problem {
        Problem::new("Service", "shop/web", field, "0 is not a port")
    }

    #[test]
    fn a_problem_is_told_once_while_it_lasts() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = told.clone();
        let reporter = Reporter::new(move |event| {
            if let Event::Problem(problem) = event {
                sink.lock().unwrap().push(problem.field.clone());
            }
        });
        let (a, b) = (problem("a"), problem("b"));
        reporter.report("Service", "shop/web", std::slice::from_ref(&a));
        reporter.report("Service", "shop/web", &[a.clone(), b.clone()]);
        reporter.report("Service", "shop/web", std::slice::from_ref(&b));
        assert_eq!(reporter.troubled_objects(), 1);
        reporter.forget("Service", "shop/web");
        assert_eq!(reporter.troubled_objects(), 0);
        reporter.report("Service", "shop/web", &[b]);
        assert_eq!(*told.lock().unwrap(), ["a", "b", "b"]);
    }

    #[test]
    fn it_reads_as_a_sentence() {
        assert_eq!(problem("spec.ports[0].port").to_string(), "Service shop/web: spec.ports[0].port: 0 is not a port");
        assert_eq!(problem("").to_string(), "Service shop/web: 0 is not a port");
        let long = Problem::new(
            "Service",
            "shop/web",
            "",
            format!("{:?} is not a port: it is skipped", "é".repeat(1_000_000)),
        );
        assert!(long.message.len() < 610 && long.message.contains("é[…]é"), "{long}");
        assert!(long.message.ends_with("é\" is not a port: it is skipped"), "{long}");
    }
}

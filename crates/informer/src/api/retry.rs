//! When to try again, and what to say about it.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use tokio::time::Instant;

/// A watch that held this long after the last failure makes the next failure the first again.
const STEADY: Duration = Duration::from_secs(10);
/// How often the same failure is logged while it lasts.
const REMINDER: Duration = Duration::from_secs(60);

/// The failures of one watch.
pub(super) struct Retry {
    backoff: DefaultBackoff,
    /// When the last failure was, and how long it made us wait.
    last: Option<(Instant, Duration)>,
    /// The failure that was last logged, while it lasts.
    told: Option<(Instant, String)>,
}

impl Retry {
    /// No failure so far.
    pub(super) fn new() -> Self {
        Self { backoff: DefaultBackoff::default(), last: None, told: None }
    }

    /// 0.8 s at first, then doubling up to 30 s, all with jitter (as client-go's reflectors do).
    pub(super) fn delay(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_some_and(|(when, delay)| now.duration_since(when) > delay + STEADY) {
            self.backoff.reset();
        }
        let delay = self.backoff.next().unwrap_or(Duration::from_secs(30));
        self.last = Some((now, delay));
        delay
    }

    /// Whether this failure is to be logged now.
    pub(super) fn is_news(&mut self, message: &str) -> bool {
        let now = Instant::now();
        if self.told.as_ref().is_some_and(|(when, told)| told == message && now.duration_since(*when) < REMINDER) {
            return false;
        }
        self.told = Some((now, message.to_owned()));
        true
    }

    /// Whether there was a failure to recover from.
    pub(super) fn recovered(&mut self) -> bool {
        self.told.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_start_over_after_a_steady_time() {
        let mut retry = Retry::new();
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            let delay = retry.delay();
            longest = longest.max(delay);
            sleep(delay).await;
        }
        assert!(longest >= Duration::from_secs(30), "{longest:?}");
        sleep(longest + STEADY + Duration::from_secs(60)).await;
        assert!(retry.delay() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lasting_failure_is_told_once_a_minute() {
        let mut retry = Retry::new();
        assert!(!retry.recovered());
        assert!(retry.is_news("a"));
        assert!(!retry.is_news("a"));
        assert!(retry.is_news("b"));
        sleep(REMINDER).await;
        assert!(retry.is_news("b"));
        assert!(retry.recovered() && !retry.recovered());
        assert!(retry.is_news("b"));
    }
}

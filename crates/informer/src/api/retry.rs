//! When to try again, and what to say about it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// The longest wait after a first failure. Five thousand nodes have 20,000 watches; if all are cut at once, 4,000 a second come back. Any
/// longer, and a server that fell silent would not be known within a minute (see the keepalive of the client).
const FIRST: Duration = Duration::from_secs(5);
/// The longest wait of all.
const LONGEST: Duration = Duration::from_secs(30);
/// A watch that held this long after the last failure makes the next failure the first again.
const STEADY: Duration = Duration::from_secs(10);
/// How often the same failure is logged while it lasts.
const REMINDER: Duration = Duration::from_secs(60);

/// The failures of one watch.
pub(super) struct Retry {
    /// The longest that the next wait may be.
    longest: Duration,
    /// When the last wait ends.
    until: Option<Instant>,
    /// The failure that was last logged, while it lasts.
    told: Option<(Instant, String)>,
}

impl Retry {
    /// No failure so far.
    pub(super) const fn new() -> Self {
        Self { longest: FIRST, until: None, told: None }
    }

    /// How long to wait after a failure: any time up to 5 s, after the next up to 10 s, and so on up to 30 s.
    ///
    /// What failed has failed for all nodes at once, as a rule. They spread best over a time, and soonest, if each of its moments is as
    /// likely as any other.
    pub(super) fn delay(&mut self) -> Duration {
        let now = Instant::now();
        if self.until.is_some_and(|until| now > until + STEADY) {
            self.longest = FIRST;
        }
        let delay = Duration::from_millis(random(self.longest.as_millis() as u32).into());
        self.longest = (self.longest * 2).min(LONGEST);
        self.until = Some(now + delay);
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

/// A number below `bound`, any as likely as another.
pub(super) fn random(bound: u32) -> u32 {
    // Each `RandomState` has keys of its own: enough of a die, and no crate is needed.
    (RandomState::new().build_hasher().finish() % u64::from(bound)) as u32
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_start_over_after_a_steady_time() {
        let mut retry = Retry::new();
        for longest in [5, 10, 20, 30, 30].map(Duration::from_secs) {
            assert_eq!(retry.longest, longest);
            let delay = retry.delay();
            assert!(delay < longest, "{delay:?}");
            sleep(delay + STEADY).await;
        }
        sleep(Duration::from_millis(1)).await;
        assert!(retry.delay() < FIRST);
        assert_eq!(retry.longest, 2 * FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_of_many_nodes_are_spread_from_the_first_to_the_last_moment() {
        let mut retries: Vec<_> = (0..1_000).map(|_| Retry::new()).collect();
        for longest in [5, 10, 20, 30].map(Duration::from_secs) {
            let mut by_tenth = [0; 10];
            for retry in &mut retries {
                let delay = retry.delay();
                by_tenth[(delay.as_secs_f64() / longest.as_secs_f64() * 10.0) as usize] += 1;
            }
            assert!(by_tenth.iter().all(|count| (50..150).contains(count)), "{longest:?}: {by_tenth:?}");
        }
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

//! When the next sync may start.

use std::time::Duration;

use tokio::time::Instant;

/// How long after a sync that failed twice it is tried again; doubled with each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Spaces the runs of one sync loop (contract §6). It never looks at a clock: the loop tells it the time.
///
/// - Requests are coalesced: any number of them before a run ask for one run.
/// - The minimum interval counts from the end of a run, so the first request after a quiet time runs at once.
/// - A failed run is tried again by itself: at once, and if it fails again with growing delays. A request cuts the wait short,
///   for the change may be the remedy, but not below the first delay: a kernel that refuses everything is not asked without
///   pause.
#[derive(Debug)]
pub(crate) struct Pacer {
    min_interval: Duration,
    max_retry: Duration,
    requested: bool,
    /// When the last run ended.
    ended: Instant,
    /// No run before this.
    earliest: Instant,
    /// When to run again after a failure, and how long that wait is.
    retry: Option<(Instant, Duration)>,
}

impl Pacer {
    /// A loop that has not run yet and has nothing to do. Retries are never further apart than `max_retry`, or than
    /// `min_interval` if that is longer.
    pub(crate) fn new(now: Instant, min_interval: Duration, max_retry: Duration) -> Self {
        Self { min_interval, max_retry, requested: false, ended: now, earliest: now, retry: None }
    }

    /// Changes the intervals, also for what waits already, which is never put off by that.
    pub(crate) fn set_intervals(&mut self, min_interval: Duration, max_retry: Duration) {
        self.min_interval = min_interval;
        self.max_retry = max_retry;
        let pause = if self.retry.is_some() { min_interval.max(FIRST_RETRY) } else { min_interval };
        self.earliest = self.earliest.min(self.ended + pause);
        if let Some((at, delay)) = &mut self.retry {
            *delay = max_retry.min(*delay);
            *at = (self.ended + *delay).min(*at);
        }
    }

    /// Asks for a run.
    pub(crate) const fn request(&mut self) {
        self.requested = true;
    }

    /// When the next run is to start, possibly in the past; `None` if there is nothing to do.
    pub(crate) fn next_run(&self) -> Option<Instant> {
        match self.retry {
            _ if self.requested => Some(self.earliest),
            Some((retry, _)) => Some(retry.max(self.earliest)),
            None => None,
        }
    }

    /// A run starts; it takes care of everything that was asked for so far.
    pub(crate) const fn started(&mut self) {
        self.requested = false;
    }

    /// The run ended well.
    pub(crate) fn succeeded(&mut self, now: Instant) {
        self.retry = None;
        self.ended = now;
        self.earliest = now + self.min_interval;
    }

    /// The run failed. Returns how long it is until it is tried again.
    pub(crate) fn failed(&mut self, now: Instant) -> Duration {
        self.ended = now;
        let Some((_, last)) = self.retry else {
            self.retry_at_once(now);
            return Duration::ZERO;
        };
        let delay = (last * 2).max(FIRST_RETRY).min(self.max_retry);
        self.retry = Some((now + delay, delay));
        self.earliest = now + self.min_interval.max(FIRST_RETRY.min(delay));
        delay.max(self.min_interval)
    }

    /// The run failed, but the next one has a better chance.
    pub(crate) fn retry_at_once(&mut self, now: Instant) {
        self.retry = Some((now, self.retry.map_or(Duration::ZERO, |(_, last)| last)));
        self.earliest = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MAX_RETRY: Duration = Duration::from_secs(30);

    fn pacer(min_interval: Duration) -> (Pacer, Instant) {
        let start = Instant::now();
        (Pacer::new(start, min_interval, MAX_RETRY), start)
    }

    #[test]
    fn the_first_request_and_the_first_after_quiet_run_at_once() {
        let (mut pacer, start) = pacer(SECOND);
        assert_eq!(pacer.next_run(), None);
        pacer.request();
        assert_eq!(pacer.next_run(), Some(start));
        pacer.started();
        pacer.succeeded(start + SECOND);
        assert_eq!(pacer.next_run(), None);
        let later = start + 10 * SECOND;
        pacer.request();
        assert!(pacer.next_run().is_some_and(|run| run <= later));
    }

    #[test]
    fn the_interval_counts_from_the_end_of_a_run() {
        let (mut pacer, start) = pacer(SECOND);
        pacer.request();
        pacer.started();
        let end = start + 5 * SECOND;
        pacer.succeeded(end);
        pacer.request();
        assert_eq!(pacer.next_run(), Some(end + SECOND));
    }

    #[test]
    fn requests_are_coalesced_and_one_during_a_run_asks_for_another() {
        let (mut pacer, start) = pacer(SECOND);
        pacer.request();
        pacer.request();
        pacer.started();
        pacer.request();
        pacer.succeeded(start);
        assert_eq!(pacer.next_run(), Some(start + SECOND));
        pacer.started();
        pacer.succeeded(start + SECOND);
        assert_eq!(pacer.next_run(), None);
    }

    #[test]
    fn without_an_interval_there_is_no_pause() {
        let (mut pacer, start) = pacer(Duration::ZERO);
        pacer.request();
        pacer.started();
        pacer.succeeded(start + SECOND);
        pacer.request();
        assert_eq!(pacer.next_run(), Some(start + SECOND));
    }

    #[test]
    fn failures_are_retried_after_growing_delays() {
        let (mut pacer, start) = pacer(Duration::ZERO);
        pacer.request();
        for seconds in [0, 1, 2, 4, 8, 16, 30, 30] {
            pacer.started();
            let delay = Duration::from_secs(seconds);
            assert_eq!(pacer.failed(start), delay);
            assert_eq!(pacer.next_run(), Some(start + delay));
        }
        pacer.started();
        pacer.succeeded(start);
        assert_eq!(pacer.next_run(), None);
        pacer.started();
        assert_eq!(pacer.failed(start), Duration::ZERO, "the delays start over");
    }

    #[test]
    fn a_request_cuts_the_wait_after_a_failure_short() {
        let (mut pacer, start) = pacer(Duration::ZERO);
        pacer.failed(start);
        pacer.failed(start);
        pacer.request();
        assert_eq!(pacer.next_run(), Some(start + SECOND));
    }

    #[test]
    fn shorter_intervals_hold_for_what_waits_and_longer_ones_do_not() {
        let (mut pacer, start) = pacer(60 * SECOND);
        pacer.request();
        pacer.started();
        pacer.succeeded(start);
        pacer.request();
        pacer.set_intervals(SECOND, MAX_RETRY);
        assert_eq!(pacer.next_run(), Some(start + SECOND));
        pacer.set_intervals(90 * SECOND, MAX_RETRY);
        assert_eq!(pacer.next_run(), Some(start + SECOND));

        for _ in 0..6 {
            pacer.started();
            pacer.failed(start);
        }
        assert_eq!(pacer.next_run(), Some(start + 90 * SECOND));
        pacer.set_intervals(SECOND, 4 * SECOND);
        assert_eq!(pacer.next_run(), Some(start + 4 * SECOND));
    }

    #[test]
    fn retries_keep_to_the_interval() {
        let (mut pacer, start) = pacer(5 * SECOND);
        assert_eq!(pacer.failed(start), Duration::ZERO);
        assert_eq!(pacer.next_run(), Some(start));
        assert_eq!(pacer.failed(start), 5 * SECOND);
        assert_eq!(pacer.next_run(), Some(start + 5 * SECOND));
    }
}

//! Services that the kernel does not take.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ServiceName;
use tokio::time::Instant;

/// How long a Service is set aside at first; doubled with each further time.
const FIRST: Duration = Duration::from_secs(30);
/// And at most.
const LONGEST: Duration = Duration::from_mins(10);
/// A Service that was let in for so long after its wait without being refused is like any other.
const GOOD: Duration = Duration::from_mins(20);

/// Which Services are set aside, so that those that the kernel takes are not held up, and when they are tried again. It never
/// looks at a clock.
#[derive(Debug, Default)]
pub(crate) struct Asides(BTreeMap<ServiceName, Aside>);

#[derive(Debug)]
struct Aside {
    refused_at: Instant,
    delay: Duration,
    retry_at: Instant,
    /// Whether it is set aside now. One that was not long ago is remembered, as it may be refused again.
    is_out: bool,
}

impl Asides {
    /// A Service was refused. Returns how long it is set aside.
    pub(crate) fn put(&mut self, service: ServiceName, now: Instant) -> Duration {
        let known = self.0.get(&service).filter(|aside| now < aside.retry_at + GOOD);
        let delay = known.map_or(FIRST, |aside| (aside.delay * 2).min(LONGEST));
        self.0.insert(service, Aside { refused_at: now, delay, retry_at: now + delay, is_out: true });
        delay
    }

    /// When the next is to be tried again.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().filter(|aside| aside.is_out).map(|aside| aside.retry_at).min()
    }

    /// Those that are to be tried again now. They are not set aside any more.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<ServiceName> {
        self.0.retain(|_, aside| aside.is_out || now < aside.retry_at + GOOD);
        let due = self.0.iter_mut().filter(|(_, aside)| aside.is_out && aside.retry_at <= now);
        due.map(|(service, aside)| {
            aside.is_out = false;
            service.clone()
        })
        .collect()
    }

    /// A Service has changed, which may have mended it. Returns whether it is let in again now: at once after it was refused the
    /// first time, and if it is refused again and again, not without a pause.
    pub(crate) fn changed(&mut self, service: &ServiceName, now: Instant) -> bool {
        let Some(aside) = self.0.get_mut(service).filter(|aside| aside.is_out) else { return false };
        let pause = if aside.delay == FIRST { Duration::ZERO } else { FIRST };
        aside.retry_at = aside.retry_at.min(aside.refused_at + pause);
        aside.is_out = aside.retry_at > now;
        !aside.is_out
    }

    /// Whether a Service is set aside.
    pub(crate) fn is_out(&self, service: &ServiceName) -> bool {
        self.0.get(service).is_some_and(|aside| aside.is_out)
    }

    /// How many are set aside.
    pub(crate) fn count(&self) -> usize {
        self.0.values().filter(|aside| aside.is_out).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_while_a_service_is_refused() {
        let (mut asides, mut now) = (Asides::default(), Instant::now());
        let web = ServiceName::new("ns", "web");
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push(asides.put(web.clone(), now).as_secs());
            assert_eq!((asides.take_due(now), asides.count()), (vec![], 1));
            now = asides.next().unwrap();
            assert_eq!((asides.take_due(now), asides.count(), asides.next()), (vec![web.clone()], 0, None));
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600]);
        now += GOOD;
        assert_eq!(asides.put(web, now), FIRST, "it was good for a while");
    }

    #[test]
    fn a_change_ends_the_wait_but_not_again_and_again() {
        let (mut asides, now) = (Asides::default(), Instant::now());
        let web = ServiceName::new("ns", "web");
        asides.put(web.clone(), now);
        assert!(asides.changed(&web, now) && !asides.changed(&web, now), "it is let in once");
        assert_eq!(asides.put(web.clone(), now), 2 * FIRST);
        assert!(!asides.changed(&web, now));
        assert_eq!(asides.next(), Some(now + FIRST));
        assert!(asides.changed(&web, now + FIRST));
        assert_eq!(asides.count(), 0);
    }
}

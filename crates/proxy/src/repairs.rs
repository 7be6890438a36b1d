//! When what other programs did to a table is undone.

use std::time::Duration;

use tokio::time::Instant;

/// Between two repairs, as long as they are few.
const PAUSE: Duration = Duration::from_secs(1);
/// How many repairs in a row may follow each other that fast: someone at work by hand, or a script with several commands.
const PATIENCE: u32 = 8;
/// The longest time between two repairs, for a program that undoes each of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so long without one, or twice the last pause, a repair is the first in a row.
const QUIET: Duration = Duration::from_secs(10);

/// Spaces repairs. A first one is due at once; those that follow are at least a second apart, and further and further if there
/// is no end to them: two programs that fight for a table must not keep the node busy. It never looks at a clock.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    due: Option<Instant>,
    last: Option<Instant>,
    /// How many came in a row, the last included.
    streak: u32,
}

impl Repairs {
    /// Asks for a repair. Returns whether none was due already.
    pub(crate) fn request(&mut self, now: Instant) -> bool {
        let is_new = self.due.is_none();
        let earliest = self.last.map_or(now, |last| last + self.pause());
        self.due.get_or_insert(earliest.max(now));
        is_new
    }

    /// When the next repair is to start; `None` if there is nothing to repair.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Everything that was asked for is being repaired, for whatever reason.
    pub(crate) fn started(&mut self, now: Instant) {
        if self.due.take().is_some() {
            let quiet = QUIET.max(2 * self.pause());
            let follows = self.last.is_some_and(|last| now < last + quiet);
            self.streak = if follows { self.streak.saturating_add(1) } else { 1 };
            self.last = Some(now);
        }
    }

    fn pause(&self) -> Duration {
        let doublings = self.streak.saturating_sub(PATIENCE).min(10);
        (PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for a repair as soon as there was one, so many times, and returns the seconds between them.
    fn pauses(repairs: &mut Repairs, mut now: Instant, count: usize) -> Vec<u64> {
        let repair = |_| {
            assert!(repairs.request(now));
            assert!(!repairs.request(now), "it is coalesced with the last");
            let due = repairs.due().unwrap();
            let pause = (due - now).as_secs();
            now = due;
            repairs.started(now);
            assert_eq!(repairs.due(), None);
            pause
        };
        (0..count).map(repair).collect()
    }

    #[test]
    fn repairs_are_a_second_apart_at_first_and_further_if_they_do_not_end() {
        let (mut repairs, start) = (Repairs::default(), Instant::now());
        let expected = [0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 16, 30, 30, 30];
        assert_eq!(pauses(&mut repairs, start, expected.len()), expected);
        let later = start + Duration::from_hours(1);
        assert_eq!(pauses(&mut repairs, later, 3), [0, 1, 1], "after a quiet time it starts over");
    }

    #[test]
    fn what_was_not_asked_for_does_not_count() {
        let (mut repairs, start) = (Repairs::default(), Instant::now());
        repairs.started(start);
        repairs.request(start);
        assert_eq!(repairs.due(), Some(start));
    }
}

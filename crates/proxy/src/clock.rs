//! Noticing that the clock was set. Nothing waits for the time of day, but it is in the log and in metrics, and certificates and tokens
//! are valid by it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use telemetry::Metrics;
use tokio::time::{Instant, sleep};
use tracing::warn;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// A smaller jump is none: on a node with much to do, that much may pass between the looks at the two clocks.
const LEAST: Duration = Duration::from_secs(2);

/// Tells of each time that the clock is set.
pub(crate) async fn watch(metrics: Arc<Metrics>) -> Infallible {
    let mut last = Moment::now();
    loop {
        sleep(EVERY).await;
        let now = Moment::now();
        if let Some(jump) = now.jump_since(&last) {
            metrics.clock_jumped();
            let (way, by) = match jump {
                Jump::Ahead(by) => ("ahead", by),
                Jump::Back(by) => ("back", by),
            };
            let seconds = by.as_secs();
            warn!(
                "the clock jumped {way} by {seconds} s, because somebody set it or the node slept; times in the log and in metrics jump with it"
            );
        }
        last = now;
    }
}

/// A moment by the time of day, and by a clock that nobody sets.
#[derive(Debug)]
struct Moment {
    wall: SystemTime,
    steady: Instant,
}

/// How far the time of day is from what it should be.
#[derive(Debug, PartialEq, Eq)]
enum Jump {
    Ahead(Duration),
    Back(Duration),
}

impl Moment {
    fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    fn jump_since(&self, last: &Self) -> Option<Jump> {
        // Nobody can set the clock so far that there is no such time.
        let expected = last.wall.checked_add(self.steady - last.steady)?;
        let (jump, by): (fn(_) -> _, _) = match self.wall.duration_since(expected) {
            Ok(by) => (Jump::Ahead, by),
            Err(error) => (Jump::Back, error.duration()),
        };
        (by >= LEAST).then(|| jump(by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_jumps_are_told_of() {
        let last = Moment::now();
        let seconds = Duration::from_secs;
        for (passed, wall, jump) in [
            (seconds(5), last.wall + seconds(5), None),
            (seconds(5), last.wall + seconds(6), None),
            (seconds(500), last.wall + seconds(500), None),
            (seconds(5), last.wall + seconds(95), Some(Jump::Ahead(seconds(90)))),
            (seconds(5), last.wall - seconds(85), Some(Jump::Back(seconds(90)))),
        ] {
            let now = Moment { wall, steady: last.steady + passed };
            assert_eq!(now.jump_since(&last), jump, "{now:?}");
        }
    }
}

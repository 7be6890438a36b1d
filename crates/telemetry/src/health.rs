//! Whether this proxy keeps up, as `/healthz` and `/livez` tell it (contract §8.1).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use model::{Family, PerFamily};
use serde::Serialize;

/// The health of the proxy, updated by the sync loops and read by the health servers.
///
/// A family is unhealthy when a change has waited for it longer than a time limit. A family that never was up to date
/// does not count: what is not run cannot fail.
#[derive(Debug)]
pub struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    /// How long a change may wait.
    timeout: Duration,
    node_eligible: bool,
    families: PerFamily<FamilyState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct FamilyState {
    /// When its rules were last known to be true.
    updated: Option<Moment>,
    /// When the oldest change that its rules do not have came in.
    waiting_since: Option<Instant>,
}

impl Health {
    /// Health with nothing queued and nothing updated.
    ///
    /// `timeout` is how long a change may wait; kube-proxy allows twice the sync period. `node_eligible` holds until
    /// [`set_node_eligible`](Self::set_node_eligible) says otherwise: false where a Node object is still to be found,
    /// true where there is none to ask.
    pub fn new(timeout: Duration, node_eligible: bool) -> Self {
        Self(Mutex::new(State { timeout, node_eligible, families: PerFamily::default() }))
    }

    /// From now on, a change may wait so long.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout;
    }

    /// A change came in that the family's rules do not have yet. Of several, the oldest counts.
    pub fn queued(&self, family: Family, now: Moment) {
        self.state().families.get_mut(family).waiting_since.get_or_insert(now.monotonic);
    }

    /// The family's rules have all changes, or its loop has just started.
    pub fn updated(&self, family: Family, now: Moment) {
        *self.state().families.get_mut(family) = FamilyState { updated: Some(now), waiting_since: None };
    }

    /// Whether load balancers may send traffic to the node: it is not being deleted, by anyone or the autoscaler.
    pub fn set_node_eligible(&self, eligible: bool) {
        self.state().node_eligible = eligible;
    }

    /// Whether no family has a change that waits for too long. This is all that Services' own health checks ask for.
    pub fn is_healthy(&self, now: Moment) -> bool {
        self.state().is_healthy(now)
    }

    /// The answer of `/healthz`: 200 if healthy and the node is eligible.
    pub fn healthz(&self, now: Moment) -> HealthReport {
        let state = self.state();
        let serves = state.node_eligible && state.is_healthy(now);
        state.report(now, serves, Some(state.node_eligible))
    }

    /// The answer of `/livez`: 200 if healthy. A node about to go is no reason to restart the proxy on it.
    pub fn livez(&self, now: Moment) -> HealthReport {
        let state = self.state();
        state.report(now, state.is_healthy(now), None)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a single assignment: a panic elsewhere cannot leave half of one behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_healthy(&self, now: Moment) -> bool {
        self.running().all(|(_, family, _)| family.is_healthy(now, self.timeout))
    }

    /// The families that count, with the time of their last update.
    fn running(&self) -> impl Iterator<Item = (Family, &FamilyState, SystemTime)> {
        Family::ALL.into_iter().filter_map(|family| {
            let state = self.families.get(family);
            state.updated.map(|moment| (family, state, moment.wall))
        })
    }

    fn report(&self, now: Moment, success: bool, node_eligible: Option<bool>) -> HealthReport {
        let last_updated = self.running().map(|(_, _, updated)| updated).max();
        let body = Body {
            last_updated: rfc3339(if success { Some(now.wall) } else { last_updated }),
            current_time: rfc3339(Some(now.wall)),
            node_eligible,
            healthy: self.is_healthy(now),
            status: self
                .running()
                .map(|(family, state, updated)| {
                    let healthy = state.is_healthy(now, self.timeout);
                    (family.label(), FamilyBody { last_updated: rfc3339(Some(updated)), healthy })
                })
                .collect(),
        };
        let body = serde_json::to_string(&body).expect("strings and booleans are always valid JSON");
        HealthReport { status: if success { 200 } else { 503 }, body }
    }
}

impl FamilyState {
    fn is_healthy(&self, now: Moment, timeout: Duration) -> bool {
        self.waiting_since.is_none_or(|since| now.monotonic.saturating_duration_since(since) < timeout)
    }
}

/// A point in time: by the clock on the wall to tell people, and by one that never jumps to measure with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Time of day.
    pub wall: SystemTime,
    /// Time since some fixed moment.
    pub monotonic: Instant,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self { wall: self.wall + duration, monotonic: self.monotonic + duration }
    }
}

/// An answer to a health check, to be sent as `application/json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// The HTTP status code, 200 or 503.
    pub status: u16,
    /// The JSON document.
    pub body: String,
}

/// Its fields are in the order in which kube-proxy sends them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

/// A time as Go writes it; "never" is Go's zero time.
fn rfc3339(time: Option<SystemTime>) -> String {
    time.and_then(|time| Timestamp::try_from(time).ok())
        .map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |timestamp| timestamp.to_string())
}

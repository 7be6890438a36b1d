//! Answers of the health endpoints (contract §8.1), at moments of our choice.

use std::time::{Duration, Instant, UNIX_EPOCH};

use model::Family::{V4, V6};
use telemetry::{Health, HealthReport, Moment};

const TIMEOUT: Duration = Duration::from_secs(60);

fn start() -> Moment {
    Moment { wall: UNIX_EPOCH + Duration::from_millis(1_700_000_000_250), monotonic: Instant::now() }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn report(status: u16, body: &str) -> HealthReport {
    HealthReport { status, body: body.to_owned() }
}

#[test]
fn before_any_loop_starts_it_is_healthy() {
    let health = Health::new(TIMEOUT, true);
    let now = start();
    health.queued(V4, now);
    let late = now + seconds(1_000);
    let body = "{\"lastUpdated\":\"2023-11-14T22:30:00.25Z\",\"currentTime\":\"2023-11-14T22:30:00.25Z\",\
                \"nodeEligible\":true,\"healthy\":true}";
    assert_eq!(health.healthz(late), report(200, body));
    let body =
        "{\"lastUpdated\":\"2023-11-14T22:30:00.25Z\",\"currentTime\":\"2023-11-14T22:30:00.25Z\",\"healthy\":true}";
    assert_eq!(health.livez(late), report(200, body));
}

#[test]
fn a_node_that_is_not_eligible_fails_healthz_but_not_livez() {
    let health = Health::new(TIMEOUT, false);
    let now = start();
    let body = "{\"lastUpdated\":\"0001-01-01T00:00:00Z\",\"currentTime\":\"2023-11-14T22:13:20.25Z\",\
                \"nodeEligible\":false,\"healthy\":true}";
    assert_eq!(health.healthz(now), report(503, body));
    assert_eq!(health.livez(now).status, 200);
    assert!(health.is_healthy(now));
    health.set_node_eligible(true);
    assert_eq!(health.healthz(now).status, 200);
}

#[test]
fn a_change_that_waits_too_long_is_unhealthy_until_synced() {
    let health = Health::new(TIMEOUT, true);
    let now = start();
    health.updated(V6, now);
    health.updated(V4, now + seconds(1));
    health.queued(V4, now + seconds(10));
    // A later one does not make the first any younger.
    health.queued(V4, now + seconds(60));
    assert!(health.is_healthy(now + seconds(69)));
    assert!(!health.is_healthy(now + seconds(70)));

    let body = "{\"lastUpdated\":\"2023-11-14T22:13:21.25Z\",\"currentTime\":\"2023-11-14T22:14:30.25Z\",\
                \"nodeEligible\":true,\"healthy\":false,\"status\":{\
                \"IPv4\":{\"lastUpdated\":\"2023-11-14T22:13:21.25Z\",\"healthy\":false},\
                \"IPv6\":{\"lastUpdated\":\"2023-11-14T22:13:20.25Z\",\"healthy\":true}}}";
    assert_eq!(health.healthz(now + seconds(70)), report(503, body));
    assert_eq!(health.livez(now + seconds(70)).status, 503);

    health.updated(V4, now + seconds(71));
    assert_eq!(health.healthz(now + seconds(10_000)).status, 200);
    health.queued(V4, now + seconds(10_000));
    assert!(health.is_healthy(now + seconds(10_001)));
}

#[test]
fn a_family_that_is_not_run_does_not_count() {
    let health = Health::new(TIMEOUT, true);
    let now = start();
    health.updated(V4, now);
    health.queued(V6, now);
    let late = now + seconds(600);
    assert_eq!(health.healthz(late).status, 200);
    assert!(!health.healthz(late).body.contains("IPv6"));
}

#[test]
fn a_jump_of_the_wall_clock_changes_nothing() {
    let health = Health::new(TIMEOUT, true);
    let now = start();
    health.updated(V4, now);
    health.queued(V4, now);
    let jumped = Moment { wall: now.wall + seconds(86_400), monotonic: now.monotonic + seconds(1) };
    assert!(health.is_healthy(jumped));
}

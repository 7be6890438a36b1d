//! Settings that change while the proxy runs.

use std::time::Duration;

use ::config::{Config, FastPath};
use model::{Family, Kind, PortNumber, Update};
use tokio::time::{Instant, sleep};

use super::HOUR;
use super::harness::{Harness, service, slice};
use crate::live::Live;

fn settings() -> Live {
    Live::of(&Config::default())
}

#[tokio::test(start_paused = true)]
async fn syncs_keep_to_another_pause_at_once() {
    let mut harness = Harness::synced(&["web"]).await;
    harness.live.send_replace(Live { min_sync_period: Duration::from_secs(20), ..settings() });
    sleep(HOUR).await;
    harness.send(service("one")).await;
    harness.commit_of(Family::V4).await;
    let began = Instant::now();
    harness.send(service("two")).await;
    harness.commit_of(Family::V4).await;
    assert_eq!(began.elapsed(), Duration::from_secs(20));
    assert_eq!(harness.kernels.v4.readings(), 1, "nothing but the pause has changed");
}

#[tokio::test(start_paused = true)]
async fn the_tables_follow_the_scope_of_the_fast_path() {
    let harness = Harness::synced(&[]).await;
    let Update::Service(mut web) = service("web") else { unreachable!() };
    web.ports[0].node_port = PortNumber::new(30_080);
    harness.send(Update::Service(web)).await;
    harness.send(slice("web", 1)).await;
    let cluster_ips = settings().fast_path.unwrap();
    let all = FastPath { all_frontends: true, ..cluster_ips.clone() };
    for (fast_path, node_ports) in [(Some(all.clone()), 1), (None, 0), (Some(all), 1), (Some(cluster_ips), 0)] {
        harness.live.send_replace(Live { fast_path, ..settings() });
        sleep(HOUR).await;
        assert_eq!(harness.elements_of("fast-path-nodeports"), node_ports);
    }
}

#[tokio::test(start_paused = true)]
async fn other_settings_are_no_reason_to_write_half_of_the_truth() {
    let mut harness = Harness::start();
    harness.send(Update::ListStarted(Kind::Service)).await;
    harness.live.send_replace(Live { fast_path: None, ..settings() });
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err(), "the lists were not complete");
}

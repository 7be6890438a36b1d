//! Many nodes, and an API server that fails all of them at once.

use std::time::Duration;

use testing::crowd::{Answer, Crowd, Health};
use tokio::time::{Instant, sleep};

use crate::simulation;

/// Enough that chance hardly matters.
const NODES: usize = 250;
/// Services, endpoint slices, ServiceCIDRs, the Node.
const WATCHES: usize = 4;

/// Starts so many nodes, and waits until their watches are open.
async fn start(nodes: usize) -> Crowd {
    let (crowd, began) = (Crowd::default(), Instant::now());
    for _ in 0..nodes {
        let server = crowd.clone();
        tokio::spawn(simulation::node(move |uri| server.answer(uri)));
    }
    crowd.until_watching(began, nodes * WATCHES).await;
    crowd
}

/// The most of these requests within a second.
fn most_in_a_second(times: impl Iterator<Item = Instant>) -> usize {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    let within =
        |from: &Instant| times.iter().filter(|at| (*from..*from + Duration::from_secs(1)).contains(at)).count();
    times.iter().map(within).max().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn nodes_do_not_come_back_all_at_once_whatever_became_of_the_server() {
    let pause = Duration::from_secs(10);
    for (health, seconds) in [(Health::Well, 0), (Health::Away, 30), (Health::Busy(pause), 4)] {
        let crowd = start(NODES).await;
        sleep(Duration::from_secs(60)).await;
        let failed = Instant::now();
        crowd.set(health);
        crowd.cut();
        sleep(Duration::from_secs(seconds)).await;
        crowd.set(Health::Well);
        crowd.until_watching(failed, NODES * WATCHES).await;
        let reached = crowd.requests().into_iter().filter(|(at, answer)| *at >= failed && *answer != Answer::Refused);
        let most = most_in_a_second(reached.map(|request| request.0));
        assert!(most < NODES * WATCHES * 3 / 10, "{health:?}: {most} requests within a second");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_time_is_up_is_resumed_at_once() {
    let crowd = start(1).await;
    // Watches last for whole seconds: waits between them would show.
    sleep(Duration::from_mins(30)).await;
    let times: Vec<_> = crowd.requests().iter().map(|request| request.0 - crowd.requests()[0].0).collect();
    assert!(times.len() >= 2 * WATCHES + 6 * WATCHES, "{times:?}");
    assert!(times.iter().all(|time| time.subsec_millis() < 100), "{times:?}");
}

//! What is told of requests to the API server.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use informer::{ApiServer, Event, Reporter, watch_api};
use tempfile::TempDir;
use testing::api::{FakeApi, Resource};
use testing::objects::service;
use tokio::sync::mpsc::channel;
use tokio::time::{sleep, timeout};

/// All that was told, as text.
type Told = Arc<Mutex<Vec<String>>>;

/// Watches the server; the source runs until it is dropped.
async fn watch(api: &FakeApi) -> (Told, impl Sized) {
    let told = Told::default();
    let (sink, dir) = (told.clone(), TempDir::new().unwrap());
    let reporter = Reporter::new(move |event| {
        let line = match event {
            Event::Answered { method, host, status } => format!("{method} {host} answered {status:?}"),
            Event::Completed { method, host, elapsed, sent, received } => {
                assert!(elapsed > Duration::ZERO);
                let received = received.map(|bytes| if bytes > 100_000 { "much" } else { "little" });
                format!("{method} {host} completed, sent {sent}, received {received:?}")
            }
            Event::Problem(_) | Event::WatchFailed(_) => return,
        };
        sink.lock().unwrap().push(line);
    });
    let kubeconfig = api.kubeconfig(dir.path()).unwrap();
    let server = ApiServer::configure(Some(&kubeconfig), None, &reporter).await.unwrap();
    let (sender, updates) = channel(1024);
    let source = tokio::spawn(watch_api(server, "here".into(), sender, reporter));
    (told, (source, updates, dir))
}

/// Waits until so many lines are `line`.
async fn wait(told: &Told, count: usize, line: &str) {
    let is_there = || told.lock().unwrap().iter().filter(|told| *told == line).count() >= count;
    let waiting = async {
        while !is_there() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = timeout(Duration::from_secs(30), waiting).await;
    assert!(waited.is_ok(), "waited for {count} × {line:?} in {:#?}", told.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_told_with_their_size_and_watches_by_their_heads() {
    let api = FakeApi::start().unwrap();
    for number in 0..1_000 {
        api.put(service("shop", &format!("web-{number}")).cluster_ip("10.96.0.10").port("http", "TCP", 80));
    }
    let host = api.url().replace("http://", "");
    let (told, _source) = watch(&api).await;
    let resources = [Resource::Services, Resource::EndpointSlices, Resource::ServiceCidrs];
    resources.iter().for_each(|resource| api.wait_for_watch(*resource));
    wait(&told, 2 * resources.len(), &format!("GET {host} answered Some(200)")).await;
    wait(&told, 1, &format!(r#"GET {host} completed, sent 0, received Some("much")"#)).await;
    wait(&told, 2, &format!(r#"GET {host} completed, sent 0, received Some("little")"#)).await;

    // Watches that end are none that were completed.
    api.end_watches();
    wait(&told, 3 * resources.len(), &format!("GET {host} answered Some(200)")).await;
    let completed = told.lock().unwrap().iter().filter(|line| line.contains("completed")).count();
    assert_eq!(completed, resources.len(), "{:#?}", told.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_told_by_status_and_silence_as_none() {
    let api = FakeApi::start().unwrap();
    let host = api.url().replace("http://", "");
    api.forbid(Resource::Services);
    let (told, _source) = watch(&api).await;
    wait(&told, 1, &format!("GET {host} answered Some(403)")).await;
    api.go_down();
    wait(&told, 1, &format!("GET {host} answered None")).await;
    wait(&told, 1, &format!("GET {host} completed, sent 0, received None")).await;
}

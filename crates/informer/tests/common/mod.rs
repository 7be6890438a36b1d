//! A receiver of updates that knows the state they amount to.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use informer::{ApiServer, ClientError, Event, Problem, Reporter, watch_api};
use model::{Family, Service, ServiceName, State, Update};
use tempfile::TempDir;
use testing::api::FakeApi;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than anything waited for takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// How to reach a fake API server.
pub(crate) async fn server(api: &FakeApi) -> ApiServer {
    let dir = TempDir::new().unwrap();
    configure(Some(&api.kubeconfig(dir.path()).unwrap())).await.unwrap()
}

/// The API server of a kubeconfig, where nobody wants to know of requests.
pub(crate) async fn configure(kubeconfig: Option<&Path>) -> Result<ApiServer, ClientError> {
    ApiServer::configure(kubeconfig, None, &Reporter::new(|_| {})).await
}

/// A source that watches it.
pub(crate) async fn follow(api: &FakeApi) -> Informed<()> {
    let server = server(api).await;
    Informed::start(move |updates, reporter| watch_api(server, "here".into(), updates, reporter))
}

/// A running source, and what it said.
pub(crate) struct Informed<T> {
    pub(crate) state: State,
    pub(crate) lists: usize,
    pub(crate) problems: Arc<Mutex<Vec<Problem>>>,
    /// The resource of each list or watch that failed.
    pub(crate) failures: Arc<Mutex<Vec<&'static str>>>,
    pub(crate) source: JoinHandle<T>,
    updates: Receiver<Vec<Update>>,
}

impl<T: Send + 'static> Informed<T> {
    /// Starts a source; `make` gets what it reports to.
    pub(crate) fn start<F>(make: impl FnOnce(Sender<Vec<Update>>, Reporter) -> F) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, updates) = channel(16);
        let problems = Arc::new(Mutex::new(Vec::new()));
        let sink = problems.clone();
        let failures = Arc::new(Mutex::new(Vec::new()));
        let failure_sink = failures.clone();
        let reporter = Reporter::new(move |event| match event {
            Event::Problem(problem) => sink.lock().unwrap().push(problem.clone()),
            Event::WatchFailed(resource) => failure_sink.lock().unwrap().push(resource),
            Event::Answered { .. } | Event::Completed { .. } => {}
        });
        let source = tokio::spawn(make(sender, reporter));
        Self { state: State::new(SystemTime::UNIX_EPOCH), lists: 0, problems, failures, source, updates }
    }

    /// Takes in messages until `condition` holds, which is looked at after each.
    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waited = timeout(PATIENCE, async {
            while !condition(self) {
                let updates = self.updates.recv().await.unwrap_or_else(|| panic!("the source ended before {what}"));
                self.apply(updates);
            }
        });
        if waited.await.is_err() {
            panic!("waited {PATIENCE:?} for {what}; state: {:#?}", self.state);
        }
    }

    pub(crate) async fn until_complete(&mut self) {
        self.until("both lists", |informed| informed.state.is_complete()).await;
    }

    /// Waits until a problem whose text contains `part` is told. Updates are taken in meanwhile.
    pub(crate) async fn until_told(&mut self, part: &str) {
        let waited = timeout(PATIENCE, async {
            while !self.told().iter().any(|told| told.contains(part)) {
                if let Ok(Some(updates)) = timeout(Duration::from_millis(20), self.updates.recv()).await {
                    self.apply(updates);
                }
            }
        });
        if waited.await.is_err() {
            panic!("waited {PATIENCE:?} for a problem with {part:?}; told: {:#?}", self.told());
        }
    }

    fn apply(&mut self, updates: Vec<Update>) {
        for update in updates {
            self.lists += usize::from(matches!(update, Update::ListStarted(_)));
            self.state.apply(update);
        }
    }

    pub(crate) fn told(&self) -> Vec<String> {
        self.problems.lock().unwrap().iter().map(ToString::to_string).collect()
    }

    /// The names of all Services, in order.
    pub(crate) fn services(&self) -> Vec<String> {
        self.state.services().map(|service| service.name.name.to_string()).collect()
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.state.service(&ServiceName::new("default", name))
    }

    /// The first port of a Service.
    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        Some(self.service(name)?.ports.first()?.port.get())
    }

    /// The addresses behind the first port of a Service.
    pub(crate) fn endpoints(&self, name: &str) -> Vec<String> {
        let Some(service) = self.service(name) else { return Vec::new() };
        let found = self.state.endpoints(&service.name, &service.ports[0], Family::V4);
        found.iter().map(|found| found.socket().to_string()).collect()
    }

    /// Drops the receiver, and waits for the source to notice.
    pub(crate) async fn stop(self) -> T {
        drop(self.updates);
        timeout(PATIENCE, self.source).await.expect("the source ends when nobody listens").unwrap()
    }
}

//! The API server as a source: list, then watch, for ever.

mod failure;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, DefaultBackoff, Event, ListSemantic};
use model::{Node, Update};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

pub use self::failure::RequestError;

use self::failure::Failure;
use crate::client::ApiServer;
use crate::convert::{self, Converted, Converter, Proxied};
use crate::problem::Reporter;
use crate::slim::{self, ApiObject, Item};

/// How long the server may take for a list or for a single object. It gives up by itself after a minute
/// (`--request-timeout`); this is for one that is there but never answers.
const PATIENCE: Duration = Duration::from_secs(90);
/// A watch that held this long after the last failure makes the next failure the first again.
const STEADY: Duration = Duration::from_secs(10);
/// How often the same failure is logged while it lasts.
const REMINDER: Duration = Duration::from_secs(60);
/// How long a watch is asked to last, in seconds. Which of it is random, so that the nodes of a cluster that were started
/// together do not come back together; kube's client takes no more than 294.
const WATCH_SECONDS: std::ops::Range<u32> = 150..290;

/// Lists and watches Services and endpoint slices until the receiver of `updates` is dropped. Each update is a message of
/// its own.
///
/// Endpoints on the node `node_name` are local. Failures are logged and retried for ever, with jittered backoff; what was
/// learned before stays valid meanwhile. Dropping the future ends the watches.
pub async fn watch_api(server: ApiServer, node_name: Arc<str>, updates: Sender<Vec<Update>>, reporter: Reporter) {
    let mut tasks = JoinSet::new();
    tasks.spawn(
        Watch::<slim::Service>::new(&server, &node_name, &updates, &reporter)
            .run(Config::default().labels("!service.kubernetes.io/service-proxy-name").fields("spec.clusterIP!=None")),
    );
    tasks.spawn(
        Watch::<slim::EndpointSlice>::new(&server, &node_name, &updates, &reporter)
            .run(Config::default().labels("!service.kubernetes.io/headless")),
    );
    drop(updates);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

impl ApiServer {
    /// The Node of this name, or `None` if there is none (yet).
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub async fn node(&self, name: &str, reporter: &Reporter) -> Result<Option<Node>, RequestError> {
        let api: Api<Item<slim::Node>> = Api::all(self.client.clone());
        let found = timeout(PATIENCE, api.get_opt(name)).await;
        let found = found.map_err(|_elapsed| RequestError::silent::<slim::Node>(&self.url, "get", PATIENCE))?;
        let found = found.map_err(|error| RequestError::new::<slim::Node>(&self.url, "get", &error))?;
        let Some(item) = found else { return Ok(None) };
        let (node, problems) = convert::node(&item.object);
        reporter.report(slim::Node::KIND, name, &problems);
        Ok(node)
    }
}

/// The receiver of updates is gone: nobody wants to know any more.
struct Unwanted;

/// The watch of one kind of object.
struct Watch<T> {
    server: ApiServer,
    converter: Converter,
    updates: Sender<Vec<Update>>,
    reporter: Reporter,
    retry: Retry,
    /// A list was asked for and nothing of it has come.
    awaits_list: bool,
    object: std::marker::PhantomData<fn() -> T>,
}

impl<T> Watch<T>
where
    T: Proxied + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    fn new(server: &ApiServer, node_name: &Arc<str>, updates: &Sender<Vec<Update>>, reporter: &Reporter) -> Self {
        Self {
            server: server.clone(),
            converter: Converter::new(node_name.clone()),
            updates: updates.clone(),
            reporter: reporter.clone(),
            retry: Retry::new(),
            awaits_list: false,
            object: std::marker::PhantomData,
        }
    }

    async fn run(mut self, selectors: Config) {
        let updates = self.updates.clone();
        tokio::select! {
            () = updates.closed() => {}
            _unwanted = self.follow(selectors) => {}
        }
    }

    /// Ends only with an error, when nobody listens.
    ///
    /// The list is asked for as of any version (`resourceVersion=0`), which the server answers from memory, as for any
    /// kube-proxy. It comes in one piece: kube's client, like the server, does not page such a list.
    async fn follow(&mut self, selectors: Config) -> Result<std::convert::Infallible, Unwanted> {
        loop {
            let config = Config {
                list_semantic: ListSemantic::Any,
                page_size: None,
                timeout: Some(watch_seconds()),
                ..selectors.clone()
            };
            let api: Api<Item<T>> = Api::all(self.server.client.clone());
            let mut events = pin!(watcher::watcher(api, config));
            loop {
                match self.next(events.as_mut()).await {
                    Ok(event) => self.take(event).await?,
                    Err(failure) => {
                        self.wait_after(&failure).await;
                        if failure.lost_place() {
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn next<S>(&self, mut events: Pin<&mut S>) -> Result<Event<Item<T>>, Failure>
    where
        S: Stream<Item = watcher::Result<Event<Item<T>>>>,
    {
        let patience = if self.awaits_list { PATIENCE } else { Duration::MAX };
        match timeout(patience, events.next()).await {
            Ok(Some(event)) => event.map_err(Failure::Watcher),
            Ok(None) => Err(Failure::Ended),
            Err(_elapsed) => Err(Failure::Silent(patience)),
        }
    }

    async fn take(&mut self, event: Event<Item<T>>) -> Result<(), Unwanted> {
        self.awaits_list = matches!(event, Event::Init);
        let kind = T::MODEL_KIND;
        match event {
            Event::Init => self.send(Update::ListStarted(kind)).await,
            Event::InitDone => {
                self.recovered();
                self.send(Update::ListComplete(kind)).await
            }
            Event::InitApply(item) | Event::Apply(item) => {
                self.recovered();
                let Converted { object, update, problems } = T::convert(&mut self.converter, &item.object);
                self.reporter.report(T::KIND, &object, &problems);
                self.send_some(update).await
            }
            Event::Delete(item) => {
                let Converted { object, update, .. } = self.converter.gone(&item.object);
                self.reporter.forget(T::KIND, &object);
                self.send_some(update).await
            }
        }
    }

    async fn send_some(&self, update: Option<Update>) -> Result<(), Unwanted> {
        match update {
            Some(update) => self.send(update).await,
            None => Ok(()),
        }
    }

    async fn send(&self, update: Update) -> Result<(), Unwanted> {
        self.updates.send(vec![update]).await.map_err(|_| Unwanted)
    }

    fn recovered(&mut self) {
        if self.retry.recovered() {
            info!(server = self.server.url, "{} are listed and watched again", T::PLURAL);
        }
    }

    async fn wait_after(&mut self, failure: &Failure) {
        self.awaits_list = false;
        let delay = self.retry.delay();
        let Some(error) = failure.worth_a_warning::<T>(&self.server.url) else {
            debug!(server = self.server.url, "the watch of {} ended ({failure}) and is resumed", T::PLURAL);
            return sleep(delay).await;
        };
        self.reporter.watch_failed(T::PLURAL);
        let message = error.to_string();
        if self.retry.is_news(&message) {
            let seconds = delay.as_secs_f32();
            warn!("{message}; what was known stays in use; trying again in {seconds:.1} s and until it works");
        }
        sleep(delay).await;
    }
}

/// When to try again, and what to say about it.
struct Retry {
    backoff: DefaultBackoff,
    /// When the last failure was, and how long it made us wait.
    last: Option<(Instant, Duration)>,
    /// The failure that was last logged, while it lasts.
    told: Option<(Instant, String)>,
}

impl Retry {
    fn new() -> Self {
        Self { backoff: DefaultBackoff::default(), last: None, told: None }
    }

    /// 0.8 s at first, then doubling up to 30 s, all with jitter (as client-go's reflectors do).
    fn delay(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_some_and(|(when, delay)| now.duration_since(when) > delay + STEADY) {
            self.backoff.reset();
        }
        let delay = self.backoff.next().unwrap_or(Duration::from_secs(30));
        self.last = Some((now, delay));
        delay
    }

    fn is_news(&mut self, message: &str) -> bool {
        let now = Instant::now();
        if self.told.as_ref().is_some_and(|(when, told)| told == message && now.duration_since(*when) < REMINDER) {
            return false;
        }
        self.told = Some((now, message.to_owned()));
        true
    }

    /// Whether there was a failure to recover from.
    fn recovered(&mut self) -> bool {
        self.told.take().is_some()
    }
}

fn watch_seconds() -> u32 {
    // Each `RandomState` has keys of its own: enough of a die, and no crate is needed.
    let dice = RandomState::new().build_hasher().finish();
    let span = u64::from(WATCH_SECONDS.end - WATCH_SECONDS.start);
    WATCH_SECONDS.start + u32::try_from(dice % span).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_start_over_after_a_steady_time() {
        let mut retry = Retry::new();
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            let delay = retry.delay();
            longest = longest.max(delay);
            sleep(delay).await;
        }
        assert!(longest >= Duration::from_secs(30), "{longest:?}");
        sleep(longest + STEADY + Duration::from_secs(60)).await;
        assert!(retry.delay() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lasting_failure_is_told_once_a_minute() {
        let mut retry = Retry::new();
        assert!(!retry.recovered());
        assert!(retry.is_news("a"));
        assert!(!retry.is_news("a"));
        assert!(retry.is_news("b"));
        sleep(REMINDER).await;
        assert!(retry.is_news("b"));
        assert!(retry.recovered() && !retry.recovered());
        assert!(retry.is_news("b"));
    }

    #[test]
    fn watches_end_at_different_times() {
        let times: std::collections::HashSet<u32> = (0..100).map(|_| watch_seconds()).collect();
        assert!(times.len() > 10 && times.iter().all(|seconds| WATCH_SECONDS.contains(seconds)));
    }
}

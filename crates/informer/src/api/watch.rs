//! The watch of one kind of object: list, then watch, for ever.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::watcher::{self, Config, ListSemantic};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::failure::Failure;
use super::retry::{Retry, random};
use crate::client::ApiServer;
use crate::lenient::Lenient;
use crate::problem::{Event, Reporter};
use crate::slim::{ApiObject, Item};

/// How long the server may take for a list. It gives up by itself after a minute (`--request-timeout`); this is for one that
/// is there but never answers.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a watch is asked to last, in seconds. Which of it is random, so that the nodes of a cluster that were started
/// together do not come back together; kube's client takes no more than 294.
const WATCH_SECONDS: std::ops::Range<u32> = 150..290;
/// How often a server that does not know a resource that we can do without is asked again: it may be upgraded.
const ABSENT_RETRY: Duration = Duration::from_mins(10);

/// The receiver is gone: nobody wants to know any more.
pub(super) struct Unwanted;

/// What a watch sees: a list begins, its objects, its end, then changes. After a failure, that may start over.
#[derive(Debug)]
pub(super) enum Seen<T> {
    ListStarted,
    ListComplete,
    Object(Lenient<T>),
    Gone(Lenient<T>),
}

/// What becomes of it.
pub(super) trait Sink<T>: Send {
    /// Whether there are API servers that do not know this kind of object, and clusters that do without.
    const OPTIONAL: bool;

    /// Takes in what was seen.
    fn take(&mut self, seen: Seen<T>) -> impl Future<Output = Result<(), Unwanted>> + Send;

    /// Ends when nobody wants to know any more.
    fn closed(&self) -> impl Future<Output = ()> + Send + use<T, Self>;
}

/// The watch of one kind of object.
pub(super) struct Watch<T, S> {
    server: ApiServer,
    sink: S,
    reporter: Reporter,
    retry: Retry,
    /// A list was asked for and nothing of it has come.
    awaits_list: bool,
    /// The server was found not to know the resource.
    is_absent: bool,
    object: std::marker::PhantomData<fn() -> T>,
}

impl<T, S> Watch<T, S>
where
    T: ApiObject + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    T::Scope: Send,
    S: Sink<T>,
{
    pub(super) fn new(server: &ApiServer, sink: S, reporter: &Reporter) -> Self {
        Self {
            server: server.clone(),
            sink,
            reporter: reporter.clone(),
            retry: Retry::new(),
            awaits_list: false,
            is_absent: false,
            object: std::marker::PhantomData,
        }
    }

    /// Works until nobody wants to know any more.
    pub(super) async fn run(mut self, selectors: Config) {
        let closed = self.sink.closed();
        tokio::select! {
            () = closed => {}
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
                let patience = if self.awaits_list { PATIENCE } else { Duration::MAX };
                match next(events.as_mut(), patience).await {
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

    async fn take(&mut self, event: watcher::Event<Item<T>>) -> Result<(), Unwanted> {
        self.awaits_list = matches!(event, watcher::Event::Init);
        if !self.awaits_list {
            self.recovered();
        }
        let seen = match event {
            watcher::Event::Init => Seen::ListStarted,
            watcher::Event::InitDone => Seen::ListComplete,
            watcher::Event::InitApply(item) | watcher::Event::Apply(item) => Seen::Object(item.object),
            watcher::Event::Delete(item) => Seen::Gone(item.object),
        };
        self.sink.take(seen).await
    }

    fn recovered(&mut self) {
        self.is_absent = false;
        if self.retry.recovered() {
            info!(server = self.server.url, "{} are listed and watched again", T::PLURAL);
        }
    }

    async fn wait_after(&mut self, failure: &Failure) {
        self.awaits_list = false;
        if S::OPTIONAL && failure.is_not_found() {
            if !std::mem::replace(&mut self.is_absent, true) {
                let minutes = ABSENT_RETRY.as_secs() / 60;
                info!(
                    server = self.server.url,
                    "this API server has no {}, which is fine; it is asked again every {minutes} min",
                    T::PLURAL
                );
            }
            return sleep(ABSENT_RETRY).await;
        }
        // Where the server asked for a pause, jitter comes on top: all nodes were told the same.
        let delay = self.server.pause.left() + self.retry.delay();
        let Some(error) = failure.worth_a_warning::<T>(&self.server.url) else {
            debug!(server = self.server.url, "the watch of {} ended ({failure}) and is resumed", T::PLURAL);
            return sleep(delay).await;
        };
        self.reporter.tell_of(Event::WatchFailed(T::PLURAL));
        let message = error.to_string();
        if self.retry.is_news(&message) {
            let seconds = delay.as_secs_f32();
            warn!("{message}; what was known stays in use; trying again in {seconds:.1} s and until it works");
        }
        sleep(delay).await;
    }
}

/// The next event, which has to come within `patience`.
async fn next<T>(
    mut events: Pin<&mut impl Stream<Item = watcher::Result<watcher::Event<T>>>>,
    patience: Duration,
) -> Result<watcher::Event<T>, Failure> {
    match timeout(patience, events.next()).await {
        Ok(Some(event)) => event.map_err(Failure::Watcher),
        Ok(None) => Err(Failure::Ended),
        Err(_elapsed) => Err(Failure::Silent(patience)),
    }
}

fn watch_seconds() -> u32 {
    WATCH_SECONDS.start + random(WATCH_SECONDS.end - WATCH_SECONDS.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_end_at_different_times() {
        let times: std::collections::HashSet<u32> = (0..100).map(|_| watch_seconds()).collect();
        assert!(times.len() > 10 && times.iter().all(|seconds| WATCH_SECONDS.contains(seconds)));
    }
}

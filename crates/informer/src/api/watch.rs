//! The watch of one kind of object: list, then watch, for ever.

use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt as _;
use kube::api::{ListParams, VersionMatch, WatchEvent, WatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::failure::Failure;
use super::list::{self, Head};
use super::retry::{Retry, random};
use crate::client::ApiServer;
use crate::lenient::Lenient;
use crate::problem::{Event, Reporter};
use crate::slim::{ApiObject, Item};

/// How long the server may take to begin with a list or a watch, and to go on with a list. It gives up by itself after a minute
/// (`--request-timeout`); this is for one that is there but never answers.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a watch is asked to last, in seconds. Which of it is random, so that the nodes of a cluster that were started
/// together do not come back together; kube's client takes no more than 294.
const WATCH_SECONDS: std::ops::Range<u32> = 150..290;
/// How much longer than asked for a watch may last: its end may have been lost.
const GRACE: Duration = Duration::from_secs(5);
/// How much sooner it may end.
const SLACK: Duration = Duration::from_secs(1);
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

/// Which objects are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Selectors<'a> {
    pub(super) labels: Option<&'a str>,
    pub(super) fields: Option<&'a str>,
}

/// The watch of one kind of object.
pub(super) struct Watch<T, S> {
    server: ApiServer,
    sink: S,
    reporter: Reporter,
    retry: Retry,
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
            is_absent: false,
            object: std::marker::PhantomData,
        }
    }

    /// Works until nobody wants to know any more.
    pub(super) async fn run(mut self, selectors: Selectors<'_>) {
        let closed = self.sink.closed();
        tokio::select! {
            () = closed => {}
            _unwanted = self.follow(selectors) => {}
        }
    }

    /// Ends only with an error, when nobody listens.
    async fn follow(&mut self, selectors: Selectors<'_>) -> Result<std::convert::Infallible, Unwanted> {
        loop {
            let mut version = match self.list(selectors).await? {
                Ok(version) => version,
                Err(failure) => {
                    self.wait_after(&failure).await;
                    continue;
                }
            };
            self.recovered();
            loop {
                let failure = self.watch(selectors, &mut version).await?;
                self.wait_after(&failure).await;
                if failure.lost_place() {
                    break;
                }
            }
        }
    }

    /// Lists all objects. Returns the version from which on they can be watched.
    ///
    /// They are asked for as of any version (`resourceVersion=0`), which the server answers from memory and in one piece, as for any
    /// kube-proxy.
    async fn list(&mut self, selectors: Selectors<'_>) -> Result<Result<String, Failure>, Unwanted> {
        self.sink.take(Seen::ListStarted).await?;
        let mut parameters = ListParams {
            label_selector: selectors.labels.map(str::to_owned),
            field_selector: selectors.fields.map(str::to_owned),
            version_match: Some(VersionMatch::NotOlderThan),
            resource_version: Some("0".to_owned()),
            ..ListParams::default()
        };
        loop {
            let Head { resource_version, r#continue } = match self.part(&parameters).await? {
                Ok(head) => head,
                Err(failure) => return Ok(Err(failure)),
            };
            let r#continue = r#continue.filter(|next| !next.is_empty());
            if r#continue.is_none() {
                let Some(version) = resource_version.filter(|version| !version.is_empty()) else {
                    return Ok(Err(Failure::NoVersion));
                };
                self.sink.take(Seen::ListComplete).await?;
                return Ok(Ok(version));
            }
            // It says of which version the list is.
            parameters =
                ListParams { continue_token: r#continue, resource_version: None, version_match: None, ..parameters };
        }
    }

    /// Takes in what the server gives of a list at a time.
    async fn part(&mut self, parameters: &ListParams) -> Result<Result<Head, Failure>, Unwanted> {
        let request = kube::core::Request::new(Item::<T>::url_path(&(), None)).list(parameters);
        let request = match request.map_err(kube::Error::BuildRequest) {
            Ok(request) => request,
            Err(error) => return Ok(Err(Failure::List(error))),
        };
        match timeout(PATIENCE, self.server.client.request_stream(request)).await {
            Ok(Ok(body)) => list::receive(body, PATIENCE, &mut self.sink).await,
            Ok(Err(error)) => Ok(Err(Failure::List(error))),
            Err(_elapsed) => Ok(Err(Failure::Silent(PATIENCE))),
        }
    }

    /// Watches from `version` on, which goes with what is seen, one watch after the other. Returns why that had an end.
    async fn watch(&mut self, selectors: Selectors<'_>, version: &mut String) -> Result<Failure, Unwanted> {
        let api: Api<Item<T>> = Api::all(self.server.client.clone());
        loop {
            let seconds = watch_seconds();
            let lasts = Duration::from_secs(seconds.into());
            let parameters = WatchParams {
                label_selector: selectors.labels.map(str::to_owned),
                field_selector: selectors.fields.map(str::to_owned),
                timeout: Some(seconds),
                ..WatchParams::default()
            };
            let began = Instant::now();
            let mut events = match timeout(PATIENCE, api.watch(&parameters, version)).await {
                Ok(Ok(events)) => pin!(events),
                Ok(Err(error)) => return Ok(Failure::WatchStart(error)),
                Err(_elapsed) => return Ok(Failure::NoWatch(PATIENCE)),
            };
            self.recovered();
            while let Ok(event) = timeout(lasts + GRACE, events.try_next()).await {
                match event {
                    Ok(Some(event)) => match self.take(event, version).await? {
                        Ok(()) => {}
                        Err(failure) => return Ok(failure),
                    },
                    // Where a server goes down, or a load balancer before it, that is the end of the watches of all nodes: they must not
                    // come back in the same instant.
                    Ok(None) if began.elapsed() + SLACK < lasts => return Ok(Failure::Ended),
                    Ok(None) => break,
                    Err(error) => return Ok(Failure::Watch(error)),
                }
            }
        }
    }

    async fn take(
        &mut self,
        event: WatchEvent<Item<T>>,
        version: &mut String,
    ) -> Result<Result<(), Failure>, Unwanted> {
        let (item, seen): (_, fn(_) -> _) = match event {
            WatchEvent::Added(item) | WatchEvent::Modified(item) => (item, Seen::Object),
            WatchEvent::Deleted(item) => (item, Seen::Gone),
            WatchEvent::Bookmark(bookmark) if bookmark.metadata.resource_version.is_empty() => {
                return Ok(Err(Failure::NoVersion));
            }
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                return Ok(Ok(()));
            }
            WatchEvent::Error(status) => return Ok(Err(Failure::Refused(status))),
        };
        match item.resource_version().filter(|version| !version.is_empty()) {
            Some(reached) => *version = reached,
            None => return Ok(Err(Failure::NoVersion)),
        }
        self.sink.take(seen(item.object)).await.map(Ok)
    }

    fn recovered(&mut self) {
        self.is_absent = false;
        if self.retry.recovered() {
            info!(server = self.server.url, "{} are listed and watched again", T::PLURAL);
        }
    }

    async fn wait_after(&mut self, failure: &Failure) {
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

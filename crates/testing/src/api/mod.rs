//! A fake Kubernetes API server: list and watch over HTTP, with faults that tests switch on.
//!
//! It runs on a thread of its own, so that blocking tests and whole processes can use it. Objects are JSON of any
//! shape; the server looks only at `kind`, `metadata` and what selectors name. Where behaviour is not described at a
//! method, it is that of a real API server with a watch cache. Clients have the rights of kube-proxy: a request beyond them is
//! refused, and fails the test.

mod admin;
mod events;
mod handlers;
mod rbac;
mod resource;
mod select;
mod server;
mod status;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub use rbac::Right;
pub use resource::Resource;
use server::Server;
use store::Store;

/// How long the `wait_` methods wait before they panic: far longer than what they wait for takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running fake API server. It goes down when dropped, which panics if it was asked for anything that kube-proxy has no right to.
#[derive(Debug)]
pub struct FakeApi {
    server: Server,
    shared: Arc<Shared>,
}

/// A request that the server received.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it arrived.
    pub time: Instant,
    /// `GET`, as a rule.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What it shows as credentials; empty without.
    pub authorization: String,
    /// The query, decoded; of a parameter that occurs twice the last value.
    pub query: BTreeMap<String, String>,
    /// The right that it takes, if any.
    pub right: Option<Right>,
    /// How much of a body it has been answered with.
    sent: Arc<AtomicU64>,
}

impl Request {
    /// How many bytes of a body it has been answered with so far. Copies of a request go on counting.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// How a client is told that its resource version has expired; API servers do either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// The request for a watch is answered with HTTP status 410.
    Status,
    /// It is answered with 200, and the first event is an `ERROR` with code 410.
    #[default]
    Event,
}

/// What the handlers share with [`FakeApi`].
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something in the state changed that a `wait_` method may wait for.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    requests: Vec<Request>,
    /// Requests beyond the rights of kube-proxy, in words.
    denied: Vec<String>,
    events: Vec<Value>,
    events_forbidden: bool,
    forbidden: BTreeSet<Resource>,
    /// Those that the server does not know.
    unknown: BTreeSet<Resource>,
    failing: bool,
    /// What clients have to send as `Authorization`, if it matters.
    credentials: Option<String>,
    /// Every request is answered with 429 until this many seconds have passed.
    throttling: Option<Duration>,
    /// Lists of these never end.
    endless: BTreeSet<Resource>,
    streaming_lists: bool,
    list_delay: Duration,
    expiry: Expiry,
}

impl FakeApi {
    /// Starts a server on a free port of 127.0.0.1, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts a server on this address; port 0 is a free one.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub fn start_at(address: SocketAddr) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        Ok(Self { server: Server::start(address, shared.clone())?, shared })
    }

    /// Its base URL, for `--master` or a client's configuration. Stays the same while it is down.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Writes a kubeconfig for it into `directory`, with the rights of kube-proxy.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn kubeconfig(&self, directory: &Path) -> Result<PathBuf> {
        self.kubeconfig_of(directory, &json!({}))
    }

    /// The same for this user, as a kubeconfig describes one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn kubeconfig_of(&self, directory: &Path, user: &Value) -> Result<PathBuf> {
        self.write_kubeconfig(directory.join("kubeconfig"), user)
    }

    /// The same for an administrator, who may also apply and delete objects.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn admin_kubeconfig(&self, directory: &Path) -> Result<PathBuf> {
        self.write_kubeconfig(directory.join("admin.kubeconfig"), &json!({"token": admin::TOKEN}))
    }

    fn write_kubeconfig(&self, path: PathBuf, user: &Value) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url()}}],
            "users": [{"name": "fake", "user": user}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        });
        // JSON is YAML.
        fs::write(&path, format!("{config:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Creates or replaces an object and tells the watches. Sets its resourceVersion, and uid and creationTimestamp
    /// where they are missing.
    ///
    /// # Panics
    /// If its kind is not that of a [`Resource`], or it has no name.
    pub fn put(&self, object: impl Into<Value>) {
        let mut object = object.into();
        let resource = Resource::of(&object).unwrap_or_else(|| panic!("the fake API serves no {}", object["kind"]));
        let metadata = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (metadata("namespace"), metadata("name"));
        assert!(!name.is_empty(), "an object for the fake API has no metadata.name: {object}");
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = format!("{}-{namespace}-{name}", resource.plural()).into();
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        self.put_raw(resource, &namespace, &name, object);
    }

    /// Creates or replaces an object of any content, even without a usable `metadata`, under this name.
    pub fn put_raw(&self, resource: Resource, namespace: &str, name: &str, object: Value) {
        self.shared.lock().store.put(resource, (namespace.to_owned(), name.to_owned()), object);
    }

    /// Deletes an object and tells the watches; the namespace of Nodes and ServiceCIDRs is empty.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) {
        let existed = self.shared.lock().store.delete(resource, (namespace.to_owned(), name.to_owned()));
        assert!(existed, "the fake API has no {} {namespace}/{name} to delete", resource.kind());
    }

    /// The resourceVersion of the last change.
    pub fn version(&self) -> u64 {
        self.shared.lock().store.version()
    }

    /// Every request so far, in order of arrival. Those that found it down are not known.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Waits until the requests so far satisfy `condition`.
    ///
    /// # Panics
    /// If they do not within a minute; `what` is what was waited for.
    pub fn wait_for_requests(&self, what: &str, condition: impl Fn(&[Request]) -> bool) {
        self.wait(what, |state| condition(&state.requests));
    }

    /// The events that it was told of, as they are now.
    pub fn events(&self) -> Vec<Value> {
        self.shared.lock().events.clone()
    }

    /// Answers events with 403 from now on.
    pub fn forbid_events(&self) {
        self.shared.lock().events_forbidden = true;
    }

    /// Waits until the events satisfy `condition`.
    ///
    /// # Panics
    /// If they do not within a minute; `what` is what was waited for.
    pub fn wait_for_events(&self, what: &str, condition: impl Fn(&[Value]) -> bool) {
        self.wait(what, |state| condition(&state.events));
    }

    /// Takes note that requests beyond the rights of kube-proxy were made on purpose, and returns them.
    pub fn take_denied(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().denied)
    }

    /// Waits until a watch on this resource is open.
    ///
    /// # Panics
    /// If none is within a minute.
    pub fn wait_for_watch(&self, resource: Resource) {
        self.wait(&format!("a watch on {}", resource.plural()), |state| state.store.watch_count(resource) > 0);
    }

    /// Breaks all connections off, and refuses new ones until [`FakeApi::come_up`].
    pub fn go_down(&self) {
        self.server.go_down();
    }

    /// Listens again, on the same port, with the same objects and history.
    ///
    /// # Errors
    /// If another process took the port meanwhile.
    pub fn come_up(&self) -> Result<()> {
        self.server.come_up()
    }

    /// While true, every request is answered with 500. Open watches go on.
    pub fn fail_requests(&self, failing: bool) {
        self.shared.lock().failing = failing;
    }

    /// Answers every request with 429 and this `Retry-After` from now on, or does so no more. Open watches go on.
    pub fn throttle(&self, retry_after: Option<Duration>) {
        self.shared.lock().throttling = retry_after;
    }

    /// Answers requests with another bearer token than this with 401 from now on. Open watches go on.
    pub fn accept_only(&self, token: &str) {
        self.shared.lock().credentials = Some(format!("Bearer {token}"));
    }

    /// Lists of this resource go on for ever from now on, or do so no more.
    pub fn endless_lists(&self, resource: Resource, endless: bool) {
        let all = &mut self.shared.lock().endless;
        if endless {
            all.insert(resource)
        } else {
            all.remove(&resource)
        };
    }

    /// Lists show what was true so many changes ago from now on, as of a server that lags behind another, and watches begin so
    /// many changes earlier than asked for, so that clients see time run backwards, and events twice.
    pub fn lag(&self, changes: u64) {
        self.shared.lock().store.lag = changes;
    }

    /// Answers lists and watches of this resource with 403 from now on. Open watches go on.
    pub fn forbid(&self, resource: Resource) {
        self.shared.lock().forbidden.insert(resource);
    }

    /// Takes [`FakeApi::forbid`] back.
    pub fn allow(&self, resource: Resource) {
        self.shared.lock().forbidden.remove(&resource);
    }

    /// Answers lists and watches of this resource with 404 from now on, as a server of a version without it does. Open watches
    /// go on.
    pub fn unserve(&self, resource: Resource) {
        self.shared.lock().unknown.insert(resource);
    }

    /// Every list takes at least this long from now on.
    pub fn slow_lists(&self, delay: Duration) {
        self.shared.lock().list_delay = delay;
    }

    /// Whether `sendInitialEvents=true` is understood (feature gate `WatchList`). Off at first: it is answered with 422.
    pub fn streaming_lists(&self, enabled: bool) {
        self.shared.lock().streaming_lists = enabled;
    }

    /// Forgets what happened so far: a watch, or the next page of a list, that begins before the current version is
    /// told that its version has expired.
    pub fn compact(&self, expiry: Expiry) {
        let mut state = self.shared.lock();
        state.expiry = expiry;
        state.store.compact();
    }

    /// Ends all watches with the `ERROR` event 410.
    pub fn expire_watches(&self) {
        self.shared.lock().store.expire_watches();
    }

    /// Cuts all watches off in the middle of a line, as a dying connection does.
    pub fn break_watches(&self) {
        self.shared.lock().store.break_watches();
    }

    /// Ends all watches properly, as their time-out does.
    pub fn end_watches(&self) {
        self.shared.lock().store.end_watches();
    }

    /// Sends a line of any content, such as garbage, to the watches on this resource.
    pub fn send_line(&self, resource: Resource, line: &str) {
        self.shared.lock().store.send_line(resource, line);
    }

    /// Sends a bookmark to all watches that asked for them.
    pub fn bookmark(&self) {
        self.shared.lock().store.bookmark();
    }

    /// Sends bookmarks at this interval from now on. API servers do so about once a minute.
    pub fn bookmark_every(&self, interval: Duration) {
        self.server.bookmark_every(interval);
    }

    fn wait(&self, what: &str, mut condition: impl FnMut(&mut State) -> bool) {
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, |state| !condition(state));
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "waited {PATIENCE:?} for {what}; requests so far: {:#?}", state.requests);
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        let denied = self.take_denied();
        assert!(denied.is_empty() || std::thread::panicking(), "beyond the rights of kube-proxy: {denied:#?}");
    }
}

impl Shared {
    /// A test that panicked while it waited must not take the server down with it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

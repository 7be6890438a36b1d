//! Events: what operators see of this proxy with `kubectl get events` (contract §10.1).

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{self, EventType, Recorder, Reporter};
use model::{PortNumber, ServiceName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// What `kubectl` shows as the source.
const CONTROLLER: &str = "kube-proxy";
/// What was being done at the start.
const START: &str = "StartKubeProxy";
/// How many events may wait to be sent; more are dropped.
const WAITING: usize = 64;
/// How many events may be sent at once.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(24);
/// After how long one more may be sent.
const REFILL: Duration = Duration::from_mins(1);
/// How often an event is sent to an API server that does not answer, and how long after each other (contract §10.1).
const TRIES: usize = 12;
const RETRY: Duration = Duration::from_secs(10);
/// How long an API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a process that ends waits for its last event.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// The longest note that an API server takes, in bytes.
const NOTE: usize = 1024;

/// Something that operators are to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The proxy starts.
    Starting,
    /// The health server cannot listen, for this reason, and the process ends.
    NoHealthServer(String),
    /// The metrics server cannot listen, for this reason, and the process ends.
    NoMetricsServer(String),
    /// Load balancers cannot ask for a Service at this port, for this reason.
    NoServiceHealthServer(ServiceName, PortNumber, String),
}

/// Takes events to be sent, without waiting for that. Where there is no API server, they go nowhere.
#[derive(Clone, Debug)]
pub(crate) struct Events(Option<mpsc::Sender<Message>>);

#[derive(Debug)]
struct Message {
    event: Event,
    /// Is dropped when the event has been sent, or never will be.
    _done: Option<oneshot::Sender<()>>,
}

impl Events {
    /// For a proxy without an API server.
    pub(crate) const fn nowhere() -> Self {
        Self(None)
    }

    /// Sends events about this node by a task of its own, which ends with the last clone. `host` is the machine's name.
    pub(crate) fn send_by(client: kube::Client, node: String, host: &str) -> Self {
        let (sender, messages) = mpsc::channel(WAITING);
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(format!("{CONTROLLER}-{host}")) };
        let quota = Quota::with_period(REFILL).map(|quota| quota.allow_burst(BURST));
        let limit = RateLimiter::direct(quota.unwrap_or_else(|| Quota::per_minute(BURST)));
        let task = Task { recorder: Recorder::new(client, reporter), node, limit };
        tokio::spawn(task.run(messages));
        Self(Some(sender))
    }

    /// Has an event sent.
    pub(crate) fn tell(&self, event: Event) {
        self.hand_over(Message { event, _done: None });
    }

    /// Has an event sent before the process ends, if that takes no longer than some seconds.
    pub(crate) async fn tell_last(&self, event: Event) {
        let (sender, done) = oneshot::channel();
        self.hand_over(Message { event, _done: Some(sender) });
        // The sender is dropped, whatever became of the event.
        timeout(LAST_WORDS, done).await.ok();
    }

    fn hand_over(&self, message: Message) {
        if let Some(Err(refused)) = self.0.as_ref().map(|sender| sender.try_send(message)) {
            debug!("an event is not sent, as too many wait: {refused}");
        }
    }
}

/// Sends what comes in.
struct Task {
    recorder: Recorder,
    node: String,
    limit: DefaultDirectRateLimiter,
}

impl Task {
    async fn run(self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.recv().await {
            if self.limit.check().is_err() {
                debug!(event = ?message.event, "an event is not sent, as there were too many");
                continue;
            }
            let (event, object) = self.publishable(&message.event);
            for _ in 0..TRIES {
                match timeout(PATIENCE, self.recorder.publish(&event, &object)).await {
                    Ok(Ok(())) => break,
                    Ok(Err(kube::Error::Api(status))) => {
                        let advice = if status.code == 403 {
                            "; let it create and patch events in API group events.k8s.io, as the role system:node-proxier does"
                        } else {
                            ""
                        };
                        warn!(
                            reason = event.reason,
                            "the API server does not take an event: {}{advice}", status.message
                        );
                        break;
                    }
                    Ok(Err(error)) => {
                        debug!(reason = event.reason, "an event was not sent, and is sent again: {error}");
                        sleep(RETRY).await;
                    }
                    Err(_) => debug!(reason = event.reason, "an event was not answered, and is sent again"),
                }
            }
        }
    }

    /// An event in the words of the API, and the object that it is about.
    fn publishable(&self, event: &Event) -> (events::Event, ObjectReference) {
        let of_node = || ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        let (reason, action, note, object) = match event {
            Event::Starting => ("Starting", START, None, of_node()),
            Event::NoHealthServer(why) => ("FailedToStartProxierHealthcheck", START, Some(why.clone()), of_node()),
            Event::NoMetricsServer(why) => ("FailedToStartMetricServer", START, Some(why.clone()), of_node()),
            Event::NoServiceHealthServer(service, port, why) => {
                let of_service = ObjectReference {
                    kind: Some("Service".to_owned()),
                    namespace: Some(service.namespace.to_string()),
                    name: Some(service.name.to_string()),
                    ..of_node()
                };
                let node = &self.node;
                let note = format!("node {node} failed to start healthcheck \"{service}\" on port {port}: {why}");
                ("FailedToStartServiceHealthcheck", "Listen", Some(note), of_service)
            }
        };
        let event = events::Event {
            type_: if note.is_none() { EventType::Normal } else { EventType::Warning },
            reason: reason.to_owned(),
            note: note.map(|note| note[..note.floor_char_boundary(NOTE)].to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        (event, object)
    }
}

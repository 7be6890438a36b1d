//! An API server for a crowd of clients: in memory and under any clock, to see when who asks for what.
//!
//! It has no objects. What is asked of it is a function call ([`Crowd::answer`]); what is beneath HTTP is not there.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{Response, StatusCode, Uri, header};
use futures::stream;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long is waited for watches: longer than any fault lasts, and what follows from it.
const PATIENCE: Duration = Duration::from_mins(10);

/// The server. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<Shared>);

/// How the server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    #[default]
    Well,
    /// Connections to it are refused.
    Away,
    /// It answers everything with 429 and this `Retry-After`, in whole seconds.
    Busy(Duration),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There was no server.
    Refused,
    /// 429.
    Busy,
    /// 410: the version to watch from is too old.
    Expired,
    /// A list.
    Listed,
    /// A watch is open.
    Watching,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Whatever is sent here ends all watches.
    cut: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    health: Health,
    version: u64,
    requests: Vec<(Instant, Answer)>,
}

impl Crowd {
    /// Sets how it is from now on. Watches go on.
    pub fn set(&self, health: Health) {
        self.lock().health = health;
    }

    /// Ends all watches properly, long before their time, as a server that shuts down does.
    pub fn cut(&self) {
        self.0.cut.send_replace(());
    }

    /// Forgets what happened so far: who was there before has to list again.
    pub fn forget(&self) {
        self.lock().version += 1;
    }

    /// When what was asked for so far, and what became of it.
    pub fn requests(&self) -> Vec<(Instant, Answer)> {
        self.lock().requests.clone()
    }

    /// Waits until so many watches were opened since then.
    ///
    /// # Panics
    /// If they are not within ten minutes, by a clock that may be a paused one.
    pub async fn until_watching(&self, since: Instant, watches: usize) {
        let opened = |request: &&(Instant, Answer)| request.0 >= since && request.1 == Answer::Watching;
        while self.lock().requests.iter().filter(opened).count() < watches {
            assert!(since.elapsed() < PATIENCE, "{watches} watches were not opened within {PATIENCE:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The server is away.
    pub fn answer(&self, uri: &Uri) -> io::Result<Response<Body>> {
        let query = Query::<BTreeMap<String, String>>::try_from_uri(uri).map(|query| query.0).unwrap_or_default();
        let mut state = self.lock();
        let (health, version) = (state.health, state.version.to_string());
        let mut answer = |answer| state.requests.push((Instant::now(), answer));
        match health {
            Health::Away => {
                answer(Answer::Refused);
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Health::Busy(pause) => {
                answer(Answer::Busy);
                let mut response = response(StatusCode::TOO_MANY_REQUESTS, Body::from("Too many requests\n"));
                response.headers_mut().insert(header::RETRY_AFTER, pause.as_secs().into());
                return Ok(response);
            }
            Health::Well => {}
        }
        if !query.contains_key("watch") {
            answer(Answer::Listed);
            let list = json!({"metadata": {"resourceVersion": version}, "items": []});
            return Ok(response(StatusCode::OK, list.to_string().into()));
        }
        if query.get("resourceVersion") != Some(&version) {
            answer(Answer::Expired);
            let status = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410});
            return Ok(response(StatusCode::GONE, status.to_string().into()));
        }
        answer(Answer::Watching);
        let seconds = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(1_800);
        Ok(response(StatusCode::OK, watch(self.0.cut.subscribe(), Duration::from_secs(seconds))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch that sees nothing, and ends when it is cut or its time is up.
fn watch(mut cut: watch::Receiver<()>, time: Duration) -> Body {
    Body::from_stream(stream::once(async move {
        tokio::select! {
            _ = cut.changed() => {}
            () = sleep(time) => {}
        }
        io::Result::Ok(Bytes::new())
    }))
}

fn response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

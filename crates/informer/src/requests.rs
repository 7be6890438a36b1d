//! What every request to the API server goes through: it is told of, for metrics, and answers are kept within bounds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube::client::Body;
use tokio::time::Instant;
use tower::{BoxError, Service, ServiceExt as _};

use crate::problem::{Event, Reporter};
use crate::token::TokenFile;

/// The largest answer that is taken in, watches aside: 100,000 objects of 2.5 KiB. What is kept of them takes memory, and whoever makes
/// objects without end must not have the node run out of it.
const MOST: usize = 256 << 20;

/// The longest pause that a server is granted at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// An answer is larger than can be taken in.
#[derive(Debug, thiserror::Error)]
#[error("the answer is larger than {} MiB", MOST >> 20)]
pub(crate) struct TooLarge;

/// Sends requests.
#[derive(Clone, Debug)]
pub(crate) struct Requests<S> {
    /// The HTTP client.
    pub(crate) client: S,
    /// What to show as credentials, if not what the request has.
    pub(crate) token: Option<Arc<TokenFile>>,
    /// Is told what becomes of each request.
    pub(crate) reporter: Reporter,
    pub(crate) pause: Pause,
}

impl<S, B> Requests<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    /// Sends a request, and has the reporter told what becomes of it.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn send(
        self,
        mut request: Request<Body>,
    ) -> Result<Response<impl http_body::Body<Data = Bytes, Error = BoxError>>, BoxError> {
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.authorization());
        }
        let mut exchange = Exchange::begin(&request, self.reporter);
        let response = self.client.oneshot(request).await.map_err(Into::into)?;
        exchange.answered(response.status());
        self.pause.heed(response.status(), response.headers());
        let most = if exchange.is_watch { usize::MAX } else { MOST };
        Ok(response.map(|body| {
            let body = Limited::new(body, most);
            body.map_err(|error| if error.is::<LengthLimitError>() { TooLarge.into() } else { error }).map_frame(
                move |frame| {
                    exchange.came(frame.data_ref());
                    frame
                },
            )
        }))
    }
}

/// How long the server has asked to be left alone (`Retry-After`, RFC 9110 §10.2.3, with 429 or 503). Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pause(Arc<Mutex<Option<Instant>>>);

impl Pause {
    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
        let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()))
    }

    /// API servers give seconds; the other form, a date, would go by the time of day.
    fn heed(&self, status: StatusCode, headers: &HeaderMap) {
        let overloaded = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = seconds.filter(|_| overloaded) {
            let end = Instant::now() + Duration::from_secs(seconds).min(LONGEST_PAUSE);
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some(last.map_or(end, |last| last.max(end)));
        }
    }
}

/// A request that is under way. It is over when this is dropped: with the body of the answer, or without any.
struct Exchange {
    reporter: Reporter,
    method: Method,
    host: String,
    is_watch: bool,
    started: Instant,
    sent: u64,
    is_answered: bool,
    received: u64,
}

impl Exchange {
    fn begin(request: &Request<Body>, reporter: Reporter) -> Self {
        let uri = request.uri();
        let host = uri.host().unwrap_or_default();
        Self {
            reporter,
            method: request.method().clone(),
            host: uri.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            is_watch: uri.query().is_some_and(|query| query.split('&').any(|parameter| parameter == "watch=true")),
            started: Instant::now(),
            sent: request.body().size_hint().exact().unwrap_or_default(),
            is_answered: false,
            received: 0,
        }
    }

    fn answered(&mut self, status: StatusCode) {
        self.is_answered = true;
        self.tell_answer(Some(status.as_u16()));
    }

    fn came(&mut self, data: Option<&Bytes>) {
        self.received += data.map_or(0, |data| data.len() as u64);
    }

    fn tell_answer(&self, status: Option<u16>) {
        self.reporter.tell_of(Event::Answered { method: self.method.as_str(), host: &self.host, status });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_answered {
            self.tell_answer(None);
        }
        // A watch goes on until somebody ends it: how long that took, and how much came until then, is no measure of anything.
        if !self.is_watch {
            self.reporter.tell_of(Event::Completed {
                method: self.method.as_str(),
                host: &self.host,
                elapsed: self.started.elapsed(),
                sent: self.sent,
                received: self.is_answered.then_some(self.received),
            });
        }
    }
}

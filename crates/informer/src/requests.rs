//! Telling of every request to the API server, for metrics.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;
use kube::client::Body;
use tokio::time::Instant;
use tower::BoxError;

use crate::problem::{Event, Reporter};

/// Sends a request, and has the reporter told what becomes of it.
///
/// # Errors
/// There is no answer.
pub(crate) async fn send<C: Connect + Clone + Send + Sync + 'static>(
    client: Client<C, Body>,
    request: Request<Body>,
    reporter: Reporter,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = BoxError>>, BoxError> {
    let mut exchange = Exchange::begin(&request, reporter);
    let response = client.request(request).await?;
    exchange.answered(response.status());
    Ok(response.map(|body| {
        body.map_err(BoxError::from).map_frame(move |frame| {
            exchange.came(frame.data_ref());
            frame
        })
    }))
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

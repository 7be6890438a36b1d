//! An API server that is a function, so that thousands of clients can be run under a paused clock.

use std::future::ready;
use std::io;

use bytes::Bytes;
use http::{Request, Response, Uri};
use kube::client::{Body, ClientBuilder};
use tower::BoxError;

use crate::client::ApiServer;
use crate::problem::Reporter;
use crate::requests::{Pause, Requests};

impl ApiServer {
    /// One that answers with what `answer` makes of what is asked for. All else is as with a real one, but for what is beneath HTTP.
    pub fn simulated<F, B>(answer: F, reporter: &Reporter) -> Self
    where
        F: Fn(&Uri) -> io::Result<Response<B>> + Clone + Send + Sync + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let pause = Pause::default();
        let client = tower::service_fn(move |request: Request<Body>| ready(answer(request.uri())));
        let requests = Requests { client, token: None, reporter: reporter.clone(), pause: pause.clone() };
        let service = tower::service_fn(move |request| requests.clone().send(request));
        Self { client: ClientBuilder::new(service, "default").build(), url: "simulated".to_owned(), pause }
    }
}

//! Nodes whose API server is a function, so that thousands of them can be run under a paused clock.

use std::future::ready;
use std::io;

use bytes::Bytes;
use http::{Request, Response, Uri};
use kube::client::{Body, ClientBuilder};
use model::NodeStatus;
use tokio::sync::{mpsc, watch};
use tower::BoxError;

use crate::client::ApiServer;
use crate::problem::Reporter;
use crate::requests::{Pause, Requests};
use crate::{watch_api, watch_node};

/// All watches of a node, for ever. Nobody wants to know what they see.
///
/// `answer` is the API server: what it makes of what is asked for, or why there is no answer.
pub async fn node<B>(answer: impl Fn(&Uri) -> io::Result<Response<B>> + Clone + Send + Sync + 'static)
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let (reporter, pause) = (Reporter::new(|_| {}), Pause::default());
    let client = tower::service_fn(move |request: Request<Body>| ready(answer(request.uri())));
    let requests = Requests { client, token: None, reporter: reporter.clone(), pause: pause.clone() };
    let service = tower::service_fn(move |request| requests.clone().send(request));
    let client = ClientBuilder::new(service, "default").build();
    let server = ApiServer { client, url: "simulated".to_owned(), pause };

    let (updates, mut seen) = mpsc::channel(1);
    let (status, _status) = watch::channel(NodeStatus::Unknown);
    tokio::join!(
        watch_api(server.clone(), "node".into(), updates, reporter.clone()),
        watch_node(server, "node".into(), status, reporter),
        async { while seen.recv().await.is_some() {} },
    );
}

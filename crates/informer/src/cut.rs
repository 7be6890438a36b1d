//! Watches that end before their time.
//!
//! kube takes the end of a watch for one that was due, and opens the next at once. When a server goes down, or a load balancer in
//! front of it, that is the end of all its watches, and what all nodes would do in the same instant. So an end that was not due is
//! made an error, for which there is a wait.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tower::BoxError;

/// A watch has ended before its time. What the connection said is left out: kube would know some of it for an end.
#[derive(Debug, thiserror::Error)]
#[error("it was cut off")]
struct Cut;

/// How much sooner than asked for a watch may end.
const SLACK: Duration = Duration::from_secs(1);

/// When a watch was asked to end; `None` if this asks for something else, or leaves it to the server.
pub(crate) fn due(uri: &Uri) -> Option<Instant> {
    let value =
        |name: &str| uri.query()?.split('&').find_map(|parameter| parameter.strip_prefix(name)?.strip_prefix('='));
    let seconds = value("timeoutSeconds").filter(|_| value("watch") == Some("true"))?.parse().ok()?;
    Instant::now().checked_add(Duration::from_secs(seconds))
}

/// The body of an answer, which does not end properly before it is due.
pub(crate) struct UntilDue<B> {
    body: B,
    due: Option<Instant>,
}

impl<B> UntilDue<B> {
    pub(crate) const fn new(body: B, due: Option<Instant>) -> Self {
        Self { body, due }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for UntilDue<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => Some(Ok(frame)),
            // Said once, and then it is over.
            _ if self.due.take().is_some_and(|due| Instant::now() + SLACK < due) => Some(Err(Cut.into())),
            end => end.map(|failed| failed.map_err(Into::into)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.due.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

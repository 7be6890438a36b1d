//! `/debug`, which is only there with `enableProfiling` (contract §8.3).

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::LOCATION;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use telemetry::logging;
use tokio::time::timeout;
use tracing::info;

use super::HEAD_TIMEOUT;
use super::pages::text;

/// How long the body of a request may be: longer than any number.
const MAX_BODY: usize = 64;

/// Profiles are those of Go's runtime, which is not here, and to sample this process from within would take more code than the
/// proxy has.
const NO_PROFILES: &str = "There are no profiles: this is no Go program. Where it spends its time, perf tells: \
                           perf record --call-graph dwarf --pid PID. What it uses is in /metrics, as process_*.\n";

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/debug/pprof", any(async || (StatusCode::FOUND, [(LOCATION, "/debug/pprof/")])))
        .route("/debug/pprof/", any(async || text(NO_PROFILES)))
        .route("/debug/pprof/{*profile}", any(async || (StatusCode::NOT_FOUND, text(NO_PROFILES))))
        .route("/debug/flags", any(async || text("PUT a number to /debug/flags/v: so much is logged, as by -v.\n")))
        .route("/debug/flags/v", any(verbosity))
}

/// Changes how much is logged, until the next change or restart.
async fn verbosity(method: Method, body: Body) -> Response {
    if method != Method::PUT {
        return (StatusCode::NOT_ACCEPTABLE, text("only PUT sets the verbosity\n")).into_response();
    }
    match read(body).await {
        Some(verbosity) => {
            logging::set_verbosity(verbosity);
            info!(verbosity, "the verbosity of the log was set by a request to /debug/flags/v");
            text(format!("successfully set klog.logging.verbosity to {verbosity}"))
        }
        None => {
            let reason = format!("the body is not a number from 0 to {}: the verbosity stays as it is\n", i32::MAX);
            (StatusCode::BAD_REQUEST, text(reason)).into_response()
        }
    }
}

/// The number that the body is, as far as the configuration would allow it (contract §2.4).
async fn read(body: Body) -> Option<u32> {
    let bytes = timeout(HEAD_TIMEOUT, to_bytes(body, MAX_BODY)).await.ok()?.ok()?;
    let number = std::str::from_utf8(&bytes).ok()?.trim().parse::<i32>().ok()?;
    number.try_into().ok()
}

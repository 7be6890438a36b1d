//! Failures, as the API server words them.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Resource, State};

/// A failure: the API's `Status` object and its HTTP status.
#[derive(Debug)]
pub(super) struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// The `Status` object.
    pub(super) fn body(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.code, Json(self.body())).into_response()
    }
}

impl State {
    /// How every request is answered now, if the server was told to.
    pub(super) fn fault(&self, authorization: &str) -> Option<Response> {
        if self.failing {
            let told = "the fake was told to fail";
            return Some(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", told).into_response());
        }
        if let Some(pause) = self.throttling {
            // As API Priority and Fairness does: no Status object.
            let headers = [(header::RETRY_AFTER, pause.as_secs().to_string())];
            let told = "Too many requests, please try again later.\n";
            return Some((StatusCode::TOO_MANY_REQUESTS, headers, told).into_response());
        }
        let refused = self.credentials.as_ref().is_some_and(|accepted| accepted != authorization);
        refused.then(|| Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized").into_response())
    }
}

pub(super) fn too_old(version: u64, oldest: u64) -> Failure {
    Failure::new(StatusCode::GONE, "Expired", format!("too old resource version: {version} ({oldest})"))
}

pub(super) fn told_to_forbid(resource: Resource, verb: &str) -> Failure {
    let plural = resource.plural();
    forbidden(format!("{plural} is forbidden: the fake was told not to let anyone {verb} them"))
}

pub(super) fn forbidden(message: String) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "Forbidden", message)
}

pub(super) fn not_found(what: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "NotFound", format!("{what} not found"))
}

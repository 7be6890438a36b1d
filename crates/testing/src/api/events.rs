//! Events (`events.k8s.io/v1`): taken in and kept, with the checks that an API server makes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::Shared;
use super::status::{self, Failure};

pub(super) const PATH: &str = "/apis/events.k8s.io/v1/namespaces/{namespace}/events";

/// Keeps a new event.
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Path(namespace): Path<String>,
    Json(mut event): Json<Value>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    check(&event, &namespace)?;
    if shared.lock().events_forbidden {
        return Err(status::forbidden(
            "events.events.k8s.io is forbidden: the fake was told not to take any".to_owned(),
        ));
    }
    event["metadata"]["namespace"] = namespace.into();
    shared.lock().events.push(event.clone());
    shared.changed.notify_all();
    Ok((StatusCode::CREATED, Json(event)))
}

/// Changes an event that is there.
pub(super) async fn patch(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
    Json(patch): Json<Value>,
) -> Result<Json<Value>, Failure> {
    let mut state = shared.lock();
    let is_it = |event: &&mut Value| event["metadata"]["namespace"] == namespace && event["metadata"]["name"] == name;
    let event = state.events.iter_mut().find(is_it).ok_or_else(|| status::not_found(&format!("events {name:?}")))?;
    merge(event, patch);
    let event = event.clone();
    shared.changed.notify_all();
    Ok(Json(event))
}

/// What an API server does not take (pkg/apis/core/validation/events.go).
fn check(event: &Value, namespace: &str) -> Result<(), Failure> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let invalid = |why: &str| Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("{why}: {event}")));
    for field in ["/metadata/name", "/eventTime", "/reportingController", "/reportingInstance", "/action", "/reason"] {
        if text(field).is_empty() {
            return invalid(&format!("{field} is required"));
        }
    }
    if ["/reportingInstance", "/action", "/reason"].into_iter().any(|field| text(field).len() > 128) {
        return invalid("at most 128 characters");
    }
    if !["Normal", "Warning"].contains(&text("/type")) || text("/note").len() > 1024 {
        return invalid("type is Normal or Warning, and note at most 1 kB");
    }
    let wanted = match text("/regarding/namespace") {
        "" => "default",
        of_object => of_object,
    };
    if wanted != namespace || !["", namespace].contains(&text("/metadata/namespace")) {
        return invalid("it is in another namespace than what it is about");
    }
    Ok(())
}

/// A JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) if target.is_object() => {
            for (name, value) in fields {
                if value.is_null() {
                    target.as_object_mut().map(|target| target.remove(&name));
                } else {
                    merge(&mut target[name], value);
                }
            }
        }
        patch => *target = patch,
    }
}

//! What is answered to requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Path, Query, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use futures::{TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, timeout_at};

use super::rbac::Right;
use super::select::Selector;
use super::status::{self, Failure};
use super::store::{Chunk, Key, Start, TooOld, too_old_event};
use super::{Expiry, Request, Resource, Shared, admin, events};

type Parameters = BTreeMap<String, String>;

/// A watch without `timeoutSeconds` ends after this: API servers choose between 30 and 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for resource in Resource::ALL {
        let path = resource.path();
        router = router.route(
            path,
            get(move |State(shared): State<Arc<Shared>>, Query(query): Query<Parameters>| async move {
                list_or_watch(resource, &shared, &query).await
            }),
        );
    }
    router
        .route(&format!("{}/{{name}}", Resource::Nodes.path()), get(node))
        .route(events::PATH, post(events::create))
        .route(&format!("{}/{{name}}", events::PATH), patch(events::patch))
        .route("/version", get(async || Json(json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0"}))))
        .fallback(async |request: HttpRequest| status::not_found(request.uri().path()))
        .layer(middleware::from_fn_with_state(shared.clone(), record))
        .with_state(shared)
}

/// Notes each request before anything else, and fails it if told so, or if kube-proxy may not make it.
async fn record(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<Parameters>,
    request: HttpRequest,
    next: Next,
) -> Response {
    if admin::asks(&request) {
        return admin::answer(&shared, request).await.into_response();
    }
    let right = Right::for_request(request.method(), request.uri().path(), flag(&query, "watch"));
    let denied = right.clone().filter(|right| !right.is_kube_proxys());
    let sent = Arc::<AtomicU64>::default();
    let fault = {
        let mut state = shared.lock();
        state.denied.extend(denied.as_ref().map(ToString::to_string));
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let authorization = authorization(request.headers());
        let fault = state.fault(&authorization);
        state.requests.push(Request {
            time: Instant::now(),
            method,
            path,
            authorization,
            query,
            right,
            sent: sent.clone(),
        });
        fault
    };
    shared.changed.notify_all();
    if let Some(fault) = fault {
        return fault;
    }
    if let Some(denied) = denied {
        return status::forbidden(format!("the role system:node-proxier does not let anyone {denied}")).into_response();
    }
    counted(next.run(request).await, sent)
}

/// Counts what is sent of the body.
fn counted(response: Response, sent: Arc<AtomicU64>) -> Response {
    response.map(|body| {
        if let Some(size) = body.size_hint().exact() {
            sent.store(size, Ordering::Relaxed);
            return body;
        }
        Body::from_stream(body.into_data_stream().inspect_ok(move |data| {
            sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        }))
    })
}

fn authorization(headers: &HeaderMap) -> String {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn node(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<Value>, Failure> {
    let state = shared.lock();
    if state.forbidden.contains(&Resource::Nodes) {
        return Err(status::told_to_forbid(Resource::Nodes, "get"));
    }
    let object = state.store.object(Resource::Nodes, (String::new(), name.clone()));
    object.map(|object| Json(Value::clone(object))).ok_or_else(|| status::not_found(&format!("nodes {name:?}")))
}

async fn list_or_watch(resource: Resource, shared: &Shared, query: &Parameters) -> Result<Response, Failure> {
    let watching = flag(query, "watch");
    if shared.lock().unknown.contains(&resource) {
        return Err(status::not_found(resource.path()));
    }
    if shared.lock().forbidden.contains(&resource) {
        return Err(status::told_to_forbid(resource, if watching { "watch" } else { "list" }));
    }
    let selector = Selector::parse(parameter(query, "labelSelector"), parameter(query, "fieldSelector"))
        .map_err(Failure::bad_request)?;
    if watching {
        return watch(resource, shared, selector, query);
    }
    let delay = shared.lock().list_delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if shared.lock().endless.contains(&resource) {
        return Ok(json(Body::from_stream(endless())));
    }
    Ok(list(resource, shared, &selector, query)?.into_response())
}

/// A list that has begun, and white space for ever.
fn endless() -> impl stream::Stream<Item = Chunk> {
    let begin = Bytes::from_static(br#"{"kind":"List","items":["#);
    let space = Bytes::from(vec![b' '; 1 << 20]);
    stream::iter(std::iter::once(begin).chain(std::iter::repeat(space)).map(Ok))
}

/// As with a watch cache, a list at version 0 ignores `limit`.
fn list(resource: Resource, shared: &Shared, selector: &Selector, query: &Parameters) -> Result<Json<Value>, Failure> {
    let limit = number(query, "limit")?.filter(|limit| *limit > 0 && parameter(query, "resourceVersion") != "0");
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let after = match parameter(query, "continue") {
        "" => None,
        token => Some(parse_continue(token).ok_or_else(|| Failure::bad_request("continue key is not valid"))?),
    };
    let from = after.as_ref().map_or(0, |(version, _)| *version);
    let page = shared.lock().store.list(resource, selector, limit, after);
    let page = page.map_err(|TooOld { oldest }| status::too_old(from, oldest))?;
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some((namespace, name)) = page.last {
        metadata["continue"] = format!("{}/{namespace}/{name}", page.version).into();
    }
    let items: Vec<&Value> = page.items.iter().map(|item| &**item).collect();
    Ok(Json(json!({
        "kind": format!("{}List", resource.kind()),
        "apiVersion": resource.api_version(),
        "metadata": metadata,
        "items": items,
    })))
}

fn watch(resource: Resource, shared: &Shared, selector: Selector, query: &Parameters) -> Result<Response, Failure> {
    let timeout = number(query, "timeoutSeconds")?.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let version = number(query, "resourceVersion")?.unwrap_or(0);
    let initial_events = flag(query, "sendInitialEvents");
    let mut state = shared.lock();
    if initial_events && !state.streaming_lists {
        let message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message));
    }
    let start = if version == 0 || initial_events { Start::Now(initial_events) } else { Start::After(version) };
    let opened = state.store.watch(resource, selector, start, flag(query, "allowWatchBookmarks"));
    let events = match opened {
        Ok(events) => events,
        Err(TooOld { oldest }) if state.expiry == Expiry::Status => return Err(status::too_old(version, oldest)),
        Err(TooOld { oldest }) => return Ok(json(Body::from(format!("{}\n", too_old_event(version, oldest))))),
    };
    drop(state);
    shared.changed.notify_all();
    Ok(json(Body::from_stream(chunks(events, Deadline::now() + timeout))))
}

/// What a watch sends, until it ends or the deadline is reached.
fn chunks(events: mpsc::UnboundedReceiver<Chunk>, deadline: Deadline) -> impl stream::Stream<Item = Chunk> {
    stream::unfold(events, move |mut events| async move {
        let chunk = timeout_at(deadline, events.recv()).await.ok()??;
        if chunk.is_err() {
            // An error discards what is not yet written; hyper writes while there is nothing to read here.
            tokio::task::yield_now().await;
        }
        Some((chunk, events))
    })
}

fn json(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn parameter<'a>(query: &'a Parameters, name: &str) -> &'a str {
    query.get(name).map_or("", String::as_str)
}

fn flag(query: &Parameters, name: &str) -> bool {
    matches!(parameter(query, name), "true" | "1")
}

/// None if missing or empty.
fn number(query: &Parameters, name: &str) -> Result<Option<u64>, Failure> {
    match parameter(query, name) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| Failure::bad_request(format!("{name}: {text:?} is not a number"))),
    }
}

/// A `continue` token is `version/namespace/name` of the last object sent.
fn parse_continue(token: &str) -> Option<(u64, Key)> {
    let (version, key) = token.split_once('/')?;
    let (namespace, name) = key.split_once('/')?;
    Some((version.parse().ok()?, (namespace.to_owned(), name.to_owned())))
}

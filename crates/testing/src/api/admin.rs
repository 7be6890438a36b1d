//! What an administrator may do besides: make, change and delete objects, as far as tests on a real cluster do.

use std::sync::Arc;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::status::{self, Failure};
use super::store::Store;
use super::{Resource, Shared};

/// The token that tells an administrator.
pub(super) const TOKEN: &str = "administrator";
/// How large an object may be.
const MOST: usize = 1 << 20;

/// Whether an administrator wants something changed.
pub(super) fn asks(request: &Request) -> bool {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    token.and_then(|value| value.strip_prefix("Bearer ")) == Some(TOKEN) && request.method() != Method::GET
}

/// Server-side apply, deletion, and tokens of service accounts. Kinds that the server does not serve are taken and forgotten.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MOST).await.map_err(|error| Failure::bad_request(error.to_string()))?;
    let mut object: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path: Vec<_> = parts.uri.path().trim_matches('/').split('/').collect();
    match (parts.method.as_str(), &path[..]) {
        ("POST", [.., "serviceaccounts", _, "token"]) => {
            object["status"] = json!({"token": "kube-proxy", "expirationTimestamp": "2030-01-01T00:00:00Z"});
            Ok((StatusCode::CREATED, Json(object)).into_response())
        }
        ("PATCH", [.., _, _]) => Ok(Json(apply(&mut shared.lock().store, object)).into_response()),
        ("DELETE", [.., plural, name]) => {
            let namespace = path.iter().rev().nth(2).filter(|_| path.contains(&"namespaces")).copied();
            delete(&mut shared.lock().store, plural, namespace.unwrap_or_default(), name);
            Ok(Json(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})).into_response())
        }
        _ => Err(status::not_found(parts.uri.path())),
    }
}

/// Keeps an object with what the server adds to it, and returns that.
fn apply(store: &mut Store, mut object: Value) -> Value {
    let Some(resource) = Resource::of(&object) else { return object };
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = (text("namespace"), text("name"));
    if resource == Resource::Services {
        let old = store.object(resource, key.clone()).map_or(Value::Null, |old| old["spec"].clone());
        allocate(&mut object["spec"], &old, store.version());
    }
    store.put(resource, key.clone(), object);
    store.object(resource, key).map_or(Value::Null, |object| Value::clone(object))
}

/// Gives a Service the addresses and NodePorts that it had, or else some that no other has.
fn allocate(spec: &mut Value, old: &Value, number: u64) {
    if spec["clusterIP"].is_null() {
        let dual = spec["ipFamilyPolicy"].as_str().is_some_and(|policy| policy.ends_with("DualStack"));
        let (high, low) = (number / 250, number % 250 + 1);
        let all = [format!("10.96.{high}.{low}"), format!("fd00:10:96::{high:x}:{low:x}")];
        let new = json!(all[..if dual { 2 } else { 1 }]);
        let addresses = if old.is_null() { new } else { old["clusterIPs"].clone() };
        spec["clusterIP"] = addresses[0].clone();
        spec["ipFamilies"] = json!(["IPv4", "IPv6"][..addresses.as_array().map_or(1, Vec::len)]);
        spec["clusterIPs"] = addresses;
    }
    if spec["type"] == "NodePort" || spec["type"] == "LoadBalancer" {
        for (index, port) in spec["ports"].as_array_mut().into_iter().flatten().enumerate() {
            if port["nodePort"].is_null() {
                let kept = old["ports"][index]["nodePort"].as_u64();
                port["nodePort"] = kept.unwrap_or(30_000 + (number * 8 + index as u64) % 2_768).into();
            }
        }
    }
}

/// Deletes an object, or a namespace with all that is in it.
fn delete(store: &mut Store, plural: &str, namespace: &str, name: &str) {
    for resource in Resource::ALL {
        if plural == "namespaces" {
            for key in store.keys_in(resource, name) {
                store.delete(resource, key);
            }
        } else if resource.plural() == plural {
            store.delete(resource, (namespace.to_owned(), name.to_owned()));
        }
    }
}

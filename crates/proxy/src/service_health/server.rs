//! One port that answers for one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use model::{PortNumber, ServiceName};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use telemetry::{Health, Moment};
use tokio::task::JoinHandle;

use crate::http;

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Answers for a Service wherever it listens, until it is ended.
#[derive(Debug)]
pub(super) struct Server {
    port: PortNumber,
    answer: Answer,
    listeners: BTreeMap<IpAddr, JoinHandle<Result<Infallible>>>,
}

/// What is answered, whatever is asked.
#[derive(Clone, Debug)]
struct Answer {
    service: ServiceName,
    /// How many addresses on this node are ready to serve it.
    endpoints: Arc<AtomicUsize>,
    health: Arc<Health>,
}

/// As kube-proxy words it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Server {
    /// One that listens nowhere yet.
    pub(super) fn new(port: PortNumber, service: ServiceName, health: Arc<Health>) -> Self {
        let answer = Answer { service, endpoints: Arc::default(), health };
        Self { port, answer, listeners: BTreeMap::new() }
    }

    pub(super) const fn port(&self) -> PortNumber {
        self.port
    }

    /// From now on, so many addresses on this node are ready.
    pub(super) fn set_endpoints(&self, endpoints: usize) {
        self.answer.endpoints.store(endpoints, Ordering::Relaxed);
    }

    /// Listens on these addresses and on no others. Where it does already, nobody notices.
    ///
    /// # Errors
    /// The port cannot be had on one of them. It listens on the others.
    pub(super) async fn listen_on(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<()> {
        let gone = self.listeners.extract_if(.., |address, _| !addresses.contains(address)).collect::<Vec<_>>();
        for (_, listener) in gone {
            listener.abort();
            // Only then is the address free for the next one.
            listener.await.ok();
        }
        let mut outcome = Ok(());
        for address in addresses.iter().filter(|address| !self.listeners.contains_key(address)).collect::<Vec<_>>() {
            match http::listen_exactly((*address, self.port.get()).into()) {
                Ok(listener) => {
                    let routes = Router::new().fallback(respond).with_state(self.answer.clone());
                    let task = tokio::spawn(async move { http::accept(&listener, &routes).await });
                    self.listeners.insert(*address, task);
                }
                Err(error) => {
                    outcome = Err(error).with_context(|| {
                        format!(
                            "cannot listen on {address}, port {}, which spec.healthCheckNodePort asks for: end what uses it",
                            self.port
                        )
                    });
                }
            }
        }
        outcome
    }

    /// Closes the port. Whoever is still connected is told that there are no endpoints.
    pub(super) async fn end(mut self) {
        self.set_endpoints(0);
        self.listen_on(&BTreeSet::new()).await.ok();
    }
}

async fn respond(State(answer): State<Answer>) -> Response {
    let Answer { service, endpoints, health } = &answer;
    let (local_endpoints, is_healthy) = (endpoints.load(Ordering::Relaxed), health.is_healthy(Moment::now()));
    let name = Name { namespace: &service.namespace, name: &service.name };
    let body = Body { service: name, local_endpoints, service_proxy_healthy: is_healthy };
    let mut text = Vec::new();
    let serves = local_endpoints > 0 && is_healthy;
    let written = body.serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t")));
    let status = match written {
        Ok(()) if serves => StatusCode::OK,
        Ok(()) => StatusCode::SERVICE_UNAVAILABLE,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let headers = [
        (CONTENT_TYPE, "application/json".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (WEIGHT, local_endpoints.to_string()),
    ];
    (status, headers, text).into_response()
}

//! One port that answers for one Service.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use compiler::NodePorts;
use model::{Family, PortNumber, ServiceName};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use telemetry::{Health, Moment};
use tokio::task::JoinSet;

use crate::http;

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    _listeners: JoinSet<Result<Infallible>>,
}

/// What is answered, whatever is asked.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) service: ServiceName,
    /// How many addresses on this node are ready to serve it.
    pub(super) endpoints: Arc<AtomicUsize>,
    pub(super) health: Arc<Health>,
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
    /// Listens where NodePorts of this family answer.
    ///
    /// # Errors
    /// The port is taken on one of the addresses.
    pub(super) fn start(family: Family, addresses: &NodePorts, port: PortNumber, answer: Answer) -> Result<Self> {
        let any = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let addresses = match addresses {
            NodePorts::Any => vec![any],
            NodePorts::Only(addresses) => addresses.iter().copied().collect(),
        };
        let listen = |address: IpAddr| {
            let address = (address, port.get()).into();
            http::listen_exactly(address).with_context(|| {
                format!("cannot listen on {address}, which spec.healthCheckNodePort asks for: end what uses the port")
            })
        };
        let listeners = addresses.into_iter().map(listen).collect::<Result<Vec<_>>>()?;
        let routes = Router::new().fallback(respond).with_state(answer);
        let mut tasks = JoinSet::new();
        for listener in listeners {
            let routes = routes.clone();
            tasks.spawn(async move { http::accept(&listener, &routes).await });
        }
        Ok(Self { _listeners: tasks })
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

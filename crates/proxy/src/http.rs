//! The HTTP servers: health for load balancers, metrics for monitoring.
//!
//! Anyone on the network may be able to connect, so that what a client can take is limited: connections, the size of a
//! request's head (bodies are not read, but for a number of 64 bytes), the time to send it, and the time a connection lasts.

mod debug;
mod negotiate;
mod pages;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use telemetry::{HealthReport, Moment};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info};

use crate::syncer::Telemetry;

pub(crate) use self::pages::{Pages, metrics_routes};

/// How long until it is tried again to listen on an address that is taken (contract §3.9).
const BIND_RETRY: Duration = Duration::from_secs(5);
/// How many connections a server has at most: with one more, the oldest is closed.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to send the head of a request, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How large the head of a request may be.
const MAX_HEAD: usize = 16 << 10;
/// How long a connection may last. Longer than any scrape takes; clients open a new one.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(5);
/// How many connections wait to be accepted.
const BACKLOG: u32 = 1024;

/// An HTTP server that is to be started.
#[derive(Debug)]
pub(crate) struct Server {
    /// What log lines call it.
    pub(crate) name: &'static str,
    /// Where in the configuration its address is.
    pub(crate) setting: &'static str,
    pub(crate) address: SocketAddr,
    /// Whether to give up when the address cannot be had.
    pub(crate) hard_fail: bool,
    pub(crate) routes: Router,
}

impl Server {
    /// Serves for ever.
    ///
    /// # Errors
    /// The address cannot be had, and `hard_fail` is set.
    pub(crate) async fn run(self) -> Result<Infallible> {
        let Self { name, setting, address, hard_fail, routes } = self;
        let listener = loop {
            match listen(address) {
                Ok(listener) => break listener,
                Err(error) if hard_fail => {
                    return Err(error).with_context(|| {
                        format!(
                            "the {name} server cannot listen on {address}: free it, or set {setting} to another one"
                        )
                    });
                }
                Err(error) => {
                    error!(
                        "the {name} server cannot listen on {address}, will try again in {BIND_RETRY:?}: {error}; free it, or \
                         set {setting} to another one"
                    );
                    sleep(BIND_RETRY).await;
                }
            }
        };
        info!(%address, "the {name} server is listening");
        accept(&listener, &routes).await
    }
}

/// `/healthz` and `/livez`, by any method (contract §8.1).
pub(crate) fn health_routes(telemetry: Telemetry) -> Router {
    Router::new().route("/healthz", any(healthz)).route("/livez", any(livez)).with_state(telemetry)
}

async fn healthz(State(telemetry): State<Telemetry>) -> Response {
    let report = telemetry.health.healthz(Moment::now());
    telemetry.metrics.healthz_answered(report.status);
    health_response(report)
}

async fn livez(State(telemetry): State<Telemetry>) -> Response {
    let report = telemetry.health.livez(Moment::now());
    telemetry.metrics.livez_answered(report.status);
    health_response(report)
}

fn health_response(report: HealthReport) -> Response {
    let status = StatusCode::from_u16(report.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, plain("application/json", report.body)).into_response()
}

fn plain(content_type: &'static str, body: impl Into<String>) -> Response {
    ([(CONTENT_TYPE, content_type), (X_CONTENT_TYPE_OPTIONS, "nosniff")], body.into()).into_response()
}

/// Listens as Go does: an unspecified address of either family means all addresses of both.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return listen_exactly(address);
    }
    match listen_on((Ipv6Addr::UNSPECIFIED, address.port()).into(), Families::Both) {
        // No IPv6 in this kernel.
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            listen_exactly((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        listener => listener,
    }
}

/// Listens on this address, or on all of its family if it is unspecified.
pub(crate) fn listen_exactly(address: SocketAddr) -> io::Result<TcpListener> {
    listen_on(address, Families::Own)
}

/// What an unspecified IPv6 address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    Own,
    Both,
}

fn listen_on(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &(families == Families::Own))?;
    }
    // Or a restart would have to wait for the connections of its predecessor to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Answers all that connect, for ever.
///
/// # Errors
/// None that happens; it never returns.
pub(crate) async fn accept(listener: &TcpListener, routes: &Router) -> Result<Infallible> {
    let mut connections = VecDeque::<AbortHandle>::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.retain(|connection| !connection.is_finished());
                if connections.len() >= MAX_CONNECTIONS {
                    // A probe is answered in milliseconds: whoever has been there longest has least to say.
                    connections.pop_front().as_ref().map(AbortHandle::abort);
                }
                connections.push_back(tokio::spawn(serve(stream, routes.clone())).abort_handle());
            }
            Err(error) => {
                // Out of file descriptors, most likely: they do not come back by trying harder.
                debug!("a connection cannot be accepted: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Router) {
    // No HTTP/2, for which none of these limits holds.
    let mut server = Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, connection).await {
        debug!("a connection ended: {error}");
    }
}

#[cfg(test)]
mod tests;

//! What the metrics server shows (contract §8.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use axum::routing::any;
use config::{Config, KUBERNETES_VERSION};
use serde_json::{Value, json};
use telemetry::{Metrics, MetricsError, Moment, Slis};
use tokio::sync::watch;

use super::{debug, negotiate, plain};
use crate::flags::Flags;

/// What there is to show besides metrics.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    /// The configuration in force, a complete KubeProxyConfiguration, as it is when somebody asks.
    pub(crate) configuration: watch::Receiver<Value>,
    /// All flags and their values, sorted by name; `None` without the feature gate `ComponentFlagz`.
    pub(crate) flags: Option<Vec<(String, String)>>,
    /// Whether there is `/statusz` (feature gate `ComponentStatusz`).
    pub(crate) statusz: bool,
    /// Whether there is `/debug` (`enableProfiling`).
    pub(crate) debug: bool,
}

impl Pages {
    /// What flags and configuration amount to. `configuration` is the one that `config` comes from.
    pub(crate) fn new(flags: &Flags, config: &Config, configuration: watch::Receiver<Value>) -> Self {
        Self {
            configuration,
            flags: config.features.component_flagz().then(|| flags.listed().to_vec()),
            statusz: config.features.component_statusz(),
            debug: config.profiling,
        }
    }
}

#[derive(Debug)]
struct Shown {
    metrics: Arc<Metrics>,
    slis: Slis,
    pages: Pages,
    started: Moment,
}

const TEXT: &str = "text/plain; charset=utf-8";

/// All paths, by any method where nothing else is said. A path with a slash at its end is another one, and not there.
///
/// # Errors
/// A metric cannot be registered, which is a mistake in this program.
pub(crate) fn metrics_routes(metrics: Arc<Metrics>, pages: Pages) -> Result<Router, MetricsError> {
    let mut routes = Router::new()
        .route("/metrics", any(show_metrics))
        .route("/metrics/slis", any(slis))
        .route("/healthz", any(healthz))
        .route("/healthz/ping", any(async || text("ok")))
        .route("/proxyMode", any(async || text("nftables")))
        .route("/configz", any(configz));
    if pages.flags.is_some() {
        routes = routes.route("/flagz", any(flagz));
    }
    if pages.statusz {
        routes = routes.route("/statusz", any(statusz));
    }
    if pages.debug {
        routes = routes.merge(debug::routes());
    }
    let shown = Shown { metrics, slis: Slis::new()?, pages, started: Moment::now() };
    let not_found = async || (StatusCode::NOT_FOUND, text("404 page not found\n"));
    Ok(routes.fallback(not_found).with_state(Arc::new(shown)))
}

/// An answer in plain text.
pub(super) fn text(body: impl Into<String>) -> Response {
    plain(TEXT, body)
}

async fn show_metrics(State(shown): State<Arc<Shown>>) -> Response {
    plain(Metrics::CONTENT_TYPE, shown.metrics.render())
}

async fn slis(State(shown): State<Arc<Shown>>, method: Method) -> Response {
    if method == Method::DELETE {
        shown.slis.reset();
        return text("metrics reset\n");
    }
    plain(Metrics::CONTENT_TYPE, shown.slis.render())
}

/// Of the one check that there is, which is that somebody answers. It says nothing about the proxy's health.
async fn healthz(State(shown): State<Arc<Shown>>, RawQuery(query): RawQuery) -> Response {
    shown.slis.answered();
    let is_verbose = |query: String| query.split('&').any(|name| name == "verbose" || name.starts_with("verbose="));
    text(if query.is_some_and(is_verbose) { "[+]ping ok\nhealthz check passed\n" } else { "ok" })
}

async fn configz(State(shown): State<Arc<Shown>>) -> Response {
    let configuration = &*shown.pages.configuration.borrow();
    plain("application/json", json!({"kubeproxy.config.k8s.io": configuration}).to_string())
}

/// The separator is always the same one, where kube-proxy picks one by chance.
async fn flagz(State(shown): State<Arc<Shown>>, headers: HeaderMap) -> Response {
    let flags = shown.pages.flags.as_deref().unwrap_or_default();
    let lines: String = flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let fields = json!({"flags": flags.iter().cloned().collect::<BTreeMap<_, _>>()});
    negotiate::answer(&headers, "Flagz", &lines, fields)
}

async fn statusz(State(shown): State<Arc<Shown>>, headers: HeaderMap) -> Response {
    let flagz = shown.pages.flags.is_some().then_some("/flagz");
    let paths: Vec<_> = ["/configz"].into_iter().chain(flagz).chain(["/healthz", "/metrics", "/proxyMode"]).collect();
    let started = jiff::Timestamp::try_from(shown.started.wall).unwrap_or_default();
    let up = shown.started.monotonic.elapsed().as_secs();
    // There is none, and who reads this should know why.
    let go = "none (Rust)";
    let ours = env!("CARGO_PKG_VERSION");
    let emulated = KUBERNETES_VERSION.trim_start_matches('v').rsplit_once('.').map_or("", |(minor, _)| minor);
    let lines = format!(
        "Started: {}\nUp: {} hr {:02} min {:02} sec\nGo version: {go}\nBinary version: {ours}\nEmulation version: {emulated}\nPaths: {}\n",
        started.strftime("%a %b %e %H:%M:%S UTC %Y"),
        up / 3600,
        up / 60 % 60,
        up % 60,
        paths.join(" "),
    );
    let fields = json!({
        "startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "uptimeSeconds": up,
        "goVersion": go,
        "binaryVersion": ours,
        "emulationVersion": emulated,
        "paths": paths,
    });
    negotiate::answer(&headers, "Statusz", &lines, fields)
}

//! The connection to the API server.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::problem::Reporter;
use crate::requests::{Pause, Requests};
use crate::token::TokenFile;

/// An API server, and how to talk to it. Nothing is sent until it is used.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) client: kube::Client,
    pub(crate) url: String,
    /// How long it asked to be left alone.
    pub(crate) pause: Pause,
}

/// Why there is no way to reach an API server with the given configuration.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig is missing, malformed, or names something that does not exist.
    #[error(
        "kubeconfig {path}: {reason}: correct the file, or the path given in clientConnection.kubeconfig or --kubeconfig"
    )]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no kubeconfig, and this is not a pod with a service account.
    #[error(
        "no kubeconfig is given and this is not a pod with a service account ({reason}): set clientConnection.kubeconfig or \
         --kubeconfig, or use --manifest-dir to work without an API server"
    )]
    InCluster {
        /// What is missing.
        reason: String,
    },
    /// What was given for the server is no address of one.
    #[error("{url:?} is not an http or https URL: correct --master")]
    Master {
        /// What was given.
        url: String,
    },
    /// The credentials or certificates cannot be used.
    #[error(
        "the credentials for {url} cannot be used: {reason}: correct the user in the kubeconfig, or the files it names"
    )]
    Credentials {
        /// The API server.
        url: String,
        /// What is wrong with them.
        reason: String,
    },
}

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that says nothing for this long is asked whether it is still there. That it is not has to be known, and another connection to
/// it to have been tried, within a minute; the kernel is up to two seconds late with each step.
const KEEPALIVE_TIME: Duration = Duration::from_secs(20);
/// How often it is asked again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How many times.
const KEEPALIVE_RETRIES: u32 = 3;

impl ApiServer {
    /// The API server that a kubeconfig names, or, without one, that of the cluster this pod runs in. `master` is its URL,
    /// whatever the kubeconfig says; without a kubeconfig, that is all there is. The reporter is told of every request.
    ///
    /// # Errors
    /// The configuration cannot be read or used. Whether the server answers is found out later.
    pub async fn configure(
        kubeconfig: Option<&Path>,
        master: Option<&str>,
        reporter: &Reporter,
    ) -> Result<Self, ClientError> {
        let mut config = match (kubeconfig, master) {
            (Some(path), _) => from_kubeconfig(path).await?,
            (None, Some(master)) => kube::Config::new(server_url(master)?),
            (None, None) => in_cluster()?,
        };
        if let Some(master) = master {
            config.cluster_url = server_url(master)?;
        }
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let pause = Pause::default();
        match connect(config, reporter.clone(), pause.clone()) {
            Ok(client) => Ok(Self { client, url, pause }),
            Err(reason) => Err(ClientError::Credentials { url, reason }),
        }
    }

    /// The client, for other requests to the same server.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("url", &self.url).finish_non_exhaustive()
    }
}

fn in_cluster() -> Result<kube::Config, ClientError> {
    kube::Config::incluster().map_err(|error| {
        let reason = match error {
            InClusterError::ReadEnvironmentVariable(_) => {
                "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set".to_owned()
            }
            error => chain(&error),
        };
        ClientError::InCluster { reason }
    })
}

/// The URL of an API server, over HTTP if it says nothing else, as with kube-proxy.
fn server_url<Url: FromStr>(master: &str) -> Result<Url, ClientError> {
    let url = if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
    let parsed = url.parse().ok().filter(|_| url.starts_with("http://") || url.starts_with("https://"));
    parsed.ok_or(ClientError::Master { url })
}

async fn from_kubeconfig(path: &Path) -> Result<kube::Config, ClientError> {
    let told = |error: KubeconfigError| {
        let reason = match &error {
            KubeconfigError::ReadConfig(error, _) => format!("cannot be read: {error}"),
            // The parser draws the place in the file, over several lines.
            KubeconfigError::Parse(error) => format!("is malformed: {}", error.without_snippet()),
            error => chain(error),
        };
        ClientError::Kubeconfig { path: path.to_owned(), reason }
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(told)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(told)?;
    let unusable = |reason: &str| Err(ClientError::Kubeconfig { path: path.to_owned(), reason: reason.to_owned() });
    // Neither of these is noticed before the first request, which would be repeated for ever.
    if !matches!(config.cluster_url.scheme_str(), Some("http" | "https")) {
        return unusable(&format!("server {} is not an http or https URL", config.cluster_url));
    }
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        return unusable("certificate-authority has no certificate in it (PEM)");
    }
    Ok(config)
}

/// kube's own stack sets no keepalive, so that a watch over a connection whose other end has vanished is only given up at
/// the watch's timeout, minutes later. With keepalive it fails within a minute, at no cost to the server.
///
/// # Errors
/// What the configuration names as credentials or certificates cannot be used, in words.
fn connect(mut config: kube::Config, reporter: Reporter, pause: Pause) -> Result<kube::Client, String> {
    let token = config.auth_info.token_file.take().map(|path| TokenFile::open(path.into())).transpose()?;
    if token.is_some() {
        // Where there is more than one, the file counts, as with client-go.
        (config.auth_info.token, config.auth_info.exec) = (None, None);
    }
    let told = |error: kube::Error| chain(&error);
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_TIME));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    // The same for a connection with unacknowledged data, on which keepalive does not probe.
    tcp.set_tcp_user_timeout(Some(KEEPALIVE_TIME + KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES));

    let tls = config.rustls_https_connector_with_connector(tcp).map_err(told)?;
    let client = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(tls);
    let requests = Requests { client, token: token.map(Arc::new), reporter, pause };
    let service = tower::service_fn(move |request| requests.clone().send(request));
    let headers = config.extra_headers_layer().map_err(told)?;
    let stack = ClientBuilder::new(service, config.default_namespace.clone()).with_layer(&headers);
    Ok(match config.auth_layer().map_err(told)? {
        Some(auth) => stack.with_layer(&auth).with_layer(&config.base_uri_layer()).build(),
        None => stack.with_layer(&config.base_uri_layer()).build(),
    })
}

/// An error with all its causes, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The innermost cause of an error: what the operating system, the TLS library or the parser said.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

//! An API server, as an administrator of the cluster uses it.

use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fmt, fs};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use testing::api::FakeApi;
use testing::netns::Cluster;
use tokio::runtime::Runtime;

use crate::forwarder::Forwarder;

/// The kubeconfig of an administrator of a real cluster; without it, tests use a fake one.
const KUBECONFIG: &str = "SLIPSTREAM_E2E_KUBECONFIG";

/// An API server, and what one test makes there: objects in a namespace of its own, a Node, and a service account with the rights of
/// kube-proxy. All of it goes when this is dropped.
///
/// It is the one of the kubeconfig that `SLIPSTREAM_E2E_KUBECONFIG` names, or else a fake one.
pub struct ApiServer {
    runtime: Runtime,
    client: Client,
    name: String,
    kubeconfig: PathBuf,
    forwarder: Forwarder,
    cluster: Arc<Cluster>,
    /// Goes last.
    _fake: Option<FakeApi>,
}

impl ApiServer {
    /// Connects to it, so that a proxy on the node of `cluster` can, too. Files go into `directory`.
    ///
    /// # Errors
    /// The kubeconfig is of no use, or does not give enough rights.
    pub fn connect(cluster: &Arc<Cluster>, directory: &Path) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("slipstream-e2e-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (admin, fake) = match env::var_os(KUBECONFIG) {
            Some(path) => (PathBuf::from(path), None),
            None => {
                let fake = FakeApi::start()?;
                (fake.admin_kubeconfig(directory)?, Some(fake))
            }
        };
        let admin = Kubeconfig::read_from(&admin).with_context(|| format!("{KUBECONFIG} is {}", admin.display()))?;
        let runtime = Runtime::new()?;
        let config =
            runtime.block_on(kube::Config::from_custom_kubeconfig(admin.clone(), &KubeConfigOptions::default()))?;
        let (host, port) = (config.cluster_url.host().unwrap_or_default(), config.cluster_url.port_u16());
        let is_tls = config.cluster_url.scheme_str() == Some("https");
        let server =
            (host.trim_matches(['[', ']']), port.unwrap_or(if is_tls { 443 } else { 80 })).to_socket_addrs()?.next();
        let forwarder = Forwarder::start(&cluster.node, server.context("the API server has no address")?)?;
        let inside = format!("{}://{}", if is_tls { "https" } else { "http" }, forwarder.address());
        let cluster_name = current_cluster(&admin).context("the kubeconfig has no current context")?;
        let named =
            admin.clusters.iter().find(|named| named.name == cluster_name).and_then(|named| named.cluster.as_ref());
        let mut access = serde_json::to_value(named.context("the kubeconfig has no such cluster")?)?;
        access["server"] = inside.into();
        if is_tls && access["tls-server-name"].is_null() {
            access["tls-server-name"] = host.into();
        }
        let client = {
            let _guard = runtime.enter();
            Client::try_from(config)?
        };
        let kubeconfig = directory.join("kubeconfig.conf");
        let api = Self { runtime, client, name, kubeconfig, forwarder, cluster: cluster.clone(), _fake: fake };
        api.give_access(&access)?;
        Ok(api)
    }

    /// The namespace of the test, which is also the name of its Node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A kubeconfig with the rights of kube-proxy, of use on the node.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Makes an object what is given, status included. Returns it with what the server has added, such as addresses.
    ///
    /// # Errors
    /// The server does not take it.
    pub fn apply(&self, object: impl Into<Value>) -> Result<Value> {
        let object = object.into();
        let (api, name) = self.api(&object)?;
        let (how, patch) = (PatchParams::apply(&self.name).force(), Patch::Apply(&object));
        let told = || format!("applying {} {name}", object["kind"]);
        let mut applied = self.runtime.block_on(api.patch(&name, &how, &patch)).with_context(told)?;
        if !object["status"].is_null() {
            applied = self.runtime.block_on(api.patch_status(&name, &how, &patch)).with_context(told)?;
        }
        Ok(serde_json::to_value(applied)?)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// The server does not let us.
    pub fn delete(&self, object: impl Into<Value>) -> Result<()> {
        let object = object.into();
        let (api, name) = self.api(&object)?;
        let deleted = self.runtime.block_on(api.delete(&name, &kube::api::DeleteParams::default()));
        deleted.with_context(|| format!("deleting {} {name}", object["kind"]))?;
        Ok(())
    }

    /// Where an object belongs, and its name.
    fn api(&self, object: &Value) -> Result<(Api<DynamicObject>, String)> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("/apiVersion").rsplit_once('/').unwrap_or(("", text("/apiVersion")));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
        let api = match text("/metadata/namespace") {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        match text("/metadata/name") {
            "" => bail!("an object without a name: {object}"),
            name => Ok((api, name.to_owned())),
        }
    }

    /// Makes the namespace, and in it a service account with kube-proxy's role and a kubeconfig for it.
    fn give_access(&self, access: &Value) -> Result<()> {
        let name = &self.name;
        self.apply(namespace(name))?;
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": name}});
        self.apply(account)?;
        self.apply(binding(name))?;
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), name);
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let how = PostParams::default();
        let token = self
            .runtime
            .block_on(accounts.create_token_request(name, &how, &request))?
            .status
            .context("the API server gives no token")?
            .token;
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": access}],
            "users": [{"name": "proxy", "user": {"token": token}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "cluster", "user": "proxy"}}],
            "current-context": "proxy",
        });
        fs::write(&self.kubeconfig, kubeconfig.to_string()).context("cannot write a kubeconfig")
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}});
        for object in [node, binding(&self.name), namespace(&self.name)] {
            if let Err(error) = self.delete(object) {
                eprintln!("something is left behind in the cluster: {error:#}");
            }
        }
        self.forwarder.end(&self.cluster.node);
    }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// Lets the service account do what kube-proxy may.
fn binding(name: &str) -> Value {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"});
    let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": name});
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": role,
        "subjects": [subject],
    })
}

fn current_cluster(kubeconfig: &Kubeconfig) -> Option<String> {
    let current = kubeconfig.current_context.as_deref()?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == current)?;
    Some(context.context.as_ref()?.cluster.clone())
}

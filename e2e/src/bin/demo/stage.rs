//! The node, its pods, and the proxy, which does not run yet.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use e2e::{Host, Proxy, Workload};
use model::{Family, Protocol};
use testing::netns::{Cluster, Namespace};

use crate::report::Report;

/// Their addresses follow from their order, and are those in the manifests.
const SERVERS: [&str; 6] = ["web-1", "web-2", "web-3", "dns-1", "dns-2", "web-4"];

pub(crate) struct Stage {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) proxy: Proxy,
    client: Workload,
    servers: Vec<Workload>,
}

impl Stage {
    /// Makes the namespaces, and copies the manifests.
    pub(crate) fn set_up(manifests: &Path) -> Result<Self> {
        let cluster = Arc::new(Cluster::new()?);
        let ports = |name: &str| -> &[(Protocol, u16)] {
            match name.split('-').next() {
                Some("web") => &[(Protocol::Tcp, 8080)],
                _ => &[(Protocol::Udp, 5353), (Protocol::Tcp, 5354)],
            }
        };
        let client = Workload::start(&cluster, "client", &[])?;
        let start = |name| Workload::start(&cluster, name, ports(name));
        let servers = SERVERS.into_iter().map(start).collect::<Result<_>>()?;
        let proxy = Proxy::prepare(Arc::clone(&cluster))?;
        copy(manifests, proxy.manifests().directory())?;
        Ok(Self { cluster, proxy, client, servers })
    }

    pub(crate) fn introduce(&self, report: &Report) {
        report.title("Slipstream: Services on a made-up node, each host a network namespace");
        let line = |host: Host<'_>, what: &str| {
            let [v4, v6] = Family::ALL.map(|family| host.address(family).to_string());
            report.note(&format!("{:8} {v4:13} {v6:16} {what}", host.name));
        };
        line(Host::node(&self.cluster), "the node; kube-proxy runs here. To its pods it is 10.1.0.1 and fd00:10:1::1");
        line(Host::outside(&self.cluster), "a host outside the cluster");
        line(self.client(), "a pod that asks");
        for pod in &self.servers {
            let what = match pod.name() {
                "web-4" => "a pod that serves TCP, not an endpoint yet",
                name if name.starts_with("web") => "a pod that serves TCP",
                _ => "a pod that serves UDP and TCP",
            };
            line(pod.host(), what);
        }
    }

    /// The pod that asks.
    pub(crate) fn client(&self) -> Host<'_> {
        self.client.host()
    }

    /// The pod that asks, and the proxy to do something to meanwhile.
    pub(crate) const fn client_and_proxy(&mut self) -> (&Namespace, &mut Proxy) {
        (&self.client.pod().namespace, &mut self.proxy)
    }

    /// The pod of this name that serves.
    pub(crate) fn server(&self, name: &str) -> &Workload {
        self.servers.iter().find(|pod| pod.name() == name).expect("steps name the pods that there are")
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from)
        .with_context(|| format!("there is no manifest directory {}: give one with --manifests", from.display()))?;
    let mut copied = 0;
    for entry in entries {
        let path = entry?.path();
        let (Some(name), Some("yaml")) = (path.file_name(), path.extension().and_then(|extension| extension.to_str()))
        else {
            continue;
        };
        fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
        copied += 1;
    }
    ensure!(copied > 0, "there are no *.yaml files in {}", from.display());
    Ok(())
}

//! A node that follows an API server, pods that serve, and who asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use e2e::{ApiServer, Destination, Expected, Host, PATIENCE, Probe, Proxy, Settings, Workload};
use model::{Family, Protocol};
use serde_json::Value;
use tempfile::TempDir;
use testing::netns::Cluster;
use testing::objects::{self, Service};
use testing::traffic::ask_tcp;

const PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 8080), (Protocol::Udp, 5353)];

pub(crate) struct World {
    pub(crate) proxy: Proxy,
    pub(crate) api: ApiServer,
    pub(crate) web: [Workload; 3],
    pub(crate) shop: Workload,
    pub(crate) cluster: Arc<Cluster>,
    _files: TempDir,
}

/// Where a Service can be reached, by what the API server has allocated.
pub(crate) struct Ways {
    pub(crate) cluster_ips: Vec<IpAddr>,
    /// Of its first port.
    pub(crate) node_port: u16,
}

impl World {
    pub(crate) fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let cluster = Arc::new(Cluster::new().unwrap());
        let api = ApiServer::connect(&cluster, files.path()).unwrap();
        let addresses = Family::ALL.map(|family| Cluster::node_address(family).to_string());
        api.apply(objects::node(api.name(), &[], &addresses.each_ref().map(String::as_str))).unwrap();
        let web = ["web-0", "web-1", "web-2"].map(|name| Workload::start(&cluster, name, &PORTS).unwrap());
        let shop = Workload::start(&cluster, "shop", &[]).unwrap();
        let mut proxy = Proxy::prepare(cluster.clone()).unwrap();
        proxy.follow(api.name(), api.kubeconfig());
        proxy.run(&Settings::default()).unwrap();
        Self { proxy, api, web, shop, cluster, _files: files }
    }

    /// A Service of both families, as far as the cluster has them, whose first port is `http`.
    pub(crate) fn service(&self, name: &str) -> Service {
        let service = objects::service(self.api.name(), name).port("http", "TCP", 80).set("/spec/type", "NodePort");
        service.set("/spec/ipFamilyPolicy", "PreferDualStack").set("/spec/ports/0/targetPort", 8080)
    }

    /// Has the cluster know a Service, and returns how to reach it.
    pub(crate) fn apply(&self, service: Service) -> Ways {
        let applied = self.api.apply(service).unwrap();
        let addresses = applied["spec"]["clusterIPs"].as_array().unwrap();
        let cluster_ips = addresses.iter().map(|address| address.as_str().unwrap().parse().unwrap()).collect();
        let node_port = applied["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
        Ways { cluster_ips, node_port: u16::try_from(node_port).unwrap() }
    }

    /// Gives a Service these endpoints in each family, by the numbers of their workloads, all on our node or all elsewhere.
    pub(crate) fn serve(&self, service: &str, endpoints: &[usize], on_node: &str) {
        for family in Family::ALL {
            let name = format!("{service}-{}", family.label().to_lowercase());
            let slice = objects::slice(self.api.name(), &name, service).set("/addressType", family.label());
            let slice = slice.port("http", "TCP", 8080).port("dns", "UDP", 5353);
            let slice = endpoints.iter().fold(slice, |slice, number| {
                slice.endpoint(&self.web[*number].pod().address(family).to_string()).on_node(on_node)
            });
            self.api.apply(slice).unwrap();
        }
    }

    pub(crate) fn delete_service(&self, name: &str) {
        self.api.delete(Value::from(objects::service(self.api.name(), name))).unwrap();
    }

    pub(crate) fn outside(&self) -> Host<'_> {
        Host::outside(&self.cluster)
    }

    /// Asks until this is what comes of it: nothing tells when the rules have followed the API server.
    pub(crate) fn expect(&self, from: Host<'_>, to: Destination, expected: &Expected) {
        let (probe, deadline) = (Probe { from, to }, Instant::now() + PATIENCE);
        loop {
            let seen = probe.ask(expected);
            if seen.is(&probe, expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{probe}: expected {expected}, seen {seen}\n{}", self.proxy.log_tail());
        }
    }

    /// Waits until the rules say nothing of an address any more.
    pub(crate) fn proxy_forgets(&self, to: &Destination) {
        let (address, deadline) = (to.socket.ip().to_string(), Instant::now() + PATIENCE);
        while self
            .cluster
            .node
            .sh("nft list ruleset")
            .unwrap_or_default()
            .split_whitespace()
            .any(|word| word == address)
        {
            assert!(Instant::now() < deadline, "{address} is still in the rules\n{}", self.proxy.log_tail());
        }
    }

    /// Who answers `shop` first.
    pub(crate) fn until_answered(&self, to: SocketAddr) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask_tcp(&self.shop.pod().namespace, None, to) {
                Ok(reply) => return reply.endpoint,
                Err(refusal) => assert!(Instant::now() < deadline, "{to}: {refusal}\n{}", self.proxy.log_tail()),
            }
        }
    }
}

impl Drop for World {
    /// Contract §10.2: kube-proxy's rights are enough. The fake API server sees to it by itself.
    fn drop(&mut self) {
        let log = self.proxy.log();
        assert!(thread::panicking() || !log.contains("forbidden"), "a right is missing:\n{}", self.proxy.log_tail());
    }
}

//! A node whose forwarding is measured, between two of its pods.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use e2e::{Proxy, Settings};
use model::Family;
use testing::netns::{Cluster, Namespace, Pod};
use testing::objects::{self, Service, Slice};

use crate::traffic::{self, Port, Servers};

/// How many other Services there are, so that all of the ruleset is at work.
const OTHERS: u8 = 200;

/// What the node does with packets from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Routes them: there are no rules, and the client uses the server's own address.
    PlainRoute,
    /// The client uses a Service, and there is no fast path.
    Slow,
    /// The client uses a Service, and there is a fast path after so many packets.
    Fast(NonZeroU32),
    /// The same as a dry run.
    DryRun,
}

impl Mode {
    /// The fast path as it is by default.
    pub(crate) const FAST: Self = Self::Fast(NonZeroU32::new(20).expect("not zero"));
}

/// A node with two pods: one asks, one serves.
pub(crate) struct Node {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) servers: Servers,
    mode: Mode,
    proxy: Option<Proxy>,
}

impl Node {
    /// Makes it, and waits until it works.
    pub(crate) fn new(mode: Mode) -> Result<Self> {
        let cluster = Arc::new(Cluster::new()?);
        let (client, server) = (cluster.pod("client")?, cluster.pod("server")?);
        // Closed connections do not keep their ports from the next ones.
        client.namespace.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let servers = Servers::start(&server)?;
        let mut node = Self { cluster, client, server, servers, mode, proxy: None };
        node.proxy = match mode {
            Mode::PlainRoute => None,
            Mode::Slow => Some(node.start("", 0)?),
            Mode::Fast(threshold) => Some(node.start("", threshold.get())?),
            Mode::DryRun => Some(node.start("fastpathDryRun: true", 20)?),
        };
        node.settle()?;
        Ok(node)
    }

    /// Has all that expires last: the clock of an emulated machine may jump, and what is found out anew costs more.
    fn settle(&self) -> Result<()> {
        for timeout in ["udp_timeout", "udp_timeout_stream"] {
            self.cluster.node.sysctl(&format!("net/netfilter/nf_conntrack_{timeout}"), "86400")?;
        }
        for family in Family::ALL {
            traffic::open_flow(&self.client, self.address(family, Port::Datagrams), 1)?;
        }
        for namespace in [&self.client.namespace, &self.cluster.node, &self.server.namespace] {
            namespace.sh("ip neighbour show | grep lladdr | while read -r address _ device _ mac _; do
                     ip neighbour replace $address dev $device lladdr $mac nud permanent
                 done")?;
        }
        Ok(())
    }

    /// Where the client finds a port of the server.
    pub(crate) fn address(&self, family: Family, port: Port) -> SocketAddr {
        let address = match self.mode {
            Mode::PlainRoute => self.server.address(family),
            _ => cluster_ip(family, 1),
        };
        (address, port.number()).into()
    }

    /// Ends the proxy. Its rules stay.
    pub(crate) fn abandon(&mut self) {
        self.proxy = None;
    }

    fn start(&self, more: &'static str, threshold: u32) -> Result<Proxy> {
        let mut proxy = Proxy::prepare(Arc::clone(&self.cluster))?;
        let mut objects = Vec::new();
        for number in 1..=OTHERS {
            let (service, slices) = self.service(number);
            objects.push(service.to_string());
            objects.extend(slices.map(|slice| slice.to_string()));
        }
        let objects: Vec<_> = objects.iter().map(|object| object as &dyn std::fmt::Display).collect();
        proxy.manifests().put("services.yaml", &objects)?;
        proxy.run(&Settings { fastpath_packet_threshold: Some(threshold), more, ..Settings::default() })?;
        if threshold > 0 {
            // Two pods and the uplink.
            proxy.wait("all devices in the flowtables", |proxy| {
                Ok(proxy.metric("kubeproxy_fastpath_devices")? == [3.0, 3.0])
            })?;
        }
        Ok(proxy)
    }

    fn service(&self, number: u8) -> (Service, [Slice; 2]) {
        let name = format!("service-{number}");
        let mut service = objects::service("default", &name);
        for port in Port::ALL {
            service = service.port(port.name(), port.protocol(), port.number());
        }
        for family in Family::ALL {
            service = service.cluster_ip(&cluster_ip(family, number).to_string());
        }
        let slices = Family::ALL.map(|family| {
            let slice = objects::slice("default", &format!("{name}-{}", family.label().to_lowercase()), &name);
            let slice = slice.set("/addressType", family.label());
            let slice =
                Port::ALL.iter().fold(slice, |slice, port| slice.port(port.name(), port.protocol(), port.number()));
            slice.endpoint(&self.server.address(family).to_string()).on_node(Proxy::NODE)
        });
        (service, slices)
    }
}

fn cluster_ip(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 96, 0, number]),
        Family::V6 => IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from(number)]),
    }
}

/// Rules of someone else in `forward`, each of which looks at a packet and lets it pass, as those of network policies do.
pub(crate) fn add_foreign_rules(node: &Node, count: usize) -> Result<()> {
    let mut script = String::from(
        "table inet foreign {\nchain forward {\ntype filter hook forward priority filter; policy accept;\n",
    );
    for port in 0..count {
        script.push_str(&format!("udp dport {} drop\n", 20_000 + port));
    }
    script.push_str("}\n}\n");
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), script)?;
    let path = file.path().display();
    node.cluster.node.sh(&format!("nft -f {path}")).context("the rules of someone else")?;
    Ok(())
}

/// Takes these rules away.
pub(crate) fn remove_foreign_rules(node: &Node) -> Result<()> {
    node.cluster.node.sh("nft delete table inet foreign").map(drop)
}

/// Packets that an interface has received.
pub(crate) fn received(namespace: &Namespace, interface: &str) -> Result<u64> {
    let devices = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)).context("no such interface")?;
    Ok(packets.parse()?)
}

//! A node with the proxy, three pods that serve, a pod that asks, and a host outside.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

use e2e::{Destination, Expected, Host, Probe, Proxy, Settings, Source, Workload, answers};
use model::{Family, Protocol};
use testing::netns::Cluster;
use testing::objects::{self, Service, Slice};
use testing::traffic::Echo;

/// Ports that every workload listens on.
pub(crate) const PORTS: [(Protocol, u16); 6] = [
    (Protocol::Tcp, 8080),
    (Protocol::Tcp, 8081),
    (Protocol::Tcp, 5301),
    (Protocol::Udp, 5302),
    (Protocol::Udp, 5353),
    (Protocol::Sctp, 5303),
];

/// An endpoint: the number of its workload, and `l` if it is on our node, `t` if it terminates but serves, `d` if it
/// terminates and does not, `-` if it is not ready.
pub(crate) type End = (usize, &'static str);

/// One port of a Service and of its endpoints: name, protocol as the API spells it, port, targetPort.
pub(crate) type Port = (&'static str, &'static str, u16, u16);

pub(crate) const HTTP: Port = ("http", "TCP", 80, 8080);

/// Who answers what comes through the node as if there were no Service: see [`World::answer_unhandled`].
const UNHANDLED: &str = "unhandled";

pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) web: [Workload; 3],
    pub(crate) shop: Workload,
    pub(crate) proxy: Proxy,
}

/// What is sent from where, and what is to come of it; the name is for messages.
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    pub(crate) from: Host<'a>,
    pub(crate) to: Destination,
    pub(crate) expected: Expected,
}

pub(crate) fn case<'a>(name: &'a str, from: Host<'a>, to: Destination, expected: Expected) -> Case<'a> {
    Case { name, from, to, expected }
}

impl World {
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut world = Self::prepare();
        world.proxy.run(settings).unwrap();
        world
    }

    /// All of it but that the proxy does not run yet.
    pub(crate) fn prepare() -> Self {
        let cluster = Arc::new(Cluster::new().unwrap());
        let web = ["web-0", "web-1", "web-2"].map(|name| Workload::start(&cluster, name, &PORTS).unwrap());
        let shop = Workload::start(&cluster, "shop", &[]).unwrap();
        let proxy = Proxy::prepare(Arc::clone(&cluster)).unwrap();
        Self { cluster, web, shop, proxy }
    }

    /// Makes these objects all that there is, in one file, and waits for the rules.
    pub(crate) fn apply(&mut self, objects: &[&dyn Display]) {
        self.proxy.apply("objects.yaml", objects).unwrap();
    }

    pub(crate) fn pod(&self) -> Host<'_> {
        self.shop.host()
    }

    pub(crate) fn node(&self) -> Host<'_> {
        Host::node(&self.cluster)
    }

    pub(crate) fn outside(&self) -> Host<'_> {
        Host::outside(&self.cluster)
    }

    /// Has what is sent there answered even if nothing handles it, for as long as the servers live: by the node on addresses
    /// that it has, and for all others by a host beyond the node. Only what is dropped is then lost, and only what is rejected
    /// refused. See [`unhandled`].
    pub(crate) fn answer_unhandled(&self, all: impl IntoIterator<Item = Destination>) -> Vec<Echo> {
        let (node, beyond) = (&self.cluster.node, self.cluster.pod("beyond").unwrap());
        let serve = |to: Destination| {
            let address = to.socket.ip();
            let on_node = !node.ip(&format!("-o address show to {address}")).unwrap().is_empty();
            if !on_node {
                let source = self.node().address(Family::of(address));
                beyond.namespace.add_address("eth0", &address.to_string()).unwrap();
                node.ip(&format!("route add {address} dev {} src {source}", beyond.node_interface)).unwrap();
            }
            Echo::tcp(if on_node { node } else { &beyond.namespace }, UNHANDLED, to.socket).unwrap()
        };
        all.into_iter().map(serve).collect()
    }

    /// The slice of one family of a Service.
    pub(crate) fn slice(&self, family: Family, service: &str, ports: &[Port], ends: &[End]) -> Slice {
        let name = format!("{service}-{}", family.label().to_lowercase());
        let mut slice = objects::slice("default", &name, service).set("/addressType", family.label());
        for (name, protocol, _, target) in ports {
            slice = slice.port(name, protocol, *target);
        }
        for (workload, flags) in ends {
            slice = slice.endpoint(&self.web[*workload].pod().address(family).to_string());
            slice = slice.on_node(if flags.contains('l') { Proxy::NODE } else { "elsewhere" });
            let (terminating, ready) = (flags.contains(['t', 'd']), !flags.contains(['t', 'd', '-']));
            slice = slice.conditions(ready, ready || flags.contains('t'), terminating);
        }
        slice
    }

    /// The slices of both families.
    pub(crate) fn slices(&self, service: &str, ports: &[Port], ends: &[End]) -> [Slice; 2] {
        Family::ALL.map(|family| self.slice(family, service, ports, ends))
    }

    /// All of these endpoints, and no others, answer who asks from outside for [`everything`]'s number 1, by each way there is.
    pub(crate) fn check_from_outside(&self, endpoints: &[&str]) {
        for family in Family::ALL {
            let expected = answers(endpoints, Source::Node);
            self.check(ways(family, 1).map(|(name, to)| case(name, self.outside(), to, expected.clone())));
        }
    }

    /// Tries all cases and panics with those that failed.
    pub(crate) fn check<'a>(&'a self, cases: impl IntoIterator<Item = Case<'a>>) {
        let cases: Vec<_> = cases.into_iter().collect();
        assert!(!cases.is_empty(), "no case to try");
        let failed: Vec<_> = thread::scope(|scope| {
            // Those that wait for something not to come wait together.
            let (waiting, others): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.waits());
            let waiting: Vec<_> = waiting.into_iter().map(|case| scope.spawn(|| case.failure())).collect();
            let others: Vec<_> = others.into_iter().filter_map(Case::failure).collect();
            others.into_iter().chain(waiting.into_iter().filter_map(|thread| thread.join().unwrap())).collect()
        });
        if !failed.is_empty() {
            let (log, count) = (self.proxy.log_tail(), cases.len());
            panic!("{} of {count} cases failed:\n{}\n{log}", failed.len(), failed.join("\n"));
        }
    }
}

/// The words of a ruleset as `nft` lists it, in no particular order.
pub(crate) fn sorted_words(ruleset: &str) -> Vec<String> {
    let mut words: Vec<_> = ruleset.split_whitespace().map(|word| word.trim_end_matches(',').to_owned()).collect();
    words.sort_unstable();
    words
}

impl Case<'_> {
    fn waits(&self) -> bool {
        matches!(self.expected, Expected::Refused | Expected::Lost)
    }

    fn failure(&self) -> Option<String> {
        let Self { name, from, to, expected } = self;
        let probe = Probe { from: *from, to: *to };
        let seen = probe.ask(expected);
        let told = || format!("{name}\n    sent      {probe}\n    expected  {expected}\n    seen      {seen}");
        (!seen.is(&probe, expected)).then(told)
    }
}

/// Nothing handles what is sent, and nothing masquerades it: where [`World::answer_unhandled`] listens, its server is reached.
pub(crate) fn unhandled() -> Expected {
    answers(&[UNHANDLED], Source::Client)
}

/// A dual-stack Service.
pub(crate) fn service(name: &str, number: u8, ports: &[Port]) -> Service {
    let mut service = objects::service("default", name);
    for family in Family::ALL {
        service = service.cluster_ip(&cluster_ip(family, number).to_string());
    }
    ports.iter().fold(service, |service, (name, protocol, port, _)| service.port(name, protocol, *port))
}

/// A Service that can be reached in every way: ClusterIP, external IP, load balancer and NodePort `30000 + number`.
pub(crate) fn everything(name: &str, number: u8) -> Service {
    let mut service = service(name, number, &[HTTP]).node_port(node_port(number));
    for family in Family::ALL {
        service = service.external_ip(&external_ip(family, number).to_string());
        service = service.load_balancer_ip(&vip(family, number).to_string());
    }
    service
}

/// The ports of the four ways to such a Service, named.
pub(crate) fn ways(family: Family, number: u8) -> [(&'static str, Destination); 4] {
    [
        ("ClusterIP", Destination::tcp(cluster_ip(family, number), 80)),
        ("external IP", Destination::tcp(external_ip(family, number), 80)),
        ("load balancer", Destination::tcp(vip(family, number), 80)),
        ("NodePort", Destination::tcp(Cluster::node_address(family), node_port(number))),
    ]
}

pub(crate) const fn node_port(number: u8) -> u16 {
    30000 + number as u16
}

pub(crate) fn cluster_ip(family: Family, number: u8) -> IpAddr {
    address(family, "10.96.0", "fd00:10:96:", number)
}

pub(crate) fn external_ip(family: Family, number: u8) -> IpAddr {
    address(family, "203.0.113", "2001:db8:113:", number)
}

pub(crate) fn vip(family: Family, number: u8) -> IpAddr {
    address(family, "198.51.100", "2001:db8:51:", number)
}

fn address(family: Family, v4: &str, v6: &str, number: u8) -> IpAddr {
    match family {
        Family::V4 => format!("{v4}.{number}"),
        Family::V6 => format!("{v6}:{number}"),
    }
    .parse()
    .unwrap()
}

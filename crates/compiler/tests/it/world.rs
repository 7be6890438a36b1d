//! A node on which Services can be set up and packets traced.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::SystemTime;

use compiler::{Compiler, Fate, Mark, NodePorts, Offloads, Options, Packet, Pods, Tracer};
use ipnet::IpNet;
use model::{
    Endpoint, EndpointSlice, Family, Kind, PerFamily, PortNumber, Protocol, Service, ServiceName, ServicePort,
    SlicePort, State, Update,
};
use ruleset::{Fake, FakeTable, Kernel, Transaction};

/// The node's addresses: the first of each family takes NodePort traffic, unless a test says otherwise.
pub(crate) const NODE: [&str; 4] = ["192.168.0.2", "192.168.1.2", "2001:db8::1", "2001:db8:1::2"];
/// A pod that is nobody's endpoint.
pub(crate) const POD: &str = "10.0.0.2";
/// A client outside the cluster.
pub(crate) const OUTSIDE: &str = "203.0.113.9";

/// Which interface of the node packets from an address come in by. Those that the node sends come in by none.
static INTERFACES: LazyLock<Vec<(IpNet, &str)>> = LazyLock::new(|| {
    let list = [("10.0.0.0/8", "cni0"), ("fd00::/8", "cni0"), ("203.0.113.0/24", "eth0"), ("2001:db8:9::/48", "eth0")];
    list.map(|(prefix, interface)| (prefix.parse().unwrap(), interface)).to_vec()
});

/// One node: state, compiler and kernel of one family.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) compiler: Compiler,
    pub(crate) kernel: Fake,
}

impl World {
    /// A node with nothing programmed yet but the empty table.
    pub(crate) fn new(options: Options) -> Self {
        let mut state = State::new(SystemTime::UNIX_EPOCH);
        for kind in [Kind::Service, Kind::EndpointSlice] {
            state.apply(Update::ListStarted(kind));
            state.apply(Update::ListComplete(kind));
        }
        let mut world = Self { state, compiler: Compiler::new(options), kernel: Fake::new() };
        let all = world.compiler.compile_all(&world.state);
        world.commit(&all);
        world
    }

    pub(crate) fn with(mut self, updates: impl IntoIterator<Item = Update>) -> Self {
        self.apply(updates);
        self
    }

    /// Takes in changes and syncs once; returns what was committed.
    pub(crate) fn apply(&mut self, updates: impl IntoIterator<Item = Update>) -> Transaction {
        updates.into_iter().for_each(|update| self.state.apply(update));
        let changes = self.state.take_changes();
        let transaction = self.compiler.compile(&self.state, &changes.services);
        self.commit(&transaction);
        transaction
    }

    pub(crate) fn commit(&mut self, transaction: &Transaction) {
        if let Err(error) = self.kernel.commit(transaction) {
            panic!("{error}\n{transaction}");
        }
    }

    pub(crate) fn table(&self) -> &FakeTable {
        let (family, table) = self.compiler.table();
        self.kernel.table(family, &table).expect("the table was committed")
    }

    /// An empty transaction on the table.
    pub(crate) fn transaction(&self) -> Transaction {
        let (family, table) = self.compiler.table();
        Transaction::new(family, table)
    }

    /// Asks a tracer of the table.
    pub(crate) fn tracer<T>(&self, ask: impl FnOnce(Tracer<'_>) -> T) -> T {
        let node: Vec<_> = NODE.iter().map(|address| ip(address)).collect();
        ask(Tracer::new(self.table(), &node).with_interfaces(&INTERFACES))
    }

    /// What becomes of a packet, as text: endpoints in order, ` masq` behind those that see an address of the node.
    pub(crate) fn trace(&self, source: &str, destination: &str, protocol: Protocol, port: u16) -> String {
        let packet = Packet { source: ip(source), destination: ip(destination), protocol, port };
        let fates = self.tracer(|tracer| tracer.trace(packet));
        shown(&fates)
    }

    /// Checks TCP packets: source, destination, port, expected fate.
    pub(crate) fn check(&self, cases: &[(&str, &str, u16, &str)]) {
        let mut wrong = String::new();
        for (source, destination, port, expected) in cases {
            let found = self.trace(source, destination, Protocol::Tcp, *port);
            if found != *expected {
                writeln!(wrong, "{source} -> {destination} port {port}: {found}, expected {expected}").unwrap();
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    }
}

/// Fates as text.
pub(crate) fn shown(fates: &BTreeSet<Fate>) -> String {
    let text = |fate: &Fate| match fate {
        Fate::Delivered { to, masqueraded } => format!("{to}{}", if *masqueraded { " masq" } else { "" }),
        Fate::Rejected => "reject".to_owned(),
        Fate::Dropped => "drop".to_owned(),
    };
    fates.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The default configuration: pods in 10.0.0.0/8 or fd00::/8, NodePorts on the node's first address.
pub(crate) fn options(family: Family) -> Options {
    let (pods, node) = match family {
        Family::V4 => ("10.0.0.0/8", NODE[0]),
        Family::V6 => ("fd00::/8", NODE[2]),
    };
    Options {
        family,
        mark: Mark::default(),
        masquerade_all: false,
        pods: Some(Pods::From(model::parse_prefix(pods).unwrap())),
        node_address: Some(ip(node)),
        node_ports: NodePorts::Only([ip(node)].into()),
        offloads: Offloads::ClusterIps,
    }
}

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub(crate) fn port(number: u16) -> PortNumber {
    PortNumber::new(number).unwrap()
}

/// A Service `ns/name` with the TCP port 80 called `p80`, to be changed as a test needs.
pub(crate) fn service(name: &str, cluster_ip: &str) -> Service {
    let mut cluster_ips = PerFamily::default();
    *cluster_ips.get_mut(Family::of(ip(cluster_ip))) = Some(ip(cluster_ip));
    Service { cluster_ips, ports: vec![tcp("p80", 80)], ..Service::new(ServiceName::new("ns", name)) }
}

pub(crate) fn tcp(name: &str, number: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol: Protocol::Tcp, port: port(number), node_port: None }
}

/// An endpoint slice of `ns/service` for the port `p80`: address, and flags out of `l`ocal, not ready (`-`),
/// not ready but `s`erving, `t`erminating (serving), `d`ead (terminating, not serving).
pub(crate) fn slice(service: &str, target: u16, endpoints: &[(&str, &str)]) -> Update {
    let endpoints: Vec<_> = endpoints.iter().map(|(address, flags)| endpoint(address, flags)).collect();
    let family = endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.address));
    Update::Slice(EndpointSlice {
        name: ServiceName::new("ns", format!("{service}-slice")),
        service: ServiceName::new("ns", service),
        family,
        ports: vec![SlicePort { name: "p80".into(), protocol: Protocol::Tcp, port: port(target) }],
        endpoints,
        triggered: None,
    })
}

pub(crate) fn endpoint(address: &str, flags: &str) -> Endpoint {
    let has = |flag| flags.contains(flag);
    Endpoint {
        address: ip(address),
        ready: !['-', 's', 't', 'd'].into_iter().any(has),
        serving: !has('-') && !has('d'),
        terminating: has('t') || has('d'),
        local: has('l'),
        hints: None,
    }
}

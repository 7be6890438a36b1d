//! What rules do to packets between a client, a node and its pods.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;

use anyhow::Result;
use common::{add, chain, choices, delete, endpoints, name, nft, sources, table, transaction};
use ipnet::IpNet;
use netlink::NfTables;
use ruleset::{
    Chain, ChainKind, Data, Element, Family, Field, Hook, HookPoint, Kernel as _, Op, Rule, Selector, Set, Statement,
    Verdict, Words, WordsBuilder,
};
use testing::netns::{self, Cluster, Namespace, Pod};
use testing::traffic::{Echo, Refusal, Reply, ask_tcp, ask_udp};

use Selector::{
    DestinationAddress, DestinationPort, OriginalDestinationAddress, OriginalDestinationPort, Protocol, Random,
    SourceAddress, SourceNetwork,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRONTEND: [Selector; 3] = [DestinationAddress, Protocol, DestinationPort];

#[test]
fn a_choice_is_kept_in_ipv4() -> Result<()> {
    a_choice_is_kept(Family::Ip)
}

#[test]
fn a_choice_is_kept_in_ipv6() -> Result<()> {
    a_choice_is_kept(Family::Ip6)
}

/// A client that was sent to an endpoint is sent there again, until it is forgotten.
fn a_choice_is_kept(family: Family) -> Result<()> {
    let world = World::new(family)?;
    let client = &world.cluster.client;
    let mut kernel = world.kernel()?;
    kernel.commit(&transaction(family, world.service_with_affinity()))?;
    let ask = || ask_tcp(client, None, world.service).map(|reply| reply.endpoint);

    let first = ask()?;
    for _ in 1..20 {
        assert_eq!(ask()?, first);
    }

    let (client, service) = (world.client_address(), world.service);
    let pod = world.endpoints.iter().find(|pod| pod.namespace.label() == first).expect("a pod answered");
    let element = format!("{client} . {} . tcp . 80 timeout 3h expires ", service.ip());
    let listing = nft(&world.cluster.node, "list ruleset", "")?;
    let rest = listing.split_once(&element).map(|(_, rest)| rest);
    let rest = rest.unwrap_or_else(|| panic!("no {element} in {listing}"));
    assert!(rest.contains(&format!(" : {} . 8080", pod.address(world.family()))), "{listing}");
    assert!(!rest.contains(" timeout 3h expires"), "one client has one element: {listing}");

    // What is forgotten is chosen anew. That it is the same 30 times happens once in 1,000 million runs.
    let key = Words::build().address(client).address(service.ip()).protocol(TCP).port(service.port()).finish();
    let known = Element { key, data: Data::None, comment: None };
    let mut chosen_anew = false;
    for _ in 0..30 {
        kernel.commit(&transaction(family, vec![delete(&choices(), vec![known.clone()])]))?;
        chosen_anew |= ask()? != first;
    }
    assert!(chosen_anew);
    Ok(())
}

#[test]
fn only_sources_in_a_range_in_ipv4() -> Result<()> {
    only_sources_in_a_range(Family::Ip)
}

#[test]
fn only_sources_in_a_range_in_ipv6() -> Result<()> {
    only_sources_in_a_range(Family::Ip6)
}

/// Only sources in a range of the frontend get through, whatever the ranges of others.
fn only_sources_in_a_range(family: Family) -> Result<()> {
    let world = World::new(family)?;
    let (client, visitor) = (world.client_address(), world.visitor.address(world.family()));
    let [some, all] = world.lengths();
    let mut kernel = world.kernel()?;
    let mut ops = world.service_with_affinity();
    ops.extend(world.firewall());
    ops.push(add(&sources(some), vec![world.range(client, some, TCP)]));
    ops.push(add(&sources(all), vec![world.range(visitor, all, UDP)]));
    kernel.commit(&transaction(family, ops))?;
    let (outside, inside) = (&world.cluster.client, &world.visitor.namespace);
    let tcp = |from: &Namespace| passed(ask_tcp(from, None, world.service));
    let udp = |from: &Namespace| passed(ask_udp(from, None, world.service));

    assert_eq!([tcp(outside), tcp(inside), udp(outside), udp(inside)], [true, false, false, true]);

    let change = vec![
        delete(&sources(some), vec![world.range(client, some, TCP)]),
        add(&sources(some), vec![world.range(world.beyond(), some, TCP)]),
        add(&sources(all), vec![world.range(visitor, all, TCP)]),
    ];
    kernel.commit(&transaction(family, change))?;
    assert_eq!([tcp(outside), tcp(inside)], [false, true]);

    kernel.commit(&transaction(family, vec![delete(&firewalled(), vec![world.frontend(TCP)])]))?;
    assert!(tcp(outside), "no ranges are asked for any more");
    Ok(())
}

fn passed(answer: Result<Reply, Refusal>) -> bool {
    match answer {
        Ok(_) => true,
        Err(Refusal::TimedOut) => false,
        Err(other) => panic!("{other}"),
    }
}

/// A node with two pods that serve, and a Service of these.
struct World {
    cluster: Cluster,
    family: Family,
    service: SocketAddr,
    endpoints: Vec<Pod>,
    /// A pod that serves nothing.
    visitor: Pod,
    _servers: Vec<Echo>,
}

impl World {
    fn new(family: Family) -> Result<Self> {
        let cluster = Cluster::new()?;
        let endpoints = ["a", "b"].map(|label| cluster.pod(label)).into_iter().collect::<Result<_>>()?;
        let service = match family {
            Family::Ip => ([10, 96, 0, 1], 80).into(),
            Family::Ip6 => ([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1], 80).into(),
        };
        let visitor = cluster.pod("visitor")?;
        let mut world = Self { cluster, family, service, endpoints, visitor, _servers: Vec::new() };
        for pod in &world.endpoints {
            let address = SocketAddr::new(pod.address(world.family()), 8080);
            world._servers.push(Echo::tcp(&pod.namespace, pod.namespace.label(), address)?);
            world._servers.push(Echo::udp(&pod.namespace, pod.namespace.label(), address)?);
        }
        Ok(world)
    }

    fn kernel(&self) -> Result<NfTables> {
        Ok(self.cluster.node.run(NfTables::open)?)
    }

    const fn family(&self) -> netns::Family {
        match self.family {
            Family::Ip => netns::Family::V4,
            Family::Ip6 => netns::Family::V6,
        }
    }

    fn client_address(&self) -> IpAddr {
        Cluster::client_address(self.family())
    }

    /// Spreads clients over the endpoints, and keeps each with its own.
    fn service_with_affinity(&self) -> Vec<Op> {
        let nat = |text, point, priority| base_chain(text, ChainKind::Nat, point, priority);
        let original = [OriginalDestinationAddress, Protocol, OriginalDestinationPort];
        let known = Statement::Dnat { key: [&[SourceAddress], &FRONTEND[..]].concat(), map: choices() };
        let random = Statement::Dnat { key: [&FRONTEND[..], &[Random(number(2))]].concat(), map: endpoints() };
        let keep = Statement::Update {
            key: [&[SourceAddress], &original[..]].concat(),
            data: vec![DestinationAddress, DestinationPort],
            map: choices(),
            timeout: number(10_800),
        };
        let elements = [TCP, UDP].into_iter().flat_map(|protocol| {
            self.endpoints.iter().zip(0..).map(move |(pod, index)| Element {
                key: self.key(protocol).native(index).finish(),
                data: Data::Value(Words::build().address(pod.address(self.family())).port(8080).datum()),
                comment: None,
            })
        });
        vec![
            table(),
            nat("nat-prerouting", HookPoint::Prerouting, -100),
            nat("nat-postrouting", HookPoint::Postrouting, 100),
            Op::AddSet(choices()),
            Op::AddSet(endpoints()),
            rule("nat-prerouting", vec![known]),
            rule("nat-prerouting", vec![random]),
            rule("nat-postrouting", vec![Statement::Translated, keep]),
            add(&endpoints(), elements.collect()),
        ]
    }

    /// Drops what goes to the Service from sources in no range, in as many chains as the compiler does.
    fn firewall(&self) -> Vec<Op> {
        let limited = Statement::InSet { key: FRONTEND.to_vec(), set: firewalled() };
        let check = self.lengths().into_iter().flat_map(|bits| {
            let key = [&FRONTEND[..], &[SourceNetwork(bits)]].concat();
            let is_source = Statement::InSet { key, set: sources(bits) };
            let accept = Statement::Verdict(Verdict::Accept);
            [Op::AddSet(sources(bits)), rule("source-ranges-check", vec![is_source, accept])]
        });
        let mut ops = vec![
            base_chain("filter-prerouting", ChainKind::Filter, HookPoint::Prerouting, -110),
            chain("firewall-sources"),
            chain("source-ranges-check"),
            Op::AddSet(firewalled()),
        ];
        ops.extend(check);
        ops.extend([
            rule("filter-prerouting", vec![limited, Statement::Verdict(Verdict::Goto(name("firewall-sources")))]),
            rule("firewall-sources", vec![Statement::Verdict(Verdict::Jump(name("source-ranges-check")))]),
            rule("firewall-sources", vec![Statement::Verdict(Verdict::Drop)]),
            add(&firewalled(), [TCP, UDP].map(|protocol| self.frontend(protocol)).into()),
        ]);
        ops
    }

    /// Lengths of prefixes: of one that ends within a byte, and of a single address.
    fn lengths(&self) -> [NonZeroU8; 2] {
        let lengths = match self.family {
            Family::Ip => [26, 32],
            Family::Ip6 => [121, 128],
        };
        lengths.map(|bits| NonZeroU8::new(bits).expect("it is not zero"))
    }

    /// The first address after those that have as much in common with the client as the shorter prefix.
    fn beyond(&self) -> IpAddr {
        match self.family {
            Family::Ip => [192, 0, 2, 128].into(),
            Family::Ip6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x180].into(),
        }
    }

    fn frontend(&self, protocol: u8) -> Element {
        Element { key: self.key(protocol).finish(), data: Data::None, comment: None }
    }

    /// All who have so many bits in common with a client.
    fn range(&self, client: IpAddr, bits: NonZeroU8, protocol: u8) -> Element {
        let network = IpNet::new(client, bits.get()).expect("an address has so many bits").network();
        Element { key: self.key(protocol).address(network).finish(), data: Data::None, comment: None }
    }

    /// The Service's frontend, as keys begin.
    fn key(&self, protocol: u8) -> WordsBuilder {
        Words::build().address(self.service.ip()).protocol(protocol).port(self.service.port())
    }
}

fn firewalled() -> Arc<Set> {
    common::set("firewalled", &[Field::Address, Field::Protocol, Field::Port], None)
}

fn base_chain(text: &str, kind: ChainKind, point: HookPoint, priority: i32) -> Op {
    Op::AddChain(Chain { name: name(text), hook: Some(Hook { kind, point, priority }), comment: None })
}

fn rule(chain: &str, statements: Vec<Statement>) -> Op {
    Op::AddRule(Rule { chain: name(chain), statements, comment: None })
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("it is not zero")
}

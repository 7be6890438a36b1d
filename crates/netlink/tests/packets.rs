//! What rules do to packets between a client, a node and its pods.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Result;
use common::{add, choices, delete, endpoints, name, nft, ranges, table, transaction};
use netlink::NfTables;
use ruleset::{
    Chain, ChainKind, Data, Element, Family, Field, Hook, HookPoint, Kernel as _, Op, Rule, Selector, Set, Statement,
    Verdict, Words, WordsBuilder,
};
use testing::netns::{self, Cluster, Namespace, Pod};
use testing::traffic::{Echo, Refusal, Reply, ask_tcp, ask_udp};

use Selector::{
    DestinationAddress, DestinationPort, OriginalDestinationAddress, OriginalDestinationPort, Protocol, Random,
    SourceAddress,
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
    let mut kernel = world.kernel()?;
    let mut ops = world.service_with_affinity();
    ops.extend(world.firewall());
    ops.push(add(&ranges(), vec![world.around(client, TCP), world.only(visitor, UDP)]));
    kernel.commit(&transaction(family, ops))?;
    let (outside, inside) = (&world.cluster.client, &world.visitor.namespace);
    let tcp = |from: &Namespace| passed(ask_tcp(from, None, world.service));
    let udp = |from: &Namespace| passed(ask_udp(from, None, world.service));

    assert_eq!([tcp(outside), tcp(inside), udp(outside), udp(inside)], [true, false, false, true]);

    let change =
        vec![delete(&ranges(), vec![world.around(client, TCP)]), add(&ranges(), vec![world.around(visitor, TCP)])];
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
                data: Data::Value(Words::build().address(pod.address(self.family())).port(8080).finish()),
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

    /// Drops what goes to the Service from sources in no range.
    fn firewall(&self) -> Vec<Op> {
        let limited = Statement::InSet { key: FRONTEND.to_vec(), set: firewalled() };
        let outside = Statement::NotInSet { key: [&FRONTEND[..], &[SourceAddress]].concat(), set: ranges() };
        vec![
            base_chain("filter-prerouting", ChainKind::Filter, HookPoint::Prerouting, -110),
            Op::AddSet(firewalled()),
            Op::AddSet(ranges()),
            rule("filter-prerouting", vec![limited, outside, Statement::Verdict(Verdict::Drop)]),
            add(&firewalled(), [TCP, UDP].map(|protocol| self.frontend(protocol)).into()),
        ]
    }

    fn frontend(&self, protocol: u8) -> Element {
        Element { key: self.key(protocol).finish(), data: Data::None, comment: None }
    }

    /// A range of one client.
    fn only(&self, client: IpAddr, protocol: u8) -> Element {
        Element { key: self.key(protocol).address(client).finish(), data: Data::None, comment: None }
    }

    /// A range from just before a client to just after it.
    fn around(&self, client: IpAddr, protocol: u8) -> Element {
        let near = |difference: i8| match client {
            IpAddr::V4(v4) => IpAddr::from(v4.to_bits().wrapping_add_signed(difference.into()).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from(v6.to_bits().wrapping_add_signed(difference.into()).to_be_bytes()),
        };
        let key = |client| self.key(protocol).address(client).finish();
        Element { key: key(near(-1)), data: Data::Until(key(near(1))), comment: None }
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

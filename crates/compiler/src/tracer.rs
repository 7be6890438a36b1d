//! What a ruleset does to a packet.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use ipnet::IpNet;
use model::{Family, Protocol};
use ruleset::{
    Comparison, Data, Datum, FakeChain, FakeTable, HookPoint, Interface, Name, Selector, Set, Statement, Verdict,
    Words, WordsBuilder,
};

use crate::frontend::parse_socket;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// Where it comes from. A packet from one of the node's own addresses was sent by the node.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: u16,
}

/// What becomes of a packet. Where chance decides, each possibility is a fate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It arrives.
    Delivered {
        /// Where it arrives: at an endpoint, or where it was sent to.
        to: SocketAddr,
        /// Whether its source is an address of the node when it does.
        masqueraded: bool,
    },
    /// It is answered with an ICMP error: clients see a refused connection.
    Rejected,
    /// It is lost without an answer.
    Dropped,
}

/// Follows packets through the hooks of a table as the kernel would: same order, same verdicts, all random choices.
#[derive(Clone, Copy, Debug)]
pub struct Tracer<'a> {
    table: &'a FakeTable,
    node_addresses: &'a [IpAddr],
    interfaces: &'a [(IpNet, &'a str)],
}

/// What a rule adds to a map about a packet: key, value, and for how many seconds.
pub type Note = (Words, Datum, NonZeroU32);

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
struct Flow {
    packet: Packet,
    /// As it was sent.
    original: Packet,
    mark: u32,
    translated: bool,
    masqueraded: bool,
    noted: Option<Note>,
}

/// How a chain ended for a packet.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The rules ran out.
    Fallthrough(Flow),
    /// A statement accepted the packet: the hook's other chains still see it.
    Accepted(Flow),
    /// It goes no further.
    Stopped(Fate),
}

/// What a statement made of a packet.
enum Step {
    Next(Flow),
    NoMatch,
    Branch(Verdict),
    /// By chance it goes to one of these; `missed` if it may also not match.
    Translated {
        to: Vec<Flow>,
        missed: bool,
    },
    Stop(End),
}

impl<'a> Tracer<'a> {
    /// Traces in `table`, on a node with these addresses.
    pub const fn new(table: &'a FakeTable, node_addresses: &'a [IpAddr]) -> Self {
        Self { table, node_addresses, interfaces: &[] }
    }

    /// With pods behind interfaces: packets from these addresses come in by these.
    #[must_use]
    pub const fn with_interfaces(self, interfaces: &'a [(IpNet, &'a str)]) -> Self {
        Self { interfaces, ..self }
    }

    /// All that can become of a packet.
    pub fn trace(&self, packet: Packet) -> BTreeSet<Fate> {
        let mut fates = BTreeSet::new();
        let arrived = self.send(packet, &mut fates);
        fates.extend(arrived.into_iter().map(Flow::fate));
        fates
    }

    /// What rules note about a packet that arrives, wherever chance sends it.
    pub fn notes(&self, packet: Packet) -> BTreeSet<Note> {
        let arrived = self.send(packet, &mut BTreeSet::new());
        arrived.into_iter().filter_map(|flow| flow.noted).collect()
    }

    /// Sends a packet, and returns those of its possible forms that arrive.
    fn send(&self, packet: Packet, fates: &mut BTreeSet<Fate>) -> Vec<Flow> {
        let flow = Flow { packet, original: packet, mark: 0, translated: false, masqueraded: false, noted: None };
        if self.is_local(packet.source) {
            let sent = self.hook(HookPoint::Output, vec![flow], fates);
            let left = self.hook(HookPoint::Postrouting, sent, fates);
            let (to_self, away): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|flow| self.is_local(flow.packet.destination));
            [self.hook(HookPoint::Input, to_self, fates), away].concat()
        } else {
            let routed = self.hook(HookPoint::Prerouting, vec![flow], fates);
            let (to_node, through) = routed.into_iter().partition(|flow| self.is_local(flow.packet.destination));
            let received = self.hook(HookPoint::Input, to_node, fates);
            let forwarded = self.hook(HookPoint::Forward, through, fates);
            [received, self.hook(HookPoint::Postrouting, forwarded, fates)].concat()
        }
    }

    /// Sends packets through the base chains of a hook, by priority, and returns those that come out.
    fn hook(&self, point: HookPoint, mut flows: Vec<Flow>, fates: &mut BTreeSet<Fate>) -> Vec<Flow> {
        let hooked = |chain: &&FakeChain| chain.chain.hook.is_some_and(|hook| hook.point == point);
        let mut chains: Vec<_> = self.table.chains().values().filter(hooked).collect();
        chains.sort_by_key(|chain| chain.chain.hook.map(|hook| hook.priority));
        for chain in chains {
            let ends = flows.into_iter().flat_map(|flow| self.chain(&chain.chain.name, flow));
            flows = ends.filter_map(|end| end.survivor(fates)).collect();
        }
        flows
    }

    /// Runs a chain. A chain that does not exist lets everything pass, as nothing could have led to it. At most one of the
    /// ends is a fallthrough.
    fn chain(&self, name: &Name, flow: Flow) -> Vec<End> {
        let Some(chain) = self.table.chains().get(name) else {
            return vec![End::Fallthrough(flow)];
        };
        let mut flow = flow;
        let mut ends = Vec::new();
        for rule in &chain.rules {
            for statement in &rule.statements {
                match self.step(statement, flow) {
                    Step::Next(next) => flow = next,
                    Step::NoMatch => break,
                    Step::Translated { to, missed } => {
                        ends.extend(to.into_iter().map(End::Accepted));
                        if missed {
                            break;
                        }
                        return ends;
                    }
                    Step::Stop(end) => return [ends, vec![end]].concat(),
                    Step::Branch(Verdict::Accept) => return [ends, vec![End::Accepted(flow)]].concat(),
                    Step::Branch(Verdict::Drop) => return [ends, vec![End::Stopped(Fate::Dropped)]].concat(),
                    Step::Branch(Verdict::Goto(target)) => return [ends, self.chain(&target, flow)].concat(),
                    Step::Branch(Verdict::Jump(target)) => {
                        let mut back = None;
                        for end in self.chain(&target, flow) {
                            match end {
                                End::Fallthrough(flow) => back = Some(flow),
                                other => ends.push(other),
                            }
                        }
                        let Some(back) = back else { return ends };
                        flow = back;
                    }
                }
            }
        }
        ends.push(End::Fallthrough(flow));
        ends
    }

    fn step(&self, statement: &Statement, flow: Flow) -> Step {
        let matches = match statement {
            Statement::Prefix { selector, comparison, prefix } => {
                prefix.contains(&flow.address(*selector)) == (*comparison == Comparison::Is)
            }
            Statement::IsLocal(selector) => self.is_local(flow.address(*selector)),
            Statement::NewConnection => true,
            // It follows the first packet of a connection.
            Statement::Established | Statement::Offloaded | Statement::MorePackets(_) => false,
            Statement::Offload(_) => false,
            Statement::Count(_) => true,
            Statement::Translated => flow.translated,
            Statement::HasMark(bits) => flow.mark & bits != 0,
            Statement::InputInterface { comparison, interface } => {
                self.came_by(flow.packet.source, interface) == (*comparison == Comparison::Is)
            }
            Statement::Update { key, data, timeout, .. } => {
                let noted = Some((flow.key(key, 0), flow.words(data, 0).datum(), *timeout));
                return Step::Next(Flow { noted, ..flow });
            }
            Statement::InSet { key, set } => self.lookup(set, flow.key(key, 0)).is_some(),
            Statement::VerdictMap { key, map } => {
                return match self.lookup(map, flow.key(key, 0)) {
                    Some(Data::Verdict(verdict)) => Step::Branch(verdict.clone()),
                    _ => Step::NoMatch,
                };
            }
            Statement::Dnat { key, map } => return self.translate(key, map, flow),
            Statement::SetMark(bits) => return Step::Next(Flow { mark: flow.mark | bits, ..flow }),
            Statement::FlipMark(bits) => return Step::Next(Flow { mark: flow.mark ^ bits, ..flow }),
            Statement::Masquerade => return Step::Stop(End::Accepted(Flow { masqueraded: true, ..flow })),
            Statement::Reject => return Step::Stop(End::Stopped(Fate::Rejected)),
            Statement::Verdict(verdict) => return Step::Branch(verdict.clone()),
        };
        if matches { Step::Next(flow) } else { Step::NoMatch }
    }

    /// Every endpoint that chance may pick. A number without an endpoint does not match.
    fn translate(&self, key: &[Selector], map: &Set, flow: Flow) -> Step {
        let modulus = key.iter().find_map(|selector| match selector {
            Selector::Random(modulus) => Some(modulus.get()),
            _ => None,
        });
        let picks = 0..modulus.unwrap_or(1);
        let pick = |index| match self.lookup(map, flow.key(key, index)) {
            Some(Data::Value(value)) => flow.translated_to(value),
            _ => None,
        };
        let to: Vec<_> = picks.clone().filter_map(pick).collect();
        let missed = to.len() < picks.len();
        Step::Translated { to, missed }
    }

    fn lookup(&self, set: &Set, key: Words) -> Option<&Data> {
        Some(&self.table.sets().get(&set.name)?.get(&key)?.data)
    }

    fn came_by(&self, source: IpAddr, interface: &Interface) -> bool {
        let by = self.interfaces.iter().find(|(prefix, _)| prefix.contains(&source));
        by.is_some_and(|(_, by)| match interface.is_prefix() {
            true => by.starts_with(interface.name()),
            false => *by == interface.name(),
        })
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.node_addresses.contains(&address)
    }
}

impl End {
    /// The packet, if it is still on its way; its fate is recorded otherwise.
    fn survivor(self, fates: &mut BTreeSet<Fate>) -> Option<Flow> {
        match self {
            Self::Fallthrough(flow) | Self::Accepted(flow) => Some(flow),
            Self::Stopped(fate) => {
                fates.insert(fate);
                None
            }
        }
    }
}

impl Flow {
    const fn fate(self) -> Fate {
        let to = SocketAddr::new(self.packet.destination, self.packet.port);
        Fate::Delivered { to, masqueraded: self.masqueraded }
    }

    const fn address(&self, selector: Selector) -> IpAddr {
        match selector {
            Selector::SourceAddress => self.packet.source,
            _ => self.packet.destination,
        }
    }

    fn key(&self, selectors: &[Selector], random: u32) -> Words {
        self.words(selectors, random).finish()
    }

    fn words(&self, selectors: &[Selector], random: u32) -> WordsBuilder {
        let packet = &self.packet;
        let add = |words: WordsBuilder, selector: &Selector| match selector {
            Selector::SourceAddress => words.address(packet.source),
            Selector::SourceNetwork(bits) => {
                words.address(IpNet::new(packet.source, bits.get()).map_or(packet.source, |net| net.network()))
            }
            Selector::DestinationAddress => words.address(packet.destination),
            Selector::Protocol => words.protocol(packet.protocol.number()),
            Selector::DestinationPort => words.port(packet.port),
            Selector::OriginalDestinationAddress => words.address(self.original.destination),
            Selector::OriginalDestinationPort => words.port(self.original.port),
            Selector::Random(_) => words.native(random),
            // Nothing that it follows goes by the numbers of devices.
            Selector::InputDevice | Selector::OutputDevice => words.native(0),
        };
        selectors.iter().fold(Words::build(), add)
    }

    fn translated_to(self, endpoint: &Datum) -> Option<Self> {
        let endpoint = parse_socket(Family::of(self.packet.destination), endpoint.as_bytes())?;
        let packet = Packet { destination: endpoint.ip(), port: endpoint.port(), ..self.packet };
        Some(Self { packet, translated: true, ..self })
    }
}

//! Questions with real sockets: sent from where to where, what is to come of it, and what came.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use model::{Family, PerFamily, Protocol};
use nix::errno::Errno;
use testing::netns::{Cluster, Namespace, Pod};
use testing::traffic::{Refusal, Reply, ask_sctp, ask_tcp, ask_udp};

/// How many questions for each endpoint expected, at most. That one of two endpoints, chosen at random each time, is
/// never reached by chance happens once in 2^64 probes; one of five, once in 3 billion.
const QUESTIONS: usize = 32;

/// How many for each endpoint expected, at least: one that is not, but is chosen as often, is missed in less than 1 of 250 probes.
const LEAST_QUESTIONS: usize = 8;

/// "At once", of a refusal. A client's first try to send again comes after a second.
const AT_ONCE: Duration = Duration::from_millis(900);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// What messages call it.
    pub name: &'a str,
    /// Where its sockets are.
    pub namespace: &'a Namespace,
    addresses: PerFamily<IpAddr>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The protocol.
    pub protocol: Protocol,
    /// Address and port.
    pub socket: SocketAddr,
}

/// Whose address the endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's own.
    Client,
    /// The node's, because it masquerades.
    Node,
}

/// What is to come of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Each of these endpoints answers now and then, and no other, and it sees that source.
    Answers(BTreeMap<String, Source>),
    /// An error comes back at once, each time.
    Refused,
    /// Nothing comes back.
    Lost,
}

/// Exactly these endpoints answer.
pub fn answers(endpoints: &[&str], source: Source) -> Expected {
    Expected::Answers(endpoints.iter().map(|endpoint| ((*endpoint).to_owned(), source)).collect())
}

/// A question, asked as often as it takes to know.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// Who asks.
    pub from: Host<'a>,
    /// What is asked.
    pub to: Destination,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How often each endpoint answered with this source.
    answers: BTreeMap<(String, IpAddr), usize>,
    /// How often each error came.
    errors: BTreeMap<String, usize>,
    refused: usize,
    lost: usize,
    slowest: Duration,
}

impl<'a> Host<'a> {
    /// A pod.
    pub const fn pod(name: &'a str, pod: &'a Pod) -> Self {
        Self {
            name,
            namespace: &pod.namespace,
            addresses: PerFamily { v4: IpAddr::V4(pod.v4), v6: IpAddr::V6(pod.v6) },
        }
    }

    /// A process on the node.
    pub const fn node(cluster: &'a Cluster) -> Self {
        let addresses = PerFamily { v4: Cluster::node_address(Family::V4), v6: Cluster::node_address(Family::V6) };
        Self { name: "node", namespace: &cluster.node, addresses }
    }

    /// A host outside the cluster.
    pub const fn outside(cluster: &'a Cluster) -> Self {
        let addresses = PerFamily { v4: Cluster::client_address(Family::V4), v6: Cluster::client_address(Family::V6) };
        Self { name: "outside", namespace: &cluster.client, addresses }
    }

    /// Its address in `family`.
    pub const fn address(&self, family: Family) -> IpAddr {
        *self.addresses.get(family)
    }
}

impl Destination {
    /// A TCP port.
    pub fn tcp(address: IpAddr, port: u16) -> Self {
        Self { protocol: Protocol::Tcp, socket: (address, port).into() }
    }

    /// A UDP port.
    pub fn udp(address: IpAddr, port: u16) -> Self {
        Self { protocol: Protocol::Udp, socket: (address, port).into() }
    }

    /// An SCTP port.
    pub fn sctp(address: IpAddr, port: u16) -> Self {
        Self { protocol: Protocol::Sctp, socket: (address, port).into() }
    }
}

impl Expected {
    /// With another source for one of the endpoints.
    #[must_use]
    pub fn but(mut self, endpoint: &str, source: Source) -> Self {
        if let Self::Answers(endpoints) = &mut self {
            endpoints.insert(endpoint.to_owned(), source);
        }
        self
    }
}

impl Probe<'_> {
    /// Asks as often as it takes to know whether `expected` is what comes, and returns all that came.
    pub fn ask(&self, expected: &Expected) -> Seen {
        let mut seen = Seen::default();
        match expected {
            Expected::Answers(endpoints) => {
                let (least, most) = (endpoints.len() * LEAST_QUESTIONS, endpoints.len() * QUESTIONS);
                for asked in 1..=most {
                    seen.add(self.to.ask(&self.from));
                    if seen.errors() > 0 || asked >= least && seen.is(self, expected) {
                        break;
                    }
                }
            }
            Expected::Refused => (0..2).for_each(|_| seen.add(self.to.ask(&self.from))),
            Expected::Lost => seen.add(self.to.ask(&self.from)),
        }
        seen
    }
}

impl Destination {
    fn ask(&self, from: &Host<'_>) -> (Result<Reply, Refusal>, Duration) {
        let ask = match self.protocol {
            Protocol::Tcp => ask_tcp,
            Protocol::Udp => ask_udp,
            Protocol::Sctp => ask_sctp,
        };
        let began = Instant::now();
        (ask(from.namespace, None, self.socket), began.elapsed())
    }
}

impl Seen {
    fn add(&mut self, (reply, took): (Result<Reply, Refusal>, Duration)) {
        self.slowest = self.slowest.max(took);
        match reply {
            Ok(reply) => *self.answers.entry((reply.endpoint, reply.seen_source.ip())).or_default() += 1,
            Err(refusal) => {
                match refusal {
                    // The latter is what a process on the node hears whose own datagram is rejected on its way out.
                    Refusal::Refused | Refusal::Unreachable(Errno::EPERM) => self.refused += 1,
                    Refusal::TimedOut => self.lost += 1,
                    Refusal::Unreachable(_) => {}
                }
                *self.errors.entry(refusal.to_string()).or_default() += 1;
            }
        }
    }

    fn errors(&self) -> usize {
        self.errors.values().sum()
    }

    /// Whether this is what was expected of `probe`.
    pub fn is(&self, probe: &Probe<'_>, expected: &Expected) -> bool {
        match expected {
            Expected::Answers(endpoints) => {
                let family = Family::of(probe.to.socket.ip());
                let source = |source| match source {
                    Source::Client => probe.from.address(family),
                    Source::Node => Cluster::gateway_address(family),
                };
                let expected = endpoints.iter().map(|(endpoint, from)| (endpoint, source(*from)));
                self.errors.is_empty() && self.answers.keys().map(|(endpoint, from)| (endpoint, *from)).eq(expected)
            }
            Expected::Refused => self.answers.is_empty() && self.refused == self.errors() && self.slowest < AT_ONCE,
            Expected::Lost => self.answers.is_empty() && self.lost == self.errors(),
        }
    }

    /// How often each endpoint answered.
    pub fn endpoints(&self) -> BTreeMap<&str, usize> {
        let mut endpoints = BTreeMap::new();
        for ((endpoint, _), count) in &self.answers {
            *endpoints.entry(endpoint.as_str()).or_default() += count;
        }
        endpoints
    }

    /// The addresses that endpoints saw.
    pub fn sources(&self) -> Vec<IpAddr> {
        let mut sources: Vec<_> = self.answers.keys().map(|(_, source)| *source).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    /// What came back in place of an answer, such as `connection refused`; empty if nothing did.
    pub fn refusals(&self) -> String {
        self.errors.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// How long the slowest question took.
    pub const fn slowest(&self) -> Duration {
        self.slowest
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket, self.protocol)
    }
}

impl fmt::Display for Probe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.from, self.to)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = match self {
            Self::Answers(endpoints) => endpoints,
            Self::Refused => return f.write_str("refused at once"),
            Self::Lost => return f.write_str("no answer"),
        };
        for (index, (endpoint, source)) in endpoints.iter().enumerate() {
            let masqueraded = if *source == Source::Node { " masqueraded" } else { "" };
            write!(f, "{}{endpoint}{masqueraded}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers =
            self.answers.iter().map(|((endpoint, source), count)| format!("{count}× {endpoint} (from {source})"));
        let errors = self.errors.iter().map(|(error, count)| format!("{count}× {error}"));
        write!(f, "{}; slowest {:?}", answers.chain(errors).collect::<Vec<_>>().join(", "), self.slowest)
    }
}

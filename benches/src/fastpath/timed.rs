//! How much gets through, in the guest's time: only ratios within one run count.

use std::time::Duration;

use anyhow::Result;
use model::Family;
use serde_json::{Map, Value};

use crate::node::{self, Mode, Node};
use crate::traffic::{self, Port};

/// An odd number: a median is one of them.
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(1500);
/// Of the connection by which packets in `forward` are counted.
const QUESTIONS: usize = 2000;

/// What takes turns, under the names of the report.
const MODES: [(&str, Mode); 3] =
    [("plain_route", Mode::PlainRoute), ("service_slow", Mode::Slow), ("service_fast", Mode::FAST)];

/// A figure of a node in a family.
type Measure = fn(&Node, Family) -> Result<f64>;

const FIGURES: [(&str, Measure); 5] = [
    ("tcp_stream", |node, family| traffic::stream(&node.client, &node.servers, node.address(family, Port::Sink), TIME)),
    ("small_packets", |node, family| {
        traffic::small_packets(&node.client, &node.servers, node.address(family, Port::Datagrams), TIME)
    }),
    ("rr", |node, family| traffic::round_trips(&node.client, node.address(family, Port::Echo), TIME)),
    ("crr", |node, family| traffic::connections(&node.client, node.address(family, Port::Echo), TIME)),
    ("forwarded_per_1000", forwarded),
];

/// The rounds of each family.
pub(crate) fn measure() -> Result<Value> {
    let nodes = MODES.map(|(name, mode)| Node::new(mode).map(|node| (name, node)));
    let nodes = nodes.into_iter().collect::<Result<Vec<_>>>()?;
    let mut families = Map::new();
    for family in Family::ALL {
        let mut rounds = Vec::new();
        for number in 0..ROUNDS {
            println!("{family}: round {} of {ROUNDS}", number + 1);
            rounds.push(round(&nodes, family)?);
        }
        families.insert(family.label().to_lowercase(), rounds.into());
    }
    Ok(families.into())
}

/// Each figure of all nodes, one right after the other, for a machine may be slower a little later.
fn round(nodes: &[(&str, Node)], family: Family) -> Result<Value> {
    let mut round = Map::new();
    for (figure, measure) in FIGURES {
        for (name, node) in nodes {
            let figures = round.entry(*name).or_insert_with(|| Value::Object(Map::new()));
            figures[figure] = measure(node, family)?.into();
        }
    }
    Ok(round.into())
}

/// How many of 1,000 packets of a long connection pass the hook `forward`, its first ones included.
fn forwarded(node: &Node, family: Family) -> Result<f64> {
    let namespace = &node.cluster.node;
    namespace.sh("nft add table inet forwarded
         nft add counter inet forwarded seen
         nft add chain inet forwarded forward '{ type filter hook forward priority 200; }'
         nft add rule inet forwarded forward counter name seen")?;
    let before = received_from_pods(node)?;
    traffic::long_connection(&node.client, node.address(family, Port::Echo), QUESTIONS)?;
    let sent = received_from_pods(node)? - before;
    let told = namespace.sh("nft list counter inet forwarded seen; nft delete table inet forwarded")?;
    let mut words = told.split_whitespace().skip_while(|word| *word != "packets");
    let seen: f64 = words.nth(1).unwrap_or_default().parse()?;
    Ok(seen * 1000.0 / sent)
}

/// Packets that the node has received from the two pods.
fn received_from_pods(node: &Node) -> Result<f64> {
    let interfaces = [&node.client.node_interface, &node.server.node_interface];
    let counts = interfaces.map(|interface| node::received(&node.cluster.node, interface));
    counts.into_iter().sum::<Result<u64>>().map(|sum| sum as f64)
}

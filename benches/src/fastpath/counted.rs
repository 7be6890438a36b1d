//! What a packet costs the node, in instructions.
//!
//! The guest has one CPU whose clock goes on by 2 ns with each instruction (`vm/run` with `VM_COUNT=1`), so that the time it takes
//! to send packets is what they cost: the client's part, the node's, and the server's until the packet is dropped where it arrives.
//! The same packets, dropped where they arrive at the node, cost the client's part. The difference is the node's.
//!
//! The proxies are ended first, so that they have no part in it; their rules stay.

use std::net::UdpSocket;
use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use model::Family;
use serde_json::{Map, Value, json};
use testing::netns::Namespace;

use crate::node::{Mode, Node, add_foreign_rules, received, remove_foreign_rules};
use crate::traffic::{self, Port};

/// Of the emulated CPU: `-icount shift=1`.
const NANOSECONDS: f64 = 2.0;
/// Packets of a measurement. It is made until some agree, and the least counts: something else on the CPU had part in the others.
const PACKETS: usize = 800;
/// How long packets may be under way.
const LONGEST: Duration = Duration::from_secs(10);
/// How many measurements have to agree, how far they may be apart, and after how many it is given up.
const AGREEING: usize = 4;
const AGREEMENT: f64 = 1.01;
const MOST_TRIES: usize = 100;
/// Short connections of a measurement.
const CONNECTIONS: usize = 200;
/// Enough questions to take a flow into the fast path, where there is one.
const QUESTIONS: usize = 60;

/// Numbers of rules of someone else.
const FOREIGN_RULES: [usize; 5] = [0, 10, 50, 100, 1000];
/// Thresholds, 0 for no fast path.
const THRESHOLDS: [u32; 4] = [0, 6, 20, 100];
/// A threshold that no flow here gets to: the greatest that a configuration can have.
const NEVER: NonZeroU32 = NonZeroU32::new(i32::MAX.cast_unsigned()).expect("not zero");
/// Packets of flows, after the first question and its answer.
const LENGTHS: [usize; 13] = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000, 2000];
/// How many flows of such lengths are looked at.
const FLOWS: usize = 20;

/// All costs.
pub(crate) fn measure() -> Result<Value> {
    let plain = quiet(Mode::PlainRoute)?;
    let slow = quiet(Mode::Slow)?;
    let fast = quiet(Mode::FAST)?;
    let mut report = Map::new();
    for family in Family::ALL {
        println!("{family}: a packet by each way");
        let mut costs = Map::new();
        // Nobody would take the packet: it has the address of another device.
        costs.insert("tc_redirect".into(), redirected(&plain, family, "")?.into());
        let address = plain.server.namespace.sh("ip -o link show eth0 | sed 's/.*link.ether \\([^ ]*\\).*/\\1/'")?;
        let rewrite = format!("skbmod set dmac {} pipe action", address.trim());
        costs.insert("tc_redirect_delivered".into(), redirected(&plain, family, &rewrite)?.into());
        costs.insert("plain_route".into(), cost(&plain, family)?.into());
        for (name, node) in [("service_slow", &slow), ("service_fast", &fast)] {
            costs.insert(name.into(), cost(node, family)?.into());
            costs.insert(format!("{name}_connection"), connection(node, family)?.into());
            costs.insert(format!("{name}_50_rules"), with_foreign_rules(node, family, 50)?.into());
        }
        report.insert(family.label().to_lowercase(), costs.into());
    }
    let mut by_rules = Vec::new();
    for count in FOREIGN_RULES {
        println!("{count} rules of someone else");
        let [slow, fast] = [&slow, &fast].map(|node| with_foreign_rules(node, Family::V4, count));
        by_rules.push(json!({ "rules": count, "service_slow": slow?, "service_fast": fast? }));
    }
    report.insert("foreign_rules".into(), by_rules.into());
    report.insert("parts".into(), parts(&plain, &slow, &fast)?.into());
    drop((plain, slow, fast));
    let mut by_threshold = Vec::new();
    for threshold in THRESHOLDS {
        println!("flows of many lengths, threshold {threshold}");
        let node = quiet(NonZeroU32::new(threshold).map_or(Mode::Slow, Mode::Fast))?;
        by_threshold.push(json!({ "threshold": threshold, "mean_by_length": by_length(&node)? }));
    }
    report.insert("thresholds".into(), by_threshold.into());
    Ok(report.into())
}

/// A node whose proxy has done its work.
fn quiet(mode: Mode) -> Result<Node> {
    let mut node = Node::new(mode)?;
    node.abandon();
    Ok(node)
}

/// Instructions for a packet of a flow that has had [`QUESTIONS`].
fn cost(node: &Node, family: Family) -> Result<f64> {
    let flow = traffic::open_flow(&node.client, node.address(family, Port::Datagrams), QUESTIONS)?;
    let _server = drop_at_server(node)?;
    let all = least(node, &flow, PACKETS)?;
    let _node = drop_at_node(node)?;
    let cost = all - least(node, &flow, 0)?;
    println!("  {cost:.0}");
    Ok(cost)
}

/// Instructions for a short connection with all that client, node and server do for it.
fn connection(node: &Node, family: Family) -> Result<f64> {
    let to = node.address(family, Port::Echo);
    least_of(CONNECTIONS, || traffic::short_connections(&node.client, to, CONNECTIONS).map(Some))
}

fn with_foreign_rules(node: &Node, family: Family, count: usize) -> Result<f64> {
    add_foreign_rules(node, count)?;
    let cost = cost(node, family);
    remove_foreign_rules(node)?;
    cost
}

/// The least that any way through the node can cost: tc puts what comes in at one veth out at the other, after what `first` says.
fn redirected(node: &Node, family: Family, first: &str) -> Result<f64> {
    let flow = traffic::open_flow(&node.client, node.address(family, Port::Datagrams), QUESTIONS)?;
    let _server = drop_at_server(node)?;
    let all = {
        let action = format!("{first} mirred egress redirect dev {}", node.server.node_interface);
        let _redirect = Ingress::on(&node.cluster.node, &node.client.node_interface, &action)?;
        least(node, &flow, PACKETS)?
    };
    let _node = drop_at_node(node)?;
    let cost = all - least(node, &flow, 0)?;
    println!("  {cost:.0}");
    Ok(cost)
}

/// What the parts of the slow path and of the fast path cost, over IPv4: a packet of a flow with and without each.
fn parts(plain: &Node, slow: &Node, fast: &Node) -> Result<Map<String, Value>> {
    println!("parts");
    let mut parts = Map::new();
    let mut part = |name: &str, node: &Node| -> Result<()> {
        parts.insert(name.into(), cost(node, Family::V4)?.into());
        Ok(())
    };
    let tracked = "nft add table inet tracked
        nft add chain inet tracked prerouting '{ type filter hook prerouting priority 0; }'
        nft add rule inet tracked prerouting ct state invalid drop";
    plain.cluster.node.sh(tracked)?;
    part("plain_route_with_conntrack", plain)?;
    plain.cluster.node.sh("nft delete table inet tracked")?;
    part("service_slow", slow)?;
    part("service_slow_threshold_not_reached", &quiet(Mode::Fast(NEVER))?)?;
    part("service_slow_dry_run", &quiet(Mode::DryRun)?)?;
    part("service_fast", fast)?;
    let namespace = &fast.cluster.node;
    namespace.sh("nft delete table ip6 kube-proxy")?;
    part("service_fast_one_family", fast)?;
    let devices = format!("{}, {}", fast.client.node_interface, fast.server.node_interface);
    namespace.sh(&format!(
        "nft flush chain ip kube-proxy fastpath
         nft flush chain ip kube-proxy fastpath-offload
         nft delete flowtable ip kube-proxy fastpath
         nft add flowtable ip kube-proxy bare '{{ hook ingress priority 300; devices = {{ {devices} }}; }}'
         nft add rule ip kube-proxy fastpath ct status dnat ct state established flow add @bare"
    ))?;
    part("service_fast_one_family_no_counter", fast)?;
    namespace.sh(&format!(
        "nft flush chain ip kube-proxy fastpath
         nft delete flowtable ip kube-proxy bare
         nft add table inet fast
         nft add flowtable inet fast bare '{{ hook ingress priority 300; devices = {{ {devices} }}; counter; }}'
         nft add chain inet fast forward '{{ type filter hook forward priority 300; }}'
         nft add rule inet fast forward ct status dnat ct state established flow add @bare"
    ))?;
    part("service_fast_inet_table", fast)?;
    Ok(parts)
}

/// How many packets a flow has, and what one of them costs on average.
fn by_length(node: &Node) -> Result<Vec<(usize, f64)>> {
    let open = || traffic::open_flow(&node.client, node.address(Family::V4, Port::Datagrams), 1);
    let flows = (0..FLOWS).map(|_| open()).collect::<Result<Vec<_>>>()?;
    let sums = {
        let _server = drop_at_server(node)?;
        let mut sums = [0.0; LENGTHS.len()];
        for flow in &flows {
            let (mut sent, began) = (0, Instant::now());
            for (length, sum) in LENGTHS.iter().zip(&mut sums) {
                traffic::send(flow, length - sent)?;
                sent = *length;
                *sum += began.elapsed().as_nanos() as f64 / NANOSECONDS;
            }
        }
        sums
    };
    let _node = drop_at_node(node)?;
    let clients_part = least(node, &flows[0], 0)?;
    let mean = |(length, sum): (&usize, f64)| (*length, sum / (FLOWS * length) as f64 - clients_part);
    Ok(LENGTHS.iter().zip(sums).map(mean).collect())
}

/// Instructions for each packet of a flow, of which so many of [`PACKETS`] arrive at the server.
fn least(node: &Node, flow: &UdpSocket, arriving: usize) -> Result<f64> {
    traffic::send(flow, PACKETS)?;
    least_of(PACKETS, || {
        let before = received(&node.server.namespace, "eth0")?;
        let began = Instant::now();
        traffic::send(flow, PACKETS)?;
        let mut took = began.elapsed();
        // Where a packet takes long, the kernel lets them wait for a thread of its own.
        let mut arrived = received(&node.server.namespace, "eth0")? - before;
        while arrived < arriving as u64 && began.elapsed() < LONGEST {
            thread::sleep(Duration::from_millis(1));
            took = began.elapsed();
            arrived = received(&node.server.namespace, "eth0")? - before;
        }
        // The kernel itself sends something now and then.
        let is_right = arrived.abs_diff(arriving as u64) < PACKETS as u64 / 100;
        Ok(is_right.then_some(took))
    })
}

/// Instructions for one of so many, by the least of the times of a measurement, which has none if it went wrong.
fn least_of(count: usize, mut measure: impl FnMut() -> Result<Option<Duration>>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..MOST_TRIES {
        let Some(took) = measure()? else { continue };
        times.push(took.as_nanos() as f64 / NANOSECONDS / count as f64);
        times.sort_by(f64::total_cmp);
        if times.get(AGREEING - 1).is_some_and(|time| *time <= times[0] * AGREEMENT) {
            return Ok(times[0]);
        }
    }
    bail!("{MOST_TRIES} measurements, of which no {AGREEING} agree: {times:?}")
}

fn drop_at_server(node: &Node) -> Result<Ingress<'_>> {
    Ingress::on(&node.server.namespace, "eth0", "drop")
}

fn drop_at_node(node: &Node) -> Result<Ingress<'_>> {
    Ingress::on(&node.cluster.node, &node.client.node_interface, "drop")
}

/// What tc does with all that comes in at an interface, until this is dropped.
struct Ingress<'a> {
    namespace: &'a Namespace,
    interface: &'a str,
}

impl<'a> Ingress<'a> {
    fn on(namespace: &'a Namespace, interface: &'a str, action: &str) -> Result<Self> {
        let ingress = Self { namespace, interface };
        namespace.sh(&format!(
            "tc qdisc add dev {interface} clsact; tc filter add dev {interface} ingress matchall action {action}"
        ))?;
        Ok(ingress)
    }
}

impl Drop for Ingress<'_> {
    fn drop(&mut self) {
        let removed = self.namespace.sh(&format!("tc qdisc del dev {} clsact", self.interface));
        if let Err(error) = removed {
            println!("what follows is not measured well: {error:#}");
        }
    }
}

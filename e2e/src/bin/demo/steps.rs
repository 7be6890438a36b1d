//! What is shown.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use e2e::Expected::{self, Refused};
use e2e::{Destination, Host, Pods, Probe, Proxy, Settings, Source, Traffic, answers};
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Cluster;
use testing::objects::slice;
use testing::traffic::Stream;

use crate::report::{Report, Row, time};
use crate::stage::Stage;

const V4: Family = Family::V4;
const V6: Family = Family::V6;

/// With the product's own pace.
const SETTINGS: Settings = Settings {
    min_sync_period: "1s",
    masquerade_all: false,
    node_port_addresses: &["primary"],
    pods: Pods::ClusterCidr,
    fastpath_packet_threshold: None,
    more: "",
};

/// How long traffic flows before a change and after it. Longer than minSyncPeriod, so that no change has to wait for it.
const PHASE: Duration = Duration::from_millis(1200);

/// How many lines of the kernel's map are shown.
const EXCERPT: usize = 14;

pub(crate) fn all(stage: &mut Stage, report: &mut Report) -> Result<()> {
    report.header();
    start(stage, report)?;
    cluster_ips(stage, report);
    from_outside(stage, report);
    ipv6(stage, report);
    no_endpoints(stage, report);
    excerpt(stage, report)?;
    let mut streams = open_connections(stage, 3)?;
    endpoint_added(stage, report, &mut streams)?;
    endpoint_removed(stage, report, &mut streams)?;
    restart(stage, report, &mut streams)
}

fn start(stage: &mut Stage, report: &mut Report) -> Result<()> {
    report.heading("kube-proxy starts with the manifests of six Services");
    let took = stage.proxy.run(&SETTINGS)?;
    report.check(&Row {
        what: "start".into(),
        route: "manifests → nftables".into(),
        expected: "all rules, /healthz 200".into(),
        seen: format!("in {} from its start, syncing {}", time(took), time(stage.proxy.sync_time()?)),
        ok: true,
    });
    Ok(())
}

fn cluster_ips(stage: &Stage, report: &mut Report) {
    report.heading("ClusterIP: pods reach all endpoints, which see the pod's own address (← is the address they see)");
    let client = stage.client();
    let web = answers(&["web-1:8080", "web-2:8080", "web-3:8080"], Source::Client);
    let dns = |port| answers(&[&format!("dns-1:{port}"), &format!("dns-2:{port}")], Source::Client);
    let (ip, dns_ip) = (v4([10, 96, 0, 10]), v4([10, 96, 0, 53]));
    probe(report, "TCP, port 80 to 8080", client, Destination::tcp(ip, 80), &web);
    probe(report, "UDP, port 53 to 5353", client, Destination::udp(dns_ip, 53), &dns(5353));
    probe(report, "TCP, port 53 to 5354", client, Destination::tcp(dns_ip, 53), &dns(5354));
    let node = answers(&["web-1:8080", "web-2:8080", "web-3:8080"], Source::Node);
    probe(report, "from the node: masqueraded", Host::node(&stage.cluster), Destination::tcp(ip, 80), &node);
    let itself = web.but("web-1:8080", Source::Node);
    probe(report, "an endpoint to its own Service", stage.server("web-1").host(), Destination::tcp(ip, 80), &itself);
    probe(report, "a port that it does not have", client, Destination::tcp(ip, 81), &Refused);
}

fn from_outside(stage: &Stage, report: &mut Report) {
    report.heading("NodePort and LoadBalancer: in from outside");
    let outside = Host::outside(&stage.cluster);
    let shop = answers(&["web-1:8080", "web-2:8080"], Source::Node);
    let node = Cluster::node_address(V4);
    probe(report, "NodePort: masqueraded", outside, Destination::tcp(node, 30080), &shop);
    let store = Destination::tcp(v4([198, 51, 100, 30]), 443);
    probe(report, "policy Local: address kept", outside, store, &answers(&["web-2:8080"], Source::Client));
    let both = answers(&["web-2:8080", "web-3:8080"], Source::Client);
    probe(report, "policy Local: pods, everywhere", stage.client(), store, &both);
}

fn ipv6(stage: &Stage, report: &mut Report) {
    report.heading("IPv6: the same, in a table of its own");
    let (client, outside) = (stage.client(), Host::outside(&stage.cluster));
    let web = answers(&["web-1:8080", "web-2:8080", "web-3:8080"], Source::Client);
    let six = |source| answers(&["dns-1:5353", "dns-2:5353"], source);
    probe(report, "dual-stack Service, TCP", client, Destination::tcp(v6("fd00:10:96::10"), 80), &web);
    probe(report, "ClusterIP, UDP", client, Destination::udp(v6("fd00:10:96::66"), 53), &six(Source::Client));
    probe(report, "external IP, UDP", outside, Destination::udp(v6("2001:db8:113::66"), 53), &six(Source::Node));
    let node_port = Destination::udp(Cluster::node_address(V6), 30053);
    probe(report, "NodePort, UDP", outside, node_port, &six(Source::Node));
}

fn no_endpoints(stage: &Stage, report: &mut Report) {
    report.heading("A Service without endpoints: refused at once, not after a timeout");
    let (client, outside) = (stage.client(), Host::outside(&stage.cluster));
    let (ip, node) = (v4([10, 96, 0, 40]), Cluster::node_address(V4));
    probe(report, "ClusterIP, TCP", client, Destination::tcp(ip, 80), &Refused);
    probe(report, "ClusterIP, UDP", client, Destination::udp(ip, 53), &Refused);
    probe(report, "NodePort, TCP", outside, Destination::tcp(node, 30090), &Refused);
    probe(report, "NodePort, UDP", outside, Destination::udp(node, 30091), &Refused);
}

fn excerpt(stage: &Stage, report: &Report) -> Result<()> {
    const COMMAND: &str = "nft list map ip kube-proxy endpoints";
    report.heading("What the kernel has: a Service is a few elements of maps that all Services share; here, its endpoints, numbered");
    let listed = stage.cluster.node.sh(COMMAND)?;
    report.note(&format!("node# {COMMAND}"));
    for line in listed.lines().take(EXCERPT) {
        // nft aligns for tabs of eight.
        report.note(&line.replace('\t', "        "));
    }
    if listed.lines().count() > EXCERPT {
        report.note("…");
    }
    Ok(())
}

/// Connections to `web` that stay open, one to each of its endpoints.
fn open_connections(stage: &Stage, endpoints: usize) -> Result<Vec<Stream>> {
    let mut streams: Vec<Stream> = Vec::new();
    for _ in 0..endpoints * 32 {
        let stream = Stream::open(stage.client().namespace, None, web().socket)?;
        if streams.iter().all(|other| other.reply().endpoint != stream.reply().endpoint) {
            streams.push(stream);
        }
        if streams.len() == endpoints {
            return Ok(streams);
        }
    }
    bail!("of {endpoints} endpoints of web, only {} ever answer", streams.len())
}

fn endpoint_added(stage: &mut Stage, report: &mut Report, streams: &mut Vec<Stream>) -> Result<()> {
    report.heading("An endpoint is added while traffic flows: web-4 gets an EndpointSlice");
    let more = slice("demo", "web-more", "web").port("http", "TCP", 8080);
    let more = more.endpoint(&stage.server("web-4").pod().v4.to_string()).on_node(Proxy::NODE);
    let (followed, traffic) = change(stage, report, |proxy| proxy.manifests().put("web-more.yaml", &[&more]))?;
    let after = traffic.endpoints_after(followed);
    report.check(&Row {
        what: "it gets its share".into(),
        route: route(),
        expected: "web-1 web-2 web-3 web-4".into(),
        seen: counted(after.iter().map(|(endpoint, count)| (*endpoint, *count))),
        ok: after.keys().eq(&["web-1:8080", "web-2:8080", "web-3:8080", "web-4:8080"]),
    });
    check_alive(report, streams);
    // One of them to the new endpoint.
    *streams = open_connections(stage, 4)?;
    Ok(())
}

fn endpoint_removed(stage: &mut Stage, report: &mut Report, streams: &mut [Stream]) -> Result<()> {
    report.heading("It is removed again while traffic flows; the pod still runs, as one that terminates does");
    let (followed, traffic) = change(stage, report, |proxy| proxy.manifests().remove("web-more.yaml"))?;
    let after = traffic.endpoints_after(followed);
    report.check(&Row {
        what: "it gets no new connection".into(),
        route: route(),
        expected: "web-1 web-2 web-3".into(),
        seen: counted(after.iter().map(|(endpoint, count)| (*endpoint, *count))),
        ok: after.keys().eq(&["web-1:8080", "web-2:8080", "web-3:8080"]),
    });
    check_alive(report, streams);
    Ok(())
}

/// Makes a change in the middle of a stream of connections. Returns when the rules had followed, and the stream.
fn change(
    stage: &mut Stage,
    report: &mut Report,
    edit: impl FnOnce(&Proxy) -> Result<SystemTime>,
) -> Result<(SystemTime, Traffic)> {
    let syncing = stage.proxy.sync_time()?;
    let (client, proxy) = stage.client_and_proxy();
    let (traffic, changed) = Traffic::during(client, web().socket, || {
        thread::sleep(PHASE);
        let edited = edit(proxy)?;
        let followed = proxy.wait_synced(edited)?;
        thread::sleep(PHASE);
        anyhow::Ok((edited, followed))
    });
    let (edited, followed) = changed?;
    let syncing = stage.proxy.sync_time()?.saturating_sub(syncing);
    report.check(&Row {
        what: "the rules follow".into(),
        route: "manifests → nftables".into(),
        expected: "within 1 s".into(),
        seen: format!("in {}, of which syncing {} (it waits 50 ms for more edits)", time(followed), time(syncing)),
        ok: followed < Duration::from_secs(1),
    });
    let (before, by_then) = (traffic.before(edited), traffic.before(edited + followed));
    let (during, after) = (by_then - before, traffic.count() - by_then);
    steady(report, &traffic, &format!("{before} before, {during} during, {after} after"));
    Ok((edited + followed, traffic))
}

fn restart(stage: &mut Stage, report: &mut Report, streams: &mut [Stream]) -> Result<()> {
    report.heading("kube-proxy is killed (SIGKILL), is down for a while, and starts again while traffic flows");
    let (client, proxy) = stage.client_and_proxy();
    let (traffic, restarted) = Traffic::during(client, web().socket, || {
        proxy.stop(Signal::SIGKILL)?;
        let killed = SystemTime::now();
        thread::sleep(PHASE);
        let started = SystemTime::now();
        let took = proxy.run(&SETTINGS)?;
        anyhow::Ok((killed, started, took))
    });
    let (killed, started, took) = restarted?;
    let down = traffic.before(started) - traffic.before(killed);
    steady(report, &traffic, &format!("{down} while it was down, {} since", traffic.count() - traffic.before(started)));
    check_alive(report, streams);
    report.check(&Row {
        what: "it is back".into(),
        route: "manifests → nftables".into(),
        expected: "all rules, /healthz 200".into(),
        seen: format!("in {} from its start", time(took)),
        ok: true,
    });
    Ok(())
}

fn steady(report: &mut Report, traffic: &Traffic, counts: &str) {
    let failures = traffic.failures();
    report.check(&Row {
        what: "a steady stream of connections".into(),
        route: route(),
        expected: "none fails".into(),
        seen: match failures {
            None => format!("{counts}, none failed"),
            Some((failed, first)) => format!("{counts}, {failed} failed: {first}"),
        },
        ok: failures.is_none() && traffic.count() > 0,
    });
}

fn check_alive(report: &mut Report, streams: &mut [Stream]) {
    let outcome = streams.iter_mut().try_for_each(|stream| stream.echo("still there?"));
    let mut endpoints: Vec<_> = streams.iter().map(|stream| pod(&stream.reply().endpoint)).collect();
    endpoints.sort_unstable();
    report.check(&Row {
        what: "connections opened before".into(),
        route: route(),
        expected: format!("all {} go on", streams.len()),
        seen: match outcome {
            Ok(()) => format!("{} answer", endpoints.join(" ")),
            Err(error) => error.to_string(),
        },
        ok: outcome.is_ok(),
    });
}

/// Asks, and prints a line about it.
fn probe(report: &mut Report, what: &str, from: Host<'_>, to: Destination, expected: &Expected) {
    let probe = Probe { from, to };
    let seen = probe.ask(expected);
    let wanted = match expected {
        Expected::Answers(endpoints) => {
            let names: Vec<_> = endpoints.keys().map(|endpoint| pod(endpoint)).collect();
            let mut sources: Vec<_> = endpoints
                .values()
                .map(|source| match source {
                    Source::Client => from.name,
                    Source::Node => "node",
                })
                .collect();
            sources.sort_unstable();
            sources.dedup();
            format!("{} ← {}", names.join(" "), sources.join(" "))
        }
        Refused | Expected::Lost => expected.to_string(),
    };
    let got = if seen.refusals().is_empty() {
        let sources: Vec<_> = seen.sources().iter().map(ToString::to_string).collect();
        format!("{} ← {}", counted(seen.endpoints().into_iter()), sources.join(" "))
    } else if *expected == Refused {
        format!("{} in {}", seen.refusals(), time(seen.slowest()))
    } else {
        seen.refusals()
    };
    let ok = seen.is(&probe, expected);
    report.check(&Row { what: what.into(), route: probe.to_string(), expected: wanted, seen: got, ok });
}

fn counted<'a>(endpoints: impl Iterator<Item = (&'a str, usize)>) -> String {
    endpoints.map(|(endpoint, count)| format!("{}×{count}", pod(endpoint))).collect::<Vec<_>>().join(" ")
}

/// `web-1` of `web-1:8080`.
fn pod(endpoint: &str) -> &str {
    endpoint.split(':').next().unwrap_or(endpoint)
}

/// The Service that changes.
fn web() -> Destination {
    Destination::tcp(v4([10, 96, 0, 10]), 80)
}

fn route() -> String {
    format!("client → {}", web())
}

fn v4(octets: [u8; 4]) -> IpAddr {
    octets.into()
}

fn v6(address: &str) -> IpAddr {
    address.parse().expect("addresses in this file are well-formed")
}

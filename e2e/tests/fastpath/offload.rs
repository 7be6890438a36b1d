//! Which connections are offloaded, when, and what comes of them.

use std::net::SocketAddr;

use e2e::Settings;
use model::Family;
use testing::netns::Cluster;
use testing::traffic::{Flow, Refusal, Stream};

use crate::forwarded::Forwarded;
use crate::long::{address, ask, exchange, world};
use crate::world::{HTTP, everything, external_ip, node_port};

#[test]
fn long_connections_leave_the_slow_path_at_the_threshold_and_not_before() {
    const THRESHOLD: u64 = 100;
    let world = world(&Settings { fastpath_packet_threshold: Some(THRESHOLD as u32), ..Settings::default() });
    let forwarded = Forwarded::count(&world.cluster.node);
    for family in Family::ALL {
        let mut stream = Stream::open(&world.shop.pod().namespace, None, address(family, 80)).unwrap();
        exchange(&mut stream, 100);
        let slow = forwarded.take();
        // One that is on its way meanwhile may slip in.
        assert!(
            (THRESHOLD + 1..=THRESHOLD + 5).contains(&slow),
            "TCP over {family}: {slow} packets took the slow path"
        );
        exchange(&mut stream, 100);
        assert_eq!(forwarded.take(), 0, "TCP over {family}: it stays in the fast path, in both directions");
        drop(stream);

        let flow = Flow::open(&world.shop.pod().namespace, None, address(family, 81)).unwrap();
        ask(&flow, 500);
        let slow = forwarded.take();
        assert!(
            (THRESHOLD + 1..=THRESHOLD + 10).contains(&slow),
            "UDP over {family}: {slow} packets took the slow path"
        );
        ask(&flow, 100);
        assert_eq!(forwarded.take(), 0, "UDP over {family}: it stays in the fast path, in both directions");
    }
}

#[test]
fn translation_stays_right_where_the_client_is_masqueraded() {
    let world = world(&Settings::default());
    let forwarded = Forwarded::count(&world.cluster.node);
    for family in Family::ALL {
        let mut stream = Stream::open(&world.cluster.client, None, address(family, 80)).unwrap();
        assert_eq!(stream.reply().seen_source.ip(), Cluster::gateway_address(family), "masqueraded");
        exchange(&mut stream, 50);
        forwarded.take();
        exchange(&mut stream, 50);
        assert_eq!(forwarded.take(), 0, "over {family}");
    }
}

/// A question, an answer, and a port that is not used again.
#[test]
fn dns_stays_in_the_slow_path() {
    let world = world(&Settings::default());
    let forwarded = Forwarded::count(&world.cluster.node);
    for family in Family::ALL {
        let flow = Flow::open(&world.shop.pod().namespace, None, address(family, 53)).unwrap();
        ask(&flow, 60);
        assert_eq!(forwarded.take(), 120, "over {family}");
    }
}

/// The fast path is the last to be asked: what is dropped before never gets there.
#[test]
fn what_another_program_drops_stays_dropped() {
    let world = world(&Settings::default());
    let node = &world.cluster.node;
    let hook = "{ type filter hook forward priority 2147483646; }";
    for command in ["table inet strict", &format!("chain inet strict forward '{hook}'")] {
        node.sh(&format!("nft add {command}")).unwrap();
    }
    node.sh("nft add rule inet strict forward ct packets '>' 10 drop").unwrap();
    for family in Family::ALL {
        let mut stream = Stream::open(&world.shop.pod().namespace, None, address(family, 80)).unwrap();
        let ended = (0..40).find_map(|_| stream.echo("still there?").err());
        assert_eq!(ended, Some(Refusal::TimedOut), "over {family}");
    }
    let counters = node.sh("nft list counters").unwrap();
    assert!(!counters.contains("packets 1"), "something was offloaded:\n{counters}");
}

#[test]
fn a_dry_run_offloads_nothing_and_counts() {
    let mut world = world(&Settings { more: "fastpathDryRun: true", ..Settings::default() });
    let forwarded = Forwarded::count(&world.cluster.node);
    for family in Family::ALL {
        let mut stream = Stream::open(&world.shop.pod().namespace, None, address(family, 80)).unwrap();
        exchange(&mut stream, 100);
        assert!(forwarded.take() >= 200, "over {family}");
    }
    let counted = "what would have been offloaded of both families";
    let is_counted = |counts: Vec<f64>| counts.len() == 2 && counts.iter().all(|count| *count > 100.0);
    let metric = "slipstream_fastpath_dry_run_packets_total";
    world.proxy.wait(counted, |proxy| Ok(is_counted(proxy.metric(metric)?))).unwrap();
    assert_eq!(world.proxy.metric("kubeproxy_fastpath_offloads_total").unwrap(), [0.0, 0.0]);
}

#[test]
fn what_is_offloaded_is_counted() {
    let mut world = world(&Settings::default());
    let mut streams = Vec::new();
    for family in Family::ALL {
        for _ in 0..3 {
            let mut stream = Stream::open(&world.shop.pod().namespace, None, address(family, 80)).unwrap();
            exchange(&mut stream, 30);
            streams.push(stream);
        }
    }
    for metric in ["kubeproxy_fastpath_flows", "kubeproxy_fastpath_offloads_total"] {
        world.proxy.wait(metric, |proxy| Ok(proxy.metric(metric)? == [3.0, 3.0])).unwrap();
    }
    assert_eq!(world.proxy.metric("kubeproxy_fastpath_enabled").unwrap(), [1.0, 1.0]);
    assert_eq!(world.proxy.metric("kubeproxy_fastpath_misses_total").unwrap(), [0.0, 0.0]);
}

#[test]
fn other_frontends_take_part_where_that_is_wanted_and_services_opt_out() {
    let mut world = world(&Settings { more: "fastpathScope: All", ..Settings::default() });
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let [v4, v6] = world.slices("all", &[HTTP], &[(0, "l")]);
    world.apply(&[&everything("all", 2), &v4, &v6]);
    let frontends = |family| {
        let node_port: SocketAddr = (Cluster::node_address(family), node_port(2)).into();
        [(external_ip(family, 2), 80).into(), node_port]
    };
    let opened = Family::ALL.into_iter().flat_map(frontends);
    let mut streams: Vec<_> = opened.map(|to| Stream::open(&cluster.client, None, to).unwrap()).collect();
    streams.iter_mut().for_each(|stream| exchange(stream, 30));
    forwarded.take();
    streams.iter_mut().for_each(|stream| exchange(stream, 10));
    assert_eq!(forwarded.take(), 0, "external IPs and NodePorts");

    let off = serde_json::json!({"slipstream.dev/fastpath": "off"});
    world.apply(&[&everything("all", 2).set("/metadata/annotations", off), &v4, &v6]);
    let mut is_slow = || {
        streams.iter_mut().for_each(|stream| exchange(stream, 1));
        forwarded.take() >= 2 * streams.len() as u64
    };
    world.proxy.wait("all connections in the slow path", |_| Ok(is_slow())).unwrap();
}

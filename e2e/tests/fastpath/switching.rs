//! Connections that are in the fast path while it, or the proxy, comes and goes.

use std::time::Instant;

use e2e::{PATIENCE, Settings};
use model::Family;
use nix::sys::signal::Signal;
use testing::traffic::Stream;

use crate::forwarded::Forwarded;
use crate::long::{address, exchange, offloaded, wait_for_devices, wait_until_fast, world};

#[test]
fn it_is_switched_off_and_on_under_traffic() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let mut streams = offloaded(&world, &forwarded);

    world.proxy.stop(Signal::SIGTERM).unwrap();
    streams.iter_mut().for_each(|stream| exchange(stream, 30));
    assert_eq!(forwarded.take(), 0, "it does not need the proxy");

    world.proxy.run(&Settings { fastpath_packet_threshold: Some(0), ..Settings::default() }).unwrap();
    let left = || cluster.node.sh("nft list ruleset").unwrap().matches("fastpath").count();
    world.proxy.wait("nothing of the fast path in the rules", |_| Ok(left() == 0)).unwrap();
    streams.iter_mut().for_each(|stream| exchange(stream, 30));
    assert!(forwarded.take() >= 60, "they are back in the slow path");
    assert_eq!(world.proxy.metric("kubeproxy_fastpath_enabled").unwrap(), [0.0, 0.0]);

    world.proxy.stop(Signal::SIGTERM).unwrap();
    world.proxy.run(&Settings::default()).unwrap();
    wait_for_devices(&mut world);
    wait_until_fast(&mut streams, &forwarded);
    streams.iter_mut().for_each(|stream| exchange(stream, 30));
    assert_eq!(forwarded.take(), 0, "they stay in the fast path");
}

/// The proxy goes on: nothing but the configuration file changes.
#[test]
fn its_threshold_follows_the_configuration_under_traffic() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let mut streams = offloaded(&world, &forwarded);
    let process = world.proxy.process().unwrap();
    let rules = || cluster.node.sh("nft list ruleset").unwrap();

    world.proxy.reconfigure(&Settings { fastpath_packet_threshold: Some(0), ..Settings::default() }).unwrap();
    world.proxy.wait("nothing of the fast path in the rules", |_| Ok(!rules().contains("fastpath"))).unwrap();
    streams.iter_mut().for_each(|stream| exchange(stream, 30));
    assert!(forwarded.take() >= 60, "they are back in the slow path");
    assert_eq!(world.proxy.metric("kubeproxy_fastpath_enabled").unwrap(), [0.0, 0.0]);

    for threshold in [70_000, 20] {
        world
            .proxy
            .reconfigure(&Settings { fastpath_packet_threshold: Some(threshold), ..Settings::default() })
            .unwrap();
        let wanted = format!("ct packets > {threshold}");
        world.proxy.wait(&format!("{wanted} in the rules"), |_| Ok(rules().matches(&wanted).count() == 2)).unwrap();
        wait_for_devices(&mut world);
        streams.iter_mut().for_each(|stream| exchange(stream, 30));
        assert!(forwarded.take() >= 60 || threshold == 20, "too few packets for {threshold}");
    }
    wait_until_fast(&mut streams, &forwarded);
    streams.iter_mut().for_each(|stream| exchange(stream, 30));
    assert_eq!(forwarded.take(), 0, "they are in the fast path again");
    assert_eq!(world.proxy.process().unwrap(), process);
}

#[test]
fn connections_outlive_a_proxy_that_is_killed() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let mut streams = offloaded(&world, &forwarded);
    for _ in 0..3 {
        world.proxy.stop(Signal::SIGKILL).unwrap();
        streams.iter_mut().for_each(|stream| exchange(stream, 10));
        world.proxy.run(&Settings::default()).unwrap();
        wait_for_devices(&mut world);
        streams.iter_mut().for_each(|stream| exchange(stream, 10));
    }
    wait_until_fast(&mut streams, &forwarded);
    streams.iter_mut().for_each(|stream| exchange(stream, 10));
    assert_eq!(forwarded.take(), 0, "they stay in the fast path");
}

/// Someone flushes the rules of the fast path, and someone else all that is ours.
#[test]
fn it_is_repaired() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    for edit in ["flush chain ip kube-proxy fastpath-offload", "delete table ip kube-proxy"] {
        cluster.node.sh(&format!("nft {edit}")).unwrap();
        let is_whole = || cluster.node.sh("nft list table ip kube-proxy").unwrap_or_default().contains("flow add");
        world.proxy.wait(&format!("the fast path after {edit}"), |_| Ok(is_whole())).unwrap();
        drop(offloaded(&world, &forwarded));
    }
}

#[test]
fn connections_follow_the_rules_again_after_a_while() {
    let world = world(&Settings { more: "fastpathRevalidationPeriod: 5s", ..Settings::default() });
    let forwarded = Forwarded::count(&world.cluster.node);
    let mut stream = Stream::open(&world.shop.pod().namespace, None, address(Family::V4, 80)).unwrap();
    exchange(&mut stream, 30);
    forwarded.take();
    let (mut slow, mut exchanges) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while slow < 3 && Instant::now() < deadline {
        exchange(&mut stream, 10);
        exchanges += 10;
        slow += forwarded.take();
    }
    assert!((3..exchanges).contains(&slow), "{slow} packets of {exchanges} exchanges took the slow path");
}

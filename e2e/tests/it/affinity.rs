//! Session affinity (contract §5.6, §12.3): with real clients, and the kernel's own memory.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e::{Destination, Expected, Host, Settings};
use model::Family;
use nix::sys::signal::Signal;
use serde_json::json;
use testing::objects::{Service, Slice};
use testing::traffic::{ask_tcp, ask_udp};

use crate::world::{End, HTTP, Port, World, case, cluster_ip, everything, node_port, service, ways};

/// As upstream's e2e tests do: so many times in a row is not by chance.
const IN_A_ROW: usize = 15;
const ALL: [End; 3] = [(0, "l"), (1, "l"), (2, "")];
/// Until the proxy has looked through what the kernel remembers, a client that is refused an endpoint which left has to try once
/// more, after a second.
const SECOND_TRY: Duration = Duration::from_millis(1500);

fn sticky(service: Service, seconds: u32) -> Service {
    service
        .set("/spec/sessionAffinity", "ClientIP")
        .set("/spec/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": seconds}}))
}

fn world(seconds: u32) -> World {
    let mut world = World::new(&Settings::default());
    apply(&mut world, &sticky(everything("web", 1), seconds), &ALL);
    world
}

fn apply(world: &mut World, service: &Service, ends: &[End]) {
    let [v4, v6]: [Slice; 2] = world.slices("web", &[HTTP], ends);
    world.apply(&[service, &v4, &v6]);
}

fn ask(from: Host<'_>, to: Destination) -> String {
    ask_tcp(from.namespace, None, to.socket).unwrap_or_else(|error| panic!("{from} → {to}: {error}")).endpoint
}

/// Asks so many times and returns who answered.
fn answered(from: Host<'_>, to: Destination, times: usize) -> BTreeSet<String> {
    (0..times).map(|_| ask(from, to)).collect()
}

/// What the kernel remembers, as `nft` prints it: one string for each client and frontend.
fn notes(world: &World, family: Family) -> Vec<String> {
    let table = if family == Family::V4 { "ip" } else { "ip6" };
    let listed = world.cluster.node.sh(&format!("nft list map {table} kube-proxy affinity")).unwrap();
    let Some((_, elements)) = listed.split_once("elements = {") else { return Vec::new() };
    elements.split('}').next().unwrap_or_default().split(',').map(|element| element.trim().to_owned()).collect()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + e2e::PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {:?}", e2e::PATIENCE);
    }
}

#[test]
fn a_client_stays_with_its_endpoint_on_every_frontend() {
    let world = world(10_800);
    for family in Family::ALL {
        for (name, to) in ways(family, 1) {
            for from in [world.pod(), world.node(), world.outside(), world.web[0].host()] {
                let seen = answered(from, to, IN_A_ROW);
                assert_eq!(seen.len(), 1, "{name}: {from} → {to}: {seen:?}");
            }
        }
        let notes = notes(&world, family);
        assert!(notes.len() >= 4 * 4 - 3 && notes.iter().all(|note| note.contains("timeout 3h expires")), "{notes:?}");
    }
    // Many clients are spread over all endpoints: those of four frontends and two families.
    let mut all = BTreeSet::new();
    for (family, client) in
        Family::ALL.into_iter().flat_map(|family| [(family, world.pod()), (family, world.outside())])
    {
        all.extend(ways(family, 1).map(|(_, to)| ask(client, to)));
    }
    assert!(all.len() > 1, "16 clients and frontends, all sent to {all:?}");
}

#[test]
fn udp_too() {
    const DNS: Port = ("dns", "UDP", 53, 5353);
    let mut world = World::new(&Settings::default());
    let dns = sticky(service("web", 1, &[DNS]).node_port(node_port(1)), 10_800);
    let [v4, v6] = world.slices("web", &[DNS], &ALL);
    world.apply(&[&dns, &v4, &v6]);
    let mut all = BTreeSet::new();
    for family in Family::ALL {
        for to in [(cluster_ip(family, 1), 53), (world.node().address(family), node_port(1))] {
            for from in [world.pod(), world.node(), world.outside(), world.web[0].host(), world.web[1].host()] {
                let ask = |_| ask_udp(from.namespace, None, to.into()).unwrap().endpoint;
                let seen: BTreeSet<_> = (0..IN_A_ROW).map(ask).collect();
                assert_eq!(seen.len(), 1, "{from} → {to:?}: {seen:?}");
                all.extend(seen);
            }
        }
    }
    // That one of three is chosen for all happens once in a billion.
    assert!(all.len() > 1, "20 clients and frontends, all sent to {all:?}");
}

/// Policy and source ranges come first: a client that is used to an endpoint elsewhere by one way is not sent there by another
/// that does not lead there, and one that is out of range is not let in for being known.
#[test]
fn with_policy_local_and_source_ranges() {
    let mut world = World::new(&Settings::default());
    let web = || sticky(everything("web", 1), 10_800).set("/spec/externalTrafficPolicy", "Local");
    apply(&mut world, &web(), &ALL[2..]);
    for family in Family::ALL {
        let [(_, cluster_ip), others @ ..] = ways(family, 1);
        assert_eq!(ask(world.outside(), cluster_ip), "web-2:8080", "the only one");
        others.iter().for_each(|(_, to)| assert_eq!(ask(world.pod(), *to), "web-2:8080", "the only one"));
    }
    let ranges = Family::ALL
        .map(|family| format!("{}/{}", world.outside().address(family), if family == Family::V4 { 32 } else { 128 }));
    apply(&mut world, &web().set("/spec/loadBalancerSourceRanges", ranges.to_vec()), &ALL);
    for family in Family::ALL {
        let [(_, cluster_ip), others @ ..] = ways(family, 1);
        assert_eq!(ask(world.outside(), cluster_ip), "web-2:8080", "it still is used to that");
        for (name, to) in others {
            let seen = answered(world.outside(), to, IN_A_ROW);
            assert_eq!(seen.len(), 1, "{name}: {seen:?}");
            assert!(!seen.contains("web-2:8080"), "{name}: that is not on this node");
            if name == "load balancer" {
                world.check([case("out of range", world.pod(), to, Expected::Lost)]);
            } else {
                assert_eq!(answered(world.pod(), to, IN_A_ROW).len(), 1, "{name}, from a pod");
            }
        }
    }
}

/// A note lasts from the last connection on: refreshed again and again it outlives its timeout, and then it goes.
#[test]
fn each_connection_refreshes_and_a_pause_ends_it() {
    let world = world(2);
    // Twice the notes would expire: that all eight frontends choose the same of three again then happens once in 43 million.
    let all: Vec<_> = Family::ALL.into_iter().flat_map(|family| ways(family, 1)).collect();
    let ask_all = || -> Vec<_> { all.iter().map(|(_, to)| ask(world.pod(), *to)).collect() };
    let first = ask_all();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        assert_eq!(ask_all(), first, "after {:?}", began.elapsed());
        // Far less than the timeout between two connections.
        std::thread::sleep(Duration::from_millis(200));
    }
    let to = all[0].1;
    let mut seen = BTreeSet::new();
    // Each pause gives the client a new choice out of three: that it is the same 20 times happens once in 3 billion.
    for _ in 0..20 {
        wait_until("the note expires", || notes(&world, Family::V4).is_empty());
        seen.insert(ask(world.pod(), to));
        if seen.len() > 1 {
            return;
        }
    }
    panic!("after each pause the client is sent to {seen:?} again");
}

#[test]
fn it_survives_restarts() {
    let mut world = world(10_800);
    let choices = |world: &World| {
        let clients = [world.pod(), world.outside()];
        let ask = |family| clients.map(|from| ways(family, 1).map(|(_, to)| ask(from, to)));
        Family::ALL.map(ask)
    };
    let before = choices(&world);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        world.proxy.stop(signal).unwrap();
        assert_eq!(choices(&world), before, "while the proxy is down");
        world.proxy.run(&Settings::default()).unwrap();
        assert_eq!(choices(&world), before, "after {signal}");
    }
}

/// The endpoint that a client is used to leaves, again and again: no connection reaches it from the commit on.
#[test]
fn an_endpoint_that_left_is_never_chosen_again() {
    let mut world = world(10_800);
    let service = sticky(everything("web", 1), 10_800);
    for round in 0..4 {
        let mut left = BTreeSet::new();
        for family in Family::ALL {
            left.extend(ways(family, 1).map(|(_, to)| ask(world.pod(), to)));
        }
        // One that a client is used to leaves; the others stay.
        let leaving = left.iter().next().cloned().unwrap_or_default();
        let ends: Vec<End> = ALL.into_iter().filter(|(web, _)| !leaving.starts_with(&format!("web-{web}"))).collect();
        apply(&mut world, &service, &ends);
        for family in Family::ALL {
            for (name, to) in ways(family, 1) {
                let began = Instant::now();
                let now = ask(world.pod(), to);
                assert_ne!(now, leaving, "{name}, round {round}");
                assert!(began.elapsed() < SECOND_TRY, "{name}: took {:?}", began.elapsed());
            }
        }
        wait_until("what the kernel remembers of it is deleted", || {
            let gone = &world.web[usize::from(leaving.as_bytes()[4] - b'0')];
            Family::ALL.into_iter().all(|family| {
                let address = gone.pod().address(family).to_string();
                notes(&world, family).iter().all(|note| !note.contains(&format!(": {address} ")))
            })
        });
        apply(&mut world, &service, &ALL);
    }
}

#[test]
fn switched_off_and_on() {
    let mut world = world(10_800);
    let to = ways(Family::V4, 1)[0].1;
    assert_eq!(answered(world.pod(), to, IN_A_ROW).len(), 1);
    apply(&mut world, &everything("web", 1), &ALL);
    // That one of three is missed in 64 tries happens once in 60 billion.
    assert_eq!(answered(world.pod(), to, 64).len(), 3);
    apply(&mut world, &sticky(everything("web", 1), 600), &ALL);
    assert_eq!(answered(world.pod(), to, IN_A_ROW).len(), 1);
    assert!(notes(&world, Family::V4).iter().any(|note| note.contains("timeout 10m")));
}

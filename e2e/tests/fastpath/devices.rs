//! Devices that come and go, and change their names.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use e2e::{PATIENCE, Proxy, Settings};
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Namespace;
use testing::traffic::Stream;

use crate::forwarded::Forwarded;
use crate::long::{address, check_fast, exchange, flowtable, offloaded, wait_for_names, world};
use crate::world::{World, cluster_ip};

/// How many connections run while devices come and go.
const STREAMS: usize = 100;

/// How many of them are used at a time, and how long none is.
const IN_USE: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// How many pods come and go together, with both ends of their cables on the node.
const PODS: usize = 20;
/// How often, at least; and until they have been seen by the proxy, which may pause for longer than all of that takes.
const ROUNDS: usize = 8;

/// How long after the last change the devices are those that there are: the pause of 5 s between two changes, and what emulation takes
/// longer than a machine for the rest.
const SETTLED: Duration = Duration::from_secs(20);

/// The group of links that go together.
const GROUP: &str = "group 7";

/// How many pairs of devices are more than fit into a message, of which 255 do.
const PAIRS: usize = 150;

/// Has `ip` do these things inside, one after the other.
fn batch(proxy: &Proxy, node: &Namespace, commands: &str) {
    let file = proxy.directory().join("batch");
    std::fs::write(&file, commands).unwrap();
    node.ip(&format!("-batch {}", file.display())).unwrap();
}

/// The devices of both families are these many, by all accounts.
fn devices_are(proxy: &Proxy, node: &Namespace, count: usize) -> bool {
    let in_set = |family| {
        let table = if family == Family::V4 { "ip" } else { "ip6" };
        let listed = node.sh(&format!("nft list set {table} kube-proxy fastpath-devices")).unwrap();
        listed.split_once("elements = {").map_or(0, |(_, elements)| elements.matches(',').count() + 1)
    };
    let agree = |family| flowtable(node, family).len() == count && in_set(family) == count;
    proxy.metric("kubeproxy_fastpath_devices").unwrap() == [count as f64; 2] && Family::ALL.into_iter().all(agree)
}

/// Waits until connections are in the fast path again: whenever the node has another route, the kernel finds the way of each anew.
fn wait_until_fast(world: &mut World, streams: &mut [Stream], forwarded: &Forwarded<'_>) {
    let mut is_fast = || {
        forwarded.take();
        streams.iter_mut().for_each(|stream| exchange(stream, 10));
        forwarded.take() == 0
    };
    world.proxy.wait("connections in the fast path", |_| Ok(is_fast())).unwrap();
}

/// How often the devices were changed: the first one of each family is for those that are always there.
fn interface_syncs(proxy: &Proxy) -> f64 {
    proxy.metric("kubeproxy_fastpath_interface_syncs_total").unwrap().iter().sum()
}

fn no_sync_failed(world: &World) {
    let failures = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total";
    assert_eq!(world.proxy.metric(failures).unwrap(), [0.0; 0]);
}

/// At the product's own pace, which looks at devices every 5 s while they change.
#[test]
fn connections_live_and_services_are_synced_while_pods_come_and_go() {
    churn(&Settings::default());
}

/// Without a pause between two changes, so that devices are gone again while the kernel is being told of them.
#[test]
fn devices_may_be_gone_before_the_kernel_is_told_of_them() {
    churn(&Settings { more: "fastpathMinInterfaceSyncPeriod: 10ms", ..Settings::default() });
}

fn churn(settings: &Settings) {
    let world = world(settings);
    let cluster = world.cluster.clone();
    let shop = &world.shop.pod().namespace;
    let families = (0..STREAMS).map(|n| Family::ALL[n % 2]);
    let mut streams: Vec<_> = families.map(|family| Stream::open(shop, None, address(family, 80)).unwrap()).collect();
    let mut commands = String::new();
    for pod in 0..PODS {
        let name = format!("churn{pod}");
        writeln!(commands, "link add {name} {GROUP} type veth peer name {name}p {GROUP}").unwrap();
    }
    writeln!(commands, "link set {GROUP} up").unwrap();
    let rate = thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let began = Instant::now();
            let mut rounds = 0;
            while rounds < ROUNDS || interface_syncs(&world.proxy) <= 2.0 {
                assert!(began.elapsed() < PATIENCE, "no device of the pods was ever among them");
                batch(&world.proxy, &cluster.node, &commands);
                cluster.node.ip(&format!("link delete {GROUP}")).unwrap();
                rounds += 1;
            }
            (2 * PODS * rounds) as f64 / began.elapsed().as_secs_f64()
        });
        // Emulated CPUs are for the devices first.
        while !churn.is_finished() {
            streams.iter_mut().take(IN_USE).for_each(|stream| exchange(stream, 1));
            streams.rotate_left(IN_USE);
            thread::sleep(PAUSE);
        }
        churn.join().unwrap()
    });
    let ended = Instant::now();
    while !devices_are(&world.proxy, &cluster.node, 5) {
        assert!(ended.elapsed() < SETTLED, "not yet: {:?}", flowtable(&cluster.node, Family::V4));
    }
    println!("{rate:.0} devices came and went in a second; they were right {:?} after the last", ended.elapsed());
    streams.iter_mut().for_each(|stream| exchange(stream, 1));
    no_sync_failed(&world);
}

/// More than fit into a message, by each of the two ways in which they get into the flowtable.
#[test]
fn hundreds_of_devices_take_part_and_go_at_once() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let mut streams = offloaded(&world, &forwarded);
    let mut commands = String::new();
    for pair in 0..PAIRS {
        writeln!(commands, "link add manydevices{pair:03} {GROUP} type veth peer name manypeers{pair:03} {GROUP}")
            .unwrap();
    }
    batch(&world.proxy, &cluster.node, &commands);
    cluster.node.ip(&format!("link set {GROUP} up")).unwrap();
    let (few, many) = (5, 5 + 2 * PAIRS);
    let node = &cluster.node;
    let mut wait = |world: &mut World, count| {
        let wanted = format!("{count} devices in the flowtable of each family");
        let is_so = |proxy: &mut Proxy| {
            streams.iter_mut().for_each(|stream| exchange(stream, 1));
            Ok(devices_are(proxy, node, count))
        };
        world.proxy.wait(&wanted, is_so).unwrap();
        wait_until_fast(world, &mut streams, &forwarded);
    };
    wait(&mut world, many);
    world.proxy.stop(Signal::SIGTERM).unwrap();
    world.proxy.run(&Settings::default()).unwrap();
    wait(&mut world, many);
    node.ip(&format!("link delete {GROUP}")).unwrap();
    wait(&mut world, few);
    no_sync_failed(&world);
}

#[test]
fn a_device_is_renamed_under_its_connections_and_another_has_its_name() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let mut streams = offloaded(&world, &forwarded);
    let shop = world.shop.pod();
    let name = shop.node_interface.clone();
    cluster.rename(shop, "renamed").unwrap();
    wait_for_names(&mut world, &["renamed"]);
    wait_until_fast(&mut world, &mut streams, &forwarded);
    for family in Family::ALL {
        let devices = flowtable(&cluster.node, family);
        assert!(!devices.contains(&name), "{devices:?}");
    }

    let late = cluster.pod("late").unwrap();
    cluster.rename(&late, &name).unwrap();
    wait_for_names(&mut world, &["renamed", &name]);
    wait_until_fast(&mut world, &mut streams, &forwarded);
    for family in Family::ALL {
        check_fast(&forwarded, &late.namespace, cluster_ip(family, 1), late.address(family), "web-0");
    }
    wait_for_names(&mut world, &["renamed", &name]);
    no_sync_failed(&world);
}

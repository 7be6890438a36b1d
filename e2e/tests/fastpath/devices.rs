//! Devices that come and go.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use e2e::Settings;
use model::Family;
use testing::traffic::Stream;

use crate::long::{address, exchange, wait_for_devices, world};

/// How many connections run meanwhile.
const STREAMS: usize = 200;

/// How many times each of the short-lived devices comes and goes.
const ROUNDS: usize = 100;

#[test]
fn connections_live_and_services_are_synced_while_pods_come_and_go() {
    let mut world = world(&Settings { more: "fastpathMinInterfaceSyncPeriod: 10ms", ..Settings::default() });
    let cluster = world.cluster.clone();
    let shop = &world.shop.pod().namespace;
    let families = (0..STREAMS).map(|n| Family::ALL[n % 2]);
    let mut streams: Vec<_> = families.map(|family| Stream::open(shop, None, address(family, 80)).unwrap()).collect();
    let mut batch = String::new();
    for round in 0..ROUNDS {
        let name = format!("churn{}", round % 7);
        writeln!(batch, "link add {name} type veth peer name {name}p\nlink set {name} up\nlink set {name}p up")
            .unwrap();
        writeln!(batch, "link del {name}").unwrap();
    }
    let file = world.proxy.directory().join("churn");
    std::fs::write(&file, batch).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            cluster.node.ip(&format!("-batch {}", file.display())).unwrap();
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            streams.iter_mut().for_each(|stream| exchange(stream, 1));
        }
    });
    streams.iter_mut().for_each(|stream| exchange(stream, 1));
    wait_for_devices(&mut world);
    assert_eq!(world.proxy.metric("kubeproxy_sync_proxy_rules_nftables_sync_failures_total").unwrap(), [0.0; 0]);
    for table in ["ip kube-proxy", "ip6 kube-proxy"] {
        let listed = cluster.node.sh(&format!("nft list flowtables {}", table.split_once(' ').unwrap().0)).unwrap();
        assert!(!listed.contains("churn"), "{listed}");
        let elements = cluster.node.sh(&format!("nft list set {table} fastpath-devices")).unwrap();
        assert_eq!(elements.matches(',').count(), 4, "{elements}");
    }
}

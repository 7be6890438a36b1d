//! What other programs do that is in the way of the fast path.

use std::fs;

use e2e::Settings;
use model::Family;
use testing::traffic::Stream;

use crate::forwarded::Forwarded;
use crate::long::{address, exchange, offloaded, world};

/// Whether connections count their packets.
const ACCOUNTING: &str = "net/netfilter/nf_conntrack_acct";

#[test]
fn flowtables_and_later_chains_of_others_are_told_of_once() {
    let more = "fastpathMinInterfaceSyncPeriod: 10ms\n  fastpathInterfaceSyncPeriod: 1s";
    let mut world = world(&Settings { more, ..Settings::default() });
    let cluster = world.cluster.clone();
    let device = world.shop.pod().node_interface.clone();
    let foreign = |table: &str| {
        let rules = format!(
            "table inet {table} {{
                flowtable flows {{ hook ingress priority 0; devices = {{ eth0, {device} }}; }}
                chain early {{ type filter hook forward priority 0; }}
                chain late {{ type filter hook forward priority 2147483647; }}
            }}"
        );
        cluster.node.sh(&format!("nft '{rules}'")).unwrap();
    };
    let words = ["there is another flowtable, ", "the forward chain "];
    assert!(!words.iter().any(|words| world.proxy.log().contains(words)), "of its own it does not tell");
    for table in ["first", "second"] {
        foreign(table);
        let told =
            [format!("{}inet {table} flows:", words[0]), format!("{}inet {table} late is asked after", words[1])];
        let is_told = |log: String| told.iter().all(|words| log.contains(words));
        world.proxy.wait(&format!("{told:?}"), |proxy| Ok(is_told(proxy.log()))).unwrap();
    }
    let log = world.proxy.log();
    assert_eq!(
        words.map(|words| log.matches(words).count()),
        [2, 2],
        "each once, and none of a chain that is asked before\n{log}"
    );
    drop(offloaded(&world, &Forwarded::count(&cluster.node)));
}

#[test]
fn accounting_is_switched_on_again() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let accounting = || cluster.node.run(|| fs::read_to_string(format!("/proc/sys/{ACCOUNTING}")).unwrap());
    assert_eq!(accounting(), "1\n");
    cluster.node.sysctl(ACCOUNTING, "0").unwrap();
    let mut uncounted = Stream::open(&world.shop.pod().namespace, None, address(Family::V4, 80)).unwrap();
    exchange(&mut uncounted, 30);
    forwarded.take();
    exchange(&mut uncounted, 30);
    assert!(forwarded.take() >= 60, "a connection whose packets nobody counts is never a long one");
    // It looks when a device comes.
    cluster.pod("late").unwrap();
    let told = format!("/proc/sys/{ACCOUNTING} was 0, and is 1 again");
    world.proxy.wait(&told, |proxy| Ok(proxy.log().contains(&told))).unwrap();
    assert_eq!(accounting(), "1\n");
    drop(offloaded(&world, &forwarded));
}

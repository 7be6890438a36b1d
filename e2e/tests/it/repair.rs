//! What other programs do to our tables is undone.

use std::thread;
use std::time::{Duration, Instant};

use e2e::Settings;
use model::Family;

use crate::changes::all_alive;
use crate::world::{HTTP, World, everything, sorted_words};

/// How long a foreign edit may stay.
const REPAIRED: Duration = Duration::from_secs(2);

/// One Service with two endpoints, and one without.
pub(crate) fn world() -> World {
    let mut world = World::new(&Settings::default());
    let (web, nobody) = (everything("web", 1), everything("nobody", 2));
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    world.apply(&[&web, &v4, &v6, &nobody]);
    world
}

pub(crate) const WEB: [&str; 2] = ["web-0:8080", "web-1:8080"];

/// The ruleset, in no particular order.
fn ruleset(world: &World) -> Vec<String> {
    sorted_words(&world.cluster.node.sh("nft list ruleset").unwrap())
}

/// Has `nft` edit our tables, by a shell script that succeeds, and makes sure that all is well again soon.
fn repaired(edit: &str) {
    let mut world = world();
    let mut running: Vec<_> =
        Family::ALL.into_iter().flat_map(|family| world.streams(family, &["web-0:8080"])).collect();
    world.check_from_outside(&WEB);
    let intact = ruleset(&world);
    world.cluster.node.sh(edit).unwrap();
    let edited = Instant::now();
    // What is listed after the edit may be repaired already.
    while ruleset(&world) != intact {
        let log = || world.proxy.log_tail();
        assert!(edited.elapsed() < REPAIRED, "after {edit}:\n{}", log());
        thread::sleep(Duration::from_millis(2));
    }
    world.check_from_outside(&WEB);
    all_alive(&mut running, "after a foreign edit and its repair");
    let edits: f64 = world.proxy.metric("slipstream_foreign_edits_total").unwrap().iter().sum();
    assert!(edits > 0.0);
    world.proxy.wait_for_log(0, "nft (process ").unwrap();
}

#[test]
fn flush_ruleset() {
    repaired("nft flush ruleset");
}

#[test]
fn a_table_deleted() {
    repaired("nft delete table ip kube-proxy");
}

#[test]
fn one_element_deleted() {
    repaired("nft delete element ip kube-proxy cluster-ips { 10.96.0.1 }");
}

#[test]
fn one_element_changed() {
    repaired(
        "printf '%s\\n' 'delete element ip6 kube-proxy service-nodeports { tcp . 30001 }' \
         'add element ip6 kube-proxy service-nodeports { tcp . 30001 : drop }' | nft -f -",
    );
}

#[test]
fn one_rule_deleted() {
    repaired(
        "handle=$(nft -a list chain ip kube-proxy nat-prerouting | sed -n 's/.*jump services # handle //p'); \
         nft delete rule ip kube-proxy nat-prerouting handle $handle",
    );
}

#[test]
fn a_chain_flushed() {
    repaired("nft flush chain ip6 kube-proxy services");
}

#[test]
fn a_rule_added() {
    repaired("nft insert rule ip kube-proxy filter-forward drop");
}

#[test]
fn a_table_switched_off() {
    repaired("nft add table ip kube-proxy '{ flags dormant; }'");
}

#[test]
fn another_programs_tables_are_its_own_business() {
    let world = world();
    let syncs = || world.proxy.metric("kubeproxy_sync_full_proxy_rules_duration_seconds_count").unwrap();
    let before = syncs();
    let node = &world.cluster.node;
    node.sh("nft add table inet kube-proxy; nft add table ip other; nft delete table ip other").unwrap();
    // Ours comes after theirs, so that once it is seen, they have been passed over.
    node.sh("nft add chain ip kube-proxy foreign").unwrap();
    let began = Instant::now();
    let edits = || world.proxy.metric("slipstream_foreign_edits_total").unwrap();
    while edits().is_empty() {
        assert!(began.elapsed() < REPAIRED, "{}", world.proxy.log_tail());
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(edits(), [1.0]);
    let began = Instant::now();
    while syncs() == before {
        assert!(began.elapsed() < REPAIRED, "{}", world.proxy.log_tail());
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(syncs().iter().sum::<f64>(), before.iter().sum::<f64>() + 1.0, "one family, once");
    assert!(node.sh("nft list tables").unwrap().contains("table inet kube-proxy"));
}

//! The rules outlive the process; other tools read them.

use std::fs;

use e2e::Settings;
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Namespace;

use crate::changes::all_alive;
use crate::world::{HTTP, World, everything, sorted_words};

const WEB: [&str; 2] = ["web-0:8080", "web-1:8080"];

fn world() -> World {
    let mut world = World::new(&Settings::default());
    let (web, nobody) = (everything("web", 1), everything("nobody", 2));
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    world.apply(&[&web, &v4, &v6, &nobody.set("/spec/externalTrafficPolicy", "Local")]);
    world
}

#[test]
fn rules_stay_and_connections_live_across_restarts() {
    let mut world = world();
    let mut running: Vec<_> = Family::ALL.into_iter().flat_map(|family| world.streams(family, &WEB)).collect();
    for (signal, clean) in [(Signal::SIGTERM, true), (Signal::SIGKILL, false)] {
        let status = world.proxy.stop(signal).unwrap();
        assert_eq!(status.success(), clean, "{signal}: {status}\n{}", world.proxy.log_tail());
        all_alive(&mut running, "while the proxy was down");
        world.check_from_outside(&WEB);
        world.proxy.run(&Settings::default()).unwrap();
        all_alive(&mut running, "after the proxy's restart");
        world.check_from_outside(&WEB);
    }
}

#[test]
fn what_changed_while_it_was_down_is_made_good() {
    let mut world = world();
    world.proxy.stop(Signal::SIGKILL).unwrap();
    let web = everything("web", 1);
    let [v4, v6] = world.slices("web", &[HTTP], &[(1, "l"), (2, "")]);
    world.proxy.manifests().put("objects.yaml", &[&web, &v4, &v6]).unwrap();
    world.check_from_outside(&WEB);
    world.proxy.run(&Settings::default()).unwrap();
    world.check_from_outside(&["web-1:8080", "web-2:8080"]);
}

/// Other tools on the node list the ruleset, and people save it and load it again.
#[test]
fn nft_lists_our_tables_and_takes_them_back() {
    let world = world();
    let listed = world.cluster.node.sh("nft list ruleset").unwrap();
    for expected in ["table ip kube-proxy", "table ip6 kube-proxy", "10.96.0.1 . tcp . 80", "fd00:10:96::1 . tcp . 80"]
    {
        assert!(listed.contains(expected), "no {expected:?} in\n{listed}");
    }
    // On a node that has no such tables, as after a reboot. On top of themselves nft 1.0.6 refuses any map with `typeof`.
    let elsewhere = Namespace::new("elsewhere").unwrap();
    let saved = tempfile::NamedTempFile::new().unwrap();
    fs::write(saved.path(), &listed).unwrap();
    let path = saved.path().display();
    let again = elsewhere.sh(&format!("nft -c -f {path} && nft -f {path} && nft list ruleset")).unwrap();
    // The kernel lists elements in any order.
    assert_eq!(sorted_words(&again), sorted_words(&listed), "saved:\n{listed}\nloaded:\n{again}");
}

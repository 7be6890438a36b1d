//! The fast path is tried with packets before it is used, where that is allowed.

use e2e::Settings;
use model::Family;
use testing::traffic::Stream;

use crate::forwarded::Forwarded;
use crate::long::{PORTS, address, exchange, offloaded, wait_for_devices, world};
use crate::world::{World, service};

/// What it says if the fast path works, has not been tried, or does not work.
const WORKS: &str = "the fast path was tried with packets, and works";
const UNTRIED: &str = "the fast path is used without having been tried with packets";
const FAILS: &str = "the fast path is off, all connections take the slow path: it was tried";

/// A world whose proxy may make namespaces, but does not run yet.
fn prepared() -> World {
    let mut world = World::prepare();
    let [v4, v6] = world.slices("web", &PORTS, &[(0, "l")]);
    world.proxy.manifests().put("objects.yaml", &[&service("web", 1, &PORTS), &v4, &v6]).unwrap();
    world.proxy.allow_namespaces();
    world
}

fn wait_for(world: &mut World, line: &str) {
    world.proxy.wait(line, |proxy| Ok(proxy.log().contains(line))).unwrap();
}

#[test]
fn it_is_tried_and_leaves_nothing_behind() {
    let mut world = prepared();
    let cluster = world.cluster.clone();
    let links = cluster.node.ip("-o link").unwrap();
    world.proxy.run(&Settings::default()).unwrap();
    wait_for(&mut world, WORKS);
    wait_for_devices(&mut world);
    assert_eq!(cluster.node.ip("-o link").unwrap(), links);
    let process = world.proxy.process().unwrap();
    let shown = cluster.node.sh(&format!("ls -l /proc/{process}/fd; cat /proc/{process}/task/*/comm")).unwrap();
    assert!(!shown.contains("net:[") && !shown.contains("selftest"), "{shown}");
    drop(offloaded(&world, &Forwarded::count(&cluster.node)));
}

#[test]
fn without_the_right_to_make_namespaces_it_is_not_tried() {
    let mut world = world(&Settings::default());
    wait_for(&mut world, UNTRIED);
    assert!(world.proxy.log().contains("SYS_ADMIN"));
    assert_eq!(world.proxy.metric("kubeproxy_fastpath_enabled").unwrap(), [1.0, 1.0]);
}

/// New network namespaces take over that addresses are not answered for, so that no packet of the self-test arrives.
#[test]
fn where_it_fails_services_work_in_the_slow_path() {
    let mut world = prepared();
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    world.proxy.run(&Settings::default()).unwrap();
    wait_for_devices(&mut world);
    let mut streams = offloaded(&world, &forwarded);
    world.proxy.stop(nix::sys::signal::Signal::SIGTERM).unwrap();

    // New ones take over what the maker's has, for links that come, and not what the first one has. Of all makers on this machine
    // this one is the only one that has anything special.
    std::fs::write("/proc/sys/net/core/devconf_inherit_init_net", "3").unwrap();
    cluster.node.sysctl("net/ipv4/conf/default/arp_ignore", "8").unwrap();
    world.proxy.run(&Settings::default()).unwrap();
    wait_for(&mut world, FAILS);
    for part in ["over IPv4", "udp: message 1", "use another kernel"] {
        assert!(world.proxy.log().contains(part), "{part}\n{}", world.proxy.log_tail());
    }
    assert_eq!(world.proxy.metric("kubeproxy_fastpath_enabled").unwrap(), [0.0, 0.0]);
    let left = || cluster.node.sh("nft list ruleset").unwrap().matches("fastpath").count();
    world.proxy.wait("nothing of the fast path of the earlier start", |_| Ok(left() == 0)).unwrap();
    streams.iter_mut().for_each(|stream| exchange(stream, 20));
    for family in Family::ALL {
        exchange(&mut Stream::open(&world.shop.pod().namespace, None, address(family, 80)).unwrap(), 40);
    }
    assert!(forwarded.take() >= 200, "all of it took the slow path");
}

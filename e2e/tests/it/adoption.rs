//! A new process goes on with the rules that the last one left: it writes only what differs.

use std::collections::BTreeSet;

use e2e::{Settings, Traffic};
use model::Family;
use nix::sys::signal::Signal;

use crate::changes::all_alive;
use crate::monitor::Monitor;
use crate::world::{HTTP, World, cluster_ip, everything, external_ip, node_port, vip};

/// Two Services with endpoints, and one without.
fn world() -> World {
    let mut world = World::new(&Settings::default());
    let (web, shop) = (everything("web", 1), everything("shop", 2).set("/spec/externalTrafficPolicy", "Local"));
    let nobody = everything("nobody", 3);
    let [web4, web6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l")]);
    let [shop4, shop6] = world.slices("shop", &[HTTP], &[(0, "l"), (1, ""), (2, "")]);
    world.proxy.apply("shop.yaml", &[&shop, &shop4, &shop6, &nobody]).unwrap();
    // One endpoint goes and comes back, so that they are not numbered in the order of their addresses.
    world.proxy.apply("web.yaml", &[&web, &web4, &web6]).unwrap();
    let [only4, only6] = world.slices("web", &[HTTP], &[(1, "l")]);
    world.proxy.apply("web.yaml", &[&web, &only4, &only6]).unwrap();
    world.proxy.apply("web.yaml", &[&web, &web4, &web6]).unwrap();
    world
}

#[test]
fn an_unchanged_restart_writes_nothing() {
    let mut world = world();
    let cluster = world.cluster.clone();
    let mut monitor = Monitor::start(&cluster.node);
    monitor.take();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        world.proxy.stop(signal).unwrap();
        world.proxy.run(&Settings::default()).unwrap();
        assert_eq!(monitor.take(), Vec::<String>::new(), "{}", world.proxy.log_tail());
        assert_eq!(world.proxy.metric("slipstream_kernel_commit_duration_seconds_count").unwrap(), [] as [f64; 0]);
        world.check_from_outside(&["web-0:8080", "web-1:8080"]);
    }
}

#[test]
fn a_restart_writes_just_what_changed_meanwhile_and_costs_no_connection() {
    let mut world = world();
    let mut running: Vec<_> =
        Family::ALL.into_iter().flat_map(|family| world.streams(family, &["web-0:8080", "web-1:8080"])).collect();
    let cluster = world.cluster.clone();
    let mut monitor = Monitor::start(&cluster.node);
    let web = everything("web", 1);
    let [web4, web6] = world.slices("web", &[HTTP], &[(0, "l"), (2, "l")]);
    let proxy = &mut world.proxy;
    let client = &world.shop.pod().namespace;
    let to = |family| (cluster_ip(family, 1), 80).into();
    let (v6, (v4, ())) = Traffic::during(client, to(Family::V6), || {
        Traffic::during(client, to(Family::V4), || {
            proxy.stop(Signal::SIGKILL).unwrap();
            proxy.manifests().put("web.yaml", &[&web, &web4, &web6]).unwrap();
            proxy.run(&Settings::default()).unwrap();
        })
    });
    for traffic in [v4, v6] {
        assert!(traffic.count() > 10);
        assert_eq!(traffic.failures(), None, "of {} connections\n{}", traffic.count(), world.proxy.log_tail());
    }
    all_alive(&mut running, "after the proxy's restart");

    // One endpoint instead of another, at each of the Service's frontends, and its hairpin.
    let written = monitor.take();
    let objects: BTreeSet<_> = written.iter().filter_map(|line| line.split(" { ").next()).collect();
    let verbs = ["add", "delete"];
    let sets = ["endpoints", "nodeport-endpoints", "hairpin-connections"];
    let expected: BTreeSet<_> = verbs
        .into_iter()
        .flat_map(|verb| {
            sets.into_iter()
                .flat_map(move |set| ["ip", "ip6"].map(|family| format!("{verb} element {family} kube-proxy {set}")))
        })
        .collect();
    assert_eq!(objects, expected.iter().map(String::as_str).collect(), "{written:#?}");
    let frontends = Family::ALL.into_iter().flat_map(|family| {
        [cluster_ip(family, 1), external_ip(family, 1), vip(family, 1)].map(|address| format!("{{ {address} . "))
    });
    let own: Vec<_> =
        frontends.chain([format!("tcp . {} . ", node_port(1)), "hairpin-connections".to_owned()]).collect();
    let others: Vec<_> = written.iter().filter(|line| !own.iter().any(|own| line.contains(own))).collect();
    assert!(others.is_empty(), "{others:#?}");
    world.check_from_outside(&["web-0:8080", "web-2:8080"]);
}

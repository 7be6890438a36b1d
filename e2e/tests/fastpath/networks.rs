//! Pods that are not connected to the node by veth devices of their own.

use std::fs;
use std::net::IpAddr;

use e2e::{Settings, Workload};
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::{Cluster, Namespace, Pod};

use crate::forwarded::Forwarded;
use crate::long::{PORTS, check_fast, flowtable, wait_for_names};
use crate::world::{self, World, cluster_ip, external_ip, service};

/// A world in which `web-0` and the pod that asks are of another kind than the others. Service 1 has `web-0` as its only endpoint, and
/// external IPs; Service 2 has `web-1`.
fn world(settings: &Settings, pod: impl Fn(&Cluster, &str) -> Pod) -> World {
    let mut world = World::prepare();
    world.web[0] = Workload::on(pod(&world.cluster, "web-0"), "web-0", &world::PORTS).unwrap();
    world.shop = Workload::on(pod(&world.cluster, "shop"), "shop", &[]).unwrap();
    world.proxy.run(settings).unwrap();
    let [one, two] = [("one", 0), ("two", 1)].map(|(name, web)| world.slices(name, &PORTS, &[(web, "l")]));
    let [v4, v6] = Family::ALL.map(|family| external_ip(family, 1).to_string());
    let service_one = service("one", 1, &PORTS).external_ip(&v4).external_ip(&v6);
    world.apply(&[&service_one, &one[0], &one[1], &service("two", 2, &PORTS), &two[0], &two[1]]);
    world
}

/// The kernel's release, if it is older than the one with netkit, 6.7.
fn kernel_without_netkit() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    (version < (6, 7)).then_some(release)
}

#[test]
fn netkit_pods_take_part_where_the_kernel_has_them() {
    if let Some(release) = kernel_without_netkit() {
        let error = Cluster::new().unwrap().netkit_pod("pod").expect_err(&release);
        assert!(format!("{error:#}").contains("Unknown device type"), "{error:#}");
        return;
    }
    let mut world = world(&Settings::default(), |cluster, name| cluster.netkit_pod(name).unwrap());
    let cluster = world.cluster.clone();
    let pods = [&world.web[0], &world.web[1], &world.shop].map(Workload::pod);
    let [web, other, shop] = pods.map(|pod| pod.node_interface.clone());
    wait_for_names(&mut world, &["eth0", &web, &other, &shop]);
    let forwarded = Forwarded::count(&cluster.node);
    let shop = world.shop.pod();
    for family in Family::ALL {
        let cases: [(&Namespace, u8, IpAddr, &str); 3] = [
            (&shop.namespace, 1, shop.address(family), "web-0"),
            (&shop.namespace, 2, shop.address(family), "web-1"),
            (&cluster.client, 1, Cluster::gateway_address(family), "web-0"),
        ];
        for (from, number, seen, endpoint) in cases {
            check_fast(&forwarded, from, cluster_ip(family, number), seen, endpoint);
        }
    }
}

/// As with the CNI plugin `bridge`: the bridge takes part in place of its ports.
#[test]
fn pods_on_a_bridge_take_part_through_it() {
    let settings = Settings { more: "fastpathScope: All", ..Settings::default() };
    let mut world = world(&settings, |cluster, name| cluster.bridged_pod(name).unwrap());
    let cluster = world.cluster.clone();
    let ports = [&world.web[0], &world.shop].map(|workload| workload.pod().node_interface.clone());
    let web_interface = world.web[1].pod().node_interface.clone();
    wait_for_names(&mut world, &["eth0", Cluster::BRIDGE, &web_interface]);
    for family in Family::ALL {
        let devices = flowtable(&cluster.node, family);
        assert!(!devices.iter().any(|device| ports.contains(device)), "no port of the bridge: {devices:?}");
    }
    let forwarded = Forwarded::count(&cluster.node);
    let [web, shop] = [&world.web[1], &world.shop].map(Workload::pod);
    for family in Family::ALL {
        let (one, two) = (cluster_ip(family, 1), cluster_ip(family, 2));
        let masqueraded = Cluster::bridge_address(family);
        let cases: [(&Namespace, IpAddr, IpAddr, &str); 4] = [
            (&shop.namespace, two, shop.address(family), "web-1"),
            (&web.namespace, one, web.address(family), "web-0"),
            (&cluster.client, one, masqueraded, "web-0"),
            (&cluster.client, external_ip(family, 1), masqueraded, "web-0"),
        ];
        for (from, to, seen, endpoint) in cases {
            check_fast(&forwarded, from, to, seen, endpoint);
        }
    }
    // Between pods of one bridge, answers come through the node only if the node asked in the client's place.
    world.proxy.stop(Signal::SIGTERM).unwrap();
    world.proxy.run(&Settings { masquerade_all: true, ..settings }).unwrap();
    wait_for_names(&mut world, &[Cluster::BRIDGE]);
    for family in Family::ALL {
        let (from, to) = (&world.shop.pod().namespace, cluster_ip(family, 1));
        check_fast(&forwarded, from, to, Cluster::bridge_address(family), "web-0");
    }
}

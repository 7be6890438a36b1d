//! What Services are for.

use e2e::Expected::{self, Lost, Refused};
use e2e::{Destination, Settings, Source, Traffic, answers};
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Cluster;
use testing::traffic::Stream;

use crate::world::{Ways, World};

/// All of these answer at port 8080.
fn web(numbers: &[usize], source: Source) -> Expected {
    let names: Vec<_> = numbers.iter().map(|number| format!("web-{number}:8080")).collect();
    answers(&names.iter().map(String::as_str).collect::<Vec<_>>(), source)
}

/// The NodePort in each family that the Service has.
fn node_ports(ways: &Ways) -> Vec<Destination> {
    let of = |family| Destination::tcp(Cluster::node_address(family), ways.node_port);
    ways.cluster_ips.iter().map(|address| of(Family::of(*address))).collect()
}

#[test]
fn services_are_reached_by_cluster_ip_and_node_port() {
    let world = World::new();
    let ways = world.apply(world.service("web").port("dns", "UDP", 53).set("/spec/ports/1/targetPort", 5353));
    world.serve("web", &[0, 1, 2], world.api.name());
    for address in &ways.cluster_ips {
        world.expect(world.shop.host(), Destination::tcp(*address, 80), &web(&[0, 1, 2], Source::Client));
        let dns = answers(&["web-0:5353", "web-1:5353", "web-2:5353"], Source::Client);
        world.expect(world.shop.host(), Destination::udp(*address, 53), &dns);
        world.expect(world.shop.host(), Destination::tcp(*address, 81), &Refused);
    }
    for node_port in node_ports(&ways) {
        world.expect(world.outside(), node_port, &web(&[0, 1, 2], Source::Node));
    }
}

#[test]
fn endpoints_come_and_go() {
    let world = World::new();
    let ways = world.apply(world.service("web"));
    let everywhere = |expected: &Expected| {
        for address in &ways.cluster_ips {
            world.expect(world.shop.host(), Destination::tcp(*address, 80), expected);
        }
    };
    everywhere(&Refused);
    for endpoints in [&[0][..], &[0, 1], &[1, 2]] {
        world.serve("web", endpoints, world.api.name());
        everywhere(&web(endpoints, Source::Client));
    }
    world.serve("web", &[], world.api.name());
    everywhere(&Refused);
    world.serve("web", &[0], world.api.name());
    everywhere(&web(&[0], Source::Client));
    world.delete_service("web");
    // Nobody has the address any more. What becomes of it then depends on the cluster's ServiceCIDRs.
    for address in &ways.cluster_ips {
        world.proxy_forgets(&Destination::tcp(*address, 80));
    }
}

#[test]
fn external_policy_local_keeps_to_this_node() {
    let world = World::new();
    let ways = world.apply(world.service("web").set("/spec/externalTrafficPolicy", "Local"));
    world.serve("web", &[0, 1], world.api.name());
    for node_port in node_ports(&ways) {
        world.expect(world.outside(), node_port, &web(&[0, 1], Source::Client));
    }
    world.serve("web", &[0, 1], "elsewhere");
    for node_port in node_ports(&ways) {
        world.expect(world.outside(), node_port, &Lost);
    }
}

#[test]
fn clients_with_affinity_stay_with_their_endpoint() {
    let world = World::new();
    let ways = world.apply(world.service("web").set("/spec/sessionAffinity", "ClientIP"));
    world.serve("web", &[0, 1, 2], world.api.name());
    for address in &ways.cluster_ips {
        let to = (*address, 80).into();
        let first = world.until_answered(to);
        for _ in 0..20 {
            assert_eq!(world.until_answered(to), first);
        }
    }
}

#[test]
fn a_service_of_another_proxy_is_left_alone() {
    let world = World::new();
    let ways = world.apply(world.service("web"));
    world.serve("web", &[0], world.api.name());
    let to = Destination::tcp(ways.cluster_ips[0], 80);
    world.expect(world.shop.host(), to, &web(&[0], Source::Client));
    let label = "/metadata/labels/service.kubernetes.io~1service-proxy-name";
    world.apply(world.service("web").set(label, "another"));
    world.proxy_forgets(&to);
    world.apply(world.service("web"));
    world.expect(world.shop.host(), to, &web(&[0], Source::Client));
}

#[test]
fn no_connection_fails_while_endpoints_are_replaced() {
    let world = World::new();
    let ways = world.apply(world.service("web"));
    world.serve("web", &[0, 1], world.api.name());
    let to = Destination::tcp(ways.cluster_ips[0], 80);
    world.expect(world.shop.host(), to, &web(&[0, 1], Source::Client));
    let (traffic, ()) = Traffic::during(&world.shop.pod().namespace, to.socket, || {
        for endpoints in [[1, 2], [2, 0], [0, 1], [1, 2]] {
            world.serve("web", &endpoints, world.api.name());
            world.expect(world.outside(), node_ports(&ways)[0], &web(&endpoints, Source::Node));
        }
    });
    assert_eq!(
        traffic.failures(),
        None,
        "of {} connections (number, first)\n{}",
        traffic.count(),
        world.proxy.log_tail()
    );
}

#[test]
fn connections_and_rules_outlive_the_proxy() {
    let mut world = World::new();
    let ways = world.apply(world.service("web"));
    world.serve("web", &[0], world.api.name());
    let to = Destination::tcp(ways.cluster_ips[0], 80);
    world.expect(world.shop.host(), to, &web(&[0], Source::Client));
    let mut stream = Stream::open(&world.shop.pod().namespace, None, to.socket).unwrap();
    world.proxy.stop(Signal::SIGKILL).unwrap();
    stream.echo("while there is no proxy").unwrap();
    world.serve("web", &[1], world.api.name());
    world.expect(world.shop.host(), to, &web(&[0], Source::Client));
    world.proxy.run(&Settings::default()).unwrap();
    world.expect(world.shop.host(), to, &web(&[1], Source::Client));
    stream.echo("after another proxy has started").unwrap();
}

//! Changes while connections run.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use e2e::Expected::{Lost, Refused};
use e2e::{Destination, Settings, Source, Traffic, answers};
use model::Family;
use testing::netns::Cluster;
use testing::traffic::{Flow, Stream};

use crate::world::{End, HTTP, Port, World, case, cluster_ip, everything, node_port, service, vip, ways};

/// Long enough for an edit of a manifest under the product's own settings: the directory has to be quiet for 50 ms, and
/// minSyncPeriod may have to pass. Twice that, for two CPUs that run other tests.
const FOLLOWED: Duration = Duration::from_millis(2200);

impl World {
    /// Connections of `shop` to the Service, at least one to each of these endpoints.
    pub(crate) fn streams(&self, family: Family, endpoints: &[&str]) -> Vec<Stream> {
        let to: SocketAddr = (cluster_ip(family, 1), 80).into();
        let mut missing: BTreeSet<_> = endpoints.iter().copied().collect();
        let mut streams = Vec::new();
        while !missing.is_empty() {
            assert!(streams.len() < 32 * endpoints.len(), "never reached: {missing:?}");
            let stream = Stream::open(&self.shop.pod().namespace, None, to).unwrap();
            missing.remove(stream.reply().endpoint.as_str());
            streams.push(stream);
        }
        streams
    }
}

pub(crate) fn all_alive(streams: &mut [Stream], when: &str) {
    for stream in streams {
        let endpoint = stream.reply().endpoint.clone();
        stream.echo(when).unwrap_or_else(|error| panic!("a connection to {endpoint} broke {when}: {error}"));
    }
}

#[test]
fn endpoints_come_and_go_while_connections_run() {
    let mut world = World::new(&Settings::default());
    let web = everything("web", 1);
    let apply = |world: &mut World, ends: &[(usize, &'static str)]| {
        let [v4, v6] = world.slices("web", &[HTTP], ends);
        world.apply(&[&web, &v4, &v6]);
    };
    let reaches = |world: &World, endpoints: &[&str]| {
        for family in Family::ALL {
            let [(_, cluster_ip), external @ ..] = ways(family, 1);
            world.check([case("ClusterIP", world.pod(), cluster_ip, answers(endpoints, Source::Client))]);
            world.check(external.map(|(name, to)| case(name, world.outside(), to, answers(endpoints, Source::Node))));
        }
    };
    apply(&mut world, &[(0, "l"), (1, "l")]);
    let streams = |world: &World| Family::ALL.map(|family| world.streams(family, &["web-0:8080", "web-1:8080"]));
    let mut running = streams(&world).into_iter().flatten().collect::<Vec<_>>();

    apply(&mut world, &[(0, "l"), (1, "l"), (2, "l")]);
    all_alive(&mut running, "after an endpoint was added");
    reaches(&world, &["web-0:8080", "web-1:8080", "web-2:8080"]);

    apply(&mut world, &[(1, "l"), (2, "l")]);
    all_alive(&mut running, "after an endpoint was removed, which ends no connection by itself");
    reaches(&world, &["web-1:8080", "web-2:8080"]);

    apply(&mut world, &[]);
    all_alive(&mut running, "after all endpoints were removed");
    for family in Family::ALL {
        world.check(ways(family, 1).map(|(name, to)| case(name, world.outside(), to, Refused)));
    }

    apply(&mut world, &[(0, "l")]);
    all_alive(&mut running, "after one endpoint came back");
    reaches(&world, &["web-0:8080"]);
}

/// All endpoints run all the time: whatever the rules say at any moment, a connection has somewhere to go.
#[test]
fn no_connection_fails_while_endpoints_come_and_go() {
    const ENDS: [&[End]; 4] =
        [&[(0, "l"), (1, "l")], &[(1, "l"), (2, "l")], &[(2, "l")], &[(0, "l"), (1, "l"), (2, "l")]];
    const ROUNDS: usize = 20;
    let mut world = World::new(&Settings::default());
    let web = service("web", 1, &[HTTP]);
    let slices = ENDS.map(|ends| world.slices("web", &[HTTP], ends));
    let mut apply = |round: usize| {
        let [v4, v6] = &slices[round % ENDS.len()];
        world.proxy.apply("web.yaml", &[&web, v4, v6]).unwrap();
    };
    apply(0);
    let client = &world.shop.pod().namespace;
    let to = |family| (cluster_ip(family, 1), 80).into();
    let (v6, (v4, ())) = Traffic::during(client, to(Family::V6), || {
        Traffic::during(client, to(Family::V4), || (1..=ROUNDS).for_each(&mut apply))
    });
    for traffic in [v4, v6] {
        assert!(traffic.count() > ROUNDS, "too few connections to tell: {}", traffic.count());
        let failures = traffic.failures();
        assert_eq!(failures, None, "of {} connections (number, first)\n{}", traffic.count(), world.proxy.log_tail());
    }
}

/// A UDP flow has no end of its own: while its endpoint stays, it stays there, whatever else changes.
#[test]
fn udp_flows_stay_with_an_endpoint_that_stays() {
    const DNS: Port = ("dns", "UDP", 53, 5353);
    let mut world = World::new(&Settings::default());
    let dns = service("dns", 1, &[DNS]);
    let [v4, v6] = world.slices("dns", &[DNS], &[(0, "l")]);
    world.apply(&[&dns, &v4, &v6]);
    let flow = |family| Flow::open(world.pod().namespace, None, (cluster_ip(family, 1), 53).into()).unwrap();
    let flows = Family::ALL.map(flow);
    let before = flows.each_ref().map(|flow| flow.ask().unwrap());

    let [v4, v6] = world.slices("dns", &[DNS], &[(0, "l"), (1, "l"), (2, "")]);
    world.apply(&[&dns, &v4, &v6]);
    assert_eq!(flows.each_ref().map(|flow| flow.ask().unwrap()), before);
    for family in Family::ALL {
        let all = answers(&["web-0:5353", "web-1:5353", "web-2:5353"], Source::Client);
        world.check([case("new flows", world.pod(), Destination::udp(cluster_ip(family, 1), 53), all)]);
    }
}

#[test]
fn services_come_change_and_go() {
    let mut world = World::new(&Settings::default());
    let (web, other) = (everything("web", 1), everything("other", 2));
    let [web4, web6] = world.slices("web", &[HTTP], &[(0, "l")]);
    let [other4, other6] = world.slices("other", &[HTTP], &[(1, "l")]);
    let masqueraded = |endpoint| answers(&[endpoint], Source::Node);
    world.proxy.apply("other.yaml", &[&other, &other4, &other6]).unwrap();
    world.proxy.apply("web.yaml", &[&web, &web4, &web6]).unwrap();
    for family in Family::ALL {
        world.check(ways(family, 1).map(|(way, to)| case(way, world.outside(), to, masqueraded("web-0:8080"))));
        world.check(ways(family, 2).map(|(way, to)| case(way, world.outside(), to, masqueraded("web-1:8080"))));
    }

    // Its port moves from 80 to 8000, its NodePort to another number; its load balancer is gone.
    let moved = service("web", 1, &[("http", "TCP", 8000, 8080)]).node_port(node_port(3));
    world.proxy.apply("web.yaml", &[&moved, &web4, &web6]).unwrap();
    for family in Family::ALL {
        let node = Cluster::node_address(family);
        world.check([
            case("new port", world.outside(), Destination::tcp(cluster_ip(family, 1), 8000), masqueraded("web-0:8080")),
            case("old port", world.outside(), Destination::tcp(cluster_ip(family, 1), 80), Refused),
            case("new NodePort", world.outside(), Destination::tcp(node, node_port(3)), masqueraded("web-0:8080")),
            case("old NodePort", world.outside(), Destination::tcp(node, node_port(1)), Refused),
            case("no load balancer", world.outside(), Destination::tcp(vip(family, 1), 80), Lost),
        ]);
    }

    world.proxy.withdraw("web.yaml").unwrap();
    for family in Family::ALL {
        let node = Cluster::node_address(family);
        world.check([
            case("ClusterIP that is gone", world.pod(), Destination::tcp(cluster_ip(family, 1), 8000), Lost),
            case("NodePort that is gone", world.outside(), Destination::tcp(node, node_port(3)), Refused),
        ]);
        world.check(ways(family, 2).map(|(way, to)| case(way, world.outside(), to, masqueraded("web-1:8080"))));
    }
}

/// Under the product's own settings, and with an editor that writes in place.
#[test]
fn edits_of_manifests_are_followed_within_a_second_or_so() {
    let mut world = World::new(&Settings { min_sync_period: "1s", ..Settings::default() });
    let web = service("web", 1, &[HTTP]);
    for round in 0..4 {
        let workload = round % 2;
        let [v4, v6] = world.slices("web", &[HTTP], &[(workload, "l")]);
        let path = world.proxy.manifests().directory().join("web.yaml");
        let written = std::time::SystemTime::now();
        fs::write(path, format!("{web}\n---\n{v4}\n---\n{v6}\n")).unwrap();
        let took = world.proxy.wait_synced(written).unwrap();
        assert!(took < FOLLOWED, "edit {round} was followed after {took:?}\n{}", world.proxy.log_tail());
        for family in Family::ALL {
            let expected = answers(&[&format!("web-{workload}:8080")], Source::Client);
            world.check([case("after the edit", world.pod(), Destination::tcp(cluster_ip(family, 1), 80), expected)]);
        }
    }
}

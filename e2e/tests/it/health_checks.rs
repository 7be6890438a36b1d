//! The ports by which load balancers find nodes with endpoints (contract §8.2, §12.1 HealthCheckNodePortWhenTerminating), and the
//! metric of frontends that have none here (NoEndpointsMetric).

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::{PATIENCE, Settings, Source, answers};
use model::Family;
use testing::netns::Cluster;
use testing::objects::Service;
use testing::traffic::Echo;

use crate::world::{End, HTTP, World, case, everything, service, vip};

const PORT: u16 = 32_100;
const OTHER_PORT: u16 = 32_101;
const EXTERNAL: &str = "/spec/externalTrafficPolicy";
const INTERNAL: &str = "/spec/internalTrafficPolicy";

fn balanced(policy: &str, port: u16) -> Service {
    everything("web", 1).set("/spec/type", "LoadBalancer").set(EXTERNAL, policy).set("/spec/healthCheckNodePort", port)
}

fn apply(world: &mut World, service: &Service, ends: &[End]) {
    let [v4, v6] = world.slices("web", &[HTTP], ends);
    world.apply(&[service, &v4, &v6]);
}

/// All that comes back from a port of the node to a client outside.
fn ask(cluster: &Cluster, address: SocketAddr) -> io::Result<String> {
    let mut stream = cluster.client.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Any method and path will do.
    write!(stream, "PUT /whatever HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Waits until a port of the node answers so in both families; `None` stands for a port that nobody listens on.
fn wait_for(world: &mut World, port: u16, what: &str, wanted: Option<&[&str]>) {
    let cluster = world.cluster.clone();
    for family in Family::ALL {
        let address = (Cluster::node_address(family), port).into();
        let mut last = String::new();
        let waited = world.proxy.wait(what, |_| {
            let answer = ask(&cluster, address);
            last = format!("{answer:?}");
            Ok(match (&answer, wanted) {
                (Ok(answer), Some(parts)) => parts.iter().all(|part| answer.contains(part)),
                (Err(error), None) => error.kind() == io::ErrorKind::ConnectionRefused,
                _ => false,
            })
        });
        waited.unwrap_or_else(|error| panic!("{family}: the last answer was {last}: {error:#}"));
    }
}

fn body(endpoints: usize) -> String {
    format!(
        "\r\n\r\n{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\
         \"serviceProxyHealthy\": true\n}}"
    )
}

/// Ready endpoints on this node count, and nothing else, whoever serves.
#[test]
fn load_balancers_are_told_of_ready_endpoints_on_this_node() {
    let mut world = World::new(&Settings::default());
    let ready = body(2);
    apply(&mut world, &balanced("Local", PORT), &[(0, "l"), (1, "l"), (2, "")]);
    let wanted: &[_] = &[
        "HTTP/1.0 200 OK\r\n",
        "content-type: application/json\r\n",
        "x-content-type-options: nosniff\r\n",
        "x-load-balancing-endpoint-weight: 2\r\n",
        &ready,
    ];
    wait_for(&mut world, PORT, "two endpoints here", Some(wanted));

    let none = body(0);
    let wanted: &[_] = &["HTTP/1.0 503 Service Unavailable\r\n", "x-load-balancing-endpoint-weight: 0\r\n", &none];
    apply(&mut world, &balanced("Local", PORT), &[(0, "lt"), (1, "l-"), (2, "")]);
    wait_for(&mut world, PORT, "none is ready here", Some(wanted));
    for family in Family::ALL {
        let to = e2e::Destination::tcp(vip(family, 1), 80);
        let serves = answers(&["web-0:8080"], Source::Client);
        world.check([case("the one that terminates serves", world.outside(), to, serves)]);
    }

    apply(&mut world, &balanced("Local", PORT), &[(0, "l")]);
    wait_for(&mut world, PORT, "it is ready again", Some(&["200 OK", &body(1)]));
}

#[test]
fn the_port_is_there_as_long_as_the_service_asks_for_it() {
    let mut world = World::new(&Settings::default());
    let here: &[End] = &[(0, "l")];
    apply(&mut world, &balanced("Local", PORT), here);
    wait_for(&mut world, PORT, "the port", Some(&["200 OK"]));
    apply(&mut world, &balanced("Local", OTHER_PORT), here);
    wait_for(&mut world, OTHER_PORT, "the new port", Some(&["200 OK"]));
    wait_for(&mut world, PORT, "no old port", None);
    apply(&mut world, &balanced("Cluster", OTHER_PORT), here);
    wait_for(&mut world, OTHER_PORT, "no port with policy Cluster", None);

    // Somebody else has it for a while.
    let squatters = Family::ALL.map(|family| {
        let address = (Cluster::node_address(family), PORT).into();
        Echo::tcp(&world.cluster.node, "squatter", address).unwrap()
    });
    apply(&mut world, &balanced("Local", PORT), here);
    world
        .proxy
        .wait("word of a port that is taken", |proxy| Ok(proxy.log().contains("spec.healthCheckNodePort asks for")))
        .unwrap();
    drop(squatters);
    wait_for(&mut world, PORT, "the port, once it is free", Some(&["200 OK"]));
    world.proxy.withdraw("objects.yaml").unwrap();
    wait_for(&mut world, PORT, "no port without a Service", None);
}

#[test]
fn it_answers_where_node_ports_do() {
    let settings = Settings { node_port_addresses: &["192.0.2.0/24", "2001:db8::/64"], ..Settings::default() };
    let mut world = World::new(&settings);
    world.cluster.node.add_address("eth0", "203.0.113.200/32").unwrap();
    apply(&mut world, &balanced("Local", PORT), &[(0, "l")]);
    wait_for(&mut world, PORT, "the node's address", Some(&["200 OK"]));
    let elsewhere = ask(&world.cluster, "203.0.113.200:32100".parse().unwrap());
    assert_eq!(elsewhere.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
}

/// An address that comes or goes is nothing to those that stay, and a port that goes from one Service to another is free at once.
#[test]
fn addresses_come_and_go_and_a_port_is_handed_over() {
    let settings =
        Settings { node_port_addresses: &["192.0.2.0/24", "203.0.113.0/24", "2001:db8::/64"], ..Settings::default() };
    let mut world = World::new(&settings);
    apply(&mut world, &balanced("Local", PORT), &[(0, "l")]);
    wait_for(&mut world, PORT, "the node's address", Some(&["200 OK"]));
    let cluster = world.cluster.clone();
    let [stays, comes] =
        ["192.0.2.10", "203.0.113.200"].map(|address| (address.parse::<IpAddr>().unwrap(), PORT).into());
    let mut wait = |what: &str, answers: bool| {
        let is_so = |_: &mut _| {
            ask(&cluster, stays).expect("it answers all the time");
            Ok(ask(&cluster, comes).is_ok() == answers)
        };
        world.proxy.wait(what, is_so).unwrap();
    };
    cluster.node.add_address("eth0", "203.0.113.200/32").unwrap();
    wait("an answer at the new address", true);
    cluster.node.ip("address del 203.0.113.200/32 dev eth0").unwrap();
    wait("no answer there any more", false);

    let other = balanced("Local", PORT).set("/metadata/name", "other");
    let [v4, v6] = world.slices("other", &[HTTP], &[(0, "l")]);
    world.apply(&[&other, &v4, &v6]);
    wait_for(&mut world, PORT, "the other Service", Some(&["200 OK", "\"other\""]));
    assert!(!world.proxy.log().contains("load balancers cannot ask"), "the port was taken for a while");
}

/// Contract §12.1, NoEndpointsMetric: endpoints; what counts for internal and external policy `Local`, each alone and both.
#[test]
fn ports_without_local_endpoints_are_counted() {
    let mut world = World::new(&Settings::default());
    let cases: [(&[End], f64); 3] = [(&[(0, "l"), (1, "")], 0.0), (&[(1, "")], 1.0), (&[], 0.0)];
    for (internal, external) in [("Local", "Cluster"), ("Cluster", "Local"), ("Local", "Local")] {
        for (ends, count) in cases {
            let service = everything("web", 1).set(INTERNAL, internal).set(EXTERNAL, external);
            let plain = self::service("plain", 2, &[HTTP]).set(INTERNAL, "Cluster");
            let [v4, v6] = world.slices("web", &[HTTP], ends);
            world.apply(&[&service, &v4, &v6, &plain]);
            let is = |policy: &str| if policy == "Local" { count } else { 0.0 };
            // For IPv4, then for IPv6.
            let wanted: Vec<_> = [external, internal, external, internal].map(is).into();
            let told = world.proxy.metric("kubeproxy_sync_proxy_rules_no_local_endpoints_total").unwrap();
            assert_eq!(told, wanted, "internal {internal}, external {external}, {ends:?}");
        }
    }
}

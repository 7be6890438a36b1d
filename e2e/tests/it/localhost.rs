//! NodePorts on localhost (KEP-6032), as processes of the node use them. The proxy has the capability NET_ADMIN only.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use e2e::Expected::Refused;
use e2e::{Destination, Expected, PATIENCE, Probe, Settings, Source, answers};
use model::Family;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;
use testing::netns::{Cluster, Namespace};
use testing::objects::Service;
use testing::traffic::{Echo, Refusal, Stream, ask_tcp, ask_udp};

use crate::world::{End, HTTP, Port, World, case, everything, node_port, service};

const OPTED_IN: &[&str] = &["primary", "localhost"];
const ALL: [End; 3] = [(0, "l"), (1, "l"), (2, "")];
const NAMES: [&str; 3] = ["web-0:8080", "web-1:8080", "web-2:8080"];
/// A port that only servers of this file listen on.
const RAW: Port = ("http", "TCP", 80, 9000);
const LISTENERS: &str = "kubeproxy_nftables_localhost_nodeport_listeners";
const FAILURES: &str = "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total";

fn localhost(family: Family, number: u8) -> SocketAddr {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    (address, node_port(number)).into()
}

fn to(family: Family, number: u8) -> Destination {
    let socket = localhost(family, number);
    Destination::tcp(socket.ip(), socket.port())
}

fn apply(world: &mut World, service: &Service, port: Port, ends: &[End]) {
    let [v4, v6] = world.slices("web", &[port], ends);
    world.apply(&[service, &v4, &v6]);
}

fn settings(node_port_addresses: &'static [&'static str]) -> Settings {
    Settings { node_port_addresses, ..Settings::default() }
}

fn world(node_port_addresses: &'static [&'static str]) -> World {
    World::new(&settings(node_port_addresses))
}

fn opted_in(ends: &[End]) -> World {
    let mut world = world(OPTED_IN);
    apply(&mut world, &everything("web", 1), HTTP, ends);
    world
}

/// Waits until this comes of connections to the NodePort of this number at localhost.
fn wait_for(world: &mut World, what: &str, number: u8, expected: &Expected) {
    let cluster = world.cluster.clone();
    for family in Family::ALL {
        let probe = Probe { from: e2e::Host::node(&cluster), to: to(family, number) };
        let mut last = String::new();
        let waited = world.proxy.wait(what, |_| {
            let seen = probe.ask(expected);
            last = seen.to_string();
            Ok(seen.is(&probe, expected))
        });
        waited.unwrap_or_else(|error| panic!("{probe}: last seen: {last}: {error:#}"));
    }
}

fn everyone() -> Expected {
    answers(&NAMES, Source::Node)
}

#[test]
fn all_endpoints_are_reached_by_localhost_and_by_the_nodes_address() {
    let mut world = opted_in(&ALL);
    wait_for(&mut world, "all endpoints", 1, &everyone());
    for family in Family::ALL {
        let node = Destination::tcp(Cluster::node_address(family), node_port(1));
        world.check([case("from outside", world.outside(), node, everyone())]);
    }
    let other = Destination::tcp("127.0.0.2".parse().unwrap(), node_port(1));
    world.check([case("another loopback address", world.node(), other, Refused)]);
    assert_eq!(world.proxy.metric(LISTENERS).unwrap(), [1.0, 1.0]);
    assert_eq!(world.proxy.metric(FAILURES).unwrap(), [0.0, 0.0]);
}

#[test]
fn nothing_is_there_unless_localhost_is_named() {
    for node_port_addresses in [&[][..], &["all"]] {
        let mut world = world(node_port_addresses);
        apply(&mut world, &everything("web", 1), HTTP, &ALL);
        for family in Family::ALL {
            let node = Destination::tcp(Cluster::node_address(family), node_port(1));
            world.check([
                case("the node's address", world.node(), node, everyone()),
                case("localhost", world.node(), to(family, 1), Refused),
            ]);
        }
        assert_eq!(world.proxy.metric(LISTENERS).unwrap(), [0.0; 0]);
    }
}

/// A prefix of loopback addresses is as good as the keyword.
#[test]
fn localhost_may_be_all_there_is() {
    for node_port_addresses in [&["localhost"][..], &["127.0.0.0/8", "::1/128"]] {
        let mut world = world(node_port_addresses);
        apply(&mut world, &everything("web", 1), HTTP, &ALL);
        wait_for(&mut world, "all endpoints", 1, &everyone());
        for family in Family::ALL {
            let node = Destination::tcp(Cluster::node_address(family), node_port(1));
            world.check([case("the node's address", world.outside(), node, Refused)]);
        }
    }
}

#[test]
fn udp_is_left_alone() {
    let mut world = world(OPTED_IN);
    let service = service("web", 1, &[("dns", "UDP", 53, 5353)]).node_port(node_port(1));
    let [v4, v6] = world.slices("web", &[("dns", "UDP", 53, 5353)], &ALL);
    world.apply(&[&service, &v4, &v6]);
    for family in Family::ALL {
        assert_eq!(ask_udp(&world.cluster.node, None, localhost(family, 1)), Err(Refusal::Refused));
        let process = Echo::udp(&world.cluster.node, "process", localhost(family, 1)).unwrap();
        assert_eq!(ask_udp(&world.cluster.node, None, process.address()).unwrap().endpoint, "process");
    }
    assert_eq!(world.proxy.metric(LISTENERS).unwrap(), [0.0, 0.0]);
}

#[test]
fn without_endpoints_it_is_refused_and_with_one_it_works_again() {
    let mut world = opted_in(&[]);
    wait_for(&mut world, "no endpoint", 1, &Refused);
    for ends in [&[(0, "l")][..], &[], &[(0, "l")]] {
        apply(&mut world, &everything("web", 1), HTTP, ends);
        let expected = if ends.is_empty() { Refused } else { answers(&NAMES[..1], Source::Node) };
        wait_for(&mut world, "the endpoint comes and goes", 1, &expected);
        assert_eq!(world.proxy.metric(LISTENERS).unwrap(), [ends.len() as f64; 2]);
    }
}

#[test]
fn connections_outlive_their_endpoint_but_not_the_service() {
    let mut world = opted_in(&[(0, "l")]);
    wait_for(&mut world, "the endpoint", 1, &answers(&NAMES[..1], Source::Node));
    let open = |family| Stream::open(&world.cluster.node, None, localhost(family, 1)).unwrap();
    let mut streams = Family::ALL.map(open);
    let mut says = |what: &str| streams.iter_mut().try_for_each(|stream| stream.echo(what));

    apply(&mut world, &everything("web", 1), HTTP, &[(1, "l")]);
    wait_for(&mut world, "the new endpoint", 1, &answers(&NAMES[1..2], Source::Node));
    says("although another one serves").unwrap();
    apply(&mut world, &everything("web", 1), HTTP, &[]);
    wait_for(&mut world, "no endpoint", 1, &Refused);
    says("although none serves").unwrap();
    world.proxy.withdraw("objects.yaml").unwrap();
    let mut have_ended = || streams.iter_mut().all(|stream| stream.echo("hello?").is_err());
    world.proxy.wait("the end of all connections", |_| Ok(have_ended())).unwrap();
    wait_for(&mut world, "no Service", 1, &Refused);
}

#[test]
fn the_end_of_the_proxy_is_the_end_of_its_connections_and_the_next_one_listens_anew() {
    let mut world = opted_in(&ALL);
    wait_for(&mut world, "all endpoints", 1, &everyone());
    let mut streams = Family::ALL.map(|family| Stream::open(&world.cluster.node, None, localhost(family, 1)).unwrap());
    world.proxy.stop(Signal::SIGTERM).unwrap();
    for (family, stream) in Family::ALL.into_iter().zip(&mut streams) {
        assert!(stream.echo("hello?").is_err());
        assert_eq!(ask_tcp(&world.cluster.node, None, localhost(family, 1)), Err(Refusal::Refused));
    }
    world.proxy.run(&settings(OPTED_IN)).unwrap();
    wait_for(&mut world, "all endpoints, once more", 1, &everyone());
}

/// As for clients outside, only endpoints on this node serve. So KEP-6032 has it, though the node itself is led elsewhere by the rules.
#[test]
fn external_policy_local_leads_to_endpoints_on_this_node() {
    let mut world = world(OPTED_IN);
    let local = everything("web", 1).set("/spec/externalTrafficPolicy", "Local");
    apply(&mut world, &local, HTTP, &ALL);
    wait_for(&mut world, "those here", 1, &answers(&NAMES[..2], Source::Node));
    apply(&mut world, &local, HTTP, &[(2, "")]);
    wait_for(&mut world, "none is here", 1, &Refused);
    let internal = everything("web", 1).set("/spec/internalTrafficPolicy", "Local");
    apply(&mut world, &internal, HTTP, &[(2, "")]);
    wait_for(&mut world, "internal policy is for ClusterIPs", 1, &answers(&NAMES[2..], Source::Node));
}

#[test]
fn with_session_affinity_all_connections_go_to_one_endpoint() {
    let mut world = world(OPTED_IN);
    let sticky = everything("web", 1)
        .set("/spec/sessionAffinity", "ClientIP")
        .set("/spec/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 600}}));
    apply(&mut world, &sticky, HTTP, &ALL);
    for family in Family::ALL {
        let address = localhost(family, 1);
        let cluster = world.cluster.clone();
        let ask = || ask_tcp(&cluster.node, None, address).map(|reply| reply.endpoint);
        world.proxy.wait("an answer", |_| Ok(ask().is_ok())).unwrap();
        let seen: BTreeSet<_> = (0..15).map(|_| ask().unwrap()).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
}

/// Nothing listens at one of two endpoints: who connects does not notice.
#[test]
fn an_endpoint_that_does_not_answer_is_passed_over() {
    let mut world = world(OPTED_IN);
    let _servers = Family::ALL.map(|family| {
        let pod = world.web[1].pod();
        Echo::tcp(&pod.namespace, "alive", (pod.address(family), RAW.3).into()).unwrap()
    });
    apply(&mut world, &everything("web", 1), RAW, &ALL[..2]);
    wait_for(&mut world, "the one that answers", 1, &answers(&["alive"], Source::Node));
}

/// One of two endpoints has left without a word: what is sent there is lost. Of two clients, one has to wait until that is certain.
#[test]
fn an_endpoint_that_is_silent_is_passed_over() {
    let mut world = world(OPTED_IN);
    let [v4, v6] = world.slices("web", &[HTTP], &ALL[..1]);
    let (v4, v6) = (v4.endpoint("10.1.99.1"), v6.endpoint("fd00:10:1::99:1"));
    world.apply(&[&everything("web", 1), &v4, &v6]);
    world.proxy.wait("both listeners", |proxy| Ok(proxy.metric(LISTENERS)? == [1.0, 1.0])).unwrap();
    thread::scope(|scope| {
        for family in Family::ALL.into_iter().chain(Family::ALL) {
            let node = &world.cluster.node;
            scope.spawn(move || {
                let stream = node.run(|| TcpStream::connect(localhost(family, 1))).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut line = String::new();
                BufReader::new(stream).read_line(&mut line).unwrap();
                assert!(line.starts_with(NAMES[0]), "{family}: {line}");
            });
        }
    });
}

/// Nor do the rules take what goes to the process that has the port, whether or not there are endpoints.
#[test]
fn a_port_that_another_process_has_costs_no_other_service_anything() {
    for node_port_addresses in [&["primary", "localhost"][..], &["all", "localhost"]] {
        let mut world = world(node_port_addresses);
        let squat = |family| Echo::tcp(&world.cluster.node, "squatter", localhost(family, 1)).unwrap();
        let squatters = Family::ALL.map(squat);
        let [v4, v6] = world.slices("other", &[HTTP], &[(2, "")]);
        let other = everything("other", 2);
        for ends in [&[(0, "l")][..], &[]] {
            let [web_v4, web_v6] = world.slices("web", &[HTTP], ends);
            world.apply(&[&everything("web", 1), &web_v4, &web_v6, &other, &v4, &v6]);
            wait_for(&mut world, "the other Service", 2, &answers(&NAMES[2..], Source::Node));
            for family in Family::ALL {
                let asked = ask_tcp(&world.cluster.node, None, localhost(family, 1));
                assert_eq!(asked.unwrap().endpoint, "squatter");
            }
        }
        let [web_v4, web_v6] = world.slices("web", &[HTTP], &[(0, "l")]);
        world.apply(&[&everything("web", 1), &web_v4, &web_v6, &other, &v4, &v6]);
        let is_told = |log: &str| log.contains("cannot listen on 127.0.0.1:30001") && log.contains("default/web");
        world.proxy.wait("word of a port that is taken", |proxy| Ok(is_told(&proxy.log()))).unwrap();
        assert!(world.proxy.metric(FAILURES).unwrap().iter().all(|failures| *failures > 0.0));
        drop(squatters);
        wait_for(&mut world, "the port is free", 1, &answers(&NAMES[..1], Source::Node));
    }
}

#[test]
fn a_port_that_two_services_want_goes_from_one_to_the_other() {
    let mut world = world(OPTED_IN);
    let slices = ["web", "other"].map(|name| world.slices(name, &[HTTP], &[(if name == "web" { 0 } else { 1 }, "l")]));
    let [[web_v4, web_v6], [other_v4, other_v6]] = &slices;
    let (web, other) = (everything("web", 1), service("other", 2, &[HTTP]).node_port(node_port(1)));
    world.apply(&[&web, web_v4, web_v6, &other, other_v4, other_v6]);
    wait_for(&mut world, "the first by name", 1, &answers(&NAMES[1..2], Source::Node));
    let mut stream = Stream::open(&world.cluster.node, None, localhost(Family::V4, 1)).unwrap();
    world.apply(&[&web, web_v4, web_v6]);
    wait_for(&mut world, "the one that stays", 1, &answers(&NAMES[..1], Source::Node));
    assert!(stream.echo("hello?").is_err(), "what goes to another Service is another's connection");
    assert!(!world.proxy.log().contains("cannot listen on"), "the port was taken for a while");
}

/// As many connections as a busy registry has. All are served at once, and nothing is left of them, whether they end with a reset or well.
#[test]
fn five_hundred_connections_at_once_leave_nothing_behind() {
    const HALF: usize = 250;
    let mut world = opted_in(&ALL);
    wait_for(&mut world, "all endpoints", 1, &everyone());
    let files = format!("/proc/{}/fd", world.proxy.process().unwrap());
    let count = || fs::read_dir(&files).unwrap().count();
    let before = count();
    let families = || Family::ALL.into_iter().cycle().take(HALF);
    // These end with a reset.
    let open = |family| Stream::open(&world.cluster.node, None, localhost(family, 1)).unwrap();
    let mut streams: Vec<_> = families().map(open).collect();
    let connect = |family| world.cluster.node.run(|| TcpStream::connect(localhost(family, 1))).unwrap();
    let mut connections: Vec<_> = families().map(|family| BufReader::new(connect(family))).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.echo(&format!("connection {number}")).unwrap();
    }
    for connection in &mut connections {
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        assert!(line.starts_with("web-"), "{line}");
    }
    assert!(count() > 6 * 2 * HALF, "{} files: two sockets and two pipes each", count());
    drop((streams, connections));
    world.proxy.wait("as many open files as before", |_| Ok(count() <= before)).unwrap();
}

/// A server at the endpoint `web-0`, in both families. Each connection is handed to the test.
struct Server(mpsc::Receiver<TcpStream>);

impl Server {
    fn start(world: &mut World) -> Self {
        let (sender, connections) = mpsc::channel();
        for family in Family::ALL {
            let (pod, sender) = (world.web[0].pod(), sender.clone());
            let address = SocketAddr::from((pod.address(family), RAW.3));
            let listener = pod.namespace.run(|| TcpListener::bind(address)).unwrap();
            // Ends with the process: the listener has nothing to tell it of the test's end.
            thread::spawn(move || listener.incoming().map_while(Result::ok).try_for_each(|stream| sender.send(stream)));
        }
        apply(world, &everything("web", 1), RAW, &ALL[..1]);
        Self(connections)
    }

    /// Both ends of a connection through localhost, as the client and the server have them.
    fn connection(&self, world: &mut World, family: Family) -> (TcpStream, TcpStream) {
        let cluster = world.cluster.clone();
        let connect = |node: &Namespace| node.run(|| TcpStream::connect(localhost(family, 1)));
        let mut client = None;
        let connected = |_: &mut _| {
            client = connect(&cluster.node).ok();
            Ok(client.is_some())
        };
        world.proxy.wait("a connection", connected).unwrap();
        let (client, server) = (client.unwrap(), self.0.recv_timeout(PATIENCE).unwrap());
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (client, server)
    }
}

/// Bytes that tell where in the stream they belong.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Both directions at once. Neither end reads before both have been made to wait for that: what is on its way is held by the kernel,
/// and no more of it than buffers have room for.
#[test]
fn large_transfers_arrive_whole_both_ways_however_slowly_they_are_read() {
    const SIZE: usize = 32 << 20;
    let mut world = world(OPTED_IN);
    for namespace in [&world.cluster.node, &world.web[0].pod().namespace] {
        for limits in ["net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"] {
            namespace.sysctl(limits, "4096 131072 4194304").unwrap();
        }
    }
    let server = Server::start(&mut world);
    for family in Family::ALL {
        let (client, server) = server.connection(&mut world, family);
        let data = [(&client, 1), (&server, 2)].map(|(stream, seed)| (stream, pattern(seed, SIZE)));
        let held = data.each_ref().map(|(stream, data)| {
            let mut stream = *stream;
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut sent = 0;
            while let Ok(more) = stream.write(&data[sent..]) {
                sent += more;
                assert!(sent < SIZE, "{family}: all of it was taken, and nothing was read");
            }
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            sent
        });
        thread::scope(|scope| {
            for ((stream, data), sent) in data.iter().zip(held) {
                scope.spawn(move || {
                    let mut stream = *stream;
                    stream.write_all(&data[sent..]).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
            }
            for (mut stream, wanted) in [(&client, &data[1].1), (&server, &data[0].1)] {
                scope.spawn(move || {
                    let mut all = Vec::with_capacity(SIZE);
                    stream.read_to_end(&mut all).unwrap();
                    assert!(all == *wanted, "{family}: {} bytes arrived, and not those that were sent", all.len());
                });
            }
        });
    }
}

#[test]
fn who_has_said_all_is_still_answered() {
    let mut world = world(OPTED_IN);
    let server = Server::start(&mut world);
    for family in Family::ALL {
        for client_first in [true, false] {
            let (client, server) = server.connection(&mut world, family);
            let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
            let read = |stream: &mut TcpStream| {
                let mut text = String::new();
                stream.read_to_string(&mut text).map(|_| text)
            };
            first.write_all(b"question").unwrap();
            first.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read(&mut second).unwrap(), "question");
            second.write_all(b"answer").unwrap();
            drop(second);
            assert_eq!(read(&mut first).unwrap(), "answer", "and it ends without an error");
        }
    }
}

/// What broke off must not be taken for all there was.
#[test]
fn a_reset_is_passed_on() {
    let mut world = world(OPTED_IN);
    let server = Server::start(&mut world);
    for family in Family::ALL {
        for client_first in [true, false] {
            let (client, server) = server.connection(&mut world, family);
            let (mut breaks, mut hears) = if client_first { (client, server) } else { (server, client) };
            breaks.write_all(b"begun").unwrap();
            hears.read_exact(&mut [0; 5]).unwrap();
            // Even one who has said all, and waits.
            hears.shutdown(Shutdown::Write).unwrap();
            assert_eq!(breaks.read(&mut [0]).unwrap(), 0);
            reset(breaks);
            let heard = hears.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(heard, Err(ErrorKind::ConnectionReset), "{family}, client first: {client_first}");
        }
        // A client that has said all, and goes before it is answered.
        let (client, mut server) = server.connection(&mut world, family);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        reset(client);
        let noticed = |_: &mut _| Ok(server.take_error().unwrap().is_some());
        world.proxy.wait("the server to hear of it", noticed).unwrap();
    }
}

/// Who takes no more, and says why, is heard: as a server does that refuses an upload and closes with some of it unread.
#[test]
fn an_answer_that_comes_before_the_end_of_the_question_arrives() {
    let mut world = world(OPTED_IN);
    let server = Server::start(&mut world);
    for family in Family::ALL {
        let (mut client, mut server) = server.connection(&mut world, family);
        thread::scope(|scope| {
            let mut sending = client.try_clone().unwrap();
            // Fails at some point, and that is where the client hears of the reset.
            scope.spawn(move || sending.write_all(&vec![0; 64 << 20]).unwrap_err());
            server.read_exact(&mut [0]).unwrap();
            server.write_all(b"enough").unwrap();
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).ok();
            assert_eq!(answer, b"enough", "{family}");
        });
    }
}

fn reset(stream: TcpStream) {
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    drop(stream);
}

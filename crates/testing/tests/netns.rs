//! Namespaces are hosts of their own, leave nothing behind, and a cluster of them routes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use model::Family;
use testing::netns::{Cluster, Namespace};

/// Who connects from `client` to `address` of `server`, as the server sees it.
fn seen_source(server: &Namespace, address: IpAddr, client: &Namespace) -> IpAddr {
    let listener = server.run(|| TcpListener::bind((address, 0)).unwrap());
    let destination = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            write!(stream, "{}", peer.ip()).unwrap();
        });
        client.run(|| {
            let mut stream = TcpStream::connect_timeout(&destination, Duration::from_secs(2)).unwrap();
            let mut seen = String::new();
            stream.read_to_string(&mut seen).unwrap();
            seen.parse().unwrap()
        })
    })
}

#[test]
fn a_namespace_is_a_host_of_its_own() {
    let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
    assert_ne!(a.id().unwrap(), b.id().unwrap());
    assert_eq!(a.sh("readlink /proc/self/ns/net").unwrap().trim(), format!("net:[{}]", a.id().unwrap()));
    let loopback: SocketAddr = "127.0.0.1:7".parse().unwrap();
    let _in_a = a.run(|| TcpListener::bind(loopback).unwrap());
    b.run(|| {
        assert!(TcpStream::connect(loopback).is_err());
        let _same_port_in_b = TcpListener::bind(loopback).unwrap();
    });
    assert!(a.run(|| TcpStream::connect(loopback).is_ok()));
}

#[test]
fn sysctls_are_those_of_the_namespace() {
    let read = || fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    let outside = read();
    let namespace = Namespace::new("ttl").unwrap();
    namespace.sysctl("net/ipv4/ip_default_ttl", "7").unwrap();
    assert_eq!(namespace.run(read), "7\n");
    assert_eq!(read(), outside);
    let error = format!("{:#}", namespace.sysctl("net/no/such", "1").unwrap_err());
    assert!(error.contains("\"ttl\"") && error.contains("/proc/sys/net/no/such"), "{error}");
}

#[test]
fn a_failing_command_is_named_with_its_message() {
    let namespace = Namespace::new("failing").unwrap();
    let error = namespace.ip("link set nosuch up").unwrap_err().to_string();
    assert!(error.contains("\"failing\"") && error.contains("`ip link set nosuch up`"), "{error}");
    assert!(error.contains("Cannot find device"), "{error}");
    let error = namespace.sh("no-such-program").unwrap_err().to_string();
    assert!(error.contains("a program is missing"), "{error}");
    assert!(namespace.sh("false; true").is_err());
}

#[test]
fn a_panic_inside_goes_on_outside() {
    let namespace = Namespace::new("panic").unwrap();
    let outcome = std::panic::catch_unwind(|| namespace.run(|| panic!("seen")));
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"seen"));
}

#[test]
fn nothing_is_left_behind() {
    let (a, b) = (Namespace::new("kept").unwrap(), Namespace::new("dropped").unwrap());
    a.link("eth0", &b, "eth0").unwrap();
    a.ip("link show eth0").unwrap();
    drop(b);
    // The kernel takes a namespace down in the background, and the cable goes with it.
    let gone = (0..500).any(|_| {
        thread::sleep(Duration::from_millis(10));
        a.ip("link show eth0").is_err()
    });
    assert!(gone, "the cable to a namespace that was dropped is still there");
}

#[test]
fn a_cluster_routes_between_pods_node_and_client() {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.pod("a").unwrap(), cluster.pod("b").unwrap());
    for family in Family::ALL {
        let (to_a, node, client) = (a.address(family), Cluster::node_address(family), Cluster::client_address(family));
        assert_eq!(seen_source(&a.namespace, to_a, &b.namespace), b.address(family));
        assert_eq!(seen_source(&a.namespace, to_a, &a.namespace), to_a);
        assert_eq!(seen_source(&a.namespace, to_a, &cluster.node), Cluster::gateway_address(family));
        assert_eq!(seen_source(&a.namespace, to_a, &cluster.client), client);
        assert_eq!(seen_source(&cluster.node, node, &cluster.client), client);
        assert_eq!(seen_source(&cluster.node, node, &a.namespace), to_a);
        assert_eq!(seen_source(&cluster.client, client, &a.namespace), to_a);
    }
}

#[test]
fn pods_reach_each_other_only_through_the_node() {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.pod("a").unwrap(), cluster.pod("b").unwrap());
    cluster.node.sysctl("net/ipv4/ip_forward", "0").unwrap();
    let connected = b.namespace.run(|| {
        let _listening = a.namespace.run(|| TcpListener::bind((a.v4, 7)).unwrap());
        TcpStream::connect_timeout(&(a.v4, 7).into(), Duration::from_millis(300)).is_ok()
    });
    assert!(!connected);
}

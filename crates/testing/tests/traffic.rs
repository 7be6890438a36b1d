//! Clients learn who answered and whose address it saw, and every way of not being answered is told apart.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, SocketAddr};

use model::Family;
use nix::errno::Errno;
use testing::netns::{Cluster, Pod};
use testing::traffic::{Echo, Flow, Refusal, Stream, ask_sctp, ask_tcp, ask_udp};

fn socket(address: IpAddr) -> SocketAddr {
    (address, 8080).into()
}

fn nft(pod: &Pod, rule: &str) {
    let table = "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c";
    pod.namespace.sh(&format!("nft '{table} {rule}'")).unwrap();
}

#[test]
fn the_answer_tells_the_endpoint_and_the_source_it_saw() {
    let cluster = Cluster::new().unwrap();
    let pod = cluster.pod("web").unwrap();
    for family in Family::ALL {
        let address = socket(pod.address(family));
        let _tcp = Echo::tcp(&pod.namespace, "web one", address).unwrap();
        let _udp = Echo::udp(&pod.namespace, "web two", address).unwrap();
        let client = SocketAddr::new(Cluster::client_address(family), 4444);
        for _ in 0..2 {
            let reply = ask_tcp(&cluster.client, Some(client), address).unwrap();
            assert_eq!((&*reply.endpoint, reply.seen_source), ("web one", client));
        }
        let reply = ask_udp(&cluster.client, Some(client), address).unwrap();
        assert_eq!((&*reply.endpoint, reply.seen_source), ("web two", client));
        let _sctp = Echo::sctp(&pod.namespace, "web three", address).unwrap();
        let reply = ask_sctp(&cluster.client, Some(client), address).unwrap();
        assert_eq!((&*reply.endpoint, reply.seen_source), ("web three", client));
        assert_eq!(ask_tcp(&cluster.node, None, address).unwrap().seen_source.ip(), Cluster::gateway_address(family));
        assert_eq!(ask_udp(&cluster.node, None, address).unwrap().seen_source.ip(), Cluster::gateway_address(family));
    }
}

#[test]
fn nobody_there_is_refused() {
    let cluster = Cluster::new().unwrap();
    let pod = cluster.pod("web").unwrap();
    for family in Family::ALL {
        let address = socket(pod.address(family));
        drop(Echo::tcp(&pod.namespace, "gone", address).unwrap());
        assert_eq!(ask_tcp(&cluster.client, None, address), Err(Refusal::Refused));
        assert_eq!(ask_udp(&cluster.client, None, address), Err(Refusal::Refused));
    }
}

#[test]
fn dropped_packets_time_out() {
    let cluster = Cluster::new().unwrap();
    let pod = cluster.pod("web").unwrap();
    nft(&pod, "meta l4proto { tcp, udp } drop");
    assert_eq!(ask_tcp(&cluster.client, None, socket(pod.v4.into())), Err(Refusal::TimedOut));
    assert_eq!(ask_udp(&cluster.client, None, socket(pod.v4.into())), Err(Refusal::TimedOut));
}

#[test]
fn unreachable_hosts_are_told_from_refusals() {
    let cluster = Cluster::new().unwrap();
    let pod = cluster.pod("web").unwrap();
    let nobody = socket("10.1.0.77".parse().unwrap());
    assert_eq!(ask_tcp(&cluster.client, None, nobody), Err(Refusal::TimedOut), "routed back and lost at the client");
    nft(&pod, "meta l4proto { tcp, udp } reject with icmpx host-unreachable");
    for family in Family::ALL {
        let address = socket(pod.address(family));
        assert_eq!(ask_tcp(&cluster.client, None, address), Err(Refusal::Unreachable(Errno::EHOSTUNREACH)));
    }
}

#[test]
fn open_connections_go_on_until_the_server_stops() {
    let cluster = Cluster::new().unwrap();
    let pod = cluster.pod("web").unwrap();
    let address = socket(pod.v6.into());
    let tcp = Echo::tcp(&pod.namespace, "web", address).unwrap();
    let mut stream = Stream::open(&cluster.client, None, address).unwrap();
    stream.echo("once").unwrap();
    stream.echo("again").unwrap();
    assert_eq!(stream.reply().endpoint, "web");
    drop(tcp);
    assert!(stream.echo("too late").is_err());

    let udp = Echo::udp(&pod.namespace, "web", address).unwrap();
    let flow = Flow::open(&cluster.client, None, address).unwrap();
    assert_eq!(flow.ask().unwrap(), flow.ask().unwrap());
    drop(udp);
    assert_eq!(flow.ask(), Err(Refusal::Refused));
}

#[test]
fn sctp_is_translated_and_refused() {
    let cluster = Cluster::new().unwrap();
    let pod = cluster.pod("web").unwrap();
    for (family, ip, vip) in [(Family::V4, "ip", "10.96.0.1"), (Family::V6, "ip6", "fd00:10:96::1")] {
        let endpoint = socket(pod.address(family));
        let rules = format!(
            "table {ip} t {{
                chain translate {{
                    type nat hook prerouting priority -100
                    {ip} daddr {vip} sctp dport 80 dnat to {endpoint}
                }}
                chain hide {{
                    type nat hook postrouting priority 100
                    sctp dport 8080 masquerade
                }}
                chain refuse {{
                    type filter hook forward priority 0
                    {ip} daddr {vip} reject
                }}
            }}"
        );
        cluster.node.sh(&format!("nft -f - <<'END'\n{rules}\nEND")).unwrap();
        let _server = Echo::sctp(&pod.namespace, "web", endpoint).unwrap();
        let vip: IpAddr = vip.parse().unwrap();
        let reply = ask_sctp(&cluster.client, None, (vip, 80).into()).unwrap();
        assert_eq!((&*reply.endpoint, reply.seen_source.ip()), ("web", Cluster::gateway_address(family)));
        for _ in 0..3 {
            assert_eq!(ask_sctp(&cluster.client, None, (vip, 81).into()), Err(Refusal::Refused));
        }
    }
}

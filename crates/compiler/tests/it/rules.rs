//! The rules that do not depend on Services, word for word (contract §5.2–§5.4), and the shape of a Service's elements.

use compiler::{Mark, NodePorts, Options, Pods};
use model::{Family, Protocol, Service, ServiceName, TrafficPolicy, Update};
use ruleset::{FakeTable, Family as TableFamily};

use crate::world::{World, ip, options, port, service, slice};

/// All rules, a line each.
fn rules(table: &FakeTable, family: TableFamily) -> String {
    let chains = table.chains().values();
    let lines = chains.flat_map(|chain| {
        chain.rules.iter().map(move |rule| format!("{}: {}\n", chain.chain.name, rule.display(family)))
    });
    lines.collect()
}

#[test]
fn ipv4() {
    let world = World::new(options(Family::V4))
        .with([Update::Service(service("web", "172.30.0.41")), slice("web", 80, &[("10.180.0.1", "")])]);
    assert_eq!(rules(world.table(), TableFamily::Ip), RULES);
}

#[test]
fn ipv6() {
    let world = World::new(options(Family::V6));
    let of_service = |line: &&str| line.contains("@service-ips-");
    let expected = RULES.lines().filter(|line| !of_service(line)).map(|line| format!("{line}\n")).collect::<String>();
    let expected =
        expected.replace("ip saddr", "ip6 saddr").replace("ip daddr", "ip6 daddr").replace("dnat ip to", "dnat ip6 to");
    let expected = expected.replace("10.0.0.0/8", "fd00::/8");
    assert_eq!(rules(world.table(), TableFamily::Ip6), expected);
}

#[test]
fn what_the_configuration_changes() {
    let has = |options: Options, expected: &str| {
        let world = World::new(options);
        let rules = rules(world.table(), TableFamily::Ip);
        assert!(rules.lines().any(|line| line == expected), "{expected}\n{rules}");
    };
    let options = || options(Family::V4);
    let any = Options { node_ports: NodePorts::Any, ..options() };
    has(
        any.clone(),
        "services: fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports",
    );
    has(any, "nodeport-endpoints-check: ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports");
    has(
        Options { masquerade_all: true, ..options() },
        r#"cluster-services: meta mark set meta mark | 0x00004000 comment "masquerade all clusterIP traffic""#,
    );
    let mark = Mark::from_bit(3).expect("there is a third bit");
    has(
        Options { mark, ..options() },
        "masquerading: meta mark & 0x00000008 != 0x00000000 meta mark set meta mark ^ 0x00000008 masquerade fully-random",
    );
}

/// Addresses that are kept for ClusterIPs, of the table's family.
#[test]
fn service_cidrs() {
    let prefixes = ["172.31.0.0/16", "172.30.0.0/16", "fd00:30::/112", "fd00:31::/112"];
    let prefixes = prefixes.map(|prefix| prefix.parse().unwrap()).to_vec();
    for (family, table, expected) in [
        (Family::V4, TableFamily::Ip, ["ip daddr 172.30.0.0/16", "ip daddr 172.31.0.0/16"]),
        (Family::V6, TableFamily::Ip6, ["ip6 daddr fd00:30::/112", "ip6 daddr fd00:31::/112"]),
    ] {
        let cidr = model::ServiceCidr { name: "kubernetes".into(), prefixes: prefixes.clone() };
        let world = World::new(options(family)).with([Update::ServiceCidr(cidr)]);
        let rules = rules(world.table(), table);
        let found = rules.lines().filter(|line| line.starts_with("cluster-ips-check: ") && line.contains(" drop"));
        let expected = expected.map(|daddr| {
            format!(r#"cluster-ips-check: {daddr} drop comment "Drop traffic to unallocated ClusterIPs""#)
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}

/// The worked example of the contract's appendix A.
fn worked() -> World {
    let named = |name: &str, cluster_ip| Service { name: ServiceName::new("shop", name), ..service(name, cluster_ip) };
    let mut web = named("web", "10.96.4.4");
    web.load_balancer_ips = vec![ip("198.51.100.7")];
    web.external_policy = TrafficPolicy::Local;
    web.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    web.ports[0].name = "http".into();
    web.ports[0].node_port = Some(port(30080));
    let Update::Slice(mut ends) = slice("web", 8080, &[("10.1.0.5", "l"), ("10.1.3.9", "")]) else { unreachable!() };
    ends.service = web.name.clone();
    ends.ports[0].name = "http".into();
    let mut dns = named("dns", "10.96.4.5");
    dns.ports = vec![model::ServicePort { name: "".into(), protocol: Protocol::Udp, port: port(53), node_port: None }];
    let node = ip("192.0.2.10");
    let options = Options {
        pods: Some(Pods::From("10.1.0.0/16".parse().unwrap())),
        node_address: Some(node),
        node_ports: NodePorts::Only([node].into()),
        ..options(Family::V4)
    };
    World::new(options).with([Update::Service(web), Update::Slice(ends), Update::Service(dns)])
}

/// All elements, a line each.
fn elements(table: &FakeTable, family: TableFamily) -> String {
    let sets = table.sets().values();
    let lines = sets.flat_map(|set| {
        let shown = |element| set.set.display_element(element, family).to_string();
        set.elements.values().map(move |element| format!("{}: {}\n", set.set.name, shown(element)))
    });
    lines.collect()
}

/// What the kernel holds for it, and what refuses once endpoints go: with a comment that says whose it is.
#[test]
fn elements_of_a_worked_service() {
    let mut world = worked();
    assert_eq!(elements(world.table(), TableFamily::Ip), ELEMENTS);
    // Only the remote endpoint is left, and then none.
    let Update::Slice(mut ends) = slice("web", 8080, &[("10.1.3.9", "")]) else { unreachable!() };
    ends.service = ServiceName::new("shop", "web");
    ends.ports[0].name = "http".into();
    let refusals = |world: &World| {
        let elements = elements(world.table(), TableFamily::Ip);
        elements.lines().filter(|line| line.starts_with("no-endpoint-")).map(str::to_owned).collect::<Vec<_>>()
    };
    world.apply([Update::Slice(ends.clone())]);
    let of_dns = r#"no-endpoint-services: 10.96.4.5 . udp . 53 comment "shop/dns" : goto reject-chain"#;
    let expected = [
        r#"no-endpoint-nodeports: tcp . 30080 comment "shop/web:http" : drop"#,
        of_dns,
        r#"no-endpoint-services: 198.51.100.7 . tcp . 80 comment "shop/web:http" : drop"#,
    ];
    assert_eq!(refusals(&world), expected);
    ends.endpoints.clear();
    world.apply([Update::Slice(ends)]);
    let expected = [
        r#"no-endpoint-nodeports: tcp . 30080 comment "shop/web:http" : goto reject-chain"#,
        r#"no-endpoint-services: 10.96.4.4 . tcp . 80 comment "shop/web:http" : goto reject-chain"#,
        of_dns,
        r#"no-endpoint-services: 198.51.100.7 . tcp . 80 comment "shop/web:http" : goto reject-chain"#,
    ];
    assert_eq!(refusals(&world), expected);
}

const RULES: &str = r#"cluster-ips-check: ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
cluster-services: ip saddr != 10.0.0.0/8 meta mark set meta mark | 0x00004000 comment "masquerade clusterIP traffic from outside cluster"
cluster-services: ip daddr . meta l4proto . th dport @service-ips-1 goto lb-1
external-local: ip saddr 10.0.0.0/8 ip daddr . meta l4proto . th dport vmap @short-circuit-ips comment "short-circuit pod traffic"
external-local: fib saddr type local meta mark set meta mark | 0x00004000 comment "masquerade local traffic"
external-local: fib saddr type local ip daddr . meta l4proto . th dport vmap @short-circuit-ips comment "short-circuit local traffic"
external-local: ip daddr . meta l4proto . th dport vmap @local-ips comment "external traffic stays on this node"
filter-forward: ct state new jump service-endpoints-check
filter-forward: ct state new jump cluster-ips-check
filter-forward: ct state new ct status dnat jump affinity-check
filter-input: ct state new jump nodeport-endpoints-check
filter-input: ct state new jump service-endpoints-check
filter-input: ct state new ct status dnat jump affinity-check
filter-output: ct state new jump service-endpoints-check
filter-output: ct state new jump cluster-ips-check
filter-output: ct state new ct status dnat jump affinity-check
filter-output-pre-dnat: ct state new jump firewall-check
filter-prerouting-pre-dnat: ct state new jump firewall-check
firewall-check: ip daddr . meta l4proto . th dport @firewalled-ips goto firewall-sources
firewall-sources: jump source-ranges-check
firewall-sources: drop
lb-1: dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
masquerading: meta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000 masquerade fully-random
masquerading: ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
nat-output: jump services
nat-postrouting: jump masquerading
nat-prerouting: jump services
nodeport-endpoints-check: ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
nodeport-external-local: ip saddr 10.0.0.0/8 meta l4proto . th dport vmap @short-circuit-nodeports comment "short-circuit pod traffic"
nodeport-external-local: fib saddr type local meta mark set meta mark | 0x00004000 comment "masquerade local traffic"
nodeport-external-local: fib saddr type local meta l4proto . th dport vmap @short-circuit-nodeports comment "short-circuit local traffic"
nodeport-external-local: meta l4proto . th dport vmap @local-nodeports comment "external traffic stays on this node"
reject-chain: reject
service-endpoints-check: ip daddr . meta l4proto . th dport vmap @no-endpoint-services
services: ip daddr @cluster-ips jump cluster-services
services: ip daddr . meta l4proto . th dport vmap @service-ips
services: ip daddr @cluster-ips jump lb-1 comment "met a change halfway"
services: ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
"#;

const ELEMENTS: &str = r#"cluster-ips: 10.96.4.4
cluster-ips: 10.96.4.5
endpoints: 10.96.4.4 . tcp . 80 . 0 : 10.1.0.5 . 8080
endpoints: 10.96.4.4 . tcp . 80 . 1 : 10.1.3.9 . 8080
endpoints: 198.51.100.7 . tcp . 80 . 0 : 10.1.0.5 . 8080
endpoints: 198.51.100.7 . tcp . 80 . 1 : 10.1.3.9 . 8080
external-ips: 198.51.100.7 . tcp . 80
firewalled-ips: 198.51.100.7 . tcp . 80
hairpin-connections: 10.1.0.5 . 10.1.0.5 . tcp . 8080
local-endpoints: 198.51.100.7 . tcp . 80 . 0 : 10.1.0.5 . 8080
local-ips: 198.51.100.7 . tcp . 80 : goto local-lb-1
local-nodeports: tcp . 30080 : goto nodeport-local-lb-1
no-endpoint-services: 10.96.4.5 . udp . 53 comment "shop/dns" : goto reject-chain
nodeport-endpoints: tcp . 30080 . 0 : 10.1.0.5 . 8080
nodeport-endpoints: tcp . 30080 . 1 : 10.1.3.9 . 8080
nodeport-ips: 192.0.2.10
nodeport-local-endpoints: tcp . 30080 . 0 : 10.1.0.5 . 8080
service-ips: 198.51.100.7 . tcp . 80 : goto external-local
service-ips-2: 10.96.4.4 . tcp . 80
service-nodeports: tcp . 30080 : goto nodeport-external-local
short-circuit-ips: 198.51.100.7 . tcp . 80 : goto lb-2
short-circuit-nodeports: tcp . 30080 : goto nodeport-lb-2
source-ranges-24: 198.51.100.7 . tcp . 80 . 192.0.2.0
source-ranges-32: 198.51.100.7 . tcp . 80 . 198.51.100.7
"#;

//! The rules that do not depend on Services, word for word (contract §5.2–§5.4), and the shape of a Service's elements.

use compiler::{Mark, NodePorts, Options};
use model::{Family, Update};
use ruleset::{FakeTable, Family as TableFamily};

use crate::world::{World, options, service, slice};

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
firewall-check: ip daddr . meta l4proto . th dport @firewall-ips goto firewall-sources
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

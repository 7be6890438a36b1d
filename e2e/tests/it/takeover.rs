//! From kube-proxy's nftables mode to us and back, with traffic running.

use std::fmt::Write as _;
use std::fs;

use e2e::{Settings, Traffic};
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Cluster;

use crate::changes::all_alive;
use crate::world::{HTTP, World, cluster_ip, everything, external_ip, node_port, vip};

/// The tables that kube-proxy 1.36 makes of the Service `web` (contract §5.2 to §5.6), replacing whatever is there.
fn kube_proxys(world: &World) -> String {
    let table = |family| {
        let name = if family == Family::V4 { "ip kube-proxy" } else { "ip6 kube-proxy" };
        format!("add table {name}\ndelete table {name}\n{}", kube_proxys_table(family, world))
    };
    Family::ALL.map(table).concat()
}

/// The same as kube-proxy does it: chain by chain and map by map in the table that is there, if there is one (contract §5.8).
fn kube_proxys_over_what_there_is(world: &World) -> String {
    let table = |family| {
        let (name, table) = (if family == Family::V4 { "ip" } else { "ip6" }, kube_proxys_table(family, world));
        let objects = table.lines().filter_map(|line| line.trim().split_once(' '));
        let flush = objects.filter_map(|(kind, rest)| {
            let object = rest.split(' ').next()?;
            match kind {
                "chain" => {
                    Some(format!("add chain {name} kube-proxy {object}\nflush chain {name} kube-proxy {object}\n"))
                }
                "map" | "set" => Some(format!("flush {kind} {name} kube-proxy {object}\n")),
                _ => None,
            }
        });
        // A map of theirs that is not there has nothing to flush.
        let flush = flush.filter(|line| !line.contains("firewall-ips")).collect::<String>();
        flush + &table
    };
    Family::ALL.map(table).concat()
}

fn kube_proxys_table(family: Family, world: &World) -> String {
    let endpoints = world.web.each_ref().map(|web| web.pod().address(family));
    let (ip, pods, loopback) = match family {
        Family::V4 => ("ip", Cluster::POD_CIDR_V4, "127.0.0.0/8"),
        Family::V6 => ("ip6", Cluster::POD_CIDR_V6, "::1"),
    };
    let address = if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
    let key = format!("type {address} . inet_proto . inet_service : verdict");
    let lookup = format!("{ip} daddr . meta l4proto . th dport vmap");
    let (cluster_ip, external_ip, vip) = (cluster_ip(family, 1), external_ip(family, 1), vip(family, 1));
    let (node, node_port) = (Cluster::node_address(family), node_port(1));
    let own = "P4WSXUMQ-default/web/tcp/http";
    let mut map = String::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        write!(map, "{index} : {endpoint} . 8080, ").unwrap();
    }
    let hairpins: Vec<_> = endpoints.iter().map(|e| format!("{e} . {e} . tcp . 8080")).collect();
    let (count, hairpins) = (endpoints.len(), hairpins.join(", "));
    format!(
        r#"
table {ip} kube-proxy {{
    comment "rules for kube-proxy"
    set cluster-ips {{ type {address}; comment "Active ClusterIPs"; elements = {{ {cluster_ip} }} }}
    set nodeport-ips {{ type {address}; comment "IPs that accept NodePort traffic"; elements = {{ {node} }} }}
    set hairpin-connections {{
        type {address} . {address} . inet_proto . inet_service
        comment "service hairpin connections"
        elements = {{ {hairpins} }}
    }}
    map service-ips {{
        {key}
        comment "ClusterIP, ExternalIP and LoadBalancer IP traffic"
        elements = {{ {cluster_ip} . tcp . 80 : goto service-{own}, {external_ip} . tcp . 80 : goto external-{own},
            {vip} . tcp . 80 : goto external-{own} }}
    }}
    map service-nodeports {{
        type inet_proto . inet_service : verdict
        comment "NodePort traffic"
        elements = {{ tcp . {node_port} : goto external-{own} }}
    }}
    map firewall-ips {{ {key}; comment "destinations that are subject to LoadBalancerSourceRanges"; }}
    map no-endpoint-services {{
        {key}
        comment "vmap to drop or reject packets to services with no endpoints"
    }}
    map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
    chain filter-prerouting-pre-dnat {{
        type filter hook prerouting priority -110;
        ct state new jump firewall-check
    }}
    chain filter-output-pre-dnat {{
        type filter hook output priority -110;
        ct state new jump firewall-check
    }}
    chain filter-input {{
        type filter hook input priority 0;
        ct state new jump nodeport-endpoints-check
        ct state new jump service-endpoints-check
    }}
    chain filter-forward {{
        type filter hook forward priority 0;
        ct state new jump service-endpoints-check
        ct state new jump cluster-ips-check
    }}
    chain filter-output {{
        type filter hook output priority 0;
        ct state new jump service-endpoints-check
        ct state new jump cluster-ips-check
    }}
    chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
    chain nat-output {{ type nat hook output priority -100; jump services; }}
    chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
    chain services {{
        {ip} daddr @cluster-ips {ip} saddr != {pods} mark set mark or 0x4000 comment "masquerade clusterIP traffic from outside cluster"
        {lookup} @service-ips
        {ip} daddr @nodeport-ips {ip} daddr != {loopback} meta l4proto . th dport vmap @service-nodeports
    }}
    chain service-endpoints-check {{ {lookup} @no-endpoint-services; }}
    chain nodeport-endpoints-check {{ {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
    chain reject-chain {{ comment "helper for @no-endpoint-services / @no-endpoint-nodeports"; reject; }}
    chain cluster-ips-check {{ {ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"; }}
    chain firewall-check {{ {lookup} @firewall-ips; }}
    chain masquerading {{
        mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
        ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
    }}
    chain service-{own} {{ meta l4proto tcp dnat {ip} addr . port to numgen random mod {count} map {{ {map} }}; }}
    chain external-{own} {{ mark set mark or 0x4000 comment "masquerade"; goto service-{own}; }}
}}
"#
    )
}

#[test]
fn from_kube_proxy_and_back_without_a_lost_connection() {
    let mut world = World::prepare();
    let web = everything("web", 1);
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l"), (2, "l")]);
    world.proxy.manifests().put("web.yaml", &[&web, &v4, &v6]).unwrap();
    let theirs = tempfile::NamedTempFile::new().unwrap();
    fs::write(theirs.path(), kube_proxys(&world)).unwrap();
    let cluster = world.cluster.clone();
    let restore = || cluster.node.sh(&format!("nft -f {}", theirs.path().display())).unwrap();
    let list = || cluster.node.sh("nft list ruleset").unwrap();
    let check = |world: &World| world.check_from_outside(&["web-0:8080", "web-1:8080", "web-2:8080"]);
    restore();
    check(&world);

    let mut running: Vec<_> =
        Family::ALL.into_iter().flat_map(|family| world.streams(family, &["web-0:8080"])).collect();
    let client = &cluster.client;
    let node_port = (Cluster::node_address(Family::V4), node_port(1)).into();
    let (v6, (v4, ())) = Traffic::during(client, (cluster_ip(Family::V6, 1), 80).into(), || {
        Traffic::during(client, node_port, || {
            for round in 0..3 {
                world.proxy.run(&Settings::default()).unwrap();
                check(&world);
                let ours = list();
                assert!(!ours.contains("default/web/tcp"), "round {round}: of kube-proxy's is left:\n{ours}");

                world.proxy.stop(Signal::SIGKILL).unwrap();
                restore();
                check(&world);
                assert!(!list().contains("lb-3"), "round {round}: of ours is left");
            }
        })
    });
    for traffic in [v4, v6] {
        assert!(traffic.count() > 100);
        assert_eq!(traffic.failures(), None, "of {} connections\n{}", traffic.count(), world.proxy.log_tail());
    }
    all_alive(&mut running, "after changing hands several times");
}

/// Whoever changes the image back without our `--cleanup` in between has kube-proxy write into our table.
#[test]
fn kube_proxy_finds_nothing_in_its_way() {
    let mut world = World::prepare();
    let web = everything("web", 1);
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l"), (2, "l")]);
    world.proxy.manifests().put("web.yaml", &[&web, &v4, &v6]).unwrap();
    world.proxy.run(&Settings::default()).unwrap();
    world.proxy.stop(Signal::SIGKILL).unwrap();
    let theirs = tempfile::NamedTempFile::new().unwrap();
    fs::write(theirs.path(), kube_proxys_over_what_there_is(&world)).unwrap();
    let cluster = world.cluster.clone();
    let to = (cluster_ip(Family::V4, 1), 80).into();
    let (traffic, ()) = Traffic::during(&cluster.client, to, || {
        cluster.node.sh(&format!("nft -f {}", theirs.path().display())).unwrap();
        world.check_from_outside(&["web-0:8080", "web-1:8080", "web-2:8080"]);
    });
    assert_eq!(traffic.failures(), None, "of {} connections", traffic.count());
}

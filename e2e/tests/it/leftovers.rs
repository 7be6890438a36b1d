//! From kube-proxy's iptables mode to us, with traffic running.

use std::fmt::Write as _;
use std::fs;

use e2e::{Settings, Traffic};
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Cluster;

use crate::changes::all_alive;
use crate::world::{HTTP, World, cluster_ip, everything, external_ip, node_port, vip};

/// What kube-proxy's iptables mode makes of the Service `web` (contract §3.3), with rules of the kubelet's and of a
/// CNI plugin's.
fn kube_proxys(world: &World, family: Family) -> String {
    let pods = if family == Family::V4 { Cluster::POD_CIDR_V4 } else { Cluster::POD_CIDR_V6 };
    let (cluster_ip, external_ip, vip) = (cluster_ip(family, 1), external_ip(family, 1), vip(family, 1));
    let node_port = node_port(1);
    let mut endpoints = String::new();
    for (left, web) in [3, 2, 1].into_iter().zip(&world.web) {
        let endpoint = std::net::SocketAddr::new(web.pod().address(family), 8080);
        writeln!(endpoints, ":KUBE-SEP-{left} -\n-A KUBE-SEP-{left} -p tcp -m tcp -j DNAT --to-destination {endpoint}")
            .unwrap();
        let probability = 1.0 / f64::from(left);
        let random = format!("-m statistic --mode random --probability {probability:.10}");
        writeln!(endpoints, "-A KUBE-SVC-WEB {} -j KUBE-SEP-{left}", if left > 1 { &random } else { "" }).unwrap();
    }
    format!(
        "*nat
:KUBE-SERVICES -
:KUBE-NODEPORTS -
:KUBE-POSTROUTING -
:KUBE-MARK-MASQ -
:KUBE-SVC-WEB -
:KUBE-EXT-WEB -
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d {cluster_ip} -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -d {external_ip} -p tcp -m tcp --dport 80 -j KUBE-EXT-WEB
-A KUBE-SERVICES -d {vip} -p tcp -m tcp --dport 80 -j KUBE-EXT-WEB
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport {node_port} -j KUBE-EXT-WEB
-A KUBE-EXT-WEB -j KUBE-MARK-MASQ
-A KUBE-EXT-WEB -j KUBE-SVC-WEB
-A KUBE-SVC-WEB ! -s {pods} -d {cluster_ip} -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
{endpoints}-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A POSTROUTING -o cni1 -j MASQUERADE
COMMIT
*filter
:KUBE-FIREWALL -
:KUBE-FORWARD -
-A INPUT -j KUBE-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
"
    )
}

#[test]
fn from_kube_proxys_iptables_mode_without_a_lost_connection() {
    let mut world = World::prepare();
    let web = everything("web", 1);
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "l"), (2, "l")]);
    world.proxy.manifests().put("web.yaml", &[&web, &v4, &v6]).unwrap();
    let cluster = world.cluster.clone();
    for (family, program) in [(Family::V4, "iptables-nft-restore"), (Family::V6, "ip6tables-nft-restore")] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), kube_proxys(&world, family)).unwrap();
        cluster.node.sh(&format!("{program} {}", file.path().display())).unwrap();
    }
    let check = |world: &World| world.check_from_outside(&["web-0:8080", "web-1:8080", "web-2:8080"]);
    check(&world);

    let mut running: Vec<_> =
        Family::ALL.into_iter().flat_map(|family| world.streams(family, &["web-0:8080"])).collect();
    let node_port = (Cluster::node_address(Family::V4), node_port(1)).into();
    // Those of kube-proxy are chains; of the kubelet's, the chain and the rule that leads to it.
    let left = || cluster.node.sh("iptables-nft-save; ip6tables-nft-save").unwrap().matches("KUBE-").count();
    let (v6, (v4, ())) = Traffic::during(&cluster.client, (cluster_ip(Family::V6, 1), 80).into(), || {
        Traffic::during(&cluster.client, node_port, || {
            world.proxy.run(&Settings::default()).unwrap();
            world.proxy.wait("nothing of kube-proxy's in the tables", |_| Ok(left() == 4)).unwrap();
            check(&world);
        })
    });
    for traffic in [v4, v6] {
        assert!(traffic.count() > 10);
        assert_eq!(traffic.failures(), None, "of {} connections\n{}", traffic.count(), world.proxy.log_tail());
    }
    all_alive(&mut running, "after its rules were removed");

    world.proxy.stop(Signal::SIGTERM).unwrap();
    let log = world.proxy.clean_up().unwrap();
    assert!(!cluster.node.sh("nft list tables").unwrap().contains("kube-proxy"), "{log}");
    // The other rule has the kernel track and translate connections still.
    all_alive(&mut running, "after ours were");
}

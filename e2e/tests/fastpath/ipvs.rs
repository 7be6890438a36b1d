//! From kube-proxy's ipvs mode to us, and `--cleanup`. It is here because it takes a kernel with IPVS and dummy links.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use e2e::Settings;
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Cluster;
use testing::traffic::ask_tcp;

use crate::world::{HTTP, World, cluster_ip, everything, node_port};

/// Another program's virtual servers, at a port of the node's, at the NodePort with another protocol, and by a mark; and what else
/// begins like kube-proxy's.
const OTHERS: &str = "
ipvsadm -R <<END
-A -t 192.0.2.10:6443 -s rr
-a -t 192.0.2.10:6443 -r 10.1.0.2:8080 -m
-A -u 192.0.2.10:30001 -s rr
-A -f 7 -s rr
END
ip link add kube-ipvs1 type dummy
ipset create others hash:ip
iptables-nft -t nat -N KUBE-KUBELET-CANARY
iptables-nft -t nat -A PREROUTING -i lo -j ACCEPT
ip6tables-nft -t nat -A PREROUTING -i lo -j ACCEPT";

/// Makes what kube-proxy's ipvs mode makes of the Service `web` with one endpoint (contract §3.3).
fn make_kube_proxys(world: &World) {
    let mut script = "ip link add kube-ipvs0 type dummy\n".to_owned();
    for family in Family::ALL {
        let (name, iptables, kind) = match family {
            Family::V4 => ("KUBE", "iptables-nft", "inet"),
            Family::V6 => ("KUBE-6", "ip6tables-nft", "inet6"),
        };
        let (service, node_port) = (cluster_ip(family, 1), node_port(1));
        let endpoint = SocketAddr::new(world.web[0].pod().address(family), 8080);
        let servers = frontends(family).map(|at| format!("-A -t {at} -s rr\n-a -t {at} -r {endpoint} -m\n")).concat();
        writeln!(
            script,
            "ip address add {service} dev kube-ipvs0
ipvsadm -R <<END
{servers}END
ipset restore <<END
create {name}-CLUSTER-IP hash:ip,port family {kind}
add {name}-CLUSTER-IP {service},tcp:80
create {name}-NODE-PORT-TCP bitmap:port range 0-65535
add {name}-NODE-PORT-TCP {node_port}
END
{iptables}-restore --noflush <<END
*nat
:KUBE-SERVICES -
:KUBE-MARK-MASQ -
:KUBE-NODE-PORT -
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -m set --match-set {name}-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-NODE-PORT -p tcp -m set --match-set {name}-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
COMMIT
END"
        )
        .unwrap();
    }
    world.cluster.node.sh(&script).unwrap();
}

fn frontends(family: Family) -> [SocketAddr; 2] {
    let at = |address: IpAddr, port| SocketAddr::new(address, port);
    [at(cluster_ip(family, 1), 80), at(Cluster::node_address(family), node_port(1))]
}

/// All that the tools list of what this mode makes and of others.
fn state(world: &World) -> String {
    let list = "ipvsadm-save -n | sort; ipset save | sort; ip -brief link | cut -d' ' -f1; iptables-nft-save; ip6tables-nft-save";
    let listed = world.cluster.node.sh(list).unwrap();
    // But for the time, and packets counted.
    let lines = listed.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(" [").next());
    lines.map(|line| format!("{line}\n")).collect()
}

fn check(world: &World) {
    for to in Family::ALL.into_iter().flat_map(frontends) {
        let reply = ask_tcp(&world.cluster.client, None, to).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(reply.endpoint, "web-0:8080", "{to}");
    }
}

fn modules() -> Vec<String> {
    let modules = fs::read_to_string("/proc/modules").unwrap();
    let ours = |name: &&str| name.starts_with("ip_vs") || name.starts_with("ip_set") || name.starts_with("ip_tables");
    modules.lines().filter_map(|line| line.split(' ').next()).filter(ours).map(str::to_owned).collect()
}

#[test]
fn kube_proxys_ipvs_mode_is_taken_over_and_cleaned_up() {
    let mut world = World::prepare();
    assert_eq!(modules(), [""; 0], "this kernel has loaded them before");
    // The one sign that there may be more to look for.
    world.cluster.node.sh("ip link add kube-ipvs0 type dummy").unwrap();
    assert!(world.proxy.clean_up().unwrap().contains("deleted the link"));
    assert_eq!(modules(), [""; 0], "and does not because of us");

    let web = everything("web", 1);
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l")]);
    world.proxy.manifests().put("web.yaml", &[&web, &v4, &v6]).unwrap();
    let cluster = world.cluster.clone();
    cluster.node.sh(OTHERS).unwrap();
    let others = state(&world);
    make_kube_proxys(&world);
    assert_ne!(state(&world), others);
    check(&world);

    world.proxy.run(&Settings::default()).unwrap();
    let node = &cluster.node;
    world.proxy.wait("no ipset of kube-proxy's", |_| Ok(!node.sh("ipset list -n")?.contains("KUBE"))).unwrap();
    assert_eq!(state(&world), others, "{}", world.proxy.log_tail());
    check(&world);

    world.proxy.stop(Signal::SIGTERM).unwrap();
    make_kube_proxys(&world);
    let log = world.proxy.clean_up().unwrap();
    assert_eq!(state(&world), others, "{log}");
    // Those by a mark are not looked at.
    assert!(log.contains("deleted=4 left=2"), "{log}");
    assert_eq!(node.sh("nft list tables").unwrap().matches("kube-proxy").count(), 0, "{log}");
}

//! `--cleanup`: leftovers of every mode of kube-proxy, made by the programs that kube-proxy runs, next to what is not its own
//! (contract §1.5, §3.3). What takes kernels with IPVS is in `e2e/tests/fastpath`.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use testing::netns::Namespace;

use crate::process::Proxy;

/// Rules and ipsets of the kubelet, of a CNI plugin and of an administrator.
const OTHERS: &str = "
*mangle
:KUBE-KUBELET-CANARY -
:KUBE-IPTABLES-HINT -
COMMIT
*nat
:PREROUTING ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:KUBE-KUBELET-CANARY -
:CNI-HOSTPORT-DNAT -
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
COMMIT
*filter
:KUBE-FIREWALL -
:KUBE-KUBELET-CANARY -
:KUBE-SVCS-OF-MINE -
-A INPUT -j KUBE-FIREWALL
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -g KUBE-SVCS-OF-MINE
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m comment --comment KUBE-SERVICES -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-SVCS-OF-MINE -m conntrack --ctstate INVALID -j DROP
COMMIT
";

/// What kube-proxy's modes add to that, for one Service of the family (contract §3.3).
fn leftovers(service: &str, endpoint: &str) -> String {
    format!(
        "*mangle
:KUBE-PROXY-CANARY -
COMMIT
*nat
:KUBE-SERVICES -
:KUBE-NODEPORTS -
:KUBE-POSTROUTING -
:KUBE-MARK-MASQ -
:KUBE-PROXY-CANARY -
:KUBE-SVC-ERIFXISQEP7F7OF4 -
:KUBE-SVL-ERIFXISQEP7F7OF4 -
:KUBE-EXT-ERIFXISQEP7F7OF4 -
:KUBE-FW-ERIFXISQEP7F7OF4 -
:KUBE-SEP-C6EBXVWJJZMIWKLZ -
:KUBE-LOAD-BALANCER -
:KUBE-NODE-PORT -
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d {service} -p tcp -m comment --comment \"a/b cluster IP\" -m tcp --dport 80 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-ERIFXISQEP7F7OF4
-A KUBE-EXT-ERIFXISQEP7F7OF4 -j KUBE-MARK-MASQ
-A KUBE-EXT-ERIFXISQEP7F7OF4 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-FW-ERIFXISQEP7F7OF4 -j KUBE-EXT-ERIFXISQEP7F7OF4
-A KUBE-SVL-ERIFXISQEP7F7OF4 -j KUBE-SEP-C6EBXVWJJZMIWKLZ
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m statistic --mode random --probability 0.5 -j KUBE-SEP-C6EBXVWJJZMIWKLZ
-A KUBE-SEP-C6EBXVWJJZMIWKLZ -p tcp -m tcp -j DNAT --to-destination {endpoint}
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-SERVICES -
:KUBE-EXTERNAL-SERVICES -
:KUBE-FORWARD -
:KUBE-NODEPORTS -
:KUBE-PROXY-FIREWALL -
:KUBE-PROXY-CANARY -
:KUBE-NODE-PORT -
:KUBE-SOURCE-RANGES-FIREWALL -
:KUBE-IPVS-FILTER -
:KUBE-IPVS-OUT-FILTER -
-I INPUT 2 -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-IPVS-FILTER
-I FORWARD 1 -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
"
    )
}

/// A node with what is others', and what the tools say of it.
fn node() -> (Namespace, String) {
    let node = Namespace::new("node").unwrap();
    restore(&node, "iptables-nft", OTHERS);
    restore(&node, "ip6tables-nft", OTHERS);
    node.sh("ipset create KUBE-OTHER hash:ip; ipset create allowed hash:ip; ipset add allowed 192.0.2.1").unwrap();
    node.sh("nft 'table inet kube-proxy { chain c { type filter hook input priority 0; accept; }; }'").unwrap();
    let state = state(&node);
    (node, state)
}

fn restore(node: &Namespace, program: &str, rules: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    node.sh(&format!("{program}-restore --noflush {}", file.path().display())).unwrap();
}

/// Everything, as the tools that make it list it.
fn state(node: &Namespace) -> String {
    let list = "iptables-nft-save; ip6tables-nft-save; iptables-legacy-save; ip6tables-legacy-save; ipset save -sorted; nft list ruleset";
    let listed = node.sh(&format!("({list}) 2>&1")).unwrap();
    let is_same_each_time = |line: &&str| !line.starts_with('#');
    // Chains are listed in the order in which they were made.
    let mut lines: Vec<_> =
        listed.lines().filter(is_same_each_time).map(|line| line.split(" [").next().unwrap()).collect();
    lines.dedup();
    lines.join("\n")
}

/// Compares the state with an earlier one.
fn assert_is(node: &Namespace, expected: &str) {
    let found = state(node);
    let lines = |of: &str, not_in: &str| -> Vec<_> {
        of.lines().filter(|line| !not_in.contains(line)).map(str::to_owned).collect()
    };
    assert!(found == expected, "left: {:#?}, gone: {:#?}", lines(&found, expected), lines(expected, &found));
}

/// Runs `--cleanup` to its end, which is a good one, and returns the log.
fn cleanup(node: &Namespace) -> String {
    let (status, log) = Proxy::start(node, &["--cleanup"]).wait_for_end();
    assert!(status.success(), "{status}:\n{log}");
    log
}

#[test]
fn leftovers_of_each_mode_go_and_what_is_of_others_stays() {
    let (node, others) = node();
    restore(&node, "iptables-nft", &leftovers("10.96.0.1/32", "10.1.0.2:8080"));
    restore(&node, "ip6tables-nft", &leftovers("fd00::1/128", "[fd01::2]:8080"));
    node.sh(
        "ipset create KUBE-CLUSTER-IP hash:ip,port; ipset add KUBE-CLUSTER-IP 10.96.0.1,tcp:80
         ipset create KUBE-6-LOAD-BALANCER-SOURCE-CID hash:ip,port,net family inet6
         ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
         iptables-nft -t nat -I KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
         nft add table ip kube-proxy
         nft 'table ip6 kube-proxy { chain services { accept; }; chain c { type nat hook output priority 0; jump services; }; }'",
    )
    .unwrap();
    assert_ne!(state(&node), others);

    let log = cleanup(&node);
    assert_is(&node, &others);
    for told in ["chains=12 rules=3", "chains=10 rules=4", "chains=1 rules=0", "destroyed=3", "deleted the table"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    let log = cleanup(&node);
    assert_is(&node, &others);
    let did_something = ["removed what", "deleted", "destroyed", "\nE"].iter().any(|told| log.contains(told));
    assert!(!did_something, "a second time, there is nothing to do: {log}");
}

/// As the hostPort plugin of CNI does where it is told to have `KUBE-MARK-MASQ` mark its connections, and administrators with chains of
/// their own, one of which has a name that is kube-proxy's in another table.
#[test]
fn rules_of_others_that_lead_to_chains_of_kube_proxy_keep_them() {
    let (node, others) = node();
    let theirs = |service: &str| {
        format!(
            "*nat
:KUBE-MARK-MASQ -
:KUBE-SVC-ERIFXISQEP7F7OF4 -
:KUBE-SEP-C6EBXVWJJZMIWKLZ -
:CNI-HOSTPORT-SETMARK -
:MINE -
-A PREROUTING -j MINE
-A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A MINE -p tcp -m tcp --dport 8000 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SVC-ERIFXISQEP7F7OF4 ! -s 10.1.0.0/16 -d {service} -j KUBE-MARK-MASQ
-A KUBE-SVC-ERIFXISQEP7F7OF4 -j KUBE-SEP-C6EBXVWJJZMIWKLZ
-A KUBE-SEP-C6EBXVWJJZMIWKLZ -p tcp -m tcp -j DNAT --to-destination 10.1.0.2:8080
COMMIT
*filter
:KUBE-FW-ABC -
-A INPUT -g KUBE-FW-ABC
-A KUBE-FW-ABC -p tcp -m tcp --dport 23 -j DROP
COMMIT
"
        )
    };
    restore(&node, "iptables-nft", &theirs("10.96.0.1/32"));
    let with_theirs = state(&node);
    assert_ne!(with_theirs, others);
    // Another Service, and kube-proxy's own way to what stays.
    let rest = "*nat
:KUBE-SERVICES -
:KUBE-SVC-GONE -
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SERVICES -d 10.96.0.2/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-GONE
-A KUBE-SVC-GONE -j KUBE-MARK-MASQ
-A KUBE-SVC-GONE -j KUBE-SEP-C6EBXVWJJZMIWKLZ
COMMIT
";
    restore(&node, "iptables-nft", rest);

    let log = cleanup(&node);
    assert_is(&node, &with_theirs);
    let told = "lead from CNI-HOSTPORT-SETMARK to KUBE-MARK-MASQ, MINE to KUBE-SVC-ERIFXISQEP7F7OF4";
    assert!(log.contains("chains=2 rules=2") && log.contains("chains=3"), "{log}");
    assert_eq!(log.matches(told).count(), 1, "{log}");
    assert!(!cleanup(&node).contains("removed what"));
    assert_is(&node, &with_theirs);
}

/// Who goes back to kube-proxy's iptables mode may have changed the configuration first.
#[test]
fn the_configuration_may_be_that_of_another_mode() {
    let (node, others) = node();
    let config = tempfile::NamedTempFile::new().unwrap();
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n";
    fs::write(config.path(), text).unwrap();
    let config = format!("--config={}", config.path().display());
    let (status, log) = Proxy::start(&node, &["--cleanup", &config]).wait_for_end();
    assert!(status.success() && !log.lines().any(|line| line.starts_with('W')), "{log}");
    assert_is(&node, &others);
}

#[test]
fn iptables_legacy_is_left_alone_and_told_of() {
    let (node, _) = node();
    // Those of the kubelet are no reason to say anything.
    node.sh("iptables-legacy -N KUBE-FIREWALL; ip6tables-legacy -t mangle -N KUBE-KUBELET-CANARY").unwrap();
    let before = state(&node);
    assert!(!cleanup(&node).contains("legacy"));
    assert_is(&node, &before);

    node.sh("iptables-legacy -t nat -N KUBE-SVC-ERIFXISQEP7F7OF4; iptables-legacy -t nat -N KUBE-SERVICES").unwrap();
    node.sh("ip6tables-legacy -t nat -N KUBE-SERVICES; ip6tables-legacy -t nat -A OUTPUT -j KUBE-SERVICES").unwrap();
    let before = state(&node);
    let log = cleanup(&node);
    assert_is(&node, &before);
    for told in ["left in iptables-legacy", "reboot the node", r#"family="ip" chains=2"#, r#"family="ip6" chains=1"#] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

#[test]
fn an_ipset_that_others_use_stays() {
    let (node, _) = node();
    node.sh("ipset create KUBE-CLUSTER-IP hash:ip,port; iptables-nft -A INPUT -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT")
        .unwrap();
    let before = state(&node);
    node.sh("ipset create KUBE-LOOP-BACK hash:ip,port,ip").unwrap();
    let log = cleanup(&node);
    assert!(log.contains("use them: KUBE-CLUSTER-IP") && log.contains("destroyed=1"), "{log}");
    assert_is(&node, &before);
}

/// A map of another program's holds one of the chains in its place, which no rule shows.
#[test]
fn what_cannot_be_removed_is_an_error_and_all_else_goes() {
    let (node, others) = node();
    restore(&node, "iptables-nft", "*nat\n:KUBE-SERVICES -\nCOMMIT\n*filter\n:KUBE-FORWARD -\nCOMMIT\n");
    node.sh("nft 'add map ip nat verdicts { type mark : verdict; elements = { 1 : jump KUBE-SERVICES }; }'").unwrap();
    let (status, log) = Proxy::start(&node, &["--cleanup"]).wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("chains in the table ip nat stay: the kernel refused delete chain ip nat KUBE-SERVICES"),
        "{log}"
    );
    assert!(log.contains(r#""command failed" err="encountered an error while tearing down rules"#), "{log}");
    assert!(!state(&node).contains("KUBE-FORWARD"));
    node.sh("nft delete map ip nat verdicts").unwrap();
    cleanup(&node);
    assert_is(&node, &others);
}

#[test]
fn without_permission_it_says_which() {
    let node = Namespace::new("node").unwrap();
    let (status, log) = Proxy::start_without(&node, "net_admin", &["--cleanup"]).wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("NET_ADMIN") && log.contains("encountered an error while tearing down rules"), "{log}");
}

/// As of a large cluster: each Service has a chain, and each endpoint.
#[test]
fn there_may_be_many_chains() {
    const SERVICES: usize = 1000;
    let (node, others) = node();
    let (mut chains, mut rules) = (String::new(), String::new());
    for service in 0..SERVICES {
        writeln!(chains, ":KUBE-SVC-{service} -").unwrap();
        writeln!(rules, "-A KUBE-SERVICES -p tcp -m tcp --dport {} -j KUBE-SVC-{service}", 1000 + service).unwrap();
        for endpoint in 0..4 {
            writeln!(chains, ":KUBE-SEP-{service}-{endpoint} -").unwrap();
            writeln!(rules, "-A KUBE-SVC-{service} -j KUBE-SEP-{service}-{endpoint}").unwrap();
        }
    }
    restore(
        &node,
        "iptables-nft",
        &format!("*nat\n:KUBE-SERVICES -\n{chains}-A OUTPUT -j KUBE-SERVICES\n{rules}COMMIT\n"),
    );
    let log = cleanup(&node);
    assert!(log.contains("chains=5001 rules=1"), "{log}");
    assert_is(&node, &others);
}

/// Another program owns our IPv6 table, which nobody else can write then.
#[test]
fn a_family_that_cannot_be_written_keeps_no_chains_of_the_other() {
    let node = Namespace::new("node").unwrap();
    for program in ["iptables-nft", "ip6tables-nft"] {
        restore(&node, program, "*nat\n:KUBE-SERVICES -\n-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n");
    }
    let mut owner = node.command("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut commands = owner.stdin.take().unwrap();
    writeln!(commands, "table ip6 kube-proxy {{ flags owner; }}").unwrap();
    let manifests = tempfile::tempdir().unwrap();
    let arguments = ["--manifest-dir", manifests.path().to_str().unwrap()];
    let is_left = |program: &str| node.sh(&format!("{program}-save")).unwrap().contains("KUBE-SERVICES");
    let is_owned = || node.sh("nft list ruleset").unwrap().contains("flags owner");
    while !is_owned() {
        assert_eq!(
            owner.try_wait().unwrap(),
            None,
            "nft -i has ended and owns no table: it must have read the command"
        );
    }

    let proxy = Proxy::start(&node, &arguments);
    proxy.wait("the IPv4 chains to go", || !is_left("iptables-nft"));
    assert!(is_owned() && is_left("ip6tables-nft"), "what serves IPv6 stays");
    // With its owner's end, the table is gone.
    drop(commands);
    assert!(owner.wait().unwrap().success());
    proxy.wait("the IPv6 chains to go", || !is_left("ip6tables-nft"));
}

//! `--init-only`, and the sysctls that it and every other start sets (contract §1.6, §3.6).

use tempfile::TempDir;
use testing::netns::Namespace;

use crate::process::Proxy;
use crate::refusals::config;

const SETTINGS: &str =
    "conntrack: {maxPerCore: 1000000, tcpEstablishedTimeout: 2h, tcpCloseWaitTimeout: 0s, udpTimeout: 77s}";

/// A node, the argument for a configuration with these settings, and the directory that it is in.
fn node() -> (Namespace, String, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let argument = config(directory.path(), SETTINGS);
    (Namespace::new("node").unwrap(), argument, directory)
}

/// Timeouts of TCP (established, close wait) and UDP in seconds, and whether TCP is liberal.
fn timeouts(node: &Namespace) -> Vec<String> {
    let names = "tcp_timeout_established tcp_timeout_close_wait udp_timeout tcp_be_liberal";
    let read = format!("for name in {names}; do cat /proc/sys/net/netfilter/nf_conntrack_$name; done");
    node.sh(&read).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn it_sets_sysctls_and_leaves_rules_alone() {
    let (node, config, _directory) = node();
    // What still serves, from a mode that is about to be left.
    node.sh("iptables-nft -t nat -N KUBE-SERVICES; iptables-nft -t nat -A OUTPUT -j KUBE-SERVICES").unwrap();
    let rules = || node.sh("nft list ruleset").unwrap();
    let (before, kernels) = (rules(), timeouts(&node));
    let (status, log) = Proxy::start(&node, &["--init-only", &config]).wait_for_end();
    assert!(status.success(), "{log}");
    assert_eq!(timeouts(&node), ["7200", &kernels[1], "77", "0"]);
    assert_eq!(rules(), before);
    assert_eq!(log.matches("System initialized and --init-only specified").count(), 2, "for each family: {log}");
    for told in [r#""Setting nf_conntrack_max" maxvalue=1048576"#, "Set sysctl", "nf_conntrack_udp_timeout\" value=77"]
    {
        assert!(log.contains(told), "{told}: {log}");
    }
}

/// The kernel takes no more than 1,024 chains at a hook (`MAX_HOOK_COUNT`, net/netfilter/core.c): the table would be refused, and an
/// empty one would not.
#[test]
fn a_kernel_that_would_not_take_the_table_is_told_of() {
    let (node, config, _directory) = node();
    let chains = (0..1024).map(|number| format!("chain c{number} {{ type nat hook postrouting priority 0; }}\n"));
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), format!("table ip many {{\n{} }}", chains.collect::<String>())).unwrap();
    node.sh(&format!("nft -f {}", rules.path().display())).unwrap();
    let (status, log) = Proxy::start(&node, &["--init-only", &config]).wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    for told in ["cannot be used for IPv4", "kube-proxy-probe nat-postrouting"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    assert_eq!(node.sh("nft list tables").unwrap().trim(), "table ip many");
}

/// The limit on entries belongs to the machine, and may be changed from its own network namespace only.
#[test]
fn what_cannot_be_set_is_told_of_with_advice() {
    let (node, config, _directory) = node();
    let (status, log) = Proxy::start(&node, &["--init-only", &config]).wait_for_end();
    assert!(status.success(), "{log}");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("cannot be set to")).collect();
    assert_eq!(warnings.len(), 1, "one for what belongs together: {log}");
    for told in ["/proc/sys/net/netfilter/nf_conntrack_max is ", "conntrack.maxPerCore to 0", "--init-only"] {
        assert!(warnings[0].contains(told), "{told}: {log}");
    }
}

#[test]
fn a_contained_proxy_serves_without_and_is_content_after_one_that_initialized() {
    let (node, config, directory) = node();
    let manifests = directory.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let arguments = [config.as_str(), "--manifest-dir", manifests.to_str().unwrap()];
    let kernels = timeouts(&node);

    let proxy = Proxy::start_contained(&node, &arguments);
    proxy.wait_for_rule("chain services");
    assert_eq!(timeouts(&node), kernels);
    for told in ["conntrack.tcpEstablishedTimeout to 0s", "conntrack.udpTimeout to 0s"] {
        assert!(proxy.log().contains(told), "{told}: {}", proxy.log());
    }
    drop(proxy);

    let (status, log) = Proxy::start(&node, &["--init-only", &config]).wait_for_end();
    assert!(status.success(), "{log}");
    let proxy = Proxy::start_contained(&node, &arguments);
    proxy.wait_for_log("all rules are in place");
    let log = proxy.log();
    assert!(log.contains("Setting nf_conntrack_max") && !log.contains("Timeout to 0s"), "{log}");
}

#[test]
fn every_start_sets_them() {
    let (node, config, directory) = node();
    let proxy = Proxy::start(&node, &[&config, "--manifest-dir", directory.path().to_str().unwrap()]);
    proxy.wait("the timeout of established connections", || timeouts(&node)[0] == "7200");
}

#[test]
fn without_permission_it_says_which() {
    let node = Namespace::new("node").unwrap();
    let (status, log) = Proxy::start_without(&node, "net_admin", &["--init-only"]).wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("NET_ADMIN"), "{log}");
}

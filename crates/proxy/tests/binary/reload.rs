//! Changes of the configuration file while the proxy runs (contract §1.9).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use testing::http;
use testing::netns::Namespace;
use testing::objects::{service, slice};

use crate::process::{HEALTH_PORT, METRICS_PORT, Proxy, write};

/// A node with a manifest directory and a configuration.
struct Node {
    namespace: Namespace,
    files: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { namespace: Namespace::new("node").unwrap(), files: tempfile::tempdir().unwrap() };
        fs::create_dir(node.path("manifests")).unwrap();
        node.put("web", "10.96.0.10");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn put(&self, name: &str, cluster_ip: &str) {
        let service = service("shop", name).cluster_ip(cluster_ip).port("http", "TCP", 80);
        let slice = slice("shop", name, name).port("http", "TCP", 8080).endpoint("10.1.0.2");
        write(&self.path("manifests"), &format!("{name}.yaml"), &[service.into(), slice.into()]);
    }

    fn start(&self, config: &Path) -> Proxy<'_> {
        let (config, manifests) = (config.display(), self.path("manifests"));
        let directory = format!("--manifest-dir={}", manifests.display());
        let proxy = Proxy::start(&self.namespace, &[&format!("--config={config}"), &directory]);
        proxy.wait_for_rule("10.96.0.10");
        proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
        proxy
    }
}

fn configuration(fields: &str) -> String {
    format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n{fields}\n")
}

const IN_FORCE: &str = "the configuration was changed, and is in force";

/// Shown by the verbosity, which one line of the log tells.
#[test]
fn every_way_to_change_the_file_is_noticed() {
    let node = Node::new();
    let (quiet, loud) = (configuration(""), configuration("logging: {verbosity: 4}"));
    let config = node.path("config.conf");
    fs::write(&config, &quiet).unwrap();
    let proxy = node.start(&config);

    let mut changes = 0;
    let mut expect = |text: &str, name: &str| {
        changes += 1;
        proxy.wait("the change to be in force", || proxy.log().matches(IN_FORCE).count() == changes);
        let before = proxy.debug_lines();
        node.put(name, &format!("10.96.0.{}", 20 + changes));
        proxy.wait_for_rule(&format!("10.96.0.{}", 20 + changes));
        if text == loud {
            proxy.wait("details in the log", || proxy.debug_lines() > before);
        } else {
            assert_eq!(proxy.debug_lines(), before, "{}", proxy.log());
        }
    };
    fs::write(&config, &loud).unwrap();
    expect(&loud, "written");
    fs::write(node.path("new"), &quiet).unwrap();
    fs::rename(node.path("new"), &config).unwrap();
    expect(&quiet, "renamed");

    // What has nothing to say is no change.
    fs::write(&config, format!("# Quiet.\n{quiet}")).unwrap();
    fs::remove_file(&config).unwrap();
    proxy.wait_for_log("cannot be used; what was read before stays in force");
    fs::write(&config, &loud).unwrap();
    expect(&loud, "removed-and-back");
}

/// As the kubelet does it: the file is a link into `..data`, which is a link to a directory with a date.
#[test]
fn the_swap_of_a_config_map_is_noticed() {
    let node = Node::new();
    let volume = node.path("volume");
    let generation = |name: &str, fields: &str| {
        fs::create_dir_all(volume.join(name)).unwrap();
        fs::write(volume.join(name).join("config.conf"), configuration(fields)).unwrap();
        symlink(name, volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    generation("..2026_01", "");
    symlink("..data/config.conf", volume.join("config.conf")).unwrap();
    let proxy = node.start(&volume.join("config.conf"));
    generation("..2026_02", "nftables: {syncPeriod: 1m}");
    proxy.wait_for_log(IN_FORCE);
    generation("..2026_03", "nftables: {syncPeriod: 2m}");
    proxy.wait("the next one", || proxy.log().matches(IN_FORCE).count() == 2);
    let shown = || proxy.get(METRICS_PORT, "/configz").unwrap().1;
    proxy.wait("it to be shown", || shown().contains(r#""syncPeriod":"2m0s""#));
}

#[test]
fn what_makes_no_sense_is_refused_and_the_rules_go_on_following() {
    let node = Node::new();
    let config = node.path("config.conf");
    fs::write(&config, configuration("")).unwrap();
    let proxy = node.start(&config);
    fs::write(&config, configuration("bindAddress: nowhere\nclusterCIDR: everywhere")).unwrap();
    proxy.wait_for_log("what was read before stays in force");
    for field in ["KubeProxyConfiguration.BindAddress", "DetectLocalConfiguration.ClusterCIDRs"] {
        assert!(proxy.log().contains(field), "{}", proxy.log());
    }
    node.put("late", "10.96.0.20");
    proxy.wait_for_rule("10.96.0.20");
    fs::write(&config, configuration("nftables: {minSyncPeriod: 2s}")).unwrap();
    proxy.wait_for_log(IN_FORCE);
}

#[test]
fn what_takes_a_restart_ends_the_process_and_leaves_the_rules() {
    let node = Node::new();
    let config = node.path("config.conf");
    fs::write(&config, configuration("")).unwrap();
    let proxy = node.start(&config);
    fs::write(&config, configuration("nodePortAddresses: [0.0.0.0/0]")).unwrap();
    let (status, log) = proxy.wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("content of the proxy server's configuration file was updated"), "{log}");
    let proxy = node.start(&config);
    assert!(!proxy.log().contains(IN_FORCE));
}

#[test]
fn a_change_is_warned_of_as_the_first_file_is() {
    let node = Node::new();
    let config = node.path("config.conf");
    fs::write(&config, configuration("")).unwrap();
    let proxy = node.start(&config);
    fs::write(&config, configuration("nftables: {fastPathScope: All}")).unwrap();
    proxy.wait_for_log("unknown field nftables.fastPathScope");
}

#[test]
fn a_verbosity_that_was_set_by_hand_outlives_other_changes() {
    let node = Node::new();
    let config = node.path("config.conf");
    fs::write(&config, configuration("enableProfiling: true")).unwrap();
    let proxy = node.start(&config);
    let set = http::request(&node.namespace, METRICS_PORT, "PUT /debug/flags/v", &[], "4").unwrap();
    assert_eq!(set.status, 200, "{set:?}");
    fs::write(&config, configuration("enableProfiling: true\nnftables: {syncPeriod: 1m}")).unwrap();
    proxy.wait_for_log(IN_FORCE);
    let before = proxy.debug_lines();
    node.put("late", "10.96.0.20");
    proxy.wait("something at debug level", || proxy.debug_lines() > before);
}

/// As on a network file system whose server has gone.
#[test]
fn a_file_that_cannot_be_read_to_its_end_holds_up_nothing_else() {
    let node = Node::new();
    let config = node.path("config.conf");
    fs::write(&config, configuration("")).unwrap();
    let proxy = node.start(&config);
    node.namespace
        .sh(&format!("mkfifo {0}/fifo && mv {0}/fifo {1}", node.files.path().display(), config.display()))
        .unwrap();
    node.put("late", "10.96.0.20");
    proxy.wait_for_rule("10.96.0.20");
    // Whoever opens it for writing waits for who reads it.
    let opened = std::thread::spawn(move || fs::File::options().write(true).open(config));
    proxy.wait("it to be read", || opened.is_finished());
    proxy.wait_for_status(HEALTH_PORT, "/livez", 200);
    proxy.signal("TERM");
    assert!(proxy.wait_for_end().0.success());
}

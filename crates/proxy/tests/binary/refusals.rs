//! What it cannot start with: a sentence that says why and what to do, and an exit code other than zero.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use testing::netns::Namespace;
use testing::objects::node;

use crate::process::{METRICS_PORT, Proxy, write};

/// Runs it, and checks that it fails with these words in the line that says so. Returns what it logged.
fn refused(proxy: Proxy<'_>, words: &[&str]) -> String {
    let (status, log) = proxy.wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    // A server of its may have more to say.
    let failed = log.lines().find(|line| line.contains("command failed")).unwrap_or_default();
    for word in words {
        assert!(failed.contains(word), "{word:?} in {failed:?}; log:\n{log}");
    }
    log
}

/// The argument for a configuration with this in it.
pub(crate) fn config(directory: &Path, text: &str) -> String {
    let file = directory.join("config.conf");
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n";
    fs::write(&file, format!("{head}{text}")).unwrap();
    format!("--config={}", file.display())
}

#[test]
fn without_permission_it_says_which() {
    let namespace = Namespace::new("node").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::start_without(&namespace, "net_admin", &["--manifest-dir", directory.path().to_str().unwrap()]);
    refused(proxy, &["command failed", "run as root", "NET_ADMIN"]);
}

#[test]
fn an_unusable_configuration_is_explained() {
    let namespace = Namespace::new("node").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let start = |argument: &str| Proxy::start(&namespace, &[argument]);
    refused(start("--config=/nowhere/config.conf"), &["/nowhere/config.conf", "No such file or directory", "--config"]);
    refused(start(&config(directory.path(), "bindAddress: [")), &["config.conf:", "correct it"]);
    refused(
        start(&config(directory.path(), "bindAddress: here\noomScoreAdj: 5000")),
        &["KubeProxyConfiguration.BindAddress", "OOMScoreAdj: Invalid value: 5000"],
    );
}

#[test]
fn a_source_that_cannot_be_is_explained() {
    let namespace = Namespace::new("node").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let start = |arguments: &[&str]| Proxy::start(&namespace, arguments);
    refused(start(&["--manifest-dir=/nowhere"]), &["manifest directory /nowhere cannot be read"]);
    refused(start(&["--kubeconfig=/nowhere"]), &["kubeconfig /nowhere", "No such file"]);
    let log = refused(start(&[]), &["no kubeconfig is given", "--manifest-dir"]);
    for told in
        ["\"Neither kubeconfig file nor master URL was specified", "\"Error running ProxyServer\" err=\"no kubeconfig"]
    {
        assert!(log.contains(told), "{told}: {log}");
    }
    write(directory.path(), "nodes.yaml", &[node("a", &[], &["192.0.2.1"]), node("b", &[], &["192.0.2.2"])]);
    refused(start(&["--manifest-dir", path, "--hostname-override=c"]), &["a, b", "--hostname-override"]);
}

#[test]
fn a_taken_port_is_fatal_only_if_it_is_to_be() {
    let namespace = Namespace::new("node").unwrap();
    let taken = namespace.run(|| TcpListener::bind(("127.0.0.1", METRICS_PORT))).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let manifests = tempfile::tempdir().unwrap();
    let manifests = manifests.path().to_str().unwrap();
    let hard = config(directory.path(), "bindAddressHardFail: true");
    refused(
        Proxy::start(&namespace, &[&hard, "--manifest-dir", manifests]),
        &["127.0.0.1:10249", "in use", "set metricsBindAddress"],
    );

    let proxy = Proxy::start(&namespace, &["--manifest-dir", manifests]);
    proxy.wait_for_log("the metrics server cannot listen on 127.0.0.1:10249, will try again in 5s");
    drop(taken);
    proxy.wait_for_status(METRICS_PORT, "/proxyMode", 200);
}

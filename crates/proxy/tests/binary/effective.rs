//! What is in force, as `--write-config-to` writes it: of flags, and of files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::command_line::run;

/// What the program would run on with these arguments.
fn effective(arguments: &[&str]) -> Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    let to = format!("--write-config-to={}", file.path().display());
    let output = run(&[arguments, &[&to]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", log(&output));
    assert!(log(&output).contains("Wrote configuration"), "{}", log(&output));
    serde_saphyr::from_str(&fs::read_to_string(file.path()).unwrap()).unwrap()
}

fn log(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a flag does to the configuration.
enum Does {
    /// It sets this field to this value, and with `--config` nothing.
    Sets(&'static str, Value),
    /// The same, also with `--config`.
    Wins(&'static str, Value),
    /// Nothing.
    Nothing,
}

use Does::{Nothing, Sets, Wins};

/// Every flag but those that quit, and those that say where the configuration and the objects come from.
fn flags() -> Vec<(&'static str, Does)> {
    vec![
        ("--bind-address=192.0.2.7", Sets("/bindAddress", json!("192.0.2.7"))),
        ("--bind-address=", Nothing),
        ("--bind-address-hard-fail", Sets("/bindAddressHardFail", json!(true))),
        ("--boot-id-file=/x", Nothing),
        ("--cluster-cidr=10.0.0.0/8,fd00::/8", Sets("/clusterCIDR", json!("10.0.0.0/8,fd00::/8"))),
        ("--config-sync-period=90s", Sets("/configSyncPeriod", json!("1m30s"))),
        ("--conntrack-max-per-core=1", Sets("/conntrack/maxPerCore", json!(1))),
        ("--conntrack-min=2", Sets("/conntrack/min", json!(2))),
        ("--conntrack-tcp-be-liberal", Sets("/conntrack/tcpBeLiberal", json!(true))),
        ("--conntrack-tcp-timeout-close-wait=3s", Sets("/conntrack/tcpCloseWaitTimeout", json!("3s"))),
        ("--conntrack-tcp-timeout-established=0", Sets("/conntrack/tcpEstablishedTimeout", json!("0s"))),
        ("--conntrack-udp-timeout=4s", Sets("/conntrack/udpTimeout", json!("4s"))),
        ("--conntrack-udp-timeout-stream=5s", Sets("/conntrack/udpStreamTimeout", json!("5s"))),
        ("--detect-local-mode=NodeCIDR", Sets("/detectLocalMode", json!("NodeCIDR"))),
        ("--fastpath-packet-threshold=0", Wins("/nftables/fastpathPacketThreshold", json!(0))),
        (
            "--feature-gates=ComponentFlagz=F, A=true,,",
            Sets("/featureGates", json!({"ComponentFlagz": false, "A": true})),
        ),
        ("--force-nftables", Nothing),
        ("--healthz-bind-address=::1", Sets("/healthzBindAddress", json!("[::1]:10256"))),
        ("--healthz-bind-address=", Nothing),
        ("--healthz-port=0", Sets("/healthzBindAddress", json!(""))),
        ("--hostname-override= Node-9 ", Wins("/hostnameOverride", json!("node-9"))),
        ("--hostname-override=", Nothing),
        ("--iptables-localhost-nodeports=false", Sets("/iptables/localhostNodePorts", json!(false))),
        ("--iptables-masquerade-bit=15", Sets("/iptables/masqueradeBit", json!(15))),
        ("--iptables-min-sync-period=0s", Sets("/nftables/minSyncPeriod", json!("0s"))),
        ("--iptables-sync-period=1m", Sets("/nftables/syncPeriod", json!("1m0s"))),
        ("--ipvs-exclude-cidrs=10.0.0.0/8,x", Sets("/ipvs/excludeCIDRs", json!(["10.0.0.0/8", "x"]))),
        ("--ipvs-min-sync-period=3s", Nothing),
        ("--ipvs-scheduler=rr", Sets("/ipvs/scheduler", json!("rr"))),
        ("--ipvs-strict-arp", Sets("/ipvs/strictARP", json!(true))),
        ("--ipvs-sync-period=1m", Nothing),
        ("--ipvs-tcp-timeout=1s", Sets("/ipvs/tcpTimeout", json!("1s"))),
        ("--ipvs-tcpfin-timeout=2s", Sets("/ipvs/tcpFinTimeout", json!("2s"))),
        ("--ipvs-udp-timeout=3s", Sets("/ipvs/udpTimeout", json!("3s"))),
        ("--kube-api-burst=1", Sets("/clientConnection/burst", json!(1))),
        ("--kube-api-content-type=application/json", Sets("/clientConnection/contentType", json!("application/json"))),
        ("--kube-api-qps=2.3", Sets("/clientConnection/qps", json!(2.3))),
        ("--kubeconfig=/k", Sets("/clientConnection/kubeconfig", json!("/k"))),
        ("--log-flush-frequency=1s", Wins("/logging/flushFrequency", json!("1s"))),
        ("--log-json-info-buffer-size=0Ki", Wins("/logging/options/json/infoBufferSize", json!("0Ki"))),
        ("--log-json-split-stream=false", Nothing),
        ("--log-text-info-buffer-size=0", Nothing),
        ("--log-text-split-stream=0", Nothing),
        ("--logging-format=json", Wins("/logging/format", json!("json"))),
        ("--machine-id-file=/x,/y", Nothing),
        ("--masquerade-all", Sets("/nftables/masqueradeAll", json!(true))),
        ("--metrics-bind-address=0.0.0.0", Sets("/metricsBindAddress", json!("0.0.0.0:10249"))),
        ("--metrics-bind-address=", Nothing),
        ("--metrics-port=1", Nothing),
        ("--nodeport-addresses=10.0.0.0/8,fd00::/8", Sets("/nodePortAddresses", json!(["10.0.0.0/8", "fd00::/8"]))),
        ("--nodeport-addresses=", Nothing),
        ("--oom-score-adj=-1", Sets("/oomScoreAdj", json!(-1))),
        ("--pod-bridge-interface=cni0", Sets("/detectLocal/bridgeInterface", json!("cni0"))),
        ("--pod-interface-name-prefix=veth", Sets("/detectLocal/interfaceNamePrefix", json!("veth"))),
        ("--profiling", Sets("/enableProfiling", json!(true))),
        ("--proxy-mode=nftables", Nothing),
        ("--show-hidden-metrics-for-version=1.35", Sets("/showHiddenMetricsForVersion", json!("1.35"))),
        ("--v=2", Wins("/logging/verbosity", json!(2))),
        (
            "--vmodule=a=1,b*=2",
            Wins(
                "/logging/vmodule",
                json!([{"filePattern": "a", "verbosity": 1}, {"filePattern": "b*", "verbosity": 2}]),
            ),
        ),
    ]
}

/// The same with one field set.
fn with(mut configuration: Value, pointer: &str, value: &Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    configuration.pointer_mut(parent).unwrap()[field] = value.clone();
    configuration
}

fn minimal(directory: &Path) -> String {
    let file = directory.join("config.conf");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n";
    fs::write(&file, text).unwrap();
    format!("--config={}", file.display())
}

#[test]
fn each_flag_has_its_effect_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let config = minimal(directory.path());
    let (alone, in_file) = (effective(&[]), effective(&[&config]));
    assert_eq!(
        with(alone.clone(), "/ipvs/excludeCIDRs", &Value::Null),
        in_file,
        "flags and file have the same defaults"
    );
    for (flag, does) in flags() {
        let (without_config, with_config) = match &does {
            Sets(pointer, value) => (with(alone.clone(), pointer, value), in_file.clone()),
            Wins(pointer, value) => (with(alone.clone(), pointer, value), with(in_file.clone(), pointer, value)),
            Nothing => (alone.clone(), in_file.clone()),
        };
        assert_eq!(effective(&[flag]), without_config, "{flag}");
        assert_eq!(effective(&[&config, flag]), with_config, "{flag} with --config");
    }
}

#[test]
fn each_field_says_what_its_flag_says() {
    let directory = tempfile::tempdir().unwrap();
    let config = minimal(directory.path());
    let in_file = effective(&[&config]);
    // In a file, nothing is as good as not set.
    let only_by_flag = ["--healthz-port=0", "--iptables-min-sync-period=0s"];
    for (_, does) in flags().into_iter().filter(|(flag, _)| !only_by_flag.contains(flag)) {
        if let Sets(pointer, value) | Wins(pointer, value) = &does {
            let written = with(in_file.clone(), pointer, value);
            fs::write(directory.path().join("config.conf"), written.to_string()).unwrap();
            assert_eq!(effective(&[&config]), written, "{pointer}");
        }
    }
}

#[test]
fn each_flag_is_in_the_table() {
    let output = run(&["--v=1", "--write-config-to=/dev/null"]);
    let listed: Vec<_> = log(&output)
        .lines()
        .filter_map(|line| serde_json::from_str::<String>(line.split_once("] ")?.1).ok())
        .filter_map(|message| {
            let (name, value) = message.strip_prefix("FLAG: --")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect();
    assert!(listed.is_sorted(), "{listed:?}");
    assert!(listed.contains(&("iptables-localhost-nodeports".to_owned(), "\"true\"".to_owned())), "{listed:?}");
    let others = ["cleanup", "config", "help", "init-only", "manifest-dir", "master", "version", "write-config-to"];
    let known = flags().into_iter().map(|(flag, _)| flag.split_once('=').map_or(flag, |(name, _)| name).to_owned());
    let known: BTreeSet<_> = known.chain(others.map(|name| format!("--{name}"))).collect();
    let listed: BTreeSet<_> = listed.iter().map(|(name, _)| format!("--{name}")).collect();
    assert_eq!(listed, known);
    // At -v 0 they are not of interest.
    assert!(!log(&run(&["--write-config-to=/dev/null"])).contains("FLAG:"));
}

/// A file of kubeadm's, with `null` and zero for most fields: everything has its default, in kube-proxy's order.
#[test]
fn what_kubeadm_writes_is_filled_in() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("written.yaml");
    let kubeadm = concat!("--config=", env!("CARGO_MANIFEST_DIR"), "/../config/tests/kubeadm.yaml");
    let output = run(&[kubeadm, "--hostname-override=node-1", &format!("--write-config-to={}", to.display())]);
    assert!(output.status.success(), "{}", log(&output));
    let written = fs::read_to_string(&to).unwrap();
    assert_eq!(written, include_str!("effective.yaml"));
    // What was written is read as the same again.
    assert_eq!(effective(&[&format!("--config={}", to.display())]), serde_saphyr::from_str::<Value>(&written).unwrap());
}

#[test]
fn verbosity_by_pattern_comes_from_the_flag_first() {
    let directory = tempfile::tempdir().unwrap();
    let config = minimal(directory.path());
    let file = directory.path().join("config.conf");
    let text = fs::read_to_string(&file).unwrap() + "logging: {vmodule: [{filePattern: c, verbosity: 3}]}\n";
    fs::write(&file, text).unwrap();
    let merged = json!([{"filePattern": "a", "verbosity": 1}, {"filePattern": "c", "verbosity": 3}]);
    assert_eq!(effective(&[&config, "--vmodule=a=1"])["logging"]["vmodule"], merged);
}

#[test]
fn deprecated_ports_fill_in_what_is_missing() {
    let addresses = |arguments: &[&str]| {
        let effective = effective(arguments);
        [effective["healthzBindAddress"].clone(), effective["metricsBindAddress"].clone()]
    };
    let missing =
        ["--healthz-bind-address=192.0.2.1", "--healthz-port=1", "--metrics-bind-address=::", "--metrics-port=2"];
    assert_eq!(addresses(&missing), ["192.0.2.1:1", "[::]:2"]);
    let given = ["--healthz-bind-address=192.0.2.1:3", "--healthz-port=1"];
    assert_eq!(addresses(&given), ["192.0.2.1:3", "127.0.0.1:10249"]);
}

#[test]
fn other_modes_give_what_they_have_in_common() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.conf");
    let config = format!("--config={}", file.display());
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                iptables: {masqueradeAll: true, masqueradeBit: 15, syncPeriod: 41s, minSyncPeriod: 2s}\n\
                ipvs: {syncPeriod: 42s, minSyncPeriod: 3s}\n";
    for (mode, syncs) in [("iptables", ("41s", "2s")), ("ipvs", ("42s", "3s"))] {
        fs::write(&file, format!("{text}mode: {mode}\n")).unwrap();
        let effective = effective(&[&config, "--force-nftables"]);
        assert_eq!(effective["mode"], "nftables");
        let nftables = &effective["nftables"];
        assert_eq!(
            (nftables["syncPeriod"].as_str(), nftables["minSyncPeriod"].as_str()),
            (Some(syncs.0), Some(syncs.1))
        );
        assert_eq!((&nftables["masqueradeAll"], &nftables["masqueradeBit"]), (&json!(true), &json!(15)));
        for other in ["iptables", "ipvs"] {
            assert_eq!(
                (&effective[other]["syncPeriod"], &effective[other]["minSyncPeriod"]),
                (&json!("0s"), &json!("0s"))
            );
        }
    }
    // The same by flags, where kube-proxy has some for ipvs alone.
    let flags = ["--proxy-mode=ipvs", "--force-nftables", "--ipvs-sync-period=43s", "--iptables-masquerade-bit=3"];
    let effective = effective(&flags);
    assert_eq!(
        (&effective["nftables"]["syncPeriod"], &effective["nftables"]["masqueradeBit"]),
        (&json!("43s"), &json!(3))
    );
}

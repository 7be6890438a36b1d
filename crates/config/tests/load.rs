//! Files as operators write them.

use std::path::{Path, PathBuf};

use config::v1alpha1::KubeProxyConfiguration;
use config::{Completed, Config, ConfigError, LocalTraffic, Warning};
use model::PerFamily;
use tempfile::TempDir;

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// Loads `text` from a file of its own.
fn load(text: &str) -> Result<(Config, Vec<Warning>), ConfigError> {
    let directory = TempDir::new().expect("a temporary folder");
    let file = directory.path().join("config.conf");
    std::fs::write(&file, text).expect("a file in a temporary folder");
    load_file(&file)
}

fn load_file(file: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
    let (written, warnings) = KubeProxyConfiguration::read(file)?;
    let completed = Completed::new(written, warnings, false).expect("no locked feature gates");
    let loaded = completed.validate().expect("nothing invalid");
    Ok((loaded.config, loaded.warnings))
}

/// The error for `text`, from the name of the file on, without the folder that it was in.
fn error(text: &str) -> String {
    let message = load(text).expect_err(text).to_string();
    let start = message.find("config.conf").expect("the file is named");
    message[start..].to_owned()
}

#[test]
fn an_empty_configuration_is_the_default() {
    let (config, warnings) = load(HEADER).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(warnings, [Warning::ModeNotSet]);
}

#[test]
fn json_is_accepted() {
    let json = "{\n\t\"apiVersion\": \"kubeproxy.config.k8s.io/v1alpha1\",\n\t\"kind\": \"KubeProxyConfiguration\",\n\
                \t\"mode\": \"nftables\",\n\t\"nftables\": {\"masqueradeAll\": true}\n}\n";
    let (config, warnings) = load(json).unwrap();
    assert!(config.masquerade.all);
    assert_eq!(warnings, []);
}

/// It says of each field but one that it shows the default.
#[test]
fn the_example_shows_the_defaults() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/slipstream.yaml");
    let (written, warnings) = KubeProxyConfiguration::read(&example).unwrap();
    assert_eq!(warnings, []);
    assert_ne!(written.cluster_cidr, "");
    let mut defaults = KubeProxyConfiguration {
        mode: "nftables".to_owned(),
        cluster_cidr: written.cluster_cidr.clone(),
        node_port_addresses: Some(vec!["primary".to_owned()]),
        detect_local_mode: "ClusterCIDR".to_owned(),
        ..KubeProxyConfiguration::defaults()
    };
    defaults.ipvs.exclude_cidrs = Some(Vec::new());
    assert_eq!(written, defaults);
}

/// What kubeadm puts into the ConfigMap `kube-proxy`: its own few settings, and zero values for all else.
#[test]
fn kubeadm_output_means_the_defaults() {
    let (config, warnings) = load(include_str!("kubeadm.yaml")).unwrap();
    assert_eq!(warnings, [Warning::ModeNotSet]);
    let expected = Config {
        kubeconfig: Some(PathBuf::from("/var/lib/kube-proxy/kubeconfig.conf")),
        local_traffic: LocalTraffic::ClusterCidr(PerFamily {
            v4: Some("10.244.0.0/16".parse().unwrap()),
            v6: Some("fd00:10:244::/56".parse().unwrap()),
        }),
        ..Config::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn null_is_the_same_as_missing_everywhere() {
    let fields = [
        "featureGates",
        "clientConnection",
        "logging",
        "hostnameOverride",
        "bindAddress",
        "healthzBindAddress",
        "metricsBindAddress",
        "bindAddressHardFail",
        "enableProfiling",
        "showHiddenMetricsForVersion",
        "mode",
        "iptables",
        "ipvs",
        "nftables",
        "winkernel",
        "detectLocalMode",
        "detectLocal",
        "clusterCIDR",
        "nodePortAddresses",
        "oomScoreAdj",
        "conntrack",
        "configSyncPeriod",
        "portRange",
        "windowsRunAsService",
    ];
    for null in ["null", "~", ""] {
        let text = fields.iter().fold(HEADER.to_owned(), |text, field| text + field + ": " + null + "\n");
        let (config, warnings) = load(&text).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(warnings, [Warning::ModeNotSet]);
    }
}

#[test]
fn unknown_and_repeated_fields_are_warnings() {
    let text = format!(
        "{HEADER}mode: nftables\nbindaddress: 1.2.3.4\nnftables:\n  masqueradebit: 3\n  masqueradeAll: false\n  \
         masqueradeAll: true\nlogging:\n  vmodule:\n  - filePattern: x\n    verbose: 3\n"
    );
    let (config, warnings) = load(&text).unwrap();
    assert!(config.masquerade.all, "the last value counts");
    assert_eq!(config.bind_address, Config::default().bind_address, "names are case-sensitive");
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    let lenient = "Using lenient decoding as strict decoding failed: ";
    assert!(warnings.iter().all(|warning| warning.starts_with(lenient)), "{warnings:?}");
    assert!(warnings[0].contains("line 8: ") && warnings[0].contains("masqueradeAll"), "{}", warnings[0]);
    for (warning, field) in
        warnings[1..].iter().zip(["bindaddress", "nftables.masqueradebit", "logging.vmodule[0].verbose"])
    {
        assert!(warning.contains(&format!(": unknown field {field} is ignored")), "{warning}");
    }
}

#[test]
fn a_missing_mode_says_what_differs() {
    let (config, warnings) = load(&format!("{HEADER}iptables: {{masqueradeAll: true}}\n")).unwrap();
    assert!(!config.masquerade.all);
    assert_eq!(warnings, [Warning::ModeNotSet, Warning::MasqueradeAllElsewhere]);
}

#[test]
fn wrong_types_name_the_place() {
    // Field and value on line 3, and the column of the value.
    let cases = [
        ("nftables: {masqueradeBit: fourteen}", "config.conf:3:27: a whole number"),
        ("nftables: {masqueradeBit: 99999999999}", "config.conf:3:27: "),
        ("nftables: {masqueradeBit: 1.5}", "config.conf:3:27: "),
        ("nftables: {syncPeriod: 30}", "config.conf:3:24: "),
        ("nftables: {syncPeriod: 30 seconds}", "config.conf:3:24: "),
        ("nftables: {syncPeriod: \"\"}", "config.conf:3:24: "),
        ("nftables: [1]", "config.conf:3:11: "),
        ("bindAddressHardFail: 1", "config.conf:3:22: true or false"),
        ("hostnameOverride: 5", "config.conf:3:19: "),
        ("nodePortAddresses: primary", "config.conf:3:20: "),
        ("featureGates: {A: maybe}", "config.conf:3:19: "),
    ];
    for (line, place) in cases {
        let message = error(&format!("{HEADER}{line}\n"));
        assert!(message.starts_with(place), "{line}: {message}");
        assert!(message.contains(&format!("in `{line}`")), "{line}: {message}");
    }
    for number in ["logging: {flushFrequency: 5000000000}", "logging: {flushFrequency: 5s}"] {
        load(&format!("{HEADER}{number}\n")).unwrap();
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    let other = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nbindAddress: {}\n";
    assert_eq!(
        error(other),
        "config.conf is not a kube-proxy configuration: it has apiVersion \"kubelet.config.k8s.io/v1beta1\" and kind \
         \"KubeletConfiguration\", and must have apiVersion: kubeproxy.config.k8s.io/v1alpha1 and kind: \
         KubeProxyConfiguration"
    );
    for text in ["", "# nothing\n", "mode: nftables\n", "kind: KubeProxyConfiguration\n"] {
        assert!(error(text).contains("not a kube-proxy configuration"), "{text:?}: {}", error(text));
    }
    for text in ["- a\n- b\n", "just words\n", "a: [1\n", "a:\n\t- tab\n", "\u{1}"] {
        assert!(error(text).starts_with("config.conf:"), "{text:?}: {}", error(text));
    }
    assert!(error(&format!("{HEADER}---\n{HEADER}")).starts_with("config.conf:"));
}

#[test]
fn unreadable_files_are_named() {
    let directory = TempDir::new().unwrap();
    let binary = directory.path().join("binary");
    std::fs::write(&binary, [0xff, 0xfe, 0x80]).unwrap();
    for file in [directory.path().join("missing"), directory.path().to_owned(), binary] {
        let error = load_file(&file).unwrap_err();
        assert!(matches!(error, ConfigError::Unreadable { .. }), "{error:?}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }
}

//! Defaults and rules field by field (contract §2.2, §2.4).

use std::time::Duration;

use config::v1alpha1::KubeProxyConfiguration;
use config::{Completed, Config, LocalTraffic, NodePortAddresses, Revalidation, Stage};
use model::PerFamily;

/// With mode nftables, unless the fields say another.
fn load(fields: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let file = directory.path().join("config.conf");
    let header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n";
    std::fs::write(&file, format!("{header}{fields}\n")).expect("a file in a temporary folder");
    let (written, warnings) = KubeProxyConfiguration::read(&file).unwrap_or_else(|error| panic!("{fields}: {error}"));
    let completed = Completed::new(written, warnings, false).map_err(|error| error.to_string())?;
    completed.validate().map(|loaded| loaded.config).map_err(|errors| errors.to_string())
}

fn config(fields: &str) -> Config {
    load(fields).unwrap_or_else(|error| panic!("{fields}: {error}"))
}

#[test]
fn server_addresses_follow_the_bind_address_and_get_a_port() {
    let cases = [
        ("", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("bindAddress: 192.0.2.1", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("bindAddress: '::'", "[::]:10256", "[::1]:10249"),
        ("bindAddress: fd00::1\nmetricsBindAddress: 0.0.0.0", "[::]:10256", "0.0.0.0:10249"),
        ("healthzBindAddress: '::'\nmetricsBindAddress: '[fd00::1]:80'", "[::]:10256", "[fd00::1]:80"),
        ("healthzBindAddress: 010.0.0.01\nmetricsBindAddress: 127.0.0.1:65535", "10.0.0.1:10256", "127.0.0.1:65535"),
    ];
    for (fields, healthz, metrics) in cases {
        let config = config(fields);
        assert_eq!(config.healthz_address.unwrap().to_string(), healthz, "{fields}");
        assert_eq!(config.metrics_address.to_string(), metrics, "{fields}");
    }
}

#[test]
fn zero_periods_are_not_set() {
    let zero = config("nftables: {syncPeriod: 0s, minSyncPeriod: 0s}\nconfigSyncPeriod: 0s");
    assert_eq!(zero, Config::default());
    let set = config("nftables: {syncPeriod: 1m, minSyncPeriod: 100ms}\nconfigSyncPeriod: 1h");
    assert_eq!(set.sync_period, Duration::from_mins(1));
    assert_eq!(set.min_sync_period, Duration::from_millis(100));
    assert_eq!(set.config_sync_period, Duration::from_hours(1));
    let other_modes = config("iptables: {syncPeriod: 2m, masqueradeAll: true}\nipvs: {syncPeriod: 3m}");
    assert_eq!(other_modes, Config::default());
}

#[test]
fn cluster_cidrs_go_to_their_family() {
    let cases = [
        ("10.0.0.0/8", Some("10.0.0.0/8"), None),
        ("fd00::/48", None, Some("fd00::/48")),
        ("fd00::1/48,10.1.2.3/8", Some("10.0.0.0/8"), Some("fd00::/48")),
    ];
    for (text, v4, v6) in cases {
        let expected = PerFamily { v4: v4.map(|net| net.parse().unwrap()), v6: v6.map(|net| net.parse().unwrap()) };
        let config = config(&format!("clusterCIDR: {text}\ndetectLocalMode: ClusterCIDR"));
        assert_eq!(config.local_traffic, LocalTraffic::ClusterCidr(expected), "{text}");
    }
}

#[test]
fn pods_are_told_in_four_ways() {
    let traffic = |fields: &str| config(fields).local_traffic;
    let none = LocalTraffic::ClusterCidr(PerFamily::default());
    // What another mode goes by is neither looked at nor checked.
    let elsewhere = "clusterCIDR: nonsense\n";
    assert_eq!(traffic("detectLocalMode: ''\ndetectLocal: {bridgeInterface: a/b}"), none);
    assert_eq!(traffic("detectLocalMode: null\ndetectLocal: null"), none);
    assert_eq!(traffic(&format!("{elsewhere}detectLocalMode: NodeCIDR")), LocalTraffic::NodeCidr);
    let bridge = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0, interfaceNamePrefix: a/b}";
    assert_eq!(traffic(&format!("{elsewhere}{bridge}")), LocalTraffic::BridgeInterface("cni0".parse().unwrap()));
    let prefix = "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}";
    assert_eq!(traffic(&format!("{elsewhere}{prefix}")), LocalTraffic::InterfaceNamePrefix("veth".parse().unwrap()));
}

#[test]
fn node_port_addresses_have_three_forms() {
    let cidrs = |list: &[&str]| NodePortAddresses::Cidrs(list.iter().map(|net| net.parse().unwrap()).collect());
    let cases = [
        ("[]", NodePortAddresses::Primary),
        ("[primary]", NodePortAddresses::Primary),
        ("[192.0.2.0/24]", cidrs(&["192.0.2.0/24"])),
        ("[192.0.2.0/24, '::/0']", cidrs(&["192.0.2.0/24", "::/0"])),
        ("[0.0.0.0/0, '::/0']", NodePortAddresses::Any),
        ("[0.0.0.0/0]", NodePortAddresses::Any),
    ];
    for (list, expected) in cases {
        assert_eq!(config(&format!("nodePortAddresses: {list}")).node_port_addresses, expected, "{list}");
    }
}

#[test]
fn conntrack_tells_zero_from_missing() {
    let config = config(
        "conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 2h, udpTimeout: 10s, \
         tcpBeLiberal: true}",
    );
    let conntrack = config.conntrack;
    assert_eq!((conntrack.max_per_core, conntrack.min), (None, 0));
    assert_eq!(conntrack.tcp_established_timeout, None);
    assert_eq!(conntrack.tcp_close_wait_timeout, Some(Duration::from_hours(2)));
    assert_eq!(conntrack.udp_timeout, Some(Duration::from_secs(10)));
    assert_eq!(conntrack.udp_stream_timeout, None);
    assert!(conntrack.tcp_be_liberal);
}

#[test]
fn the_revalidation_period_tells_zero_from_missing() {
    let revalidation = |fields| config(fields).fast_path.unwrap().revalidation;
    assert_eq!(revalidation(""), Revalidation::ByKernel);
    assert_eq!(revalidation("nftables: {fastpathRevalidationPeriod: null}"), Revalidation::ByKernel);
    assert_eq!(revalidation("nftables: {fastpathRevalidationPeriod: 0s}"), Revalidation::Never);
    let hour = Revalidation::Every(Duration::from_hours(1));
    assert_eq!(revalidation("nftables: {fastpathRevalidationPeriod: 1h}"), hour);
}

#[test]
fn each_rule_reports_path_value_and_what_is_wanted() {
    let conntrack = "KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration";
    let nftables = "KubeProxyNFTablesConfiguration";
    let count = "must be greater than or equal to 0";
    let positive = "must be greater than 0";
    let bit = "must be within the range [0, 31]";
    let oom = "must be within the range [-1000, 1000]";
    let single = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
    let pair = "must be either a single CIDR or a dual-stack pair (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)";
    let mode = "Slipstream runs nftables only: set mode: nftables, or give --force-nftables to run nftables with";
    let blank = "must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently nftables])";
    let interface = "must be 1 to 15 characters, none of them a space, '/', ':', '*', '\\' or a quote, as in the name of a network \
                     interface";
    let at_least_min = "must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod";
    let previous = "must be 1.35, the minor version before this one, or empty";
    let detect = "DetectLocalConfiguration";
    let cidrs = "DetectLocalConfiguration.ClusterCIDRs";
    let cases: &[(&str, String)] = &[
        ("iptables: {masqueradeBit: 32}", format!("KubeProxyIPTablesConfiguration.MasqueradeBit: 32: {bit}")),
        ("nftables: {masqueradeBit: -1}", format!("KubeProxyNFTablesConfiguration.MasqueradeBit: -1: {bit}")),
        ("nftables: {fastpathScope: all}", format!("{nftables}.FastpathScope: \"all\": must be ClusterIP or All")),
        ("nftables: {fastpathPacketThreshold: -1}", format!("{nftables}.FastpathPacketThreshold: -1: {count}")),
        (
            "nftables: {fastpathInterfaceSyncPeriod: -1s}",
            format!("{nftables}.FastpathInterfaceSyncPeriod: -1s: {positive}"),
        ),
        (
            "nftables: {fastpathMinInterfaceSyncPeriod: -1s}",
            format!("{nftables}.FastpathMinInterfaceSyncPeriod: -1s: {count}"),
        ),
        ("nftables: {fastpathRevalidationPeriod: -1s}", format!("{nftables}.FastpathRevalidationPeriod: -1s: {count}")),
        (
            "nftables: {fastpathExcludeInterfaces: [eth*, 'a b']}",
            format!("{nftables}.FastpathExcludeInterfaces[1]: \"a b\": {interface}"),
        ),
        ("conntrack: {maxPerCore: -1}", format!("{conntrack}.MaxPerCore: -1: {count}")),
        ("conntrack: {min: -1}", format!("{conntrack}.Min: -1: {count}")),
        ("conntrack: {tcpEstablishedTimeout: -5s}", format!("{conntrack}.TCPEstablishedTimeout: -5s: {count}")),
        ("conntrack: {tcpCloseWaitTimeout: -1h}", format!("{conntrack}.TCPCloseWaitTimeout: -1h0m0s: {count}")),
        ("conntrack: {udpTimeout: -1ms}", format!("{conntrack}.UDPTimeout: -1ms: {count}")),
        ("conntrack: {udpStreamTimeout: -1s}", format!("{conntrack}.UDPStreamTimeout: -1s: {count}")),
        ("oomScoreAdj: -1001", format!("KubeProxyLinuxConfiguration.OOMScoreAdj: -1001: {oom}")),
        ("oomScoreAdj: 100000", format!("KubeProxyLinuxConfiguration.OOMScoreAdj: 100000: {oom}")),
        (
            "mode: iptables",
            format!(
                "Mode.ProxyMode: \"iptables\": {mode} masqueradeAll, masqueradeBit, syncPeriod and minSyncPeriod of the \
                 iptables block"
            ),
        ),
        (
            "mode: ipvs",
            format!(
                "Mode.ProxyMode: \"ipvs\": {mode} syncPeriod and minSyncPeriod of the ipvs block and masqueradeAll and \
                 masqueradeBit of the iptables block"
            ),
        ),
        ("mode: NFTables", format!("Mode.ProxyMode: \"NFTables\": {blank}")),
        ("clientConnection: {burst: -1}", format!("ClientConnection.Burst: -1: {count}")),
        ("configSyncPeriod: -1s", format!("ConfigSyncPeriod: -1s: {positive}")),
        ("nftables: {minSyncPeriod: -1s}", format!("MinSyncPeriod: -1s: {count}")),
        ("nftables: {minSyncPeriod: 31s}", format!("SyncPeriod: 31s: {at_least_min}")),
        ("nftables: {syncPeriod: 10ms}", format!("SyncPeriod: 1s: {at_least_min}")),
        (
            "nftables: {syncPeriod: 2h, minSyncPeriod: 61m}",
            "MinSyncPeriod: 1h1m0s: must be less than or equal to 1h0m0s".to_owned(),
        ),
        (
            "bindAddress: node-1",
            "BindAddress: \"node-1\": not a valid textual representation of an IP address".to_owned(),
        ),
        ("healthzBindAddress: fd00::1:x", "HealthzBindAddress: \"fd00::1:x\": must be IP:port".to_owned()),
        ("healthzBindAddress: ':80'", "HealthzBindAddress: \"\": must be a valid IP".to_owned()),
        ("metricsBindAddress: localhost:80", "MetricsBindAddress: \"localhost\": must be a valid IP".to_owned()),
        ("healthzBindAddress: 127.0.0.1:0", "HealthzBindAddress: \"127.0.0.1:0\": must be a valid port".to_owned()),
        ("metricsBindAddress: fd00::1:80:x", "MetricsBindAddress: \"fd00::1:80:x\": must be IP:port".to_owned()),
        ("metricsBindAddress: 127.0.0.1:0", "MetricsBindAddress: \"127.0.0.1:0\": must be a valid port".to_owned()),
        (
            "metricsBindAddress: 127.0.0.1:65536",
            "MetricsBindAddress: \"127.0.0.1:65536\": must be a valid port".to_owned(),
        ),
        ("nodePortAddresses: [10.0.0.1]", "NodePortAddresses[0]: \"10.0.0.1\": must be a valid CIDR".to_owned()),
        (
            "nodePortAddresses: [10.0.0.0/8, primary]",
            "NodePortAddresses[1]: \"primary\": can't use both 'primary' and CIDRs".to_owned(),
        ),
        ("detectLocalMode: BridgeInterface", format!("{detect}.InterfaceName: \"\": must not be empty")),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {interfaceNamePrefix: veth}",
            format!("{detect}.InterfaceName: \"\": must not be empty"),
        ),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni/0}",
            format!("{detect}.InterfaceName: \"cni/0\": {interface}"),
        ),
        ("detectLocalMode: InterfaceNamePrefix", format!("{detect}.InterfacePrefix: \"\": must not be empty")),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: a-name-that-is-long}",
            format!("{detect}.InterfacePrefix: \"a-name-that-is-long\": {interface}"),
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth*}",
            format!("{detect}.InterfacePrefix: \"veth*\": {interface}"),
        ),
        ("showHiddenMetricsForVersion: '1.36'", format!("ShowHiddenMetricsForVersion: \"1.36\": {previous}")),
        ("showHiddenMetricsForVersion: 1.35.0", format!("ShowHiddenMetricsForVersion: \"1.35.0\": {previous}")),
        ("clusterCIDR: 10.0.0.0", format!("{cidrs}[0]: \"10.0.0.0\": {single}")),
        ("clusterCIDR: '10.0.0.0/8, fd00::/8'", format!("{cidrs}[1]: \" fd00::/8\": {single}")),
        ("clusterCIDR: '10.0.0.0/8,11.0.0.0/8'", format!("{cidrs}: \"10.0.0.0/8,11.0.0.0/8\": {pair}")),
        ("clusterCIDR: '10.0.0.0/8,fd00::/8,fd01::/16'", format!("{cidrs}: \"10.0.0.0/8,fd00::/8,fd01::/16\": {pair}")),
        (
            "hostnameOverride: ' '",
            "HostnameOverride: \" \": empty hostname-override is invalid: give the name of this machine's Node object"
                .to_owned(),
        ),
    ];
    for (fields, expected) in cases {
        let (path, rest) = expected.split_once(": ").unwrap();
        let message = load(fields).expect_err(fields);
        assert_eq!(message, format!("KubeProxyConfiguration.{path}: Invalid value: {rest}"), "{fields}");
    }
}

#[test]
fn logging_and_unknown_detection_modes_have_their_own_form() {
    let most = "must be less than or equal to 2147483647";
    let off = "Forbidden: the feature gate LoggingAlphaOptions is off";
    let cases = [
        (
            "logging: {format: xml}",
            "logging.format: Invalid value: \"xml\": Unsupported log format: use text or json".to_owned(),
        ),
        (
            "logging: {flushFrequency: -1}",
            "logging.flushFrequency: Invalid value: -1ns: must be greater than 0".to_owned(),
        ),
        ("logging: {verbosity: 2147483648}", format!("logging.verbosity: Invalid value: 2147483648: {most}")),
        (
            "logging: {format: json, vmodule: [{filePattern: a, verbosity: 1}]}",
            "logging.vmodule: Forbidden: only the text format has it".to_owned(),
        ),
        (
            "logging: {vmodule: [{filePattern: a}, {verbosity: 1}]}",
            "logging.vmodule[1].filePattern: Required value: must name source files".to_owned(),
        ),
        (
            "logging: {vmodule: [{filePattern: 'a=b,c'}]}",
            "logging.vmodule[0].filePattern: Invalid value: \"a=b,c\": must have no equals sign and no comma"
                .to_owned(),
        ),
        (
            "logging: {vmodule: [{filePattern: a, verbosity: 2147483648}]}",
            format!("logging.vmodule[0].verbosity: Invalid value: 2147483648: {most}"),
        ),
        ("logging: {options: {text: {splitStream: true}}}", format!("logging.options.text.splitStream: {off}")),
        ("logging: {options: {text: {infoBufferSize: 1Ki}}}", format!("logging.options.text.infoBufferSize: {off}")),
        ("logging: {options: {json: {splitStream: true}}}", format!("logging.options.json.splitStream: {off}")),
        ("logging: {options: {json: {infoBufferSize: 1}}}", format!("logging.options.json.infoBufferSize: {off}")),
        (
            "detectLocalMode: clustercidr",
            "KubeProxyConfiguration.DetectLocalMode: Unsupported value: \"clustercidr\": supported values: \
             \"ClusterCIDR\", \"NodeCIDR\", \"BridgeInterface\", \"InterfaceNamePrefix\", \"\""
                .to_owned(),
        ),
        (
            "featureGates: {PreferSameTrafficDistribution: false}",
            "cannot set feature gate PreferSameTrafficDistribution to false, feature is locked to true".to_owned(),
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(load(fields).expect_err(fields), expected);
    }
    let on = "featureGates: {LoggingAlphaOptions: true}\n";
    config(&format!("{on}logging: {{options: {{text: {{splitStream: true}}, json: {{infoBufferSize: 1Ki}}}}}}"));
    config("logging: {options: {text: {splitStream: false, infoBufferSize: 0Ki}}}");
}

/// They are refused with the mode, and told all the same.
#[test]
fn settings_of_ipvs_are_checked_in_its_mode_only() {
    let fields =
        "ipvs: {tcpTimeout: -1s, tcpFinTimeout: -2s, udpTimeout: -3s, excludeCIDRs: [10.0.0.0/8, x], syncPeriod: -4s}";
    config(fields);
    let errors = load(&format!("{fields}\nmode: ipvs\nnftables: {{masqueradeBit: 32}}")).unwrap_err();
    let count = "must be greater than or equal to 0";
    for error in [
        format!("KubeProxyIPVSConfiguration.TCPTimeout: Invalid value: -1s: {count}"),
        format!("KubeProxyIPVSConfiguration.TCPFinTimeout: Invalid value: -2s: {count}"),
        format!("KubeProxyIPVSConfiguration.UDPTimeout: Invalid value: -3s: {count}"),
        "KubeProxyIPVSConfiguration.ExcludeCidrs[1]: Invalid value: \"x\": must be a valid CIDR".to_owned(),
        "SyncPeriod: Invalid value: -4s: must be greater than 0".to_owned(),
    ] {
        assert!(errors.contains(&format!("KubeProxyConfiguration.{error}")), "{error} in {errors}");
    }
    // That of nftables counts in nftables mode only.
    assert!(!errors.contains("MasqueradeBit"), "{errors}");
}

#[test]
fn feature_gates_have_stages() {
    let features = |fields: &str| config(fields).features;
    let default = features("");
    assert!(default.allow_service_external_ips() && default.component_flagz() && default.component_statusz());
    assert!(!default.logging_alpha_options());
    let set = features(
        "featureGates: {AllBeta: false, ComponentFlagz: true, AllAlpha: true, AllowServiceExternalIPs: false}",
    );
    assert!(set.component_flagz() && !set.component_statusz(), "a gate wins over its stage");
    assert!(set.logging_alpha_options() && !set.allow_service_external_ips());
    // What is locked can be set to what it is, and does not go by its stage.
    features("featureGates: {NFTablesProxyMode: true, DisableNodeKubeProxyVersion: true, GitRepoVolumeDriver: false}");
    let listed: Vec<_> = default.iter().collect();
    assert!(listed.is_sorted_by_key(|(name, ..)| *name) && listed.len() > 200, "{} gates", listed.len());
    assert!(listed.contains(&("NFTablesProxyMode", Stage::Ga, true)));
    assert!(listed.contains(&("NativeHistograms", Stage::Alpha, false)));
    assert!(listed.contains(&("SELinuxMount", Stage::Beta, false)));
    assert!(listed.contains(&("KMSv1", Stage::Deprecated, false)));
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let message =
        load("nftables: {syncPeriod: -1s}\nbindAddress: x\nhealthzBindAddress: y:0\nnodePortAddresses: [a, b]")
            .unwrap_err();
    let errors = [
        "SyncPeriod: Invalid value: -1s: must be greater than 0",
        "SyncPeriod: Invalid value: 1s: must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod",
        "BindAddress: Invalid value: \"x\": not a valid textual representation of an IP address",
        "HealthzBindAddress: Invalid value: \"y\": must be a valid IP",
        "HealthzBindAddress: Invalid value: \"y:0\": must be a valid port",
        "NodePortAddresses[0]: Invalid value: \"a\": must be a valid CIDR",
        "NodePortAddresses[1]: Invalid value: \"b\": must be a valid CIDR",
    ];
    let errors: Vec<_> = errors.iter().map(|error| format!("KubeProxyConfiguration.{error}")).collect();
    assert_eq!(message, format!("[{}]", errors.join(", ")));
}

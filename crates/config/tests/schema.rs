//! `config/schema.json` says of a file what the code says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use config::Completed;
use config::v1alpha1::{KubeProxyConfiguration, VModule};
use jsonschema::Validator;
use serde_json::Value;

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)
}

fn read(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn schema() -> Validator {
    jsonschema::draft202012::new(&read(&path("config/schema.json"))).expect("a schema of draft 2020-12")
}

/// Whether the code takes a file without a word, but about its mode.
fn takes(file: &Path) -> Result<(), String> {
    let (written, warnings) = KubeProxyConfiguration::read(file).map_err(|error| error.to_string())?;
    if let [warning, ..] = &warnings[..] {
        return Err(warning.to_string());
    }
    let completed = Completed::new(written, warnings, true).map_err(|error| error.to_string())?;
    completed.validate().map(drop).map_err(|errors| errors.to_string())
}

fn takes_fields(fields: &str) -> (Result<(), String>, Result<(), String>) {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let file = directory.path().join("config.conf");
    let header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    std::fs::write(&file, format!("{header}{fields}\n")).expect("a file in a temporary folder");
    (takes(&file), schema().validate(&read(&file)).map_err(|error| error.to_string()))
}

#[test]
fn examples_are_taken_by_both() {
    for file in [
        "config/slipstream.yaml",
        "config/kubeadm.yaml",
        "crates/config/tests/kubeadm.yaml",
        "crates/proxy/tests/binary/effective.yaml",
    ] {
        assert_eq!(takes(&path(file)), Ok(()), "{file}");
        assert!(schema().is_valid(&read(&path(file))), "{file}: {:?}", schema().validate(&read(&path(file))));
    }
}

#[test]
fn both_take_and_refuse_the_same() {
    let taken = [
        "logging: {flushFrequency: 5000000000, vmodule: [{filePattern: 'a*', verbosity: 2}]}",
        "logging: {flushFrequency: 1h0.5m, options: {text: {infoBufferSize: 0Ki}}}",
        "clientConnection: {qps: 0.5, burst: 3}",
        "featureGates: {AllBeta: false}",
        "showHiddenMetricsForVersion: '1.35'",
        "mode: ipvs\nipvs: {excludeCIDRs: [10.0.0.0/8], syncPeriod: 2m}",
        "mode: iptables",
        "iptables: {syncPeriod: -1s}",
        "nftables: {masqueradeBit: 31, fastpathScope: All, fastpathExcludeInterfaces: ['eth*', 'a-b.c@d']}",
        "nftables: {fastpathRevalidationPeriod: '0', syncPeriod: 1500ms, minSyncPeriod: 1500us}",
        "healthzBindAddress: '::'\nmetricsBindAddress: '[fd00::1]:80'\nbindAddress: '::1'",
        "healthzBindAddress: 192.0.2.1\nmetricsBindAddress: 127.0.0.1:1",
        "nodePortAddresses: [192.0.2.0/24, 'fd00::/8']",
        "nodePortAddresses: [primary]",
        "oomScoreAdj: -1000",
        "winkernel: {enableDSR: true}\nwindowsRunAsService: true\nportRange: 1-2",
    ];
    for fields in taken {
        let (code, schema) = takes_fields(fields);
        assert_eq!((code, schema), (Ok(()), Ok(())), "{fields}");
    }
    let refused = [
        "apiversion: x",
        "nosuch: 1",
        "nftables: {masqueradebit: 1}",
        "bindAddressHardFail: 1",
        "hostnameOverride: 5",
        "nodePortAddresses: primary",
        "nodePortAddresses: [10.0.0.1]",
        "featureGates: {A: maybe}",
        "clientConnection: {burst: -1}",
        "logging: {format: xml}",
        "logging: {flushFrequency: -1}",
        "logging: {verbosity: 2147483648}",
        "logging: {vmodule: [{verbosity: 1}]}",
        "logging: {vmodule: [{filePattern: 'a=b'}]}",
        "logging: {options: {text: {infoBufferSize: lots}}}",
        "healthzBindAddress: localhost:80",
        "healthzBindAddress: 127.0.0.1:0",
        "metricsBindAddress: ':80'",
        "showHiddenMetricsForVersion: '1.36'",
        "mode: NFTables",
        "iptables: {masqueradeBit: 32}",
        "nftables: {masqueradeBit: -1}",
        "nftables: {syncPeriod: 30}",
        "nftables: {syncPeriod: 30 seconds}",
        "nftables: {syncPeriod: ''}",
        "nftables: {minSyncPeriod: -1s}",
        "nftables: {fastpathPacketThreshold: -1}",
        "nftables: {fastpathScope: all}",
        "nftables: {fastpathExcludeInterfaces: ['a b']}",
        "nftables: {fastpathExcludeInterfaces: [sixteen--letters]}",
        "nftables: {fastpathExcludeInterfaces: ['*']}",
        "nftables: {fastpathInterfaceSyncPeriod: -1s}",
        "detectLocalMode: clustercidr",
        "oomScoreAdj: 1001",
        "conntrack: {maxPerCore: -1}",
        "conntrack: {udpTimeout: -1ms}",
        "configSyncPeriod: -1s",
    ];
    for fields in refused {
        let (code, schema) = takes_fields(fields);
        assert!(code.is_err() && schema.is_err(), "{fields}: code {code:?}, schema {schema:?}");
    }
}

/// What a schema cannot say well: one field by another, what makes an address, and gates.
#[test]
fn some_mistakes_only_the_code_sees() {
    for fields in [
        "nftables: {syncPeriod: 1s, minSyncPeriod: 2s}",
        "detectLocalMode: BridgeInterface",
        "clusterCIDR: 10.0.0.0",
        "bindAddress: here",
        "nodePortAddresses: [300.0.0.0/8]",
        "metricsBindAddress: 127.0.0.1:65536",
        "featureGates: {NFTablesProxyMode: false}",
        "logging: {options: {text: {splitStream: true}}}",
        "logging: {format: json, vmodule: [{filePattern: a}]}",
        "mode: ipvs\nipvs: {tcpTimeout: -1s}",
    ] {
        let (code, schema) = takes_fields(fields);
        assert!(code.is_err() && schema.is_ok(), "{fields}: code {code:?}, schema {schema:?}");
    }
}

#[test]
fn the_schema_has_each_field() {
    // Nothing may be left out because it is empty.
    let mut all = KubeProxyConfiguration::defaults();
    all.windows_run_as_service = true;
    all.feature_gates.insert("A".to_owned(), true);
    all.logging.vmodule.push(VModule::default());
    all.logging.options.text.split_stream = true;
    all.logging.options.json.split_stream = true;
    let (mut written, mut described) = (BTreeSet::new(), BTreeSet::new());
    fields("", &all.to_json(), &mut written);
    let schema = read(&path("config/schema.json"));
    described_fields("", &schema, &schema, &mut described);
    written.remove("/featureGates/A");
    assert_eq!(described, written);
}

#[test]
fn the_example_has_each_field_that_is_not_for_windows() {
    let (mut written, mut shown) = (BTreeSet::new(), BTreeSet::new());
    fields("", &KubeProxyConfiguration::defaults().to_json(), &mut written);
    fields("", &read(&path("config/slipstream.yaml")), &mut shown);
    written.retain(|field| !field.starts_with("/winkernel") && field != "/portRange");
    assert_eq!(written.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The paths of all fields of a value.
fn fields(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        fields(&path, value.get(0).unwrap_or(value), found);
        found.insert(path);
    }
}

/// The paths of all fields that a schema describes.
fn described_fields(path: &str, schema: &Value, root: &Value, found: &mut BTreeSet<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(&reference[1..]).expect("a definition"),
        None => schema,
    };
    let properties = schema["properties"].as_object().or_else(|| schema["items"]["properties"].as_object());
    for (name, schema) in properties.into_iter().flatten() {
        let path = format!("{path}/{name}");
        described_fields(&path, schema, root, found);
        found.insert(path);
    }
}

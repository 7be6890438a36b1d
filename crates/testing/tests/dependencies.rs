//! Which crate may know of which: the way of the data in ARCHITECTURE.md, kept.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// For each crate, the ones of this workspace that it may use in its code (tests may use `testing` as well).
const EDGES: [(&str, &[&str]); 13] = [
    ("model", &[]),
    ("ruleset", &[]),
    ("config", &["model"]),
    ("compiler", &["model", "ruleset"]),
    ("ifsync", &["ruleset"]),
    ("informer", &["model"]),
    ("netlink", &["ruleset"]),
    ("telemetry", &["model"]),
    ("proxy", &["compiler", "config", "ifsync", "informer", "model", "netlink", "ruleset", "telemetry"]),
    ("testing", &["model"]),
    ("e2e", &["config", "model", "testing"]),
    ("benches", &["compiler", "e2e", "informer", "model", "netlink", "ruleset", "testing"]),
    ("fuzz", &["config", "informer", "model", "netlink"]),
];

/// What the pure crates must build without.
const HEAVY: [&str; 6] = ["nftnl", "mnl", "tokio", "kube", "k8s-openapi", "libc"];

#[test]
fn crates_know_only_of_those_they_may() {
    let packages = workspace();
    let names: BTreeSet<_> = packages.iter().map(|package| text(package, "name")).collect();
    assert_eq!(names, EDGES.iter().map(|(name, _)| *name).collect(), "a new crate needs a line here");
    for package in &packages {
        let name = text(package, "name");
        let allowed: BTreeSet<_> = EDGES.iter().filter(|(n, _)| *n == name).flat_map(|(_, to)| *to).copied().collect();
        for dependency in dependencies(package, Value::is_null) {
            assert!(!names.contains(dependency) || allowed.contains(dependency), "{name} must not use {dependency}");
        }
        for dependency in dependencies(package, |kind| kind == "dev") {
            let known = !names.contains(dependency) || allowed.contains(dependency) || dependency == "testing";
            assert!(known, "the tests of {name} must not use {dependency}");
        }
    }
}

#[test]
fn model_ruleset_and_compiler_do_without_libnftnl_tokio_and_kube() {
    for package in workspace().iter().filter(|p| ["model", "ruleset", "compiler"].contains(&text(p, "name"))) {
        for dependency in dependencies(package, Value::is_null) {
            assert!(!HEAVY.contains(&dependency), "{} must not use {dependency}", text(package, "name"));
        }
    }
}

fn workspace() -> Vec<Value> {
    let cargo = Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version=1", "--offline"]).output();
    let output = cargo.expect("cargo runs this test, so it can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    metadata["packages"].as_array().expect("cargo lists packages").clone()
}

fn dependencies(package: &Value, of_kind: impl Fn(&Value) -> bool) -> Vec<&str> {
    let all = package["dependencies"].as_array().expect("cargo lists dependencies");
    all.iter().filter(|dependency| of_kind(&dependency["kind"])).map(|dependency| text(dependency, "name")).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("cargo gives every package a name")
}

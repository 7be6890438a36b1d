//! Manifests and chart to objects, by the programs that users have.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The folder of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A program that `manifests/tools` has put there.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = repository().join("target/tools").join(name);
    assert!(path.exists(), "{} is missing: run `make tools`", path.display());
    path
}

/// What `kubectl apply -k manifests/OVERLAY` would send.
pub(crate) fn kustomize(overlay: &str) -> Vec<Value> {
    let output = Command::new(tool("venv/bin/kubectl"))
        .args(["kustomize", overlay])
        .current_dir(repository().join("manifests"))
        .output()
        .unwrap();
    parse(&printed(output).unwrap())
}

/// What `helm install` would send, into the namespace kube-system.
///
/// # Errors
/// The chart refuses the values; the error says why.
pub(crate) fn helm(values: &Value) -> Result<Vec<Value>, String> {
    helm_in("kube-system", values)
}

/// The same for any namespace.
pub(crate) fn helm_in(namespace: &str, values: &Value) -> Result<Vec<Value>, String> {
    let output = Command::new(tool("venv/bin/python"))
        .args(["-c", include_str!("helm.py"), "charts/slipstream", namespace, &values.to_string()])
        .current_dir(repository())
        .output()
        .unwrap();
    printed(output).map(|text| parse(&text))
}

/// The only object of this kind and name.
pub(crate) fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let object = found.next().unwrap_or_else(|| panic!("there is no {kind} {name}"));
    assert!(found.next().is_none(), "there are two of {kind} {name}");
    object
}

/// The documents of a YAML text.
pub(crate) fn parse(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What a program printed.
///
/// # Errors
/// It failed; the error is what it wrote to standard error.
pub(crate) fn printed(output: Output) -> Result<String, String> {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

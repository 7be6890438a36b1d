//! The image: what is in it, and that it works with the rights that the hardened manifests give it.
//!
//! `make image-test` makes it and runs these.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;
use tempfile::TempDir;
use testing::api::{FakeApi, Resource};
use testing::http;
use testing::netns::Namespace;
use testing::objects::{node, service, slice};

use crate::container::{Container, Files};
use crate::render::{find, kustomize, parse, printed, repository};
use crate::rights::granted;
use crate::schema::strictly;

/// What the image may have at most, unpacked.
const LIMIT: u64 = 25 << 20;

/// `target/image/slipstream.tar`, unpacked.
pub(crate) struct Image {
    directory: TempDir,
    manifest: Value,
    config: Value,
}

impl Image {
    fn unpack() -> Self {
        let archive = repository().join("target/image/slipstream.tar");
        assert!(archive.exists(), "{} is missing: run `make image`", archive.display());
        let directory = TempDir::new().unwrap();
        let tar = |arguments: &[&str], archive: &Path| {
            let output =
                Command::new("tar").args(arguments).arg(archive).current_dir(directory.path()).output().unwrap();
            printed(output).unwrap();
        };
        tar(&["-xf"], &archive);
        let blob = |digest: &Value| directory.path().join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
        let read = |path: PathBuf| -> Value { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
        let index = read(directory.path().join("index.json"));
        let [manifest] = &index["manifests"].as_array().unwrap()[..] else { panic!("one image, not {index}") };
        let contents = read(blob(&manifest["digest"]));
        fs::create_dir(directory.path().join("root")).unwrap();
        for layer in contents["layers"].as_array().unwrap() {
            tar(&["-C", "root", "-xzf"], &blob(&layer["digest"]));
        }
        let config = read(blob(&contents["config"]["digest"]));
        Self { manifest: manifest.clone(), config, directory }
    }

    /// Where its files are.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// The paths of all of its files, and their sizes.
    fn files(&self) -> BTreeMap<String, u64> {
        let output =
            Command::new("find").args([".", "-type", "f", "-printf", "%s %P\\n"]).current_dir(self.root()).output();
        let lines = printed(output.unwrap()).unwrap();
        let files = lines.lines().map(|line| line.split_once(' ').unwrap());
        files.map(|(size, path)| (path.to_owned(), size.parse().unwrap())).collect()
    }
}

#[test]
#[ignore = "needs the image: `make image-test`"]
fn it_has_the_program_its_libraries_their_licences_and_nothing_else() {
    let image = Image::unpack();
    let files = image.files();
    let documents = ["usr/share/doc/", "usr/share/common-licenses/"];
    let programs: Vec<_> = files.keys().filter(|path| !documents.iter().any(|place| path.starts_with(place))).collect();
    let expected = [
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libgcc_s.so.1",
        "lib/x86_64-linux-gnu/libm.so.6",
        "lib/x86_64-linux-gnu/libmnl.so.0",
        "lib/x86_64-linux-gnu/libnftnl.so.11",
        "lib64/ld-linux-x86-64.so.2",
        "usr/local/bin/kube-proxy",
        "usr/share/sbom/slipstream.cdx.json",
    ];
    assert_eq!(programs, expected);
    for document in ["slipstream/NOTICE", "slipstream/LICENSE", "slipstream/crates.txt", "libnftnl11/copyright"] {
        assert!(files.contains_key(&format!("usr/share/doc/{document}")), "{files:?}");
    }
    assert!(files.values().sum::<u64>() < LIMIT, "{files:?}");

    let version = env!("CARGO_PKG_VERSION");
    let name = format!("localhost/slipstream:{version}");
    assert_eq!(image.manifest["annotations"]["org.opencontainers.image.ref.name"], name.as_str());
    assert_eq!(image.config["architecture"], "amd64");
    let labels = &image.config["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], version);
    assert_eq!(labels["org.opencontainers.image.licenses"], "GPL-3.0-or-later");
    assert_eq!(image.config["config"]["Entrypoint"][0], "/usr/local/bin/kube-proxy");
}

#[test]
#[ignore = "needs the image: `make image-test`"]
fn its_bill_of_materials_names_all_that_is_in_it() {
    let image = Image::unpack();
    let text = fs::read_to_string(image.root().join("usr/share/sbom/slipstream.cdx.json")).unwrap();
    assert_eq!(text, fs::read_to_string(repository().join("target/image/slipstream.cdx.json")).unwrap());
    let bill: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let components = bill["components"].as_array().unwrap();
    for component in components {
        assert!(component["version"].is_string(), "{component}");
        let licence = component["licenses"][0]["expression"].as_str().unwrap();
        assert!(!licence.is_empty() && licence != "NOASSERTION", "{component}");
    }
    let names: BTreeSet<_> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
    for name in ["proxy", "netlink", "kube", "nftnl", "rustls", "libnftnl11", "libmnl0", "libc6", "libgcc-s1"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    assert!(!names.contains("testing") && !names.contains("proptest"), "tests are not in the image");
    for (path, _) in image.files().iter().filter(|(path, _)| path.starts_with("lib")) {
        let output = Command::new("sha256sum").arg(image.root().join(path)).output().unwrap();
        let sum = printed(output).unwrap()[..64].to_owned();
        assert!(text.contains(&sum), "{path} is not in the bill of materials, or is another");
    }
}

/// A node with an API server that knows it and one Service.
struct Cluster {
    node: Namespace,
    api: FakeApi,
    files: Files,
}

impl Cluster {
    fn new() -> Self {
        let namespace = Namespace::new("node").unwrap();
        let api = namespace.run(FakeApi::start).unwrap();
        api.put(node("node-1", &["10.1.0.0/24"], &["192.0.2.10"]));
        api.put(service("shop", "web").cluster_ip("10.96.0.10").port("http", "TCP", 80));
        api.put(slice("shop", "web", "web").port("http", "TCP", 8080).endpoint("10.1.0.2"));
        let port = api.url().rsplit_once(':').unwrap().1.parse().unwrap();
        let files = Files::new(find(&kustomize("base"), "ConfigMap", "kube-proxy"), port);
        Self { node: namespace, api, files }
    }

    fn table(&self) -> String {
        self.node.sh("nft list table ip kube-proxy 2>/dev/null || true").unwrap()
    }
}

fn hardened() -> PodSpec {
    let daemon_set: DaemonSet = strictly(&kustomize("overlays/hardened")[0]).unwrap();
    daemon_set.spec.unwrap().template.spec.unwrap()
}

#[test]
#[ignore = "needs the image: `make image-test`"]
fn it_works_with_the_rights_of_the_hardened_manifests() {
    let image = Image::unpack();
    let cluster = Cluster::new();
    let mut container = Container::run(&image, &hardened().containers[0], &cluster.node, cluster.files.path());
    container.wait("the Service in the rules", || cluster.table().contains("10.96.0.10 . tcp . 80"));
    container.wait("/healthz to be 200", || {
        http::fetch(&cluster.node, 10256, "/healthz").is_ok_and(|(status, _)| status == 200)
    });
    cluster.api.delete(Resource::Services, "shop", "web");
    container.wait("the Service out of the rules", || !cluster.table().contains("10.96.0.10"));

    // The rights were what they should have been: bit 12 is CAP_NET_ADMIN, and 2 is a filter of system calls.
    let status = container.process("status");
    for line in ["CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    let mounts = container.process("mountinfo");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().starts_with("ro,"), "{root}");
}

/// Contract §10.2, and less: what it asks the API server for is what our own role grants.
#[test]
#[ignore = "needs the image: `make image-test`"]
fn it_asks_for_nothing_that_its_role_does_not_grant() {
    let image = Image::unpack();
    let cluster = Cluster::new();
    let mut container = Container::run(&image, &hardened().containers[0], &cluster.node, cluster.files.path());
    container.wait("the Service in the rules", || cluster.table().contains("10.96.0.10 . tcp . 80"));
    for resource in Resource::ALL {
        cluster.api.wait_for_watch(resource);
    }
    let rights = granted(find(&kustomize("base"), "ClusterRole", "slipstream"));
    for request in cluster.api.requests() {
        let is_granted = request.right.as_ref().is_none_or(|right| rights.contains(right));
        assert!(is_granted, "not granted: {request:?}");
    }
}

/// A container that is not privileged could not: `/proc/sys` is read-only there.
#[test]
#[ignore = "needs the image: `make image-test`"]
fn the_init_container_sets_sysctls_and_ends() {
    const TIMEOUT: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";
    let image = Image::unpack();
    let cluster = Cluster::new();
    cluster.node.sysctl(TIMEOUT, "1000").unwrap();
    let init = &hardened().init_containers.unwrap()[0];
    let mut container = Container::run(&image, init, &cluster.node, cluster.files.path());
    assert!(container.wait_for_end().success(), "{}", container.log());
    let timeout = cluster.node.sh(&format!("cat /proc/sys/{TIMEOUT}")).unwrap();
    assert_eq!(timeout.trim(), "86400", "a day, as kube-proxy; log:\n{}", container.log());
    assert_eq!(cluster.table(), "", "rules are for the proxy itself to write");
}

#[test]
#[ignore = "needs the image: `make image-test`"]
fn the_way_back_leaves_no_rules() {
    let image = Image::unpack();
    let cluster = Cluster::new();
    let mut container = Container::run(&image, &hardened().containers[0], &cluster.node, cluster.files.path());
    container.wait("the Service in the rules", || cluster.table().contains("10.96.0.10 . tcp . 80"));
    drop(container);
    let patch = fs::read_to_string(repository().join("manifests/rollback.yaml")).unwrap();
    let cleanup = strictly(&parse(&patch)[0]["spec"]["template"]["spec"]["initContainers"][0]).unwrap();
    let mut container = Container::run(&image, &cleanup, &cluster.node, cluster.files.path());
    assert!(container.wait_for_end().success(), "{}", container.log());
    assert_eq!(cluster.node.sh("nft list tables").unwrap(), "", "{}", container.log());
}

#[test]
#[ignore = "needs the image: `make image-test`"]
fn it_says_its_version() {
    let image = Image::unpack();
    let cluster = Cluster::new();
    let mut spec = hardened().containers.remove(0);
    spec.command.as_mut().unwrap().push("--version".to_owned());
    let mut container = Container::run(&image, &spec, &cluster.node, cluster.files.path());
    assert!(container.wait_for_end().success(), "{}", container.log());
    assert!(container.log().contains(env!("CARGO_PKG_VERSION")), "{}", container.log());
}

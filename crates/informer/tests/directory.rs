//! The directory source over real files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use common::Informed;
use informer::{DirectoryError, Reporter, node_in_directory, watch_directory};
use model::{Family, NodeStatus};
use tempfile::TempDir;
use tokio::sync::watch;

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.0.0.1\n  ports:\n  - port: {port}\n"
    )
}

fn slice(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  labels:\n    \
         kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n- port: 8080\nendpoints:\n- addresses: [{address}]\n"
    )
}

fn follow(directory: &Path) -> Informed<Result<(), DirectoryError>> {
    let directory = directory.to_owned();
    let (status, _) = watch::channel(NodeStatus::Unknown);
    Informed::start(move |updates, reporter| watch_directory(directory, "here".into(), updates, status, reporter))
}

async fn started(directory: &Path) -> Informed<Result<(), DirectoryError>> {
    let mut informed = follow(directory);
    informed.until_complete().await;
    informed
}

/// Replaces a file as careful writers do.
fn rename_over(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}

#[tokio::test]
async fn files_come_change_and_go() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.yaml"), service("web", 80) + &slice("web", "10.1.0.1")).unwrap();
    fs::write(dir.path().join(".hidden.yaml"), service("hidden", 80)).unwrap();
    fs::write(dir.path().join("notes.txt"), "not a manifest: [").unwrap();
    fs::create_dir(dir.path().join("directory.yaml")).unwrap();
    let _socket = UnixListener::bind(dir.path().join("socket.yaml")).unwrap();
    let mut informed = started(dir.path()).await;
    assert_eq!(informed.services(), ["web"]);
    assert_eq!(informed.endpoints("web"), ["10.1.0.1:8080"]);

    fs::write(dir.path().join("b.yml"), service("api", 81)).unwrap();
    informed.until("a new file", |i| i.port("api") == Some(81)).await;
    fs::write(dir.path().join("b.yml"), service("api", 82)).unwrap();
    informed.until("a file written over", |i| i.port("api") == Some(82)).await;
    rename_over(&dir.path().join("b.yml"), &service("api", 83));
    informed.until("a file renamed over", |i| i.port("api") == Some(83)).await;
    let json = r#"{"kind": "List", "items": [{"kind": "Service", "metadata": {"name": "j"},
                  "spec": {"clusterIP": "10.0.0.2", "ports": [{"port": 90}]}}]}"#;
    fs::write(dir.path().join("c.json"), json).unwrap();
    informed.until("a JSON file", |i| i.port("j") == Some(90)).await;
    fs::remove_file(dir.path().join("b.yml")).unwrap();
    informed.until("a file removed", |i| i.services() == ["j", "web"]).await;
    fs::rename(dir.path().join("c.json"), dir.path().join("c.off")).unwrap();
    informed.until("a file renamed away", |i| i.services() == ["web"]).await;

    rename_over(&dir.path().join("a.yaml"), &service("web", 80));
    informed.until("the endpoint removed", |i| i.endpoints("web").is_empty()).await;
    assert_eq!(informed.told(), [""; 0]);
    informed.stop().await.unwrap();
}

/// Otherwise connections to the Service would be refused until the next sync.
#[tokio::test]
async fn what_is_written_together_is_taken_together() {
    let dir = TempDir::new().unwrap();
    let mut informed = started(dir.path()).await;
    let port = |i: &Informed<_>| {
        let port = i.port("web");
        assert!(port.is_none() || i.endpoints("web") == ["10.1.0.1:8080"], "a Service without its endpoints");
        port
    };
    let (file, text) = (dir.path().join("a.yaml"), service("web", 80) + &slice("web", "10.1.0.1"));
    rename_over(&file, &text);
    informed.until("both", |i| port(i) == Some(80)).await;
    // They match by the name of the port.
    rename_over(
        &file,
        &text.replace("- port: 80\n", "- port: 81\n    name: http\n").replace("8080", "8080\n  name: http"),
    );
    informed.until("both changed", |i| port(i) == Some(81)).await;
    fs::remove_file(file).unwrap();
    informed.until("neither", |i| port(i).is_none()).await;
    informed.stop().await.unwrap();
}

#[tokio::test]
async fn a_malformed_document_keeps_what_was_there() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&a, service("one", 1) + &service("two", 2)).unwrap();
    fs::write(&b, service("other", 3)).unwrap();
    let mut informed = started(dir.path()).await;

    rename_over(&a, &(service("one", 11) + "---\nkind: Service\nmetadata: [\n"));
    informed.until("the good document", |i| i.port("one") == Some(11)).await;
    assert_eq!(informed.services(), ["one", "other", "two"]);
    informed.until_told("document 2: is not YAML").await;
    assert!(informed.told()[0].contains(&*a.to_string_lossy()), "{:?}", informed.told());

    // Other files go on.
    rename_over(&b, &service("other", 33));
    informed.until("the other file", |i| i.port("other") == Some(33)).await;
    assert_eq!(informed.port("two"), Some(2));

    // A document without a name, and one of the wrong shape.
    rename_over(&a, &(service("one", 12) + "---\nkind: Service\napiVersion: v1\nspec: {}\n"));
    informed.until_told("document 2: Service: metadata is missing: what was last read").await;
    informed.until("the good document", |i| i.port("one") == Some(12)).await;
    assert_eq!(informed.port("two"), Some(2));
    let odd = "---\nkind: Service\nmetadata: {name: two}\nspec: {clusterIP: 10.0.0.1, ports: x}\n";
    rename_over(&a, &(service("one", 13) + odd));
    informed.until_told("Service default/two: spec.ports: ").await;
    informed.until("the good document", |i| i.port("one") == Some(13)).await;
    assert_eq!(informed.port("two"), Some(2));

    // An emptied file is one that is about to be written.
    fs::write(&a, "").unwrap();
    informed.until_told("is empty").await;
    assert_eq!(informed.services(), ["one", "other", "two"]);

    // Mended, and what is not named any more is gone.
    rename_over(&a, &service("one", 14));
    informed.until("the mended file", |i| i.services() == ["one", "other"]).await;
    informed.stop().await.unwrap();
}

#[tokio::test]
async fn the_first_of_two_files_wins() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("b.yaml"), service("web", 2)).unwrap();
    fs::write(dir.path().join("a.yaml"), service("web", 1)).unwrap();
    let mut informed = started(dir.path()).await;
    assert_eq!(informed.port("web"), Some(1));
    informed.until_told("Service default/web is already in").await;
    assert!(informed.told()[0].contains("b.yaml: Service"), "{:?}", informed.told());
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    informed.until("the second file", |i| i.port("web") == Some(2)).await;
    informed.stop().await.unwrap();
}

/// How kubelet updates ConfigMap volumes: `web.yaml -> ..data/web.yaml`, `..data -> ..1`, and `..data` is replaced.
#[tokio::test]
async fn a_config_map_volume_is_swapped() {
    let dir = TempDir::new().unwrap();
    let version = |number: u16| {
        let version = dir.path().join(format!("..{number}"));
        fs::create_dir(&version).unwrap();
        fs::write(version.join("web.yaml"), service("web", number)).unwrap();
        symlink(format!("..{number}"), dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    };
    version(1);
    symlink("..data/web.yaml", dir.path().join("web.yaml")).unwrap();
    let mut informed = started(dir.path()).await;
    assert_eq!(informed.port("web"), Some(1));
    version(2);
    informed.until("the second version", |i| i.port("web") == Some(2)).await;
    fs::remove_dir_all(dir.path().join("..1")).unwrap();
    version(3);
    informed.until("the third version", |i| i.port("web") == Some(3)).await;
    assert_eq!(informed.told(), [""; 0]);
    informed.stop().await.unwrap();
}

#[tokio::test]
async fn the_directory_goes_and_comes_back() {
    let parent = TempDir::new().unwrap();
    let (dir, aside) = (parent.path().join("manifests"), parent.path().join("aside"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), service("web", 1)).unwrap();
    let mut informed = started(&dir).await;

    fs::rename(&dir, &aside).unwrap();
    informed.until_told("cannot be read").await;
    assert_eq!(informed.port("web"), Some(1));
    fs::create_dir(aside.join("next")).unwrap();
    fs::write(aside.join("next/a.yaml"), service("web", 2)).unwrap();
    fs::rename(aside.join("next"), &dir).unwrap();
    informed.until("the new directory", |i| i.port("web") == Some(2)).await;
    rename_over(&dir.join("a.yaml"), &service("web", 3));
    informed.until("a change in the new directory", |i| i.port("web") == Some(3)).await;

    // A link to a directory, which then leads to another one.
    informed.stop().await.unwrap();
    let link = parent.path().join("link");
    symlink(&aside, &link).unwrap();
    let mut informed = started(&link).await;
    assert_eq!(informed.port("web"), Some(1));
    symlink(&dir, parent.path().join("link2")).unwrap();
    fs::rename(parent.path().join("link2"), &link).unwrap();
    informed.until("where the link leads now", |i| i.port("web") == Some(3)).await;
    informed.stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("missing");
    let error = follow(&missing).source.await.unwrap().unwrap_err();
    let wanted = format!(
        "manifest directory {} cannot be read: No such file or directory (os error 2): check the path given with \
         --manifest-dir and its permissions",
        missing.display()
    );
    assert_eq!(error.to_string(), wanted);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = follow(&file).source.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("Not a directory (os error 20): check"), "{error}");
}

#[tokio::test]
async fn ten_thousand_services_in_one_file() {
    let dir = TempDir::new().unwrap();
    let text: String =
        (0..10_000).map(|n| service(&format!("s{n}"), 80) + &slice(&format!("s{n}"), "10.1.0.1")).collect();
    fs::write(dir.path().join("a.yaml"), text).unwrap();
    let mut items = String::from("kind: List\nitems:\n");
    for n in 0..30_000 {
        items += &format!(
            "- {{kind: Service, metadata: {{name: l{n}}}, spec: {{clusterIP: 10.0.0.1, ports: [{{port: 1}}]}}}}\n"
        );
    }
    fs::write(dir.path().join("b.yaml"), items).unwrap();
    let informed = started(dir.path()).await;
    assert_eq!(informed.state.services().count(), 40_000);
    assert_eq!(informed.endpoints("s9999"), ["10.1.0.1:8080"]);
    assert_eq!(informed.told(), [""; 0]);
    informed.stop().await.unwrap();
}

fn service_cidr(name: &str, cidr: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: {name}}}\nspec: {{cidrs: [{cidr}]}}\n"
    )
}

#[tokio::test]
async fn service_cidrs_come_change_and_go() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    let mut informed = started(dir.path()).await;
    let cidrs = |i: &Informed<_>| {
        let cidrs = i.state.service_cidrs(Family::V4);
        cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    rename_over(&file, &(service_cidr("kubernetes", "10.96.0.0/16") + &service_cidr("more", "10.97.0.0/16")));
    informed.until("both", |i| cidrs(i) == "10.96.0.0/16 10.97.0.0/16").await;
    rename_over(&file, &(service_cidr("kubernetes", "10.96.0.0/16") + &service_cidr("more", "10.98.0.0/16")));
    informed.until("the change", |i| cidrs(i) == "10.96.0.0/16 10.98.0.0/16").await;
    // Of the wrong shape: what was known stays, and the name is told without a namespace.
    let odd = "---\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: 5}\n";
    rename_over(&file, &(service_cidr("kubernetes", "10.99.0.0/16") + odd));
    informed.until("the good one", |i| cidrs(i) == "10.98.0.0/16 10.99.0.0/16").await;
    informed.until_told("ServiceCIDR more: spec.cidrs: ").await;
    fs::remove_file(&file).unwrap();
    informed.until("none", |i| cidrs(i).is_empty()).await;
    informed.stop().await.unwrap();
}

/// Labelled for another proxy, a Service is not served; without the label, it is again. A slice labelled headless has no
/// endpoints.
#[tokio::test]
async fn labels_that_say_hands_off_are_toggled() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    let labelled = |text: String, label: &str, name: &str| {
        text.replace(&format!("name: {name}\n"), &format!("name: {name}\n  labels: {{{label}: \"\"}}\n"))
    };
    let ours = service("web", 80) + &slice("web", "10.1.0.1");
    rename_over(&file, &ours);
    let mut informed = started(dir.path()).await;
    assert_eq!(informed.endpoints("web"), ["10.1.0.1:8080"]);

    let others = labelled(service("web", 80), "service.kubernetes.io/service-proxy-name", "web");
    rename_over(&file, &(others + &slice("web", "10.1.0.1")));
    informed.until("a Service of another proxy", |i| i.services().is_empty()).await;
    rename_over(&file, &ours);
    informed.until("our Service", |i| i.endpoints("web") == ["10.1.0.1:8080"]).await;

    let headless = slice("web", "10.1.0.1").replace("labels:\n", "labels:\n    service.kubernetes.io/headless: \"\"\n");
    rename_over(&file, &(service("web", 80) + &headless));
    informed.until("no endpoints", |i| i.endpoints("web").is_empty()).await;
    assert_eq!(informed.services(), ["web"]);
    rename_over(&file, &ours);
    informed.until("the endpoint", |i| i.endpoints("web") == ["10.1.0.1:8080"]).await;
    assert_eq!(informed.told(), [""; 0]);
    informed.stop().await.unwrap();
}

#[tokio::test]
async fn the_own_node_is_followed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("node.yaml");
    let node = |name: &str, zone: &str| {
        format!("---\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n")
    };
    let zone = |status: &NodeStatus| match status {
        NodeStatus::Known(node) => node.zone.as_deref().map(ToOwned::to_owned),
        NodeStatus::Missing => Some("missing".to_owned()),
        NodeStatus::Unknown => None,
    };
    let directory = dir.path().to_owned();
    let (sender, mut status) = watch::channel(NodeStatus::Unknown);
    let mut informed =
        Informed::start(move |updates, reporter| watch_directory(directory, "here".into(), updates, sender, reporter));
    informed.until_complete().await;
    assert_eq!(*status.borrow(), NodeStatus::Missing);
    let steps = [
        (node("here", "a") + &node("there", "x"), "a"),
        (node("there", "x") + &node("here", "b"), "b"),
        (node("here", "c") + "---\nbroken: [\n", "c"),
        // What cannot be read may be about it.
        ("---\nbroken: [\n".to_owned() + &node("there", "x"), "c"),
        ("---\nkind: Node\nmetadata: {name: here, labels: 5}\n".to_owned(), "c"),
        (node("there", "x"), "missing"),
        (node("here", "d"), "d"),
    ];
    for (number, (text, wanted)) in steps.into_iter().enumerate() {
        // A Service tells that the file has been read.
        rename_over(&file, &(service(&format!("step{number}"), 1) + &text));
        informed.until("the step", |i| i.port(&format!("step{number}")) == Some(1)).await;
        assert_eq!(zone(&status.borrow_and_update()).as_deref(), Some(wanted), "step {number}");
    }
    rename_over(&file, &node("here", "e"));
    status.wait_for(|status| zone(status).as_deref() == Some("e")).await.unwrap();
    fs::write(&file, "").unwrap();
    informed.until_told("is empty").await;
    assert_eq!(zone(&status.borrow()).as_deref(), Some("e"));
    informed.stop().await.unwrap();
}

#[test]
fn nodes_in_a_directory() {
    let dir = TempDir::new().unwrap();
    let reporter = Reporter::new(|_| {});
    let find = |name| node_in_directory(dir.path(), name, &reporter);
    assert_eq!(find("a").unwrap(), None);
    let node = |name: &str| {
        format!(
            "---\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}\n"
        )
    };
    fs::write(dir.path().join("a.yaml"), node("a")).unwrap();
    assert_eq!(&*find("a").unwrap().unwrap().name, "a");
    assert_eq!(&*find("elsewhere").unwrap().unwrap().name, "a");
    fs::write(dir.path().join("b.yaml"), node("b") + "---\nbroken: [\n").unwrap();
    assert_eq!(find("b").unwrap().unwrap().addresses.len(), 1);
    let error = find("c").unwrap_err().to_string();
    assert!(error.ends_with("has the Nodes a, b, none of them \"c\": set --hostname-override to one"), "{error}");
}

/// Files that take little to write, and would take much to read.
#[tokio::test]
async fn files_made_to_exhaust_are_refused_by_themselves() {
    let dir = TempDir::new().unwrap();
    let bomb: String =
        (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","))).collect();
    let files = [
        ("deep.yaml", "a: ".to_owned() + &"[".repeat(1_000_000), "is not YAML"),
        ("deep.json", "[".repeat(1_000_000), "is not JSON"),
        ("indented.yaml", (0..3_000).map(|n| " ".repeat(n) + "a:\n").collect(), "is not YAML"),
        ("bomb.yaml", format!("a0: &a0 [x]\n{bomb}"), "is not YAML"),
        ("huge.yaml", format!("#{}\n", "x".repeat(16 << 20)) + &service("huge", 80), "has more than 16 MiB"),
        ("name.yaml", service(&"n".repeat(1_000_000), 80), "is not a name"),
    ];
    for (name, text, _) in &files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    // Whoever reads it waits for a writer.
    let made = Command::new("mkfifo").arg(dir.path().join("pipe.yaml")).status().unwrap();
    assert!(made.success(), "no mkfifo (Debian package coreutils)");
    fs::write(dir.path().join("z.yaml"), service("good", 80)).unwrap();
    let mut informed = started(dir.path()).await;
    assert_eq!(informed.services(), ["good"]);
    for (name, _, told) in files {
        let told_of = |told_of: &str| told_of.contains(name) && told_of.contains(told) && told_of.len() < 1_000;
        assert!(informed.told().iter().any(|line| told_of(line)), "{name}: {:#?}", informed.told());
    }
    // What was read from a file stays when it has grown too large.
    rename_over(&dir.path().join("z.yaml"), &format!("#{}\n{}", "x".repeat(16 << 20), service("other", 80)));
    informed.until_told("z.yaml: has more than 16 MiB: divide it into several files: what was last read").await;
    assert_eq!(informed.services(), ["good"]);
    informed.stop().await.unwrap();
}

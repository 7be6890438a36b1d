//! The API source against a server that misbehaves on demand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

mod common;

use std::time::Duration;

use common::{Informed, configure, follow, server};
use informer::{ClientError, watch_api};
use serde_json::json;
use tempfile::TempDir;
use testing::api::{Expiry, FakeApi, Request, Resource};
use testing::objects::{Service, Slice, service, slice};

fn web(port: u16) -> Service {
    service("default", "web").cluster_ip("10.0.0.1").port("http", "TCP", port)
}

fn pods(address: &str) -> Slice {
    slice("default", "web-1", "web").port("http", "TCP", 8080).endpoint(address)
}

/// A server with one Service, and a source that has read it and watches.
async fn watching() -> (FakeApi, Informed<()>) {
    let api = FakeApi::start().unwrap();
    api.put(web(80));
    api.put(pods("10.1.0.1"));
    let mut informed = follow(&api).await;
    informed.until_complete().await;
    api.wait_for_watch(Resource::Services);
    api.wait_for_watch(Resource::EndpointSlices);
    api.wait_for_watch(Resource::ServiceCidrs);
    (api, informed)
}

fn lists(api: &FakeApi, resource: Resource) -> usize {
    let is_list = |request: &&Request| request.path == resource.path() && !request.query.contains_key("watch");
    api.requests().iter().filter(is_list).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_then_follows() {
    let (api, mut informed) = watching().await;
    assert_eq!(informed.endpoints("web"), ["10.1.0.1:8080"]);
    api.put(service("default", "new").cluster_ip("10.0.0.2").port("", "UDP", 53));
    informed.until("a new Service", |i| i.port("new") == Some(53)).await;
    api.put(pods("10.1.0.2"));
    informed.until("another endpoint", |i| i.endpoints("web") == ["10.1.0.2:8080"]).await;
    api.delete(Resource::EndpointSlices, "default", "web-1");
    informed.until("no endpoint", |i| i.endpoints("web").is_empty()).await;
    api.delete(Resource::Services, "default", "web");
    informed.until("one Service", |i| i.services() == ["new"]).await;
    assert_eq!(informed.told(), [""; 0]);
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asks_for_what_the_contract_says() {
    let (api, informed) = watching().await;
    let requests = api.requests();
    let find = |resource: Resource, watch: bool| {
        let wanted = |r: &&Request| r.path == resource.path() && r.query.contains_key("watch") == watch;
        requests.iter().find(wanted).unwrap().query.clone()
    };
    for watch in [false, true] {
        let services = find(Resource::Services, watch);
        assert_eq!(services["labelSelector"], "!service.kubernetes.io/service-proxy-name");
        assert_eq!(services["fieldSelector"], "spec.clusterIP!=None");
        let slices = find(Resource::EndpointSlices, watch);
        assert_eq!(slices["labelSelector"], "!service.kubernetes.io/headless");
        assert!(!slices.contains_key("fieldSelector"));
        let cidrs = find(Resource::ServiceCidrs, watch);
        assert!(!cidrs.contains_key("fieldSelector") && !cidrs.contains_key("labelSelector"));
    }
    let list = find(Resource::Services, false);
    assert_eq!(list["resourceVersion"], "0");
    assert_eq!(find(Resource::Services, true)["allowWatchBookmarks"], "true");
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headless_services_and_those_of_other_proxies_do_not_come() {
    let api = FakeApi::start().unwrap();
    api.put(service("default", "headless").headless().port("", "TCP", 80));
    let other = service("default", "other").cluster_ip("10.0.0.3").port("", "TCP", 80);
    api.put(other.set("/metadata/labels/service.kubernetes.io~1service-proxy-name", "x"));
    api.put(web(80));
    let mut informed = follow(&api).await;
    informed.until_complete().await;
    assert_eq!(informed.services(), ["web"]);
    informed.stop().await;
}

/// Labelled for another proxy, a Service is not served; without the label, it is again. A slice labelled headless has no
/// endpoints. What leaves the selector of a watch is told as deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_that_say_hands_off_are_toggled() {
    let (api, mut informed) = watching().await;
    for value in ["x", ""] {
        api.put(web(80).set("/metadata/labels/service.kubernetes.io~1service-proxy-name", value));
        informed.until("a Service of another proxy", |i| i.services().is_empty()).await;
        api.put(web(81));
        informed.until("our Service", |i| i.port("web") == Some(81)).await;
        assert_eq!(informed.endpoints("web"), ["10.1.0.1:8080"]);
    }
    api.put(pods("10.1.0.1").set("/metadata/labels/service.kubernetes.io~1headless", ""));
    informed.until("no endpoints", |i| i.endpoints("web").is_empty()).await;
    api.put(pods("10.1.0.1"));
    informed.until("the endpoint", |i| i.endpoints("web") == ["10.1.0.1:8080"]).await;
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_end_or_break_resume_without_a_list() {
    let (api, mut informed) = watching().await;
    api.end_watches();
    api.put(web(81));
    informed.until("what changed meanwhile", |i| i.port("web") == Some(81)).await;
    api.wait_for_watch(Resource::Services);
    api.break_watches();
    api.put(web(82));
    informed.until("what changed meanwhile", |i| i.port("web") == Some(82)).await;
    assert_eq!(lists(&api, Resource::Services), 1);
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookmarks_move_the_place_to_resume_from() {
    let (api, mut informed) = watching().await;
    // Slices change, and a bookmark tells the watch of Services how far time has gone.
    api.put(pods("10.1.0.2"));
    informed.until("the change", |i| i.endpoints("web") == ["10.1.0.2:8080"]).await;
    api.bookmark();
    let version = api.version().to_string();
    api.end_watches();
    api.wait_for_requests("a watch from the bookmark", |requests| {
        requests.iter().any(|r| {
            r.path == Resource::Services.path()
                && r.query.contains_key("watch")
                && r.query.get("resourceVersion") == Some(&version)
        })
    });
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_version_leads_to_a_new_list() {
    for expiry in [Expiry::Event, Expiry::Status] {
        let (api, mut informed) = watching().await;
        api.go_down();
        api.delete(Resource::Services, "default", "web");
        api.put(service("default", "new").cluster_ip("10.0.0.2").port("", "UDP", 53));
        api.compact(expiry);
        api.come_up().unwrap();
        informed.until("the new list", |i| i.services() == ["new"]).await;
        assert!(lists(&api, Resource::Services) >= 2, "{expiry:?}");
        informed.stop().await;
    }
    let (api, mut informed) = watching().await;
    api.expire_watches();
    informed.until("new lists", |i| i.lists == 6).await;
    api.put(web(81));
    informed.until("a change after that", |i| i.port("web") == Some(81)).await;
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_away_is_followed_again() {
    let (api, mut informed) = watching().await;
    api.go_down();
    api.put(web(81));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(informed.port("web"), Some(80));
    api.come_up().unwrap();
    informed.until("what changed meanwhile", |i| i.port("web") == Some(81)).await;
    assert_eq!(lists(&api, Resource::Services), 1, "a list is not needed");
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_a_server_that_is_not_there_yet() {
    let api = FakeApi::start().unwrap();
    api.put(web(80));
    api.go_down();
    let server = server(&api).await;
    let mut informed = Informed::start(move |updates, reporter| watch_api(server, "here".into(), updates, reporter));
    api.come_up().unwrap();
    informed.until_complete().await;
    assert_eq!(informed.port("web"), Some(80));
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_retried() {
    let api = FakeApi::start().unwrap();
    api.put(web(80));
    api.forbid(Resource::EndpointSlices);
    let mut informed = follow(&api).await;
    informed.until("the Services", |i| i.port("web") == Some(80)).await;
    assert!(!informed.state.is_complete());
    api.wait_for_requests("a list of slices that is tried again", |requests| {
        requests.iter().filter(|r| r.path == Resource::EndpointSlices.path()).count() > 1
    });
    let failures = informed.failures.lock().unwrap().clone();
    assert!(!failures.is_empty() && failures.iter().all(|resource| *resource == "endpointslices"), "{failures:?}");
    api.allow(Resource::EndpointSlices);
    informed.until_complete().await;
    api.fail_requests(true);
    api.end_watches();
    let watches = |requests: &[Request]| requests.iter().filter(|r| r.query.contains_key("watch")).count();
    api.wait_for_requests("failing watches", |requests| watches(requests) > 2);
    api.fail_requests(false);
    api.put(web(81));
    informed.until("a change after that", |i| i.port("web") == Some(81)).await;
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_objects_cost_only_themselves() {
    let (api, mut informed) = watching().await;
    // In the watch.
    let odd = json!({"kind": "Service", "metadata": {"namespace": "default", "name": "web"},
                     "spec": {"clusterIP": "10.0.0.1", "ports": "x"}});
    api.put(odd);
    informed.until_told("Service default/web: spec.ports: invalid type: string \"x\"").await;
    api.put(service("default", "next").cluster_ip("10.0.0.2").port("", "TCP", 1));
    informed.until("the event after it", |i| i.port("next") == Some(1)).await;
    assert_eq!(informed.port("web"), Some(80), "the last good version stays");

    // In a list, which keeps the last good version as well.
    api.put_raw(Resource::Services, "default", "worse", json!({"spec": [1], "metadata": {"name": 5}}));
    let before = informed.lists;
    api.expire_watches();
    informed.until("new lists", |i| i.lists == before + 3 && i.services() == ["next", "web"]).await;
    informed.until_told("metadata.name: invalid type: integer `5`").await;
    api.put(web(81));
    informed.until("the mended Service", |i| i.port("web") == Some(81)).await;

    // A line that is no event at all.
    let lists_so_far = lists(&api, Resource::Services);
    api.wait_for_watch(Resource::Services);
    api.send_line(Resource::Services, "{\"type\": \"ADDED\", \"object\": 5, nonsense");
    api.put(web(82));
    informed.until("the event after it", |i| i.port("web") == Some(82)).await;
    api.wait_for_requests("a list that makes up for the lost event", |requests| {
        let is_list = |r: &&Request| r.path == Resource::Services.path() && !r.query.contains_key("watch");
        requests.iter().filter(is_list).count() > lists_so_far
    });
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_kubeconfig_is_told() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("kubeconfig");
    let told = async || match configure(Some(&path)).await {
        Err(error @ ClientError::Kubeconfig { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(told().await.contains("cannot be read: No such file or directory (os error 2)"));
    std::fs::write(&path, "clusters: [\n").unwrap();
    let malformed = told().await;
    assert!(malformed.contains("is malformed: ") && !malformed.contains('\n'), "{malformed}");
    std::fs::write(&path, "kind: Config\ncurrent-context: none\n").unwrap();
    assert!(told().await.contains("none"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kubeconfig_cannot_do_without_is_told() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("ca.crt");
    std::fs::write(&file, "no certificate").unwrap();
    let https = "https://127.0.0.1:9";
    for (cluster, user, wanted) in [
        (json!({"server": https, "certificate-authority": "/nowhere/ca"}), json!({}), "/nowhere/ca"),
        (json!({"server": https, "certificate-authority": file}), json!({}), "certificate-authority"),
        (json!({"server": https}), json!({"tokenFile": "/nowhere/token"}), "/nowhere/token"),
        (
            json!({"server": https}),
            json!({"client-certificate": "/nowhere/c", "client-key": "/nowhere/k"}),
            "/nowhere/",
        ),
        (json!({"server": https}), json!({"exec": {"command": "/nowhere/get"}}), "auth exec"),
        (json!({"server": "ftp://127.0.0.1"}), json!({}), "ftp"),
        (json!({"server": "not a url"}), json!({}), "url"),
    ] {
        let path = kubeconfig(&dir, cluster.clone(), user.clone());
        let error = configure(Some(&path)).await.expect_err(wanted).to_string();
        assert!(error.contains(wanted) && error.contains("correct"), "{cluster} {user}: {error}");
    }
}

fn kubeconfig(dir: &TempDir, cluster: serde_json::Value, user: serde_json::Value) -> std::path::PathBuf {
    let path = dir.path().join("kubeconfig");
    let config = json!({
        "clusters": [{"name": "a", "cluster": cluster}],
        "users": [{"name": "a", "user": user}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    });
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// Neither TLS nor credentials may fail before there is a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tls_and_a_token() {
    let dir = TempDir::new().unwrap();
    // The discard port of the loopback address: nobody listens.
    let cluster = json!({"server": "https://127.0.0.1:9", "insecure-skip-tls-verify": true});
    let path = kubeconfig(&dir, cluster, json!({"token": "secret"}));
    let server = configure(Some(&path)).await.unwrap();
    assert_eq!(server.url(), "https://127.0.0.1:9");
    let informed = Informed::start(move |updates, reporter| watch_api(server, "here".into(), updates, reporter));
    let failed = async || {
        while informed.failures.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), failed()).await.expect("nobody listens there");
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_a_cluster_there_is_no_default_server() {
    let error = configure(None).await.unwrap_err().to_string();
    assert!(error.contains("KUBERNETES_SERVICE_PORT are not set") && error.contains("--manifest-dir"), "{error}");
}

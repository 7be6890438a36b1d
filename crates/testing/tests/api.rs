//! The fake API server as its clients meet it: over HTTP.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testing::api::{Expiry, FakeApi, Resource};
use testing::netns::Namespace;
use testing::objects::{node, service, slice};

const SERVICES: &str = "/api/v1/services";

/// A response whose body is read as it arrives.
struct Response {
    status: u16,
    body: BufReader<TcpStream>,
}

impl Response {
    /// The next line, or None at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.body.read_line(&mut line).unwrap() > 0).then_some(line)
    }

    /// The type, name and version of the next event.
    fn event(&mut self) -> Option<(String, String, String)> {
        let event: Value = serde_json::from_str(&self.line()?).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &event["object"]["metadata"];
        Some((text(&event["type"]), text(&metadata["name"]), text(&metadata["resourceVersion"])))
    }

    fn json(mut self) -> Value {
        let mut text = String::new();
        self.body.read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// Sends a GET as HTTP/1.0, so that the body is not in chunks and ends with the connection.
fn request(url: &str, path: &str, version: &str) -> std::io::Result<BufReader<TcpStream>> {
    let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/{version}\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    Ok(BufReader::new(stream))
}

fn get(api: &FakeApi, path: &str) -> Response {
    let mut body = request(&api.url(), path, "1.0").unwrap();
    let mut lines = body.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    lines.for_each(drop);
    Response { status, body }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn event(kind: &str, name: &str, version: u64) -> Option<(String, String, String)> {
    Some((kind.to_owned(), name.to_owned(), version.to_string()))
}

#[test]
fn lists_come_in_pages_and_selected() {
    let api = FakeApi::start().unwrap();
    for name in ["a", "b", "c", "d"] {
        api.put(service("default", name).cluster_ip("10.96.0.1").port("", "TCP", 80));
    }
    api.put(service("default", "e").headless());
    api.put(service("default", "f").set("/metadata/labels/service.kubernetes.io~1service-proxy-name", "other"));
    api.put(slice("default", "a-1", "a").endpoint("10.1.0.2"));

    let selector = "labelSelector=!service.kubernetes.io/service-proxy-name&fieldSelector=spec.clusterIP!%3DNone";
    let first = get(&api, &format!("{SERVICES}?{selector}&limit=3")).json();
    assert_eq!((names(&first), &first["kind"]), (vec!["a", "b", "c"], &json!("ServiceList")));
    assert_eq!(first["metadata"]["resourceVersion"], "7");
    api.put(service("default", "aa"));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = get(&api, &format!("{SERVICES}?{selector}&limit=3&continue={token}")).json();
    assert_eq!((names(&second), &second["metadata"]), (vec!["d"], &json!({"resourceVersion": "7"})));

    let cached = get(&api, &format!("{SERVICES}?limit=1&resourceVersion=0")).json();
    assert_eq!(names(&cached).len(), 7);

    api.compact(Expiry::Status);
    assert_eq!(get(&api, &format!("{SERVICES}?continue={token}")).status, 410);
}

#[test]
fn a_node_is_found_by_name_and_by_field() {
    let api = FakeApi::start().unwrap();
    api.put(node("one", &["10.1.0.0/24"], &["192.0.2.10"]));
    api.put(node("two", &[], &[]));
    assert_eq!(get(&api, "/api/v1/nodes/one").json()["spec"]["podCIDR"], "10.1.0.0/24");
    let missing = get(&api, "/api/v1/nodes/three");
    assert_eq!((missing.status, &missing.json()["reason"]), (404, &json!("NotFound")));
    assert_eq!(names(&get(&api, "/api/v1/nodes?fieldSelector=metadata.name%3Dtwo").json()), ["two"]);
}

#[test]
fn a_watch_tells_what_came_changed_and_went() {
    let api = FakeApi::start().unwrap();
    api.put(service("default", "old"));
    api.put(service("default", "missed"));
    let mut watch = get(&api, &format!("{SERVICES}?watch=true&resourceVersion=1&fieldSelector=spec.clusterIP!=None"));
    assert_eq!(watch.event(), event("ADDED", "missed", 2));
    api.put(service("default", "old").port("", "TCP", 80));
    assert_eq!(watch.event(), event("MODIFIED", "old", 3));
    api.put(node("of-no-interest", &[], &[]));
    api.put(service("default", "headless").headless());
    api.put(service("default", "old").headless());
    assert_eq!(watch.event(), event("DELETED", "old", 6), "it left the selector");
    api.put(service("default", "headless"));
    assert_eq!(watch.event(), event("ADDED", "headless", 7), "it entered the selector");
    api.delete(Resource::Services, "default", "missed");
    assert_eq!(watch.event(), event("DELETED", "missed", 8));
}

#[test]
fn a_watch_of_one_node_sees_no_other() {
    let api = FakeApi::start().unwrap();
    api.put(node("one", &[], &[]));
    let mut watch = get(&api, "/api/v1/nodes?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dtwo");
    api.put(node("two", &[], &[]));
    assert_eq!(watch.event(), event("ADDED", "two", 2));
    api.put(node("one", &["10.1.0.0/24"], &[]));
    api.delete(Resource::Nodes, "", "two");
    assert_eq!(watch.event(), event("DELETED", "two", 4));
}

#[test]
fn a_watch_from_nowhere_begins_with_what_there_is() {
    let api = FakeApi::start().unwrap();
    api.put(service("default", "a"));
    let mut watch = get(&api, &format!("{SERVICES}?watch=1&resourceVersion=0"));
    assert_eq!(watch.event(), event("ADDED", "a", 1));
    api.end_watches();
    assert_eq!(watch.event(), None);
}

#[test]
fn a_streamed_list_ends_with_a_marked_bookmark_where_enabled() {
    let api = FakeApi::start().unwrap();
    api.put(service("default", "a"));
    let path = format!("{SERVICES}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true");
    let refused = get(&api, &path);
    assert_eq!((refused.status, &refused.json()["reason"]), (422, &json!("Invalid")));
    api.streaming_lists(true);
    let mut watch = get(&api, &path);
    assert_eq!(watch.event(), event("ADDED", "a", 1));
    let bookmark: Value = serde_json::from_str(&watch.line().unwrap()).unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
}

#[test]
fn bookmarks_go_to_those_who_asked() {
    let api = FakeApi::start().unwrap();
    api.put(service("default", "a"));
    let mut with = get(&api, &format!("{SERVICES}?watch=true&resourceVersion=1&allowWatchBookmarks=true"));
    let mut without = get(&api, &format!("{SERVICES}?watch=true&resourceVersion=1"));
    api.bookmark();
    assert_eq!(with.event(), event("BOOKMARK", "", 1));
    api.put(service("default", "b"));
    assert_eq!(with.event(), event("ADDED", "b", 2));
    assert_eq!(without.event(), event("ADDED", "b", 2));
    api.bookmark_every(Duration::from_millis(10));
    assert_eq!(with.event(), event("BOOKMARK", "", 2));
}

#[test]
fn a_watch_ends_at_its_timeout() {
    let api = FakeApi::start().unwrap();
    let started = Instant::now();
    assert_eq!(get(&api, &format!("{SERVICES}?watch=true&timeoutSeconds=1")).line(), None);
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn versions_expire_by_status_or_by_event() {
    let api = FakeApi::start().unwrap();
    api.put(service("default", "a"));
    api.put(service("default", "b"));
    let mut open = get(&api, &format!("{SERVICES}?watch=true&resourceVersion=2"));
    api.compact(Expiry::Status);
    let path = format!("{SERVICES}?watch=true&resourceVersion=1");
    let answer = get(&api, &path);
    assert_eq!((answer.status, &answer.json()["reason"]), (410, &json!("Expired")));
    api.compact(Expiry::Event);
    let mut answer = get(&api, &path);
    let event: Value = serde_json::from_str(&answer.line().unwrap()).unwrap();
    assert_eq!((answer.status, &event["type"], &event["object"]["code"]), (200, &json!("ERROR"), &json!(410)));
    assert_eq!(answer.line(), None);

    api.put(service("default", "c"));
    assert_eq!(open.event().unwrap().1, "c", "compaction leaves open watches alone");
    api.expire_watches();
    assert!(open.line().unwrap().contains(r#""code":410"#));
    assert_eq!(open.line(), None);
}

#[test]
fn broken_watches_stop_in_the_middle() {
    let api = FakeApi::start().unwrap();
    let mut body = request(&api.url(), &format!("{SERVICES}?watch=true"), "1.1").unwrap();
    api.wait_for_watch(Resource::Services);
    api.send_line(Resource::Services, "{garbage");
    api.break_watches();
    let mut text = Vec::new();
    // Whether the connection is reset or closed does not matter.
    body.read_to_end(&mut text).ok();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("{garbage\n") && text.contains(r#"{"type":"MODIFIED","object":{"kind":"#), "{text}");
    assert!(!text.ends_with("0\r\n\r\n"), "the body must not end properly: {text}");
}

#[test]
fn down_it_refuses_and_up_it_remembers() {
    let api = FakeApi::start().unwrap();
    api.put(service("default", "a"));
    let mut watch = get(&api, &format!("{SERVICES}?watch=true&resourceVersion=1"));
    api.go_down();
    assert!(matches!(watch.body.read_line(&mut String::new()), Ok(0) | Err(_)), "its watches broke off");
    assert!(request(&api.url(), SERVICES, "1.0").is_err());
    api.go_down();
    api.put(service("default", "b"));
    api.come_up().unwrap();
    api.come_up().unwrap();
    let mut watch = get(&api, &format!("{SERVICES}?watch=true&resourceVersion=1"));
    assert_eq!(watch.event(), event("ADDED", "b", 2));
}

#[test]
fn requests_fail_are_forbidden_or_slow_on_demand_and_all_are_recorded() {
    let api = FakeApi::start().unwrap();
    api.fail_requests(true);
    assert_eq!(get(&api, "/api/v1/nodes").status, 500);
    api.fail_requests(false);
    api.forbid(Resource::Nodes);
    assert_eq!(get(&api, "/api/v1/nodes/one").status, 403);
    let answer = get(&api, "/api/v1/nodes?watch=true");
    assert_eq!((answer.status, &answer.json()["reason"]), (403, &json!("Forbidden")));
    assert_eq!(get(&api, SERVICES).status, 200);
    api.allow(Resource::Nodes);
    api.unserve(Resource::ServiceCidrs);
    let answer = get(&api, "/apis/networking.k8s.io/v1/servicecidrs?limit=500");
    assert_eq!((answer.status, &answer.json()["reason"]), (404, &json!("NotFound")));
    api.slow_lists(Duration::from_millis(100));
    let started = Instant::now();
    assert_eq!(get(&api, "/api/v1/nodes?limit=5&labelSelector=%21a").status, 200);
    assert!(started.elapsed() >= Duration::from_millis(100));

    let requests = api.requests();
    assert_eq!(requests.len(), 6);
    assert!(requests.is_sorted_by_key(|request| request.time));
    let last = requests.last().unwrap();
    let query = BTreeMap::from([("limit", "5"), ("labelSelector", "!a")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!((&*last.method, &*last.path, &last.query), ("GET", "/api/v1/nodes", &query));
}

#[test]
fn waiting_ends_when_the_request_arrives() {
    let api = FakeApi::start().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| get(&api, "/version").json());
        api.wait_for_requests("a request for the version", |all| all.iter().any(|request| request.path == "/version"));
    });
}

#[test]
fn objects_may_be_of_any_shape() {
    let api = FakeApi::start().unwrap();
    api.put(json!({"kind": "Service", "metadata": {"name": "a", "labels": 7}, "spec": {"ports": "many"}}));
    api.put_raw(Resource::Services, "", "b", json!("no object"));
    let list = get(&api, SERVICES).json();
    assert_eq!((&list["items"][0]["spec"]["ports"], &list["items"][1]), (&json!("many"), &json!("no object")));
}

#[test]
fn it_stays_in_the_namespace_where_it_was_started() {
    let namespace = Namespace::new("api").unwrap();
    let api = namespace.run(|| FakeApi::start().unwrap());
    assert_eq!(namespace.run(|| get(&api, "/version").status), 200);
    assert!(request(&api.url(), "/version", "1.0").is_err());
    api.go_down();
    api.come_up().unwrap();
    assert_eq!(namespace.run(|| get(&api, "/version").status), 200);
}

#[test]
fn the_kubeconfig_leads_to_it() {
    let (api, directory) = (FakeApi::start().unwrap(), tempfile::tempdir().unwrap());
    let config = std::fs::read(api.kubeconfig(directory.path()).unwrap()).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["clusters"][0]["cluster"]["server"], api.url());
}

/// As of a server whose watch cache is behind that of another.
#[test]
fn a_server_that_lags_lists_the_past_and_repeats_it() {
    let api = FakeApi::start().unwrap();
    for name in ["a", "b", "c"] {
        api.put(service("default", name).cluster_ip("10.96.0.1").port("", "TCP", 80));
    }
    api.delete(Resource::Services, "default", "a");
    api.lag(2);
    let list = get(&api, SERVICES).json();
    assert_eq!((names(&list), list["metadata"]["resourceVersion"].as_str()), (vec!["a", "b"], Some("2")));
    let mut watch = get(&api, &format!("{SERVICES}?watch=1&resourceVersion=4&timeoutSeconds=1"));
    assert_eq!(watch.event(), event("ADDED", "c", 3));
    assert_eq!(watch.event(), event("DELETED", "a", 4));
    assert_eq!(watch.event(), None);
}

#[test]
fn what_is_sent_is_counted_by_request() {
    let api = FakeApi::start().unwrap();
    api.put(service("shop", "web").cluster_ip("10.96.0.10"));
    let mut list = String::new();
    get(&api, SERVICES).body.read_to_string(&mut list).unwrap();
    let mut watch = get(&api, &format!("{SERVICES}?watch=true"));
    let mut lines = watch.line().unwrap();
    let sent = || api.requests().iter().map(|request| request.sent() as usize).collect::<Vec<_>>();
    assert_eq!(sent(), [list.len(), lines.len()]);
    api.put(service("shop", "other").cluster_ip("10.96.0.20"));
    lines += &watch.line().unwrap();
    assert_eq!(sent(), [list.len(), lines.len()]);
}

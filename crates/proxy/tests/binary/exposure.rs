//! What others can see of it, and reach.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use testing::netns::Namespace;
use testing::objects::{service, slice};

use crate::api::Node;
use crate::process::{HEALTH_PORT, METRICS_PORT, Proxy, write};

/// The sockets of the namespace that others can send to: kind, address and port, as `ss` prints them.
fn sockets(namespace: &Namespace) -> Vec<String> {
    let listing =
        namespace.sh("ss --no-header --listening --numeric --tcp --udp --raw --packet --sctp --dccp --vsock").unwrap();
    let mut sockets: Vec<_> = listing
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .map(|columns| format!("{} {}", columns[0], columns[4]))
        .collect();
    sockets.sort();
    sockets
}

/// SECURITY.md has the list.
#[test]
fn nothing_listens_but_what_is_documented() {
    let namespace = Namespace::new("node").unwrap();
    namespace.add_address("lo", "192.0.2.10/32").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.conf");
    let manifests = ["--manifest-dir", directory.path().to_str().unwrap(), "--hostname-override=node-1"];
    let proxy = Proxy::start(&namespace, &manifests);
    proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
    proxy.wait_for_status(METRICS_PORT, "/healthz", 200);
    assert_eq!(sockets(&namespace), ["tcp *:10256", "tcp 127.0.0.1:10249"]);
    drop(proxy);

    // A load balancer that asks, and NodePorts on localhost, each add theirs.
    fs::write(
        &config,
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
         nodePortAddresses: [192.0.2.10/32, 127.0.0.1/32]\n",
    )
    .unwrap();
    let web = service("shop", "web").cluster_ip("10.96.0.10").port("http", "TCP", 80).node_port(30080);
    let balanced = web.set("/spec/type", "LoadBalancer").set("/spec/externalTrafficPolicy", "Local");
    let balanced = balanced.set("/spec/healthCheckNodePort", 30081);
    let ends = slice("shop", "web-1", "web").port("http", "TCP", 8080).endpoint("10.1.0.2").on_node("node-1");
    write(directory.path(), "web.yaml", &[balanced.into(), ends.into()]);
    let proxy = Proxy::start(&namespace, &[&["--config", config.to_str().unwrap()], &manifests[..]].concat());
    let documented = ["tcp *:10256", "tcp 127.0.0.1:10249", "tcp 127.0.0.1:30080", "tcp 192.0.2.10:30081"];
    proxy.wait(format_args!("{documented:?}"), || sockets(&namespace) == documented);
    for server in ["192.0.2.10:10256", "127.0.0.1:10249", "192.0.2.10:30081"] {
        bears_clients(&namespace, server);
    }
}

/// A head without end is refused, and idle clients keep nobody out once they leave.
fn bears_clients(namespace: &Namespace, server: &str) {
    let connect = || {
        let stream = namespace.run(|| TcpStream::connect(server)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let answer = |mut stream: TcpStream, request: &[u8]| {
        // It may hang up before it has got all of it.
        stream.write_all(request).ok();
        let mut answer = Vec::new();
        // What came before a reset is kept.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8(answer).unwrap()
    };
    let head = [b"GET /healthz HTTP/1.0\r\nX: ".as_slice(), &vec![b'x'; 1 << 20]].concat();
    let refused = answer(connect(), &head);
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 431 "), "{server}: {refused}");
    let idle: Vec<_> = (0..200).map(|_| connect()).collect();
    let late = connect();
    drop(idle);
    let status = answer(late, b"GET /healthz HTTP/1.0\r\n\r\n");
    assert!(["HTTP/1.0 200", "HTTP/1.0 503"].iter().any(|wanted| status.starts_with(wanted)), "{server}: {status}");
}

/// A token, and what a key file might have in it.
const TOKEN: &str = "s3cr3t-t0ken-of-kube-proxy";
const KEY: &str = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";

#[test]
fn what_is_secret_is_not_logged() {
    let node = Node::new();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = node.api.kubeconfig(directory.path()).unwrap();
    let text = fs::read_to_string(&kubeconfig).unwrap();
    let with_user =
        |user: &str| fs::write(&kubeconfig, text.replace("\"user\": {}", &format!("\"user\": {user}"))).unwrap();
    with_user(&json!({"token": TOKEN}).to_string());
    let arguments =
        ["--kubeconfig", kubeconfig.to_str().unwrap(), "--hostname-override=node-1", "-v=10", "--profiling"];
    let proxy = Proxy::start(&node.namespace, &arguments);
    proxy.wait_for_rule("10.96.0.10");
    node.api.forbid(testing::api::Resource::Services);
    node.api.expire_watches();
    proxy.wait_for_log("resources [services]");
    node.api.go_down();
    proxy.wait_for_log("check that the server runs");
    assert!(
        proxy.log().contains("SyncProxyRules complete"),
        "the log is not as detailed as it can be:\n{}",
        proxy.log()
    );
    let mut said = proxy.log();
    for page in ["/metrics", "/configz", "/flagz", "/statusz", "/debug/flags"] {
        said += &proxy.get(METRICS_PORT, page).unwrap().1;
    }
    assert!(!said.contains(TOKEN), "{said}");
    drop(proxy);

    // What cannot be used is told, but not quoted.
    let broken = [
        format!("{{\"token\": {TOKEN}: [}}"),
        format!("{{\"token\": [\"{TOKEN}\"]}}"),
        format!("{{\"token\": {{\"{TOKEN}\": 1}}}}"),
        format!("\"{TOKEN}\""),
        "{\"token\": 4711081512345}".to_owned(),
        format!("{{\"client-certificate-data\": \"{KEY}\", \"client-key-data\": \"{KEY}\"}}"),
        format!("{{\"client-certificate-data\": \"LS0t\", \"client-key-data\": \"{KEY}!\"}}"),
        format!(
            "{{\"exec\": {{\"command\": \"/nowhere\", \"args\": [\"{TOKEN}\"], \"env\": [{{\"name\": \"T\", \"value\": \"{TOKEN}\"}}]}}}}"
        ),
    ];
    for user in broken {
        with_user(&user);
        let proxy = Proxy::start(&node.namespace, &arguments);
        let is_told = |log: &str| ["command failed", "cannot list"].iter().any(|told| log.contains(told));
        proxy.wait(format_args!("what comes of {user}"), || is_told(&proxy.log()));
        let log = proxy.log();
        for secret in [TOKEN, KEY, "4711081512345"] {
            assert!(!log.contains(secret), "{user}:\n{log}");
        }
    }
}

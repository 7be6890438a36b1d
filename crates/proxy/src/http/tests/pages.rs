//! Every path of the metrics server: status, headers and body.

use serde_json::json;
use tokio::sync::watch;

use super::*;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn some() -> Pages {
    Pages {
        configuration: watch::channel(json!({"kind": "KubeProxyConfiguration", "mode": "nftables"})).1,
        flags: Some(vec![("config".to_owned(), "/a,b".to_owned()), ("v".to_owned(), "2".to_owned())]),
        statusz: true,
        debug: true,
    }
}

async fn serve_pages(pages: Pages) -> SocketAddr {
    serve_on_loopback(metrics_routes(telemetry().metrics, pages).unwrap()).await
}

/// Sends `METHOD PATH`, or `METHOD PATH < BODY`, with this value of Accept, unless it is empty.
async fn ask(address: SocketAddr, line: &str, accept: &str) -> String {
    let (line, body) = line.split_once(" < ").unwrap_or((line, ""));
    let accept = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: {length}\r\n{accept}");
    exchange(address, format!("{head}\r\n{body}").as_bytes()).await
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn every_path_has_its_status_type_and_body() {
    let address = serve_pages(some()).await;
    for (line, status, content_type, expected) in [
        ("GET /healthz", 200, TEXT, "ok"),
        ("POST /healthz", 200, TEXT, "ok"),
        ("GET /healthz/ping", 200, TEXT, "ok"),
        ("GET /healthz?verbose", 200, TEXT, "[+]ping ok\nhealthz check passed\n"),
        ("GET /healthz?a=b&verbose=1", 200, TEXT, "[+]ping ok\nhealthz check passed\n"),
        ("GET /healthz?verbosely", 200, TEXT, "ok"),
        ("GET /proxyMode", 200, TEXT, "nftables"),
        (
            "GET /configz",
            200,
            JSON,
            r#"{"kubeproxy.config.k8s.io":{"kind":"KubeProxyConfiguration","mode":"nftables"}}"#,
        ),
        ("DELETE /metrics/slis", 200, TEXT, "metrics reset\n"),
        ("GET /debug/flags/v", 406, TEXT, "only PUT sets the verbosity\n"),
        ("PUT /debug/flags/v < 2", 200, TEXT, "successfully set klog.logging.verbosity to 2"),
        ("PUT /debug/flags/v < 2147483647", 200, TEXT, "successfully set klog.logging.verbosity to 2147483647"),
    ] {
        let answer = ask(address, line, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert_eq!(header(&answer, "content-type"), Some(content_type), "{line}");
        assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"), "{line}");
        assert_eq!(body(&answer), expected, "{line}");
    }
    let large = format!("PUT /debug/flags/v < 2{}", " ".repeat(64));
    for wrong in ["PUT /debug/flags/v < 2147483648", "PUT /debug/flags/v < -1", "PUT /debug/flags/v < all", &large] {
        let answer = ask(address, wrong, "").await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && body(&answer).contains("not a number"), "{wrong}: {answer}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_switched_off_is_not_found() {
    let address = serve_pages(some()).await;
    for path in
        ["/", "/healthz/", "/metrics/", "/proxyMode/", "/configz/x", "/flagz/", "/livez", "/debug", "/debug/flags/x"]
    {
        let answer = ask(address, &format!("GET {path}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && body(&answer) == "404 page not found\n", "{path}: {answer}");
    }
    let address = serve_pages(Pages { flags: None, statusz: false, debug: false, ..some() }).await;
    for path in ["/flagz", "/statusz", "/debug/pprof", "/debug/pprof/", "/debug/flags", "/debug/flags/v"] {
        assert!(ask(address, &format!("PUT {path}"), "").await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    let address = serve_pages(Pages { flags: None, ..some() }).await;
    assert!(ask(address, "GET /statusz", "").await.contains("Paths: /configz /healthz /metrics /proxyMode\n"));
}

#[tokio::test]
async fn objects_are_sent_to_who_asks_for_them_and_text_to_all_others() {
    let address = serve_pages(some()).await;
    let text = "kube-proxy flagz\nWarning: ";
    let beta = r#""apiVersion":"config.k8s.io/v1beta1","flags":{"config":"/a,b","v":"2"},"kind":"Flagz","metadata":{"name":"kube-proxy"}"#;
    let alpha = r#""apiVersion":"config.k8s.io/v1alpha1""#;
    for (accept, status, content_type, part) in [
        ("", 200, TEXT, text),
        ("*/*", 200, TEXT, "\n\nconfig=/a,b\nv=2\n"),
        ("text/plain", 200, TEXT, text),
        ("text/html, text/*;q=0.5", 200, TEXT, text),
        ("application/json;as=Flagz;g=config.k8s.io;v=v1beta1", 200, JSON, beta),
        ("application/json; v=v1alpha1; g=config.k8s.io; as=Flagz", 200, JSON, alpha),
        ("text/plain;q=0.1, application/json;as=Flagz;g=config.k8s.io;v=v1beta1", 200, JSON, beta),
        (
            "application/yaml;as=Flagz;g=config.k8s.io;v=v1beta1",
            200,
            "application/yaml",
            "flags:\n  config: /a,b\n  v: \"2\"\n",
        ),
        ("application/json", 406, TEXT, "application/json or application/yaml with the parameters as=Flagz;"),
        ("application/json;as=Statusz;g=config.k8s.io;v=v1beta1", 406, TEXT, "as=Flagz;"),
        ("application/json;as=Flagz;g=config.k8s.io;v=v1", 406, TEXT, "v=v1beta1"),
        ("application/cbor, text/plain;q=0", 406, TEXT, "as=Flagz;"),
    ] {
        let answer = ask(address, "GET /flagz", accept).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{accept}: {answer}");
        assert_eq!(header(&answer, "content-type"), Some(content_type), "{accept}");
        assert!(body(&answer).contains(part), "{accept}: {answer}");
        assert_eq!(header(&answer, "warning").is_some_and(|w| w.starts_with("299 - ")), accept.contains("v1alpha1"));
    }
}

#[tokio::test]
async fn status_says_since_when_which_version_runs() {
    let address = serve_pages(some()).await;
    let page = ask(address, "GET /statusz", "").await;
    let version = env!("CARGO_PKG_VERSION");
    let lines = format!("Go version: none (Rust)\nBinary version: {version}\nEmulation version: 1.36\n");
    let paths = "Paths: /configz /flagz /healthz /metrics /proxyMode\n";
    for part in ["\nkube-proxy statusz\n", "\nStarted: ", " UTC 20", "\nUp: 0 hr 00 min 0", &lines, paths] {
        assert!(body(&page).contains(part), "{part:?} in {page}");
    }
    let accept = "application/json;as=Statusz;g=config.k8s.io;v=v1beta1";
    let object = ask(address, "GET /statusz", accept).await;
    let object: serde_json::Value = serde_json::from_str(body(&object)).unwrap();
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("Statusz"), &json!("config.k8s.io/v1beta1")));
    assert_eq!((&object["binaryVersion"], &object["emulationVersion"]), (&json!(version), &json!("1.36")));
    assert!(object["startTime"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{object}");
    assert!(object["uptimeSeconds"].as_u64().unwrap() < 60, "{object}");
    assert_eq!(object["paths"], json!(["/configz", "/flagz", "/healthz", "/metrics", "/proxyMode"]));
}

#[tokio::test]
async fn the_configuration_is_the_one_in_force_when_somebody_asks() {
    let (force, configuration) = watch::channel(json!({"mode": "nftables"}));
    let address = serve_pages(Pages { configuration, ..some() }).await;
    assert!(ask(address, "GET /configz", "").await.ends_with(r#"{"kubeproxy.config.k8s.io":{"mode":"nftables"}}"#));
    force.send_replace(json!({"mode": "other"}));
    assert!(ask(address, "GET /configz", "").await.ends_with(r#"{"kubeproxy.config.k8s.io":{"mode":"other"}}"#));
}

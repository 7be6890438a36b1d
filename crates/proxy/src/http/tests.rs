//! Real requests over loopback.

mod pages;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use telemetry::{Health, Metrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn telemetry() -> Telemetry {
    let health = Health::new(Duration::from_secs(60), true);
    Telemetry { metrics: Arc::new(Metrics::new().unwrap()), health: Arc::new(health) }
}

fn metrics_pages() -> Router {
    metrics_routes(telemetry().metrics, pages::some()).unwrap()
}

async fn serve_on_loopback(routes: Router) -> SocketAddr {
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { accept(&listener, &routes).await });
    address
}

/// Sends these bytes and returns all that comes back.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Whoever has heard enough may hang up meanwhile.
    stream.write_all(request).await.ok();
    let mut answer = Vec::new();
    // A reset after the answer is as good an end as any.
    while let Ok(1..) = stream.read_buf(&mut answer).await {}
    String::from_utf8(answer).unwrap()
}

async fn request(address: SocketAddr, method: &str, path: &str) -> String {
    exchange(address, format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes()).await
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn health_is_served_by_any_method() {
    let telemetry = telemetry();
    let address = serve_on_loopback(health_routes(telemetry.clone())).await;
    for method in ["GET", "POST"] {
        let answer = request(address, method, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: application/json\r\nx-content-type-options: nosniff\r\n"), "{answer}");
        assert!(body(&answer).contains(r#""nodeEligible":true,"healthy":true"#), "{answer}");
    }
    telemetry.health.set_node_eligible(false);
    assert!(request(address, "GET", "/healthz").await.starts_with("HTTP/1.1 503 "));
    assert!(request(address, "GET", "/livez").await.starts_with("HTTP/1.1 200 OK\r\n"));
    for path in ["/", "/healthz/", "/metrics"] {
        assert!(request(address, "GET", path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    let metrics = telemetry.metrics.render();
    assert!(metrics.contains("kubeproxy_proxy_healthz_total{code=\"200\"} 2\n"), "{metrics}");
    assert!(metrics.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 1\n"), "{metrics}");
    assert!(metrics.contains("kubeproxy_proxy_livez_total{code=\"200\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn metrics_and_mode_are_served() {
    let address = serve_on_loopback(metrics_pages()).await;
    let mode = request(address, "GET", "/proxyMode").await;
    assert!(mode.contains("content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n"), "{mode}");
    assert_eq!(body(&mode), "nftables");
    assert_eq!(body(&request(address, "GET", "/healthz").await), "ok");
    let metrics = request(address, "GET", "/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4\r\n"), "{metrics}");
    assert!(body(&metrics).contains("kubeproxy_sync_proxy_rules_service_changes_total 0\n"), "{metrics}");
    assert!(request(address, "GET", "/proxyMode/").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn what_is_too_large_or_no_http_is_refused() {
    let address = serve_on_loopback(metrics_pages()).await;
    let large = format!("GET /healthz HTTP/1.1\r\nHost: node\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
    assert!(exchange(address, large.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    assert!(exchange(address, b"\x16\x03\x01\x02\x00 no HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    assert!(request(address, "GET", "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(start_paused = true)]
async fn who_sends_no_request_is_cut_off() {
    let address = serve_on_loopback(metrics_pages()).await;
    for sent in ["GET /healthz HTTP/1.1\r\n", "P", ""] {
        let start = tokio::time::Instant::now();
        exchange(address, sent.as_bytes()).await;
        assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs(), "after {sent:?}");
    }
}

/// Each byte shows good will, and all of them together take for ever.
#[tokio::test(start_paused = true)]
async fn who_sends_a_byte_at_a_time_is_cut_off() {
    let address = serve_on_loopback(metrics_pages()).await;
    let (start, mut stream) = (tokio::time::Instant::now(), TcpStream::connect(address).await.unwrap());
    stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await.unwrap();
    while stream.write_all(b"x").await.is_ok() {
        assert!(start.elapsed() < 2 * HEAD_TIMEOUT, "still there");
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_kept_open_ends() {
    let address = serve_on_loopback(metrics_pages()).await;
    let start = tokio::time::Instant::now();
    let answer = exchange(address, b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs(), "idle after an answer");

    let (start, mut stream) = (tokio::time::Instant::now(), TcpStream::connect(address).await.unwrap());
    let mut answer = [0; 4096];
    loop {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").await.ok();
        if !matches!(stream.read(&mut answer).await, Ok(1..)) {
            break;
        }
        assert!(start.elapsed() <= CONNECTION_TIMEOUT, "still there");
        sleep(HEAD_TIMEOUT / 2).await;
    }
    assert!(start.elapsed() >= CONNECTION_TIMEOUT - HEAD_TIMEOUT, "not idle: {:?}", start.elapsed());
}

/// Nobody reads it: what is announced is not waited for, and what is sent is not kept.
#[tokio::test]
async fn a_body_is_no_burden() {
    let address = serve_on_loopback(metrics_pages()).await;
    let head = |length: u64| format!("GET /healthz HTTP/1.1\r\nHost: node\r\nContent-Length: {length}\r\n\r\n");
    let answer = exchange(address, head(u64::MAX / 2).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = exchange(address, &[head(4 << 20).as_bytes(), &vec![b'x'; 4 << 20]].concat()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(request(address, "GET", "/healthz").await.starts_with("HTTP/1.1 200 "));
}

/// Nobody can take all the room: what probes a node is answered, and who holds a connection for nothing loses it.
#[tokio::test]
async fn with_more_connections_than_there_is_room_for_the_oldest_ends() {
    let address = serve_on_loopback(metrics_pages()).await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(request(address, "GET", "/healthz").await.starts_with("HTTP/1.1 200 "));
    let mut answer = [0];
    assert!(!matches!(idle[0].read(&mut answer).await, Ok(1..)), "the oldest is closed");
    idle[1].write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(matches!(idle[1].read(&mut answer).await, Ok(1)), "the next is not");
}

/// None of the limits would hold for it.
#[tokio::test]
async fn http_2_is_not_spoken() {
    let address = serve_on_loopback(metrics_pages()).await;
    let answer = exchange(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:?}");
}

#[tokio::test]
async fn unspecified_means_all_addresses_of_both_families() {
    for unspecified in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
        let listener = listen(SocketAddr::new(unspecified, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for client in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            TcpStream::connect((client, port)).await.unwrap();
            listener.accept().await.unwrap();
        }
    }
    let only = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = only.local_addr().unwrap().port();
    assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_taken_address_is_waited_for_or_fatal() {
    let taken = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = taken.local_addr().unwrap();
    let server = |hard_fail| Server {
        name: "metrics",
        setting: "metricsBindAddress",
        address,
        hard_fail,
        routes: metrics_pages(),
    };
    let error = server(true).run().await.unwrap_err();
    assert!(format!("{error:#}").starts_with(&format!("the metrics server cannot listen on {address}: ")), "{error:#}");

    let waiting = tokio::spawn(server(false).run());
    sleep(BIND_RETRY / 2).await;
    assert!(!waiting.is_finished());
    drop(taken);
    sleep(BIND_RETRY).await;
    TcpStream::connect(address).await.unwrap();
}

//! What clients and servers send each other.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use model::Family;
use testing::netns::Pod;

/// A port of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// TCP: takes all that comes.
    Sink,
    /// TCP: sends back what comes.
    Echo,
    /// UDP: counts what comes, and sends back what is a question.
    Datagrams,
}

impl Port {
    pub(crate) const ALL: [Self; 3] = [Self::Sink, Self::Echo, Self::Datagrams];

    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::Sink => 9001,
            Self::Echo => 9002,
            Self::Datagrams => 9003,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Echo => "echo",
            Self::Datagrams => "datagrams",
        }
    }

    pub(crate) const fn protocol(self) -> &'static str {
        match self {
            Self::Sink | Self::Echo => "TCP",
            Self::Datagrams => "UDP",
        }
    }
}

const QUESTION: u8 = b'?';
/// The payload of small packets.
const SMALL: [u8; 64] = [b'.'; 64];
/// What is written to a stream at once, as netperf's TCP_STREAM does it by default.
const CHUNK: usize = 16 << 10;
/// Enough to take a connection into the fast path, where there is one.
const WARM_UP: usize = 30;

/// The servers of a pod, on threads that end with the process.
pub(crate) struct Servers {
    bytes: Arc<AtomicU64>,
    datagrams: Arc<AtomicU64>,
}

impl Servers {
    pub(crate) fn start(pod: &Pod) -> Result<Self> {
        let servers = Self { bytes: Arc::default(), datagrams: Arc::default() };
        for family in Family::ALL {
            let address = |port: Port| SocketAddr::from((pod.address(family), port.number()));
            let listen = |port| pod.namespace.run(|| TcpListener::bind(address(port)));
            let (sink, echo) = (listen(Port::Sink)?, listen(Port::Echo)?);
            let socket = pod.namespace.run(|| UdpSocket::bind(address(Port::Datagrams)))?;
            let (bytes, datagrams) = (Arc::clone(&servers.bytes), Arc::clone(&servers.datagrams));
            thread::spawn(move || sink.incoming().flatten().for_each(|stream| take(stream, &bytes)));
            thread::spawn(move || echo.incoming().flatten().for_each(send_back));
            thread::spawn(move || count(&socket, &datagrams));
        }
        Ok(servers)
    }
}

fn take(mut stream: TcpStream, bytes: &AtomicU64) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        bytes.fetch_add(read as u64, Ordering::Relaxed);
    }
}

fn send_back(mut stream: TcpStream) {
    let mut buffer = [0; 256];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
}

fn count(socket: &UdpSocket, datagrams: &AtomicU64) {
    let mut buffer = [0; 256];
    loop {
        let Ok((read, from)) = socket.recv_from(&mut buffer) else { continue };
        if buffer[..read].first() == Some(&QUESTION) {
            socket.send_to(&buffer[..read], from).ok();
        } else {
            datagrams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Bytes a second that arrive over one connection.
pub(crate) fn stream(client: &Pod, servers: &Servers, to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = client.namespace.run(|| TcpStream::connect(to))?;
    let chunk = vec![0; CHUNK];
    for _ in 0..WARM_UP {
        stream.write_all(&chunk)?;
    }
    rate(&servers.bytes, time, || Ok(stream.write_all(&chunk)?))
}

/// Datagrams a second that arrive of one flow, of 64 bytes each.
pub(crate) fn small_packets(client: &Pod, servers: &Servers, to: SocketAddr, time: Duration) -> Result<f64> {
    let flow = open_flow(client, to, WARM_UP)?;
    rate(&servers.datagrams, time, || {
        // A refusal of the kernel to take one more is a datagram that does not arrive.
        flow.send(&SMALL).ok();
        Ok(())
    })
}

/// Questions and answers a second over one connection.
pub(crate) fn round_trips(client: &Pod, to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = connect(client, to)?;
    for _ in 0..WARM_UP {
        round_trip(&mut stream)?;
    }
    let done = AtomicU64::new(0);
    rate(&done, time, || {
        done.fetch_add(1, Ordering::Relaxed);
        round_trip(&mut stream)
    })
}

/// Connections a second, with one question and its answer each.
pub(crate) fn connections(client: &Pod, to: SocketAddr, time: Duration) -> Result<f64> {
    let done = AtomicU64::new(0);
    client.namespace.run(|| {
        rate(&done, time, || {
            done.fetch_add(1, Ordering::Relaxed);
            short_connection(to)
        })
    })
}

/// So many connections, with one question and its answer each.
pub(crate) fn short_connections(client: &Pod, to: SocketAddr, count: usize) -> Result<Duration> {
    client.namespace.run(|| {
        let began = Instant::now();
        (0..count).try_for_each(|_| short_connection(to))?;
        Ok(began.elapsed())
    })
}

fn short_connection(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    round_trip(&mut stream)
}

/// So many questions and answers over a new connection.
pub(crate) fn long_connection(client: &Pod, to: SocketAddr, questions: usize) -> Result<()> {
    let mut stream = connect(client, to)?;
    (0..questions).try_for_each(|_| round_trip(&mut stream))
}

/// A UDP flow that has had so many questions and answers.
pub(crate) fn open_flow(client: &Pod, to: SocketAddr, questions: usize) -> Result<UdpSocket> {
    let flow = client.namespace.run(|| {
        let flow = UdpSocket::bind(match to {
            SocketAddr::V4(_) => "0.0.0.0:0",
            SocketAddr::V6(_) => "[::]:0",
        })?;
        flow.connect(to)?;
        std::io::Result::Ok(flow)
    })?;
    flow.set_read_timeout(Some(Duration::from_secs(20)))?;
    for _ in 0..questions {
        flow.send(&[QUESTION])?;
        flow.recv(&mut [0; 16]).context("no answer to a datagram")?;
    }
    Ok(flow)
}

/// Sends so many small datagrams.
pub(crate) fn send(flow: &UdpSocket, count: usize) -> Result<()> {
    for _ in 0..count {
        flow.send(&SMALL)?;
        // Once a kernel thread has to forward what waits, it does so for as long as it does not get the CPU.
        thread::yield_now();
    }
    Ok(())
}

fn connect(client: &Pod, to: SocketAddr) -> Result<TcpStream> {
    let stream = client.namespace.run(|| TcpStream::connect(to))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn round_trip(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&[QUESTION])?;
    let read = stream.read(&mut [0; 16])?;
    ensure!(read == 1, "an answer of {read} bytes");
    Ok(())
}

/// How much a counter grows in a second while `step` is done again and again.
fn rate(counter: &AtomicU64, time: Duration, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    let (began, before) = (Instant::now(), counter.load(Ordering::Relaxed));
    while began.elapsed() < time {
        step()?;
    }
    let grown = counter.load(Ordering::Relaxed) - before;
    Ok(grown as f64 / began.elapsed().as_secs_f64())
}

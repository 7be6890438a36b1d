//! One port on localhost.

use std::io;
use std::mem::replace;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compiler::ServedPort;
use model::{Family, PortNumber, ServicePortName};
use telemetry::Metrics;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::backends::Backends;
use super::relay::{prepare, relay};
use crate::http;

/// How long until it is tried again to listen on a port that is taken.
const RETRY: Duration = Duration::from_secs(5);
/// How long an endpoint may take to accept a connection: the second repetition of a SYN comes after 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How many endpoints are tried for a connection.
const ATTEMPTS: usize = 3;

/// The places for connections that all ports share.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    /// Room for so many.
    pub(super) fn new(connections: usize) -> Self {
        Self(Arc::new(Semaphore::new(connections)))
    }
}

/// A port that is served, by a task of its own.
#[derive(Debug)]
pub(super) struct Port {
    served: watch::Sender<ServedPort>,
    task: JoinHandle<()>,
}

impl Port {
    /// Serves a port from now on, as soon as it can be had and there is an endpoint.
    pub(super) fn start(
        family: Family,
        number: PortNumber,
        served: ServedPort,
        room: Room,
        metrics: Arc<Metrics>,
    ) -> Self {
        let address = match family {
            Family::V4 => (Ipv4Addr::LOCALHOST, number.get()).into(),
            Family::V6 => (Ipv6Addr::LOCALHOST, number.get()).into(),
        };
        let backends = Backends::new(&served);
        let service = served.owner.clone();
        let (sender, receiver) = watch::channel(served);
        let task = Task {
            service,
            family,
            address,
            room,
            metrics,
            backends: Arc::new(Mutex::new(backends)),
            listener: None,
            connections: JoinSet::new(),
            is_told: false,
            is_full: false,
        };
        Self { served: sender, task: tokio::spawn(task.run(receiver)) }
    }

    /// Whose port it is.
    pub(super) fn owner(&self) -> ServicePortName {
        self.served.borrow().owner.clone()
    }

    /// From now on, connections go to other endpoints. Those that there are stay.
    pub(super) fn set(&self, served: ServedPort) {
        self.served.send_replace(served);
    }

    /// Closes the port and resets all its connections.
    pub(super) async fn end(self) {
        drop(self.served);
        // Only then is the port free for the next one.
        self.task.await.ok();
    }
}

#[derive(Debug)]
struct Task {
    service: ServicePortName,
    family: Family,
    address: SocketAddr,
    room: Room,
    metrics: Arc<Metrics>,
    backends: Arc<Mutex<Backends>>,
    /// There as long as there are endpoints, if the port can be had.
    listener: Option<Listener>,
    connections: JoinSet<()>,
    /// Whether it was said that the port cannot be had.
    is_told: bool,
    /// Whether it was said that there was no place for the last connection.
    is_full: bool,
}

impl Task {
    /// Works until nobody has the port any more.
    async fn run(mut self, mut served: watch::Receiver<ServedPort>) {
        loop {
            self.listen();
            let is_taken = self.listener.is_none() && !lock(&self.backends).is_empty();
            tokio::select! {
                changed = served.changed() => match changed {
                    Ok(()) => lock(&self.backends).set(&served.borrow_and_update()),
                    Err(_) => return,
                },
                accepted = accept(self.listener.as_ref()) => match accepted {
                    Ok(stream) => self.take(stream),
                    Err(error) => {
                        // Out of file descriptors, most likely: they do not come back by trying harder.
                        debug!(service = %self.service, "a connection cannot be accepted: {error}");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = self.connections.join_next() => {}
                () = sleep(RETRY), if is_taken => {}
            }
        }
    }

    /// Has the port open where there are endpoints, and closed where there are none, so that clients are refused.
    fn listen(&mut self) {
        let Self { service, address, .. } = self;
        if lock(&self.backends).is_empty() {
            self.listener = None;
            return;
        }
        if self.listener.is_some() {
            return;
        }
        let was_told = self.is_told;
        match Listener::open(*address, self.family, &self.metrics) {
            Ok(listener) => {
                if was_told {
                    info!(%service, %address, "the NodePort can be listened on now");
                }
                debug!(%service, %address, "listening");
                (self.listener, self.is_told) = (Some(listener), false);
            }
            Err(error) => {
                if !was_told {
                    error!(
                        %service,
                        "cannot listen on {address} for the NodePort, will try again every {RETRY:?}: {error}; end what uses it, \
                         or give the Service another nodePort"
                    );
                }
                self.is_told = true;
            }
        }
    }

    fn take(&mut self, client: TcpStream) {
        let place = Arc::clone(&self.room.0).try_acquire_owned();
        let was_full = replace(&mut self.is_full, place.is_err());
        match place {
            Ok(place) => {
                let (service, backends) = (self.service.clone(), Arc::clone(&self.backends));
                self.connections.spawn(async move {
                    if let Err(error) = serve(client, &backends, place).await {
                        debug!(%service, "a connection to localhost broke: {error}");
                    }
                });
            }
            Err(_) => {
                // Dropped so, it is reset.
                client.set_zero_linger().ok();
                if !was_full {
                    warn!(service = %self.service, "there are as many connections to NodePorts on localhost as can be: more are reset");
                }
            }
        }
    }
}

/// A port that is listened on, as it is counted.
#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    family: Family,
    metrics: Arc<Metrics>,
}

impl Listener {
    fn open(address: SocketAddr, family: Family, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let socket = http::listen_exactly(address).inspect_err(|_| metrics.localhost_listener_failed(family))?;
        metrics.localhost_listener_opened(family);
        Ok(Self { socket, family, metrics: Arc::clone(metrics) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.metrics.localhost_listener_closed(self.family);
    }
}

/// The next connection; never, if nobody listens.
async fn accept(listener: Option<&Listener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.socket.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// One connection, which has its place until it ends.
async fn serve(client: TcpStream, backends: &Mutex<Backends>, _place: OwnedSemaphorePermit) -> io::Result<()> {
    prepare(&client)?;
    let server = connect(backends).await?;
    prepare(&server)?;
    relay(client, server).await
}

/// A connection to an endpoint: the first that takes it.
async fn connect(backends: &Mutex<Backends>) -> io::Result<TcpStream> {
    let (mut tried, mut outcome) = (Vec::new(), Err(io::Error::other("there is no endpoint any more")));
    while outcome.is_err() && tried.len() < ATTEMPTS {
        let Some(endpoint) = lock(backends).next(&tried, Instant::now()) else { break };
        outcome = timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await.unwrap_or_else(|late| Err(late.into()));
        if let Err(error) = &outcome {
            debug!(%endpoint, "an endpoint does not take a connection: {error}");
        }
        tried.push(endpoint);
    }
    outcome
}

fn lock(backends: &Mutex<Backends>) -> MutexGuard<'_, Backends> {
    // Nothing is left half done where a panic could be.
    backends.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use model::{Protocol, ServiceName};
    use testing::netns::Namespace;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn connections_for_which_there_is_no_room_are_reset() {
        Namespace::new("node").unwrap().run(|| {
            // Its threads belong to the namespace.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { timeout(PATIENCE, room_for_one()).await.expect("nothing to wait for") });
        });
    }

    async fn room_for_one() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let owner =
            ServicePortName { service: ServiceName::new("ns", "web"), port: "".into(), protocol: Protocol::Tcp };
        let served = ServedPort { owner, endpoints: vec![server.local_addr().unwrap()], affinity: None };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                stream.write_all(b"!").await.unwrap();
                tokio::spawn(async move { stream.read(&mut [0]).await });
            }
        });
        let (number, metrics) = (PortNumber::new(30_001).unwrap(), Arc::new(Metrics::new().unwrap()));
        let address = (Ipv4Addr::LOCALHOST, number.get());
        let port = Port::start(Family::V4, number, served, Room::new(1), metrics);
        let connect = async || {
            let mut stream = TcpStream::connect(address).await?;
            stream.read_exact(&mut [0]).await.map(|_| stream)
        };
        let first = loop {
            match connect().await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(connect().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        drop(first);
        while connect().await.is_err() {}
        port.end().await;
        assert_eq!(connect().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

//! What the client and the server of a [`Network`](super::network::Network) say to each other.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use model::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::network::Ends;

/// How long an answer may take. It takes well under a millisecond, on an emulated processor some; TCP sends anew what was lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// The largest messages, in bytes. That of TCP is more than a packet carries, so that the kernel has something to segment.
const DATAGRAM: usize = 1200;
const STREAM: usize = 16 << 10;

/// A connection of the client to the Service, seen from both ends.
pub(super) enum Connection<'a> {
    Udp { client: UdpSocket, server: &'a UdpSocket },
    Tcp { client: TcpStream, server: TcpStream },
}

/// An answer that did not come, or not as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Loss {
    #[error("nothing came within {PATIENCE:?}")]
    Late,
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("what came is not what was sent")]
    Garbled,
    #[error("it came from {seen}, which is not {}", .client)]
    Source { seen: SocketAddr, client: SocketAddr },
}

impl<'a> Connection<'a> {
    /// Connects to the Service at `to`.
    pub(super) async fn open(ends: &'a Ends, protocol: Protocol, to: SocketAddr) -> Result<Self, Loss> {
        in_time(async {
            if protocol == Protocol::Udp {
                let client = UdpSocket::bind((ends.client, 0)).await?;
                client.connect(to).await?;
                return Ok(Self::Udp { client, server: &ends.udp });
            }
            let client = TcpStream::connect(to).await?;
            let (server, seen) = ends.tcp.accept().await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            same(seen, client.local_addr()?)?;
            Ok(Self::Tcp { client, server })
        })
        .await
    }

    /// Has the server echo a message that consists of this byte.
    pub(super) async fn exchange(&mut self, byte: u8) -> Result<(), Loss> {
        match self {
            Self::Udp { client, server } => in_time(datagrams(client, server, byte)).await,
            Self::Tcp { client, server } => {
                in_time(async {
                    pass(client, server, byte).await?;
                    pass(server, client, byte).await
                })
                .await
            }
        }
    }
}

async fn datagrams(client: &UdpSocket, server: &UdpSocket, byte: u8) -> Result<(), Loss> {
    let message = [byte; DATAGRAM];
    let mut received = [0; DATAGRAM + 1];
    client.send(&message).await?;
    let (length, seen) = server.recv_from(&mut received).await?;
    same(seen, client.local_addr()?)?;
    whole(&received[..length], &message)?;
    server.send_to(&message, seen).await?;
    // It takes nothing that does not come from the Service's address.
    let length = client.recv(&mut received).await?;
    whole(&received[..length], &message)
}

/// Sends a message from one end to the other.
async fn pass(from: &mut TcpStream, to: &mut TcpStream, byte: u8) -> Result<(), Loss> {
    let message = vec![byte; STREAM];
    let mut received = vec![0; STREAM];
    tokio::try_join!(from.write_all(&message), to.read_exact(&mut received))?;
    whole(&received, &message)
}

fn whole(received: &[u8], sent: &[u8]) -> Result<(), Loss> {
    if received == sent { Ok(()) } else { Err(Loss::Garbled) }
}

fn same(seen: SocketAddr, client: SocketAddr) -> Result<(), Loss> {
    if seen == client { Ok(()) } else { Err(Loss::Source { seen, client }) }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Loss>>) -> Result<T, Loss> {
    timeout(PATIENCE, work).await.unwrap_or(Err(Loss::Late))
}

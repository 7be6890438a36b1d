//! The fast path is tried before it is used: with packets, on a node that nobody else sees.
//!
//! Kernels have had flowtables that lost packets, sent them to the wrong place, or left all of them in the slow path without a word
//! (and those of distributions cannot be told by their version). So a client, a node with our own rules, and a server are made of
//! network namespaces, in which the client uses a Service beyond the threshold.

mod network;
mod traffic;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use compiler::{Compiler, FastPath, FastPathCounts, Offloads, Options, table_family, table_name};
use model::{
    Endpoint, EndpointSlice, Family, PerFamily, Protocol, Service, ServiceName, ServicePort, SlicePort, State, Update,
};
use netlink::NfTables;
use ruleset::{CommitError, Kernel as _, Transaction};
use tokio::time::timeout;
use tracing::{debug, info};

use self::network::{Ends, Network};
use self::traffic::{Connection, Loss};

/// After how many packets the connections are to be offloaded; any number would do.
const THRESHOLD: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);

/// How many messages are echoed for a connection to get into the flowtable, and how many when it is there.
const MESSAGES: u8 = 10;

/// How often it has to fail.
const TRIES: usize = 3;

/// How long all of it may take for a family, each time. It takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The Service's port.
const PORT: NonZeroU16 = NonZeroU16::MIN;

/// What is wrong with the fast path of this kernel.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the kernel refused the rules: {0}")]
    Refused(#[from] CommitError),
    #[error("{protocol}: a connection to a Service did not come about: {loss}")]
    Unconnected { protocol: Protocol, loss: Loss },
    #[error("{protocol}: message {number} of a connection to a Service was not echoed: {loss}")]
    Lost { protocol: Protocol, number: u8, loss: Loss },
    #[error("{protocol}: a connection to a Service was not put into the flowtable")]
    NotOffloaded { protocol: Protocol },
    #[error("{protocol}: of a connection in the flowtable, {misses} packets took the slow path")]
    Missed { protocol: Protocol, misses: u64 },
}

/// Why a test ended early.
#[derive(Debug, thiserror::Error)]
enum End {
    /// It cannot be done, which says nothing about the fast path.
    #[error("{0:#}")]
    Untried(#[from] anyhow::Error),
    #[error("{0}")]
    Failed(#[from] Failure),
}

/// Tries the fast path of these families. Where it cannot be tried, that is told and no error: few of those who may change rules may
/// make network namespaces, too.
///
/// # Errors
/// It does not work.
pub(super) fn run(families: &[Family]) -> Result<()> {
    let began = Instant::now();
    for family in families {
        match try_often(*family) {
            Ok(()) => {}
            Err(End::Failed(failure)) => {
                return Err(anyhow!(failure).context(format!(
                    "it was tried in network namespaces of its own, and does not work over {family}: use another kernel, or set \
                     fastpathPacketThreshold to 0 and it is not tried"
                )));
            }
            Err(End::Untried(reason)) => {
                info!("the fast path is used without having been tried with packets: {reason:#}");
                return Ok(());
            }
        }
    }
    info!(took = ?began.elapsed(), "the fast path was tried with packets, and works");
    Ok(())
}

/// A busy node may lose a packet once. A kernel that does not do what it should does not do it the next time either.
fn try_often(family: Family) -> Result<(), End> {
    let mut outcome = on_a_thread(family);
    for _ in 1..TRIES {
        if let Err(End::Failed(failure)) = &outcome {
            debug!(ipFamily = %family, "the fast path is tried again: {failure}");
            outcome = on_a_thread(family);
        }
    }
    outcome
}

/// The namespaces are the thread's, and end with it.
fn on_a_thread(family: Family) -> Result<(), End> {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::new)?;
        let attempt = runtime.block_on(async { timeout(PATIENCE, attempt(family)).await });
        attempt.unwrap_or_else(|_| Err(anyhow!("it was not over within {PATIENCE:?}").into()))
    };
    let thread =
        thread::Builder::new().name("selftest".to_owned()).spawn(work).context("there is no thread to spare")?;
    thread.join().unwrap_or_else(|_| Err(anyhow!("its thread panicked").into()))
}

async fn attempt(family: Family) -> Result<(), End> {
    let Network { mut rules, devices, ends } = Network::new(family).await?;
    let fast_path = FastPath { family, threshold: THRESHOLD, all_frontends: false, dry_run: false };
    for transaction in [services(&ends), fast_path.declare(&devices, false)] {
        rules.commit(&transaction).map_err(Failure::from)?;
    }
    for (protocol, _) in PROTOCOLS {
        use_service(&mut rules, &ends, protocol).await?;
    }
    Ok(())
}

async fn use_service(rules: &mut NfTables, ends: &Ends, protocol: Protocol) -> Result<(), End> {
    let family = Family::of(ends.client);
    let frontend = (cluster_ip(family), PORT.get()).into();
    let opened = Connection::open(ends, protocol, frontend).await;
    let mut connection = opened.map_err(|loss| Failure::Unconnected { protocol, loss })?;
    let before = counts(rules, family)?;
    exchange(&mut connection, protocol, 1..=MESSAGES).await?;
    let then = counts(rules, family)?;
    exchange(&mut connection, protocol, MESSAGES + 1..=MESSAGES * 2).await?;
    Ok(judge(protocol, [before, then, counts(rules, family)?])?)
}

async fn exchange(
    connection: &mut Connection<'_>,
    protocol: Protocol,
    numbers: RangeInclusive<u8>,
) -> Result<(), Failure> {
    for number in numbers {
        connection.exchange(number).await.map_err(|loss| Failure::Lost { protocol, number, loss })?;
    }
    Ok(())
}

/// What was counted at the start, when the connection should have been in the flowtable, and at the end.
fn judge(protocol: Protocol, [start, middle, end]: [FastPathCounts; 3]) -> Result<(), Failure> {
    if middle.offloads == start.offloads {
        return Err(Failure::NotOffloaded { protocol });
    }
    match end.misses - middle.misses {
        0 => Ok(()),
        misses => Err(Failure::Missed { protocol, misses }),
    }
}

fn counts(rules: &mut NfTables, family: Family) -> Result<FastPathCounts> {
    let packets = rules.counters(table_family(family), &table_name())?;
    Ok(FastPath::counts(|counter| packets.get(counter).copied()))
}

/// The rules of a node with one Service, whose endpoint is the server.
fn services(ends: &Ends) -> Transaction {
    let (family, name) = (Family::of(ends.client), ServiceName::new("slipstream", "selftest"));
    let mut state = State::new(SystemTime::UNIX_EPOCH);
    state.apply(Update::Service(service(family, name.clone())));
    state.apply(Update::Slice(slice(ends.server, name)));
    Compiler::new(options(family)).compile_all(&state)
}

/// Those of a node about which nothing is known, with a fast path.
pub(super) fn options(family: Family) -> Options {
    Options { offloads: Offloads::ClusterIps, ..Options::new(family) }
}

const PROTOCOLS: [(Protocol, &str); 2] = [(Protocol::Udp, "udp"), (Protocol::Tcp, "tcp")];

fn service(family: Family, name: ServiceName) -> Service {
    let mut cluster_ips = PerFamily::default();
    *cluster_ips.get_mut(family) = Some(cluster_ip(family));
    let port = |(protocol, name): (_, &str)| ServicePort { name: name.into(), protocol, port: PORT, node_port: None };
    Service { cluster_ips, ports: PROTOCOLS.map(port).to_vec(), ..Service::new(name) }
}

fn slice(server: SocketAddr, service: ServiceName) -> EndpointSlice {
    let number = NonZeroU16::new(server.port());
    let port = |(protocol, name): (_, &str)| Some(SlicePort { name: name.into(), protocol, port: number? });
    let endpoint =
        Endpoint { address: server.ip(), ready: true, serving: true, terminating: false, local: true, hints: None };
    EndpointSlice {
        name: service.clone(),
        service,
        family: Family::of(server.ip()),
        ports: PROTOCOLS.into_iter().filter_map(port).collect(),
        endpoints: vec![endpoint],
        triggered: None,
    }
}

/// An address for documentation, as all here (RFC 5737, RFC 3849).
fn cluster_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What does not come through with the rules is not lost for want of a network.
    #[test]
    fn the_server_is_reached_without_a_service_over_both_families() {
        for family in Family::ALL {
            let work = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let network = Network::new(family).await.unwrap();
                    let ends = &network.ends;
                    for (protocol, _) in PROTOCOLS {
                        let mut connection = Connection::open(ends, protocol, ends.server).await.unwrap();
                        exchange(&mut connection, protocol, 1..=3).await.unwrap();
                    }
                });
            };
            thread::spawn(work).join().unwrap();
        }
    }

    fn verdict(counted: [(u64, u64); 3]) -> String {
        let counted = counted.map(|(offloads, misses)| FastPathCounts { offloads, misses, dry_run: 0 });
        judge(Protocol::Tcp, counted).map_or_else(|failure| failure.to_string(), |()| "works".to_owned())
    }

    #[test]
    fn it_works_if_what_is_in_the_flowtable_does_not_come_by_any_more() {
        assert_eq!(verdict([(0, 0), (1, 0), (1, 0)]), "works");
        assert_eq!(verdict([(1, 0), (2, 0), (2, 0)]), "works");
        // On its way when the connection was put there.
        assert_eq!(verdict([(0, 0), (1, 1), (1, 1)]), "works");
        for missed in [[(0, 0), (0, 0), (0, 0)], [(1, 0), (1, 0), (1, 0)], [(1, 0), (1, 0), (2, 0)]] {
            assert!(verdict(missed).contains("tcp: a connection to a Service was not put into the flowtable"));
        }
        // One direction of two, or both.
        assert!(verdict([(0, 0), (1, 0), (1, 10)]).contains("10 packets took the slow path"));
        assert!(verdict([(0, 0), (1, 20), (1, 40)]).contains("20 packets took the slow path"));
    }
}

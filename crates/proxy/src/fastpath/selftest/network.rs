//! Three hosts that nobody else sees.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use model::Family;
use netlink::NfTables;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, State};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use ruleset::Interface;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::sleep;

/// Where the server listens. In a namespace of its own, any port is free.
const PORT: u16 = 8080;

/// A client and a server, and a node in between that forwards what they send.
///
/// ```text
///  client 192.0.2.2 ── 192.0.2.1 node 198.51.100.1 ── 198.51.100.2 server
/// ```
///
/// It is gone with the sockets in it and the thread that made it; the node, with [`Self::rules`].
pub(super) struct Network {
    /// The rules of the node.
    pub(super) rules: NfTables,
    /// Of the node: towards the client, and towards the server.
    pub(super) devices: BTreeMap<NonZeroU32, Interface>,
    pub(super) ends: Ends,
}

/// The hosts that send.
pub(super) struct Ends {
    pub(super) client: IpAddr,
    /// Where the server listens.
    pub(super) server: SocketAddr,
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

/// A link of the node to another host. Its number is the same at both ends.
struct Cable {
    number: NonZeroU32,
    /// What the node calls it.
    name: &'static str,
    node: IpAddr,
    other: IpAddr,
}

/// A network namespace.
struct Host {
    namespace: File,
    /// Changes its links, addresses and routes.
    handle: Handle,
}

impl Network {
    /// Makes it on the calling thread, which is in the client's namespace from then on.
    ///
    /// # Errors
    /// The process may not, or this kernel or machine does not let it.
    pub(super) async fn new(family: Family) -> Result<Self> {
        let [to_client, to_server] = cables(family);
        let any = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let server = Host::new()?;
        let udp = UdpSocket::bind((any, PORT)).await.context("cannot listen with UDP")?;
        let tcp = TcpListener::bind((any, PORT)).await.context("cannot listen with TCP")?;
        let node = Host::new()?;
        let forwarding = match family {
            Family::V4 => "ipv4/ip_forward",
            Family::V6 => "ipv6/conf/all/forwarding",
        };
        set(forwarding)?;
        let rules = NfTables::open()?;
        let client = Host::new()?;
        for (cable, host) in [(&to_client, &client), (&to_server, &server)] {
            connect(cable, &node, host)
                .await
                .with_context(|| format!("cannot connect a node with a {}", cable.name))?;
        }
        let device = |cable: &Cable| Ok((cable.number, Interface::named(cable.name)?));
        Ok(Self {
            rules,
            devices: [&to_client, &to_server].into_iter().map(device).collect::<Result<_>>()?,
            ends: Ends { client: to_client.other, server: (to_server.other, PORT).into(), udp, tcp },
        })
    }
}

/// With addresses for documentation (RFC 5737, RFC 3849), which name no host that anyone knows.
fn cables(family: Family) -> [Cable; 2] {
    let address = |net: u8, host: u8| match family {
        Family::V4 if net == 1 => IpAddr::from([192, 0, 2, host]),
        Family::V4 => IpAddr::from([198, 51, 100, host]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, net.into(), 0, 0, 0, 0, host.into()]),
    };
    [(1, "client"), (2, "server")].map(|(net, name)| Cable {
        // Above those that a namespace is born with.
        number: NonZeroU32::MIN.saturating_add(100 + u32::from(net)),
        name,
        node: address(net, 1),
        other: address(net, 2),
    })
}

impl Host {
    /// Moves the calling thread to a new namespace.
    fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EPERM => anyhow::anyhow!("to make network namespaces takes the capability SYS_ADMIN"),
            other => anyhow::Error::new(other).context("cannot make a network namespace"),
        })?;
        let namespace = File::open("/proc/thread-self/ns/net").context("cannot open a network namespace")?;
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot change links")?;
        tokio::spawn(connection);
        Ok(Self { namespace, handle })
    }

    /// Gives it an address that can be used at once.
    async fn add_address(&self, link: NonZeroU32, address: IpAddr) -> Result<()> {
        let length = if address.is_ipv4() { 24 } else { 64 };
        let mut request = self.handle.address().add(link.get(), address, length);
        if address.is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        Ok(request.execute().await?)
    }

    /// Waits until a link sends what it is given. Until then it loses it, and who asks for a neighbour asks again only in a second.
    async fn wait_until_up(&self, link: NonZeroU32) -> Result<()> {
        let up = LinkAttribute::OperState(State::Up);
        loop {
            let mut links = self.handle.link().get().match_index(link.get()).execute();
            if links.try_next().await?.is_some_and(|link| link.attributes.contains(&up)) {
                return Ok(());
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn connect(cable: &Cable, node: &Host, other: &Host) -> Result<()> {
    let number = cable.number.get();
    let end = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").index(number);
    let end = end.setns_by_fd(other.namespace.as_raw_fd()).build();
    let link = LinkMessageBuilder::<LinkVeth>::new(cable.name, "eth0").index(number).up();
    let link = link.set_info_data(InfoData::Veth(InfoVeth::Peer(end))).build();
    node.handle.link().add(link).execute().await?;
    // It cannot be switched on before there is its other end.
    let on = LinkMessageBuilder::<LinkUnspec>::new().index(number).up().build();
    other.handle.link().change(on).execute().await?;
    for (host, address, link_local) in [(node, cable.node, 1), (other, cable.other, 2)] {
        host.add_address(cable.number, address).await?;
        // With this one, routers look for neighbours. The kernel's own can only be used after a second.
        if address.is_ipv6() {
            host.add_address(cable.number, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, link_local).into()).await?;
        }
        host.wait_until_up(cable.number).await?;
    }
    let anywhere = if cable.node.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(anywhere, 0)?.gateway(cable.node)?;
    Ok(other.handle.route().add(route.build()).execute().await?)
}

/// Switches on a parameter of the namespace that the calling thread is in: each is shown its own.
fn set(parameter: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{parameter}");
    fs::write(&path, "1").with_context(|| format!("cannot set {path} to 1"))
}

//! The links of the node, and word of their changes (rtnetlink(7)).

use std::io;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

/// A link: a network device, as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, which it has as long as it exists and keeps when it is renamed.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What kind of device it is (`veth`, `bridge`...); `None` for one of hardware.
    pub kind: Option<String>,
    /// What kind of device it is a port of (`bridge`, `bond`, `vrf`...), if of any; empty if the kernel does not say.
    pub port_of: Option<String>,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Whether it is the loopback device.
    pub is_loopback: bool,
    /// Whether the kernel knows that packets do not pass it (`operstate`). Many kinds of devices do not tell, and pass them.
    pub is_down: bool,
}

/// The links cannot be listed or watched.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// There is no socket to ask with.
    #[error("cannot watch the node's network devices: {0}")]
    Open(#[source] io::Error),
    /// The kernel did not tell.
    #[error("cannot list the node's network devices: {0}")]
    List(#[source] rtnetlink::Error),
}

/// The links of the network namespace in which this was opened.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
}

impl Links {
    /// Begins to watch, on the current runtime.
    ///
    /// # Errors
    /// The process may not.
    pub fn open() -> Result<Self, LinksError> {
        let (connection, handle, messages) =
            new_multicast_connection(&[MulticastGroup::Link]).map_err(LinksError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle, messages })
    }

    /// All links.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub async fn list(&self) -> Result<Vec<Link>, LinksError> {
        let links = self.handle.link().get().execute();
        links.map_ok(Link::from).try_collect().await.map_err(LinksError::List)
    }

    /// Waits until a link has changed, come or gone, or may have, since the last call. Never ends once the kernel tells nothing any
    /// more.
    pub async fn changed(&mut self) {
        if self.messages.next().await.is_none() {
            return std::future::pending().await;
        }
        // Whoever hears of one change looks at all links, so that the others that have been told are no news.
        while self.messages.try_recv().is_ok() {}
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            port_of: None,
            is_up: flags.contains(LinkFlags::Up),
            is_loopback: flags.contains(LinkFlags::Loopback),
            is_down: false,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::OperState(state) => {
                    link.is_down = matches!(state, State::NotPresent | State::Down | State::LowerLayerDown);
                }
                LinkAttribute::Controller(_) => {
                    link.port_of.get_or_insert_default();
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::PortKind(kind) => link.port_of = Some(kind.to_string()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

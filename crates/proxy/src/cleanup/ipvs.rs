//! What kube-proxy's ipvs mode leaves beside chains: virtual servers, the link that has their addresses, and ipsets.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use anyhow::{Context as _, Error, Result};
use futures::TryStreamExt as _;
use model::Family;
use netlink::{IpSets, Ipvs, VirtualServer};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use nix::libc;
use rtnetlink::Handle;
use tracing::{info, warn};

/// The link that has the addresses of all Services, so that the node takes what is sent to them.
const LINK: &str = "kube-ipvs0";

/// The names of the ipsets after the prefix, which says the family (contract §3.3).
const SETS: [&str; 17] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];

/// Of these, those with all NodePorts, and the number of their protocol.
const NODE_PORT_SETS: [(&str, i32); 3] = [
    ("NODE-PORT-TCP", libc::IPPROTO_TCP),
    ("NODE-PORT-UDP", libc::IPPROTO_UDP),
    ("NODE-PORT-SCTP-HASH", libc::IPPROTO_SCTP),
];

/// The longest name of an ipset (`IPSET_MAXNAMELEN`, include/uapi/linux/netfilter/ipset/ip_set.h); kube-proxy cuts longer ones.
const NAME: usize = 31;

/// By what a virtual server is known to be kube-proxy's.
#[derive(Debug, Default)]
struct Marks {
    /// The addresses of its link, which nobody else uses.
    services: BTreeSet<IpAddr>,
    /// The other addresses of the node.
    node: BTreeSet<IpAddr>,
    /// The NodePorts that it keeps in its ipsets, with the number of their protocol.
    node_ports: BTreeSet<(Family, u8, u16)>,
}

impl Marks {
    /// A NodePort is a server at one of the node's own addresses, with a port and protocol from the ipsets. Another program's server
    /// at such an address has another port, as kube-proxy would have taken it from the other otherwise.
    fn are_on(&self, server: &VirtualServer) -> bool {
        let VirtualServer { address, protocol, port } = *server;
        self.services.contains(&address)
            || self.node.contains(&address) && self.node_ports.contains(&(Family::of(address), protocol, port))
    }
}

/// Removes what the mode has left. To be called when there are no chains any more, whose rules use the ipsets.
pub(super) fn remove(failures: &mut Vec<Error>) {
    let sets = IpSets::open().context("kube-proxy's ipsets cannot be looked for");
    let mut sets = sets.unwrap_or_else(|error| {
        failures.push(error);
        None
    });
    failures
        .extend(remove_servers(sets.as_mut()).context("kube-proxy's virtual servers (IPVS) cannot be removed").err());
    if let Some(sets) = &mut sets {
        failures.extend(destroy(sets).context("kube-proxy's ipsets cannot be removed").err());
    }
}

/// Removes virtual servers and then the link that tells which they are. Without it, nothing is known to be kube-proxy's.
fn remove_servers(sets: Option<&mut IpSets>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let Some(link) = link(&handle).await? else { return Ok(()) };
        if let Some(mut ipvs) = Ipvs::open()? {
            delete_servers(&mut ipvs, &marks(sets)?)?;
        }
        handle.link().del(link).execute().await.with_context(|| format!("the link {LINK} cannot be deleted"))?;
        info!(link = LINK, "deleted the link");
        Ok(())
    })
}

/// The number of kube-proxy's link, if there is one, and it is of the kind that kube-proxy makes.
async fn link(handle: &Handle) -> Result<Option<u32>> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await.context("the links cannot be listed")?;
    Ok(links.iter().find(|link| is_kube_proxys(link)).map(|link| link.header.index))
}

fn is_kube_proxys(link: &LinkMessage) -> bool {
    let dummy = LinkInfo::Kind(InfoKind::Dummy);
    let mut attributes = link.attributes.iter();
    link.attributes.contains(&LinkAttribute::IfName(LINK.to_owned()))
        && attributes.any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&dummy)))
}

fn marks(sets: Option<&mut IpSets>) -> Result<Marks> {
    let mut marks = Marks::default();
    for interface in if_addrs::get_if_addrs().context("the addresses of this machine's interfaces cannot be listed")? {
        let addresses = if interface.name == LINK { &mut marks.services } else { &mut marks.node };
        addresses.insert(interface.ip());
    }
    let Some(sets) = sets else { return Ok(marks) };
    for family in Family::ALL {
        for (set, protocol) in NODE_PORT_SETS {
            let ports = sets.ports(&name(family, set)).context("the ipsets of NodePorts cannot be read")?;
            marks.node_ports.extend(ports.into_iter().map(|port| (family, protocol as u8, port)));
        }
    }
    Ok(marks)
}

fn delete_servers(ipvs: &mut Ipvs, marks: &Marks) -> Result<()> {
    let (theirs, others): (Vec<_>, Vec<_>) = ipvs.servers()?.into_iter().partition(|server| marks.are_on(server));
    for server in &theirs {
        ipvs.delete(server).with_context(|| format!("the one at {} port {}", server.address, server.port))?;
    }
    info!(
        deleted = theirs.len(),
        left = others.len(),
        "deleted virtual servers of kube-proxy's ipvs mode, and left those of others"
    );
    Ok(())
}

fn destroy(sets: &mut IpSets) -> Result<()> {
    let theirs: BTreeSet<_> = Family::ALL.into_iter().flat_map(|family| SETS.map(|set| name(family, set))).collect();
    let (mut destroyed, mut used) = (0, Vec::new());
    for set in sets.names()?.into_iter().filter(|set| theirs.contains(set)) {
        match sets.destroy(&set) {
            Ok(()) => destroyed += 1,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => used.push(set),
            Err(error) => return Err(error).with_context(|| format!("the ipset {set}")),
        }
    }
    if destroyed > 0 {
        info!(destroyed, "destroyed ipsets of kube-proxy's ipvs mode");
    }
    if !used.is_empty() {
        warn!(
            "ipsets of kube-proxy stay, because rules of others, or of iptables-legacy, use them: {}",
            used.join(", ")
        );
    }
    Ok(())
}

/// The whole name of an ipset.
fn name(family: Family, set: &str) -> String {
    let prefix = match family {
        Family::V4 => "KUBE-",
        Family::V6 => "KUBE-6-",
    };
    let mut name = format!("{prefix}{set}");
    name.truncate(NAME);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_servers_of_others_are_told_apart() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let marks = Marks {
            services: ["10.96.0.1", "fd00::1"].map(address).into(),
            node: ["192.0.2.1", "2001:db8::1"].map(address).into(),
            node_ports: [(Family::V4, 6, 30080)].into(),
        };
        for (at, protocol, port, theirs) in [
            ("10.96.0.1", 6, 443, true),
            ("fd00::1", 17, 53, true),
            ("10.96.0.2", 6, 443, false),
            ("192.0.2.1", 6, 30080, true),
            ("192.0.2.1", 17, 30080, false),
            ("192.0.2.1", 6, 6443, false),
            ("192.0.2.9", 6, 30080, false),
            ("2001:db8::1", 6, 30080, false),
        ] {
            assert_eq!(
                marks.are_on(&VirtualServer { address: address(at), protocol, port }),
                theirs,
                "{at} {protocol} {port}"
            );
        }
    }

    #[test]
    fn long_names_are_cut_as_kube_proxy_does() {
        assert_eq!(name(Family::V4, "LOAD-BALANCER-SOURCE-CIDR"), "KUBE-LOAD-BALANCER-SOURCE-CIDR");
        assert_eq!(name(Family::V6, "LOAD-BALANCER-SOURCE-CIDR"), "KUBE-6-LOAD-BALANCER-SOURCE-CID");
    }
}

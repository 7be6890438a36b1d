//! Which endpoints of a Service port take its traffic.

use std::net::SocketAddr;

use crate::{Endpoint, Family, NodeHint, PortEndpoint, Service, ServicePort, TrafficPolicy};

/// The endpoints that serve one Service port in one family (contract §4.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Endpoints for policy `Cluster`, in order of address and port.
    pub cluster: Vec<SocketAddr>,
    /// Endpoints for policy `Local`, in the same order.
    pub local: Vec<SocketAddr>,
    /// Those of either list that run on this node, in the same order: they may come to talk to themselves.
    pub on_this_node: Vec<SocketAddr>,
    /// Whether there is an endpoint anywhere that could serve; if not, connections are refused.
    pub any: bool,
}

/// Selects from `endpoints`, which are those of `port` in `family`, in order. `zone` is that of the node, if it is known.
///
/// A list takes ready endpoints; where it has none, those that still serve while they terminate. An endpoint that is
/// neither is never used. Hints narrow the ready endpoints for policy `Cluster`, and nothing else.
pub fn select(
    service: &Service,
    port: &ServicePort,
    family: Family,
    endpoints: &[PortEndpoint<'_>],
    zone: Option<&str>,
) -> Selection {
    let external = service.is_externally_accessible(port, family);
    let internal_local = service.internal_policy == TrafficPolicy::Local;
    let uses_cluster = !internal_local || external;
    let uses_local = internal_local || (service.external_policy == TrafficPolicy::Local && external);

    let near = Nearness::of(endpoints, zone);
    let cluster = if uses_cluster { usable(endpoints.iter(), |e| near.takes(e.endpoint)) } else { Vec::new() };
    let local = if uses_local { usable(endpoints.iter().filter(|e| e.endpoint.local), |_| true) } else { Vec::new() };
    let any = endpoints.iter().any(|e| e.endpoint.ready || e.endpoint.is_serving_terminating());
    let on_this_node = endpoints
        .iter()
        .filter(|e| e.endpoint.local)
        .map(PortEndpoint::socket)
        .filter(|socket| cluster.binary_search(socket).is_ok() || local.binary_search(socket).is_ok());
    Selection { on_this_node: exactly(on_this_node), cluster, local, any }
}

/// How near an endpoint has to be.
#[derive(Clone, Copy, Debug)]
enum Nearness<'a> {
    /// Anywhere will do.
    Any,
    /// Meant for this node (PreferSameNode).
    SameNode,
    /// Meant for this zone (PreferSameZone).
    SameZone(&'a str),
}

impl<'a> Nearness<'a> {
    /// Hints count only if every ready endpoint has some, and one of them is meant for us: otherwise they are about to
    /// change, or would leave us without endpoints.
    fn of(endpoints: &[PortEndpoint<'_>], zone: Option<&'a str>) -> Self {
        let ready = || endpoints.iter().map(|e| e.endpoint).filter(|endpoint| endpoint.ready);
        if ready().all(|e| e.node_hint() != NodeHint::Unset) && ready().any(|e| e.node_hint() == NodeHint::ThisNode) {
            return Self::SameNode;
        }
        match zone {
            Some(zone) if ready().all(Endpoint::names_zones) && ready().any(|e| e.is_for_zone(zone)) => {
                Self::SameZone(zone)
            }
            _ => Self::Any,
        }
    }

    fn takes(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Any => true,
            Self::SameNode => endpoint.node_hint() == NodeHint::ThisNode,
            Self::SameZone(zone) => endpoint.is_for_zone(zone),
        }
    }
}

/// Those that are ready and near enough; failing that, all that serve while they terminate.
fn usable<'a>(
    endpoints: impl Iterator<Item = &'a PortEndpoint<'a>> + Clone,
    is_near: impl Fn(&PortEndpoint<'_>) -> bool,
) -> Vec<SocketAddr> {
    let ready = endpoints.clone().filter(|e| e.endpoint.ready && is_near(e));
    let ready = exactly(ready.map(PortEndpoint::socket));
    if !ready.is_empty() {
        return ready;
    }
    exactly(endpoints.filter(|e| e.endpoint.is_serving_terminating()).map(PortEndpoint::socket))
}

/// A list that takes no more memory than it needs, as there are very many that are kept.
fn exactly(sockets: impl Iterator<Item = SocketAddr> + Clone) -> Vec<SocketAddr> {
    let mut list = Vec::with_capacity(sockets.clone().count());
    list.extend(sockets);
    list
}

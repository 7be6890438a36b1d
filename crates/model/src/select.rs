//! Which endpoints of a Service port take its traffic.

use std::net::SocketAddr;

use crate::{Family, PortEndpoint, Service, ServicePort, TrafficPolicy};

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

/// Selects from `endpoints`, which are those of `port` in `family`, in order.
///
/// A list takes ready endpoints; where it has none, those that still serve while they terminate. An endpoint that is
/// neither is never used.
pub fn select(
    service: &Service,
    port: &ServicePort,
    family: Family,
    endpoints: &[PortEndpoint<'_>],
    _zone: Option<&str>,
) -> Selection {
    let external = service.is_externally_accessible(port, family);
    let internal_local = service.internal_policy == TrafficPolicy::Local;
    let uses_cluster = !internal_local || external;
    let uses_local = internal_local || (service.external_policy == TrafficPolicy::Local && external);

    let cluster = if uses_cluster { usable(endpoints.iter()) } else { Vec::new() };
    let local = if uses_local { usable(endpoints.iter().filter(|e| e.endpoint.local)) } else { Vec::new() };
    let usable_anywhere = |e: &PortEndpoint<'_>| e.endpoint.ready || e.endpoint.is_serving_terminating();
    let any = if uses_local { endpoints.iter().any(usable_anywhere) } else { !cluster.is_empty() };
    let on_this_node = endpoints
        .iter()
        .filter(|e| e.endpoint.local)
        .map(PortEndpoint::socket)
        .filter(|socket| cluster.binary_search(socket).is_ok() || local.binary_search(socket).is_ok())
        .collect();
    Selection { cluster, local, on_this_node, any }
}

fn usable<'a>(endpoints: impl Iterator<Item = &'a PortEndpoint<'a>> + Clone) -> Vec<SocketAddr> {
    let ready: Vec<_> = endpoints.clone().filter(|e| e.endpoint.ready).map(PortEndpoint::socket).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.filter(|e| e.endpoint.is_serving_terminating()).map(PortEndpoint::socket).collect()
}

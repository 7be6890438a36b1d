//! How one Service port is to be treated in one family.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use ipnet::IpNet;
use model::{Family, Selection, Service, ServicePort, TrafficPolicy};

use crate::claims::Right;
use crate::frontend::Scope;
use crate::lb::{LbChain, LbKind, Target};
use crate::sets::{Role, SetId};
use crate::{Frontend, Options};

/// The treatment of a Service port's frontends and the endpoints they lead to. Everything that the kernel holds for the
/// port follows from this value, so that two of them tell what has to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortRules {
    pub(crate) frontends: Frontends,
    /// The ClusterIP, which refuses ports that no Service has.
    pub(crate) cluster_ip: Option<IpAddr>,
    /// Endpoints for policy `Cluster`; their positions are their numbers in the endpoint map.
    pub(crate) cluster: Vec<SocketAddr>,
    /// Endpoints for policy `Local`, likewise.
    pub(crate) local: Vec<SocketAddr>,
    /// Endpoints on this node, which may connect to themselves.
    pub(crate) hairpins: Vec<SocketAddr>,
    /// For how many seconds clients are sent to the same endpoint.
    pub(crate) affinity: Option<NonZeroU32>,
    /// Whether connections are kept out of the fast path.
    pub(crate) slow: bool,
    /// Frontends that the Service only asks for: external IPs that are neither its ClusterIP nor its load balancer's.
    pub(crate) asked: BTreeSet<Frontend>,
    /// Frontends that only clients from `sources` may connect to.
    pub(crate) restricted: BTreeSet<Frontend>,
    /// In order; none is within another. None of them is everything.
    pub(crate) sources: Vec<IpNet>,
}

/// What happens to connections to a frontend (contract §5.6, §5.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Any endpoint serves.
    Cluster,
    /// Any endpoint serves and sees an address of the node as the source.
    Masqueraded,
    /// Endpoints on this node serve.
    Local,
    /// Any endpoint serves clients that are pods or the node itself, those on this node serve all others.
    ExternalLocal,
    /// Like [`Treatment::ExternalLocal`] where no endpoint is on this node: other clients' packets are dropped.
    ExternalElsewhere,
    /// Packets are dropped: there are endpoints, but none that this frontend may use here.
    Drop,
    /// Connections are refused: there is no endpoint anywhere.
    Reject,
}

impl PortRules {
    /// What `port` of `service` wants in `family`, given the endpoints selected for it. `None` if the Service has no
    /// ClusterIP in the family, and so is not served there.
    pub(crate) fn wanted(
        service: &Service,
        port: &ServicePort,
        options: &Options,
        selection: Selection,
    ) -> Option<Self> {
        let family = options.family;
        let cluster_ip = (*service.cluster_ips.get(family))?;
        let internal = internal_treatment(service.internal_policy, &selection);
        let external = external_treatment(service.external_policy, &selection);
        let at = |address| Frontend::Address { address, protocol: port.protocol, port: port.port };
        let mut frontends = Frontends::default();
        service.external_addresses(family).for_each(|ip| frontends.insert(at(ip), external));
        if let Some(port_number) = port.node_port {
            frontends.insert(Frontend::NodePort { protocol: port.protocol, port: port_number }, external);
        }
        // An external address that equals the ClusterIP is treated as the ClusterIP.
        frontends.insert(at(cluster_ip), internal);
        let sources = sources(service, options);
        let balancers = service.load_balancer_ips.iter().filter(|ip| Family::of(**ip) == family && !sources.is_empty());
        let is_given = |ip: &IpAddr| *ip == cluster_ip || service.load_balancer_ips.contains(ip);
        let asked = service.external_ips.iter().filter(|ip| Family::of(**ip) == family && !is_given(ip));
        let Selection { cluster, local, on_this_node, .. } = selection;
        Some(Self {
            frontends,
            cluster_ip: Some(cluster_ip),
            cluster,
            local,
            hairpins: on_this_node,
            affinity: service.affinity,
            slow: !service.fast_path,
            asked: asked.map(|ip| at(*ip)).collect(),
            restricted: balancers.map(|ip| at(*ip)).collect(),
            sources,
        })
    }

    /// By what right it claims one of its frontends.
    pub(crate) fn right_to(&self, frontend: Frontend) -> Right {
        match frontend {
            _ if self.asked.contains(&frontend) => Right::Asked,
            Frontend::Address { address, .. } if self.cluster_ip != Some(address) => Right::Balancer,
            Frontend::Address { .. } | Frontend::NodePort { .. } => Right::Assigned,
        }
    }

    /// Whether packets from inside, and from outside, are dropped for want of an endpoint on this node.
    pub(crate) fn lacks_local_endpoints(&self) -> (bool, bool) {
        let has = |treatment| self.frontends.of(treatment).next().is_some();
        (has(Treatment::Drop), has(Treatment::ExternalElsewhere))
    }

    /// The frontends that a set of their kind lists, besides what the maps have.
    pub(crate) fn listed(&self, set: SetId) -> BTreeSet<Frontend> {
        let is_in = |frontend: &Frontend| match (set, frontend) {
            (SetId::External, Frontend::Address { address, .. }) => self.cluster_ip != Some(*address),
            (SetId::SlowPath, Frontend::Address { .. }) => self.slow,
            (SetId::FastNodePorts, Frontend::NodePort { .. }) => !self.slow,
            _ => false,
        };
        self.frontends.iter().filter(is_in).collect()
    }

    /// Gives endpoints that stay the numbers they had in `old`, so that only what came and went is written.
    pub(crate) fn keep_positions_of(&mut self, old: &Self) {
        keep_positions(&old.cluster, &mut self.cluster);
        keep_positions(&old.local, &mut self.local);
    }

    /// The chain that serves the ClusterIP, if any endpoint may.
    pub(crate) fn cluster_ip_chain(&self) -> Option<LbChain> {
        let serves = self.frontends.of(Treatment::Cluster).next().is_some();
        LbChain::new(Scope::Address, LbKind::Cluster, self.affinity.is_some(), self.cluster.len()).filter(|_| serves)
    }

    /// What a frontend leads to.
    pub(crate) fn view(&self, frontend: Frontend) -> View<'_> {
        let treatment = self.frontends.get(frontend);
        let used = |used: bool, endpoints: &'_ [SocketAddr]| if used { endpoints.len() } else { 0 };
        View {
            scope: frontend.scope(),
            treatment,
            cluster: &self.cluster[..used(treatment.is_some_and(Treatment::uses_cluster), &self.cluster)],
            local: &self.local[..used(treatment.is_some_and(Treatment::uses_local), &self.local)],
            affinity: self.affinity,
            sources: treatment.and(self.restricted.contains(&frontend).then_some(&self.sources)),
        }
    }
}

/// How each of a few frontends is treated, in order: most ports have one, for which a tree takes ten times the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frontends(Vec<(Frontend, Treatment)>);

impl Frontends {
    pub(crate) fn get(&self, frontend: Frontend) -> Option<Treatment> {
        self.position(frontend).ok().map(|index| self.0[index].1)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Frontend> + '_ {
        self.0.iter().map(|(frontend, _)| *frontend)
    }

    /// Those that are treated so.
    pub(crate) fn of(&self, treatment: Treatment) -> impl Iterator<Item = Frontend> + '_ {
        self.0.iter().filter(move |(_, known)| *known == treatment).map(|(frontend, _)| *frontend)
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Frontend) -> bool) {
        self.0.retain(|(frontend, _)| keep(*frontend));
    }

    fn insert(&mut self, frontend: Frontend, treatment: Treatment) {
        match self.position(frontend) {
            Ok(index) => self.0[index].1 = treatment,
            Err(index) => {
                self.0.reserve_exact(1);
                self.0.insert(index, (frontend, treatment));
            }
        }
    }

    fn position(&self, frontend: Frontend) -> Result<usize, usize> {
        self.0.binary_search_by_key(&frontend, |(known, _)| *known)
    }
}

/// What one frontend leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    scope: Scope,
    treatment: Option<Treatment>,
    /// The endpoints in its cluster map.
    pub(crate) cluster: &'a [SocketAddr],
    /// The endpoints in its local map.
    pub(crate) local: &'a [SocketAddr],
    affinity: Option<NonZeroU32>,
    /// Who may connect to it; `None` if everyone may.
    pub(crate) sources: Option<&'a [IpNet]>,
}

impl<'a> View<'a> {
    /// The endpoints that serve clients outside.
    pub(crate) fn serving_outside(&self) -> &'a [SocketAddr] {
        match self.treatment {
            Some(Treatment::Cluster | Treatment::Masqueraded) => self.cluster,
            Some(Treatment::Local | Treatment::ExternalLocal) => self.local,
            Some(Treatment::ExternalElsewhere | Treatment::Drop | Treatment::Reject) | None => &[],
        }
    }

    /// Where each verdict map leads it.
    pub(crate) fn targets(&self) -> [(Role, Option<Target>); 4] {
        [
            (Role::Entry, self.entry()),
            (Role::Refusal, self.refusal()),
            (Role::ShortCircuit, self.short_circuit()),
            (Role::Outside, self.outside()),
        ]
    }

    /// For how many seconds clients are remembered, if there are endpoints that they are sent to.
    pub(crate) fn affinity(&self) -> Option<NonZeroU32> {
        self.affinity.filter(|_| !self.cluster.is_empty() || !self.local.is_empty())
    }

    /// Whether an endpoint is among those it leads to.
    pub(crate) fn has(&self, endpoint: SocketAddr) -> bool {
        self.cluster.contains(&endpoint) || self.local.contains(&endpoint)
    }

    /// Whether all clients whom `old` sent to an endpoint that is there still may be sent to it again: not after a change of
    /// policy, and not if clients from outside were sent to one that has left this node, or pods to one that only clients from outside
    /// use now, as it terminates and no other is on this node.
    pub(crate) fn honours_choices_of(&self, old: &Self) -> bool {
        let moved = |from: &[SocketAddr], from_now: &[SocketAddr], to: &[SocketAddr]| {
            from.iter().any(|endpoint| !from_now.contains(endpoint) && to.contains(endpoint))
        };
        let has_moved = moved(old.local, self.local, self.cluster) || moved(old.cluster, self.cluster, self.local);
        self.affinity().is_some() && self.treatment == old.treatment && !has_moved
    }

    fn entry(&self) -> Option<Target> {
        match self.treatment? {
            Treatment::Cluster => self.chain(LbKind::Cluster, self.cluster),
            Treatment::Masqueraded => self.chain(LbKind::Masquerade, self.cluster),
            Treatment::Local => self.chain(LbKind::Local, self.local),
            Treatment::ExternalLocal | Treatment::ExternalElsewhere => Some(Target::ExternalLocal(self.scope)),
            Treatment::Drop | Treatment::Reject => None,
        }
    }

    fn refusal(&self) -> Option<Target> {
        match self.treatment? {
            Treatment::Drop | Treatment::ExternalElsewhere => Some(Target::Drop),
            Treatment::Reject => Some(Target::Reject),
            Treatment::Cluster | Treatment::Masqueraded | Treatment::Local | Treatment::ExternalLocal => None,
        }
    }

    fn short_circuit(&self) -> Option<Target> {
        let apart = matches!(self.treatment?, Treatment::ExternalLocal | Treatment::ExternalElsewhere);
        self.chain(LbKind::Cluster, self.cluster).filter(|_| apart)
    }

    fn outside(&self) -> Option<Target> {
        self.chain(LbKind::Local, self.local).filter(|_| self.treatment == Some(Treatment::ExternalLocal))
    }

    fn chain(&self, kind: LbKind, endpoints: &[SocketAddr]) -> Option<Target> {
        LbChain::new(self.scope, kind, self.affinity.is_some(), endpoints.len()).map(Target::Lb)
    }
}

impl Treatment {
    const fn uses_cluster(self) -> bool {
        matches!(self, Self::Cluster | Self::Masqueraded | Self::ExternalLocal | Self::ExternalElsewhere)
    }

    const fn uses_local(self) -> bool {
        matches!(self, Self::Local | Self::ExternalLocal)
    }
}

/// Who may connect to the load balancer's addresses, in one family; none if everyone may.
///
/// Where the node may, those addresses may as well: a node that has one of them itself may send from it (contract §5.6).
fn sources(service: &Service, options: &Options) -> Vec<IpNet> {
    let of_family = |ip: &IpAddr| Family::of(*ip) == options.family;
    let ranges = service.source_ranges.iter().filter(|range| Family::of_prefix(range) == options.family);
    let mut ranges: Vec<_> = ranges.copied().collect();
    if options.node_address.is_some_and(|node| ranges.iter().any(|range| range.contains(&node))) {
        ranges.extend(service.load_balancer_ips.iter().copied().filter(of_family).map(IpNet::from));
    }
    let ranges = IpNet::aggregate(&ranges);
    // Halves may add up to everything, which is no restriction.
    if ranges.iter().any(|range| range.prefix_len() == 0) { Vec::new() } else { ranges }
}

fn internal_treatment(policy: TrafficPolicy, selection: &Selection) -> Treatment {
    match policy {
        _ if !selection.any => Treatment::Reject,
        TrafficPolicy::Cluster => Treatment::Cluster,
        TrafficPolicy::Local if selection.local.is_empty() => Treatment::Drop,
        TrafficPolicy::Local => Treatment::Local,
    }
}

fn external_treatment(policy: TrafficPolicy, selection: &Selection) -> Treatment {
    match policy {
        _ if !selection.any => Treatment::Reject,
        TrafficPolicy::Cluster => Treatment::Masqueraded,
        TrafficPolicy::Local if selection.local.is_empty() => Treatment::ExternalElsewhere,
        TrafficPolicy::Local => Treatment::ExternalLocal,
    }
}

/// Reorders `wanted`, which is sorted, so that as many endpoints as possible stand where they stood in `old`.
fn keep_positions(old: &[SocketAddr], wanted: &mut Vec<SocketAddr>) {
    let mut placed = vec![None; wanted.len()];
    let mut is_placed = vec![false; wanted.len()];
    for (slot, endpoint) in placed.iter_mut().zip(old) {
        if let Ok(index) = wanted.binary_search(endpoint) {
            *slot = Some(*endpoint);
            is_placed[index] = true;
        }
    }
    let mut others = wanted.iter().zip(is_placed).filter(|(_, placed)| !placed).map(|(endpoint, _)| *endpoint);
    let reordered = placed.into_iter().filter_map(|slot| slot.or_else(|| others.next())).collect();
    *wanted = reordered;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(last_bytes: &[u8]) -> Vec<SocketAddr> {
        last_bytes.iter().map(|&b| SocketAddr::from(([10, 0, 0, b], 80))).collect()
    }

    #[test]
    fn endpoints_that_stay_keep_their_numbers() {
        let cases: [(&[u8], &[u8], &[u8]); 6] = [
            (&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[3, 1, 2], &[1, 2], &[2, 1]),
            (&[3, 2, 1], &[1, 2, 3], &[3, 2, 1]),
            (&[1, 2, 3], &[1, 3, 4], &[1, 4, 3]),
            (&[], &[1, 2], &[1, 2]),
        ];
        for (old, wanted, expected) in cases {
            let mut result = sockets(wanted);
            keep_positions(&sockets(old), &mut result);
            assert_eq!(result, sockets(expected), "{old:?} -> {wanted:?}");
        }
    }
}

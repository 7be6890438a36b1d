//! From what Services want to the elements that change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;

use ipnet::IpNet;
use model::{PortEndpoint, Protocol, Service, ServiceName, ServicePortName, State, select};
use ruleset::{Comment, Data, Element, Words};

use super::Compiler;
use crate::claims::{Claim, Claims};
use crate::edit::Edit;
use crate::flows::{Fingerprint, PortFlows};
use crate::lb::Target;
use crate::port::{PortRules, Treatment, View};
use crate::sets::{Role, SetId};
use crate::{Frontend, NodePorts, Offloads};

/// A Service port and how it is, or is to be, treated.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) name: ServicePortName,
    /// When its Service was created, in seconds since the epoch.
    created: i64,
    /// What it is given: the treatment of frontends that it owns.
    pub(crate) rules: PortRules,
    /// Frontends it claims but does not own.
    lost: Vec<Frontend>,
    /// Of the endpoints that its flows may stay with.
    fingerprint: Fingerprint,
    /// Those endpoints, until it is programmed: to keep them costs too much.
    serving: BTreeSet<SocketAddr>,
}

impl Compiler {
    /// Enters what the changed Services claim, and returns what they want and what those want that gained or lost by it.
    pub(super) fn settle_claims(
        &mut self,
        state: &State,
        services: &BTreeSet<ServiceName>,
    ) -> BTreeMap<ServiceName, Vec<Port>> {
        let mut wanted = BTreeMap::new();
        let mut affected = BTreeSet::new();
        for name in services {
            let ports = self.wanted(state, name);
            affected.extend(self.replace_claims(name, &ports));
            wanted.insert(name.clone(), ports);
        }
        for name in affected {
            wanted.entry(name).or_insert_with_key(|name| self.wanted(state, name));
        }
        wanted
    }

    /// What a Service wants, regardless of what others want.
    fn wanted(&self, state: &State, name: &ServiceName) -> Vec<Port> {
        let Some(service) = state.service(name).filter(|_| !self.set_aside.contains(name)) else {
            return Vec::new();
        };
        let mut ports = Vec::with_capacity(service.ports.len());
        ports.extend(service.ports.iter().filter_map(|port| self.wanted_port(state, service, port)));
        ports
    }

    fn wanted_port(&self, state: &State, service: &Service, port: &model::ServicePort) -> Option<Port> {
        let family = self.options.family;
        let endpoints = state.endpoints(&service.name, port, family);
        let selection = select(service, port, family, &endpoints, state.zone());
        let rules = PortRules::wanted(service, port, &self.options, selection)?;
        let mut serving = self.serving(port.protocol, &endpoints);
        let fingerprint = Fingerprint::of(&serving);
        // Nobody asks for those of a TCP port that is new, unless connections may have come to it before we knew of it.
        if port.protocol == Protocol::Tcp && !self.programmed.contains_key(&service.name) && self.inherited.is_empty() {
            serving.clear();
        }
        let (name, created) = (service.port_name(port), service.created);
        Some(Port { name, created, rules, lost: Vec::new(), fingerprint, serving })
    }

    /// Endpoints that flows may stay with; none where flows are not looked at.
    ///
    /// Datagrams may not go on to an endpoint that does not serve. A TCP connection in a flowtable may, as long as there is the endpoint.
    fn serving(&self, protocol: Protocol, endpoints: &[PortEndpoint<'_>]) -> BTreeSet<SocketAddr> {
        let stays = |endpoint: &&PortEndpoint<'_>| protocol == Protocol::Tcp || endpoint.endpoint.serving;
        let endpoints = endpoints.iter().filter(|_| self.options.offloads.follows(protocol));
        endpoints.filter(stays).map(PortEndpoint::socket).collect()
    }

    /// Replaces the claims of a Service, and returns the Services that gained or lost a frontend by it.
    fn replace_claims(&mut self, name: &ServiceName, ports: &[Port]) -> Vec<ServiceName> {
        let mut affected = Vec::new();
        let old = self.programmed.get(name).map_or(&[][..], Vec::as_slice);
        let new: BTreeMap<_, _> = ports.iter().map(|port| (&port.name, port)).collect();
        for (port, frontend) in old.iter().flat_map(Port::claims) {
            let claim = port.claim(frontend);
            let stays = |new: &&Port| new.rules.frontends.get(frontend).is_some() && new.claim(frontend) == claim;
            if new.get(&port.name).copied().filter(stays).is_none() {
                affected.extend(self.claims.remove(frontend, &claim));
            }
        }
        for (port, frontend) in ports.iter().flat_map(Port::claims) {
            affected.extend(self.claims.add(frontend, port.claim(frontend)));
        }
        affected
    }

    /// Makes what is programmed for a Service equal to what it wants.
    pub(super) fn program(&mut self, service: ServiceName, wanted: Vec<Port>, edit: &mut Edit) {
        let old = self.programmed.remove(&service).unwrap_or_default();
        let mut old: BTreeMap<_, _> = old.into_iter().map(|port| (port.name.clone(), port)).collect();
        let mut programmed = Vec::with_capacity(wanted.len());
        for mut port in wanted {
            port.give_up_lost(&self.claims);
            let before = old.remove(&port.name);
            self.follow_flows(before.as_ref(), Some(&port));
            port.serving.clear();
            let before = before.map(|port| port.rules).unwrap_or_default();
            let found = self.adopted.numbers_of(&port.rules);
            port.rules.keep_positions_of(found.as_ref().unwrap_or(&before));
            self.replace(&port.name, &before, &port.rules, edit);
            programmed.push(port);
        }
        for port in old.into_values() {
            self.follow_flows(Some(&port), None);
            self.replace(&port.name, &port.rules, &PortRules::default(), edit);
        }
        if !programmed.is_empty() {
            self.programmed.insert(service, programmed);
        }
    }

    /// Takes note of what the change of a port means for its flows. Of TCP ports that were not programmed before, nothing: what they
    /// take over is told when another port has given it up ([`Compiler::settle_flows`]). That is so but for a start that goes on with
    /// the table of an earlier one, because endpoints may have gone in between.
    fn follow_flows(&mut self, old: Option<&Port>, new: Option<&Port>) {
        let nothing = BTreeSet::new();
        let Some(protocol) = old.or(new).map(|port| port.name.protocol) else { return };
        let is_new = old.is_none() && self.inherited.is_empty();
        if self.options.offloads.follows(protocol) && !(protocol == Protocol::Tcp && is_new) {
            let serving = new.map_or(&nothing, |port| &port.serving);
            self.flows.replace(old.map(Port::flows), new.map(Port::flows), serving);
        }
    }

    fn replace(&mut self, port: &ServicePortName, old: &PortRules, new: &PortRules, edit: &mut Edit) {
        let frontends: BTreeSet<_> = old.frontends.iter().chain(new.frontends.iter()).collect();
        for frontend in frontends {
            self.replace_frontend(port, frontend, old.view(frontend), new.view(frontend), edit);
        }
        let hairpin = |socket: &SocketAddr| (socket.ip(), port.protocol, socket.port());
        new.cluster_ip.into_iter().for_each(|ip| self.cluster_ips.acquire(ip));
        old.cluster_ip.into_iter().for_each(|ip| self.cluster_ips.release(ip));
        self.count_local_endpoints(old, new);
        self.replace_listed(old, new, edit);
        new.hairpins.iter().for_each(|socket| self.hairpins.acquire(hairpin(socket)));
        old.hairpins.iter().for_each(|socket| self.hairpins.release(hairpin(socket)));
    }

    fn count_local_endpoints(&mut self, old: &PortRules, new: &PortRules) {
        let count = &mut self.no_local_endpoints;
        let ((internal, external), (internal_before, external_before)) =
            (new.lacks_local_endpoints(), old.lacks_local_endpoints());
        count.internal = count.internal + usize::from(internal) - usize::from(internal_before);
        count.external = count.external + usize::from(external) - usize::from(external_before);
    }

    /// Replaces the frontends that are listed by their kind.
    fn replace_listed(&mut self, old: &PortRules, new: &PortRules, edit: &mut Edit) {
        // Of connections that are in the fast path already, the next packets have to follow the rules.
        self.opted_out |= new.slow && !old.slow && !old.frontends.is_empty();
        let all = self.options.offloads == Offloads::AllFrontends;
        let node_ports = all.then_some(SetId::FastNodePorts);
        for set in [SetId::External, SetId::SlowPath].into_iter().chain(node_ports) {
            let (old, new) = (old.listed(set), new.listed(set));
            let (went, came) = (old.difference(&new), new.difference(&old));
            edit.replace_keys(set, went.map(|frontend| frontend.key()), came.map(|frontend| frontend.key()));
        }
    }

    fn replace_frontend(
        &mut self,
        port: &ServicePortName,
        frontend: Frontend,
        old: View<'_>,
        new: View<'_>,
        edit: &mut Edit,
    ) {
        let id = |role| SetId::Frontends(frontend.scope(), role);
        edit.replace_endpoints(id(Role::Endpoints), frontend, old.cluster, new.cluster);
        edit.replace_endpoints(id(Role::LocalEndpoints), frontend, old.local, new.local);
        self.affinity.replace(frontend, &old, &new, edit);
        self.replace_sources(frontend, old.sources, new.sources, edit);
        for ((role, from), (_, to)) in old.targets().into_iter().zip(new.targets()) {
            if from == to {
                continue;
            }
            if let Some(from) = from {
                self.chains.release(from);
                edit.delete(self.common_set(role, from).unwrap_or(id(role)), frontend.key());
            }
            if let Some(to) = to {
                let verdict = self.chains.acquire(to);
                let comment = (role == Role::Refusal).then(|| Comment::new(&port.to_string()));
                let (set, data) =
                    self.common_set(role, to).map_or((id(role), Data::Verdict(verdict)), |set| (set, Data::None));
                edit.add(set, Element { key: frontend.key(), data, comment });
            }
        }
    }

    /// Replaces who may connect to a frontend.
    fn replace_sources(&mut self, frontend: Frontend, old: Option<&[IpNet]>, new: Option<&[IpNet]>, edit: &mut Edit) {
        if old.is_some() != new.is_some() {
            let key = |sources: Option<&[IpNet]>| sources.map(|_| frontend.key());
            edit.replace_keys(SetId::Restricted, key(old).into_iter(), key(new).into_iter());
        }
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        if old == new {
            return;
        }
        for range in old.iter().filter(|range| new.binary_search(range).is_err()) {
            if let Some(bits) = NonZeroU8::new(range.prefix_len()) {
                self.source_lengths.release(bits);
                edit.delete(SetId::Sources(bits), frontend.source_key(*range));
            }
        }
        for range in new.iter().filter(|range| old.binary_search(range).is_err()) {
            if let Some(bits) = NonZeroU8::new(range.prefix_len()) {
                self.source_lengths.acquire(bits);
                edit.add(
                    SetId::Sources(bits),
                    Element { key: frontend.source_key(*range), data: Data::None, comment: None },
                );
            }
        }
    }

    /// The set that leads to `target` without a verdict of the frontend's own, if there is one.
    fn common_set(&self, role: Role, target: Target) -> Option<SetId> {
        match target {
            Target::Lb(chain) if role == Role::Entry && self.chains.is_common(chain) => {
                Some(SetId::Common { affinity: chain.affinity, endpoints: chain.endpoints })
            }
            _ => None,
        }
    }

    /// The change at hand is complete, also for flows. A frontend that a port gave up may have another owner, with whose endpoints its
    /// flows may stay.
    pub(super) fn settle_flows(&mut self, state: &State) {
        let inherited = std::mem::take(&mut self.inherited);
        let offloads = self.options.offloads;
        self.flows.give_up(inherited.into_iter().filter(|frontend| offloads.follows(frontend.protocol())));
        for frontend in self.flows.given_up() {
            let Some(owner) = self.claims.owner(frontend) else { continue };
            let Some(service) = state.service(&owner.service) else { continue };
            let is_owner = |port: &&model::ServicePort| service.port_name(port) == *owner;
            if let Some(port) = service.ports.iter().find(is_owner) {
                let endpoints = state.endpoints(&owner.service, port, self.options.family);
                let serving = self.serving(port.protocol, &endpoints);
                self.flows.inherited(frontend, serving);
            }
        }
        self.flows.settle();
    }

    pub(super) fn settle_counted(&mut self, edit: &mut Edit) {
        let (came, went) = self.cluster_ips.settle();
        let cluster_ip = |ip: IpAddr| Words::build().address(ip).finish();
        edit.replace_keys(SetId::ClusterIps, went.into_iter().map(cluster_ip), came.into_iter().map(cluster_ip));

        let (came, went) = self.hairpins.settle();
        let hairpin = |(ip, protocol, port): (IpAddr, Protocol, u16)| {
            Words::build().address(ip).address(ip).protocol(protocol.number()).port(port).finish()
        };
        edit.replace_keys(SetId::Hairpins, went.into_iter().map(hairpin), came.into_iter().map(hairpin));
    }

    pub(super) fn settle_node_port_addresses(&mut self, edit: &mut Edit) {
        let NodePorts::Only(wanted) = &self.options.node_ports else { return };
        let key = |ip: &IpAddr| Words::build().address(*ip).finish();
        let went = self.node_port_addresses.difference(wanted).map(key);
        let came = wanted.difference(&self.node_port_addresses).map(key);
        edit.replace_keys(SetId::NodePortIps, went, came);
        self.node_port_addresses.clone_from(wanted);
    }
}

impl Port {
    const fn flows(&self) -> PortFlows<'_> {
        PortFlows { rules: &self.rules, fingerprint: self.fingerprint }
    }

    /// Its claim to one of its frontends.
    fn claim(&self, frontend: Frontend) -> Claim {
        Claim { right: self.rules.right_to(frontend), created: self.created, port: self.name.clone() }
    }

    /// Every frontend it claims, with itself.
    fn claims(&self) -> impl Iterator<Item = (&Self, Frontend)> {
        self.rules.frontends.iter().chain(self.lost.iter().copied()).map(move |frontend| (self, frontend))
    }

    /// Whether connections to the ClusterIP come to it, and not to another Service that claims the same.
    pub(super) fn owns_cluster_ip(&self, claims: &Claims) -> bool {
        let is_owner = |frontend| claims.is_owner(frontend, &self.name);
        self.rules.frontends.of(Treatment::Cluster).any(is_owner)
    }

    /// Where the frontends that it owns will lead.
    pub(super) fn targets(&self, claims: &Claims) -> impl Iterator<Item = Target> {
        let owned = self.rules.frontends.iter().filter(|frontend| claims.is_owner(*frontend, &self.name));
        owned.flat_map(|frontend| self.rules.view(frontend).targets()).filter_map(|(_, target)| target)
    }

    /// Sets aside the frontends that others own.
    fn give_up_lost(&mut self, claims: &Claims) {
        let Self { name, rules, lost, .. } = self;
        rules.frontends.retain(|frontend| {
            let owned = claims.is_owner(frontend, name);
            if !owned {
                lost.push(frontend);
            }
            owned
        });
    }
}

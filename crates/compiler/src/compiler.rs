//! From changed Services to transactions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use model::{Family, Protocol, Service, ServiceName, ServicePortName, State, select};
use ruleset::{Comment, Data, Element, Found, Name, Op, Table, Transaction, Words};

use crate::adopt::Adopted;
use crate::chains::Chains;
use crate::claims::{Claim, Claims};
use crate::counted::Counted;
use crate::edit::Edit;
use crate::layout::Layout;
use crate::lb::Target;
use crate::port::{PortRules, Treatment, View};
use crate::sets::{Role, SetId};
use crate::{Conflict, FlowCheck, Frontend, Options, name};

/// The name of the tables, one of each family.
pub fn table_name() -> Name {
    name("kube-proxy")
}

/// Compiles the Services of one family, and remembers what it has compiled, so that a change costs what it changes.
///
/// Its memory is only true if every transaction it returns is committed. After one that was not, call
/// [`Compiler::compile_all`].
#[derive(Debug)]
pub struct Compiler {
    options: Options,
    layout: Layout,
    programmed: HashMap<ServiceName, Vec<Port>>,
    claims: Claims,
    cluster_ips: Counted<IpAddr>,
    hairpins: Counted<(IpAddr, Protocol, u16)>,
    chains: Chains,
    /// Empty but while [`Compiler::compile_all`] goes on with what was found.
    adopted: Adopted,
}

/// A Service port and how it is, or is to be, treated.
#[derive(Debug)]
struct Port {
    claim: Claim,
    /// What it is given: the treatment of frontends that it owns.
    rules: PortRules,
    /// Frontends it claims but does not own.
    lost: Vec<Frontend>,
}

impl Compiler {
    /// A compiler that has not programmed anything.
    pub fn new(options: Options) -> Self {
        Self {
            layout: Layout::new(&options),
            options,
            programmed: HashMap::new(),
            claims: Claims::default(),
            cluster_ips: Counted::default(),
            hairpins: Counted::default(),
            chains: Chains::new(),
            adopted: Adopted::default(),
        }
    }

    /// The family it compiles for.
    pub const fn family(&self) -> Family {
        self.options.family
    }

    /// The table that it makes transactions for.
    pub fn table(&self) -> (ruleset::Family, Name) {
        let family = match self.options.family {
            Family::V4 => ruleset::Family::Ip,
            Family::V6 => ruleset::Family::Ip6,
        };
        (family, table_name())
    }

    /// Takes note of what the kernel holds, for the next [`Compiler::compile_all`] to go on with: the numbers of endpoints, and
    /// which chains and which sets of common numbers there are. The transaction then differs from what the kernel holds only
    /// where it has to (see [`ruleset::reconcile`]), and [`Compiler::sweep`] knows of chains that no Service needs.
    pub fn adopt(&mut self, found: &Found) {
        self.adopted = Adopted::of(found);
    }

    /// The transaction that replaces our table, whatever is in it, by one that is true to `state`.
    ///
    /// Packets see either the old table or the new one.
    pub fn compile_all(&mut self, state: &State) -> Transaction {
        let adopted = std::mem::take(&mut self.adopted);
        let chains = Chains::adopting(&adopted);
        *self = Self { chains, adopted, ..Self::new(self.options.clone()) };
        let names = state.services().map(|service| service.name.clone()).collect();
        let services = self.compile(state, &names);
        self.adopted = Adopted::default();
        let table = Op::AddTable(Table { comment: Some(Comment::new("rules for kube-proxy")) });
        // Adding first makes the deletion succeed where there is no table yet.
        let mut ops = vec![table.clone(), Op::DeleteTable, table];
        ops.extend(self.layout.create(&self.options));
        ops.extend(services.ops);
        Transaction { ops, ..services }
    }

    /// The transaction that makes the table true to `state`, where only `services` and their endpoints have changed.
    pub fn compile(&mut self, state: &State, services: &BTreeSet<ServiceName>) -> Transaction {
        let wanted = self.settle_claims(state, services);
        let owners = wanted.values().flatten().filter(|port| port.owns_cluster_ip(&self.claims));
        self.chains.choose_common(owners.filter_map(|port| port.rules.cluster_ip_chain()));
        let mut edit = Edit::default();
        for (service, ports) in wanted {
            self.program(service, ports, &mut edit);
        }
        self.settle_counted(&mut edit);
        self.transaction(edit)
    }

    /// The transaction that deletes chains no Service needs any more; often an empty one.
    ///
    /// Apart from the others and later than they, because kernels before 6.2 see the last reference go only some time
    /// after the commit (contract §5.9). If it fails, nothing is lost but the next try.
    pub fn sweep(&mut self) -> Transaction {
        let ops = self.chains.sweep();
        Transaction { ops, ..self.empty_transaction() }
    }

    /// Frontends of UDP whose flows are to be looked at once the transactions compiled since the last call are committed, each
    /// once. On the first call after [`Compiler::compile_all`], those are all UDP frontends.
    pub fn take_flow_checks(&mut self) -> Vec<FlowCheck> {
        Vec::new()
    }

    /// Frontends that several Services claim, in order.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.claims.conflicts()
    }

    /// Enters what the changed Services claim, and returns what they want and what those want that gained or lost by it.
    fn settle_claims(&mut self, state: &State, services: &BTreeSet<ServiceName>) -> BTreeMap<ServiceName, Vec<Port>> {
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
        let Some(service) = state.service(name) else {
            return Vec::new();
        };
        service.ports.iter().filter_map(|port| self.wanted_port(state, service, port)).collect()
    }

    fn wanted_port(&self, state: &State, service: &Service, port: &model::ServicePort) -> Option<Port> {
        let family = self.options.family;
        let endpoints = state.endpoints(&service.name, port, family);
        let rules = PortRules::wanted(service, port, family, select(service, port, family, &endpoints, state.zone()))?;
        let claim = Claim { created: service.created, port: service.port_name(port) };
        Some(Port { claim, rules, lost: Vec::new() })
    }

    /// Replaces the claims of a Service, and returns the Services that gained or lost a frontend by it.
    fn replace_claims(&mut self, name: &ServiceName, ports: &[Port]) -> Vec<ServiceName> {
        let mut affected = Vec::new();
        let old = self.programmed.get(name).map_or(&[][..], Vec::as_slice);
        for (port, frontend) in old.iter().flat_map(Port::claims) {
            let stays = |new: &Port| new.claim == port.claim && new.rules.frontends.contains_key(&frontend);
            if !ports.iter().any(stays) {
                affected.extend(self.claims.remove(frontend, &port.claim));
            }
        }
        for (port, frontend) in ports.iter().flat_map(Port::claims) {
            affected.extend(self.claims.add(frontend, port.claim.clone()));
        }
        affected
    }

    /// Makes what is programmed for a Service equal to what it wants.
    fn program(&mut self, service: ServiceName, wanted: Vec<Port>, edit: &mut Edit) {
        let mut old = self.programmed.remove(&service).unwrap_or_default();
        let mut programmed = Vec::with_capacity(wanted.len());
        for mut port in wanted {
            port.give_up_lost(&self.claims);
            let before = old.iter().position(|o| o.claim.port == port.claim.port).map(|index| old.swap_remove(index));
            let before = before.map(|port| port.rules).unwrap_or_default();
            let found = self.adopted.numbers_of(&port.rules);
            port.rules.keep_positions_of(found.as_ref().unwrap_or(&before));
            self.replace(&port.claim.port, &before, &port.rules, edit);
            programmed.push(port);
        }
        for port in old {
            self.replace(&port.claim.port, &port.rules, &PortRules::default(), edit);
        }
        if !programmed.is_empty() {
            self.programmed.insert(service, programmed);
        }
    }

    fn replace(&mut self, port: &ServicePortName, old: &PortRules, new: &PortRules, edit: &mut Edit) {
        let frontends: BTreeSet<_> = old.frontends.keys().chain(new.frontends.keys()).copied().collect();
        for frontend in frontends {
            self.replace_frontend(port, frontend, old.view(frontend), new.view(frontend), edit);
        }
        let hairpin = |socket: &SocketAddr| (socket.ip(), port.protocol, socket.port());
        new.cluster_ip.into_iter().for_each(|ip| self.cluster_ips.acquire(ip));
        old.cluster_ip.into_iter().for_each(|ip| self.cluster_ips.release(ip));
        new.hairpins.iter().for_each(|socket| self.hairpins.acquire(hairpin(socket)));
        old.hairpins.iter().for_each(|socket| self.hairpins.release(hairpin(socket)));
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

    /// The set that leads to `target` without a verdict of the frontend's own, if there is one.
    fn common_set(&self, role: Role, target: Target) -> Option<SetId> {
        match target {
            Target::Lb(chain) if role == Role::Entry && self.chains.is_common(chain) => {
                Some(SetId::Common(chain.endpoints))
            }
            _ => None,
        }
    }

    fn settle_counted(&mut self, edit: &mut Edit) {
        let (came, went) = self.cluster_ips.settle();
        let cluster_ip = |ip: IpAddr| Words::build().address(ip).finish();
        edit.replace_keys(SetId::ClusterIps, went.into_iter().map(cluster_ip), came.into_iter().map(cluster_ip));

        let (came, went) = self.hairpins.settle();
        let hairpin = |(ip, protocol, port): (IpAddr, Protocol, u16)| {
            Words::build().address(ip).address(ip).protocol(protocol.number()).port(port).finish()
        };
        edit.replace_keys(SetId::Hairpins, went.into_iter().map(hairpin), came.into_iter().map(hairpin));
    }

    /// Deletions, then chains, then additions: an element can only be replaced once the old one is gone, and binding a
    /// chain's rule to a map costs what the map holds at that moment.
    fn transaction(&mut self, edit: Edit) -> Transaction {
        let set = |id| self.layout.set(id);
        let Edit { deletes, adds } = edit;
        let mut ops: Vec<_> =
            deletes.into_iter().map(|(id, elements)| Op::DeleteElements { set: set(id), elements }).collect();
        ops.extend(self.chains.take_created(&self.layout, &self.options));
        ops.extend(adds.into_iter().map(|(id, elements)| Op::AddElements { set: set(id), elements }));
        Transaction { ops, ..self.empty_transaction() }
    }

    fn empty_transaction(&self) -> Transaction {
        let (family, table) = self.table();
        Transaction::new(family, table)
    }
}

impl Port {
    /// Every frontend it claims, with itself.
    fn claims(&self) -> impl Iterator<Item = (&Self, Frontend)> {
        self.rules.frontends.keys().chain(&self.lost).map(move |frontend| (self, *frontend))
    }

    /// Whether connections to the ClusterIP come to it, and not to an older Service that claims the same.
    fn owns_cluster_ip(&self, claims: &Claims) -> bool {
        let mut frontends = self.rules.frontends.iter();
        frontends.any(|(frontend, treatment)| {
            *treatment == Treatment::Cluster && claims.is_owner(*frontend, &self.claim.port)
        })
    }

    /// Sets aside the frontends that others own.
    fn give_up_lost(&mut self, claims: &Claims) {
        let Self { claim, rules, lost } = self;
        rules.frontends.retain(|frontend, _| {
            let owned = claims.is_owner(*frontend, &claim.port);
            if !owned {
                lost.push(*frontend);
            }
            owned
        });
    }
}

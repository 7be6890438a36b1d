//! From changed Services to transactions.

mod owners;
mod program;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Family, Protocol, ServiceName, State};
use ruleset::{Comment, Element, Found, Name, Op, Set, Table, Transaction};

use self::program::Port;
use crate::adopt::Adopted;
use crate::affinity::{Affinity, Choice};
use crate::chains::Chains;
use crate::claims::Claims;
use crate::counted::Counted;
use crate::edit::Edit;
use crate::flows::Flows;
use crate::layout::Layout;
use crate::on_demand::{OnDemand, Rewrite};
use crate::sets::SetId;
use crate::{Conflict, FlowCheck, Frontend, NodePorts, Offloads, Options, name};

pub use self::owners::ServedPort;

/// The name of the tables, one of each family.
pub fn table_name() -> Name {
    name("kube-proxy")
}

/// What nf_tables calls a family.
pub const fn table_family(family: Family) -> ruleset::Family {
    match family {
        Family::V4 => ruleset::Family::Ip,
        Family::V6 => ruleset::Family::Ip6,
    }
}

/// How many Service ports have endpoints, but none on this node, where only those on this node may serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// With internal traffic policy `Local`.
    pub internal: usize,
    /// With external traffic policy `Local`, and a frontend for clients outside.
    pub external: usize,
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
    no_local_endpoints: NoLocalEndpoints,
    /// Whether connections have to leave the fast path once what was compiled is committed.
    opted_out: bool,
    hairpins: Counted<(IpAddr, Protocol, u16)>,
    chains: Chains,
    affinity: Affinity,
    /// How long the prefixes of source ranges are.
    source_lengths: OnDemand<NonZeroU8>,
    flows: Flows,
    /// Services that are treated as if they were not there.
    set_aside: BTreeSet<ServiceName>,
    /// The prefixes of ServiceCIDRs that the table knows.
    service_cidrs: Vec<IpNet>,
    /// The addresses that the table takes NodePort traffic on, where not all do.
    node_port_addresses: BTreeSet<IpAddr>,
    /// Empty but while a table is made that goes on with what was found.
    adopted: Adopted,
    /// Frontends that flows may have come to before anything was programmed here.
    inherited: Vec<Frontend>,
    /// What is still to be programmed of a table that is made part by part.
    rest: BTreeMap<ServiceName, Vec<Port>>,
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
            no_local_endpoints: NoLocalEndpoints::default(),
            opted_out: false,
            hairpins: Counted::default(),
            chains: Chains::new(),
            affinity: Affinity::default(),
            source_lengths: OnDemand::default(),
            flows: Flows::default(),
            set_aside: BTreeSet::new(),
            service_cidrs: Vec::new(),
            node_port_addresses: BTreeSet::new(),
            adopted: Adopted::default(),
            inherited: Vec::new(),
            rest: BTreeMap::new(),
        }
    }

    /// The family it compiles for.
    pub const fn family(&self) -> Family {
        self.options.family
    }

    /// The table that it makes transactions for.
    pub fn table(&self) -> (ruleset::Family, Name) {
        (table_family(self.options.family), table_name())
    }

    /// Takes note of what the kernel holds, for the next [`Compiler::compile_all`] to go on with: the numbers of endpoints, and
    /// which chains and which sets of common numbers there are. The transaction then differs from what the kernel holds only
    /// where it has to (see [`ruleset::Reconciler`]), and [`Compiler::sweep`] knows of chains that no Service needs.
    pub fn adopt(&mut self, found: Arc<Found>) {
        self.adopted = Adopted::of(found, self.options.family);
        if self.programmed.is_empty() {
            self.inherited = self.adopted.frontends(self.options.family).collect();
        }
    }

    /// Takes note of what the change of these Services takes away from flows and from clients with session affinity, for the next
    /// [`Compiler::compile_all`], which looks at what is there and not at what was.
    pub fn follow(&mut self, state: &State, services: &BTreeSet<ServiceName>) {
        if !self.rest.is_empty() {
            // Of a table of which not all parts came.
            drop(self.edit_rest(state, usize::MAX));
        }
        if !self.programmed.is_empty() {
            drop(self.edit(state, services));
        }
    }

    /// The transaction that replaces our table, whatever is in it, by one that is true to `state`.
    ///
    /// Packets see either the old table or the new one.
    pub fn compile_all(&mut self, state: &State) -> Transaction {
        self.compile_first(state, usize::MAX)
    }

    /// The first part of a table that is made from nothing: all of it but Services, and so many of these that about `most` elements are
    /// added. [`Compiler::compile_next`] makes the others, of the same state; what changes meanwhile comes after the last one.
    ///
    /// A commit keeps all other programs from changing rules until it is done. In parts, it never takes long, nor much memory. Packets see
    /// all of a Service or nothing of it.
    pub fn compile_first(&mut self, state: &State, most: usize) -> Transaction {
        self.start_over();
        let names = state.services().map(|service| service.name.clone()).collect();
        let all = self.settle_claims(state, &names);
        self.choose_common(all.values());
        // To make a chain costs the kernel a walk over the map of endpoints, which is empty now.
        let targets = all.values().flatten().flat_map(|port| port.targets(&self.claims));
        targets.for_each(|target| self.chains.expect(target));
        self.rest = all;
        let edit = self.edit_rest(state, most);
        let table = Op::AddTable(Table { comment: Some(Comment::new("rules for kube-proxy")) });
        // Adding first makes the deletion succeed where there is no table yet.
        let mut ops = vec![table.clone(), Op::DeleteTable, table];
        ops.extend(self.layout.create(&self.options));
        ops.extend(self.affinity.create(&self.layout));
        let lengths = self.source_lengths.create();
        ops.extend(lengths.iter().map(|bits| self.layout.create_sources(*bits)));
        ops.extend(self.layout.source_rules(&lengths));
        ops.extend(self.chains.take_created(&self.layout, &self.options));
        // A Service that is not there yet must not be taken for none.
        self.service_cidrs = if self.rest.is_empty() { state.service_cidrs(self.options.family) } else { Vec::new() };
        ops.extend(self.layout.check_cluster_ips(&self.service_cidrs));
        ops.extend(edit.additions(&self.layout));
        Transaction { ops, ..self.empty_transaction() }
    }

    /// The next part of what [`Compiler::compile_first`] has begun; `None` if there is no more.
    pub fn compile_next(&mut self, state: &State, most: usize) -> Option<Transaction> {
        if self.rest.is_empty() {
            return None;
        }
        let edit = self.edit_rest(state, most);
        Some(self.transaction(state, edit))
    }

    /// The transaction that makes the table true to `state`, where only `services` and their endpoints have changed, and what
    /// concerns no Service.
    ///
    /// Deletions, then chains, then additions: an element can only be replaced once the old one is gone, and binding a chain's
    /// rule to a map costs what the map holds at that moment.
    pub fn compile(&mut self, state: &State, services: &BTreeSet<ServiceName>) -> Transaction {
        let edit = self.edit(state, services);
        self.transaction(state, edit)
    }

    fn transaction(&mut self, state: &State, mut edit: Edit) -> Transaction {
        let mut ops = edit.deletions(&self.layout);
        ops.extend(self.affinity.grow(&self.layout));
        ops.extend(self.grow_source_lengths());
        ops.extend(self.chains.take_created(&self.layout, &self.options));
        let service_cidrs = state.service_cidrs(self.options.family);
        if self.service_cidrs != service_cidrs && self.rest.is_empty() {
            ops.push(self.layout.flush_cluster_ips_check());
            ops.extend(self.layout.check_cluster_ips(&service_cidrs));
            self.service_cidrs = service_cidrs;
        }
        ops.extend(edit.additions(&self.layout));
        Transaction { ops, ..self.empty_transaction() }
    }

    /// Forgets what was programmed, but not what is to be done after the commit, and goes on with what was found.
    fn start_over(&mut self) {
        let fresh = Self::new(self.options.clone());
        let Self { affinity, flows, set_aside, mut adopted, inherited, .. } = std::mem::replace(self, fresh);
        self.chains = Chains::adopting(&adopted);
        self.source_lengths = OnDemand::adopting(&adopted.source_lengths);
        (self.affinity, self.flows, self.set_aside) = (affinity, flows, set_aside);
        self.affinity.start_over(std::mem::take(&mut adopted.affinity));
        (self.adopted, self.inherited) = (adopted, inherited);
    }

    fn grow_source_lengths(&mut self) -> Vec<Op> {
        let Some(Rewrite { new, all, .. }) = self.source_lengths.grow() else { return Vec::new() };
        let sets = new.iter().map(|bits| self.layout.create_sources(*bits));
        sets.chain([self.layout.flush_source_ranges_check()]).chain(self.layout.source_rules(&all)).collect()
    }

    fn edit(&mut self, state: &State, services: &BTreeSet<ServiceName>) -> Edit {
        let wanted = self.settle_claims(state, services);
        self.choose_common(wanted.values());
        let mut edit = Edit::default();
        for (service, ports) in wanted {
            self.program(service, ports, &mut edit);
        }
        self.settle_counted(&mut edit);
        self.settle_node_port_addresses(&mut edit);
        self.settle_affinity(&mut edit);
        self.settle_flows(state);
        edit
    }

    /// Programs what is left of a table that is made part by part, until about `most` elements are added.
    fn edit_rest(&mut self, state: &State, most: usize) -> Edit {
        let mut edit = Edit::default();
        while edit.added() < most
            && let Some((service, ports)) = self.rest.pop_first()
        {
            self.program(service, ports, &mut edit);
        }
        self.settle_counted(&mut edit);
        self.settle_node_port_addresses(&mut edit);
        if self.rest.is_empty() {
            // Whether somebody else has what a Service has given up is known when all are there.
            self.settle_affinity(&mut edit);
            self.settle_flows(state);
            self.adopted = Adopted::default();
        }
        edit
    }

    fn choose_common<'a>(&mut self, wanted: impl Iterator<Item = &'a Vec<Port>>) {
        let owners = wanted.flatten().filter(|port| port.owns_cluster_ip(&self.claims));
        self.chains.choose_common(owners.filter_map(|port| port.rules.cluster_ip_chain()));
    }

    /// Has other addresses of the node take NodePort traffic, from the next transaction on. Where all addresses take it, that
    /// stays so, and where only some do, it does not become all: that is decided when the table is made.
    pub fn set_node_ports(&mut self, node_ports: NodePorts) {
        if let (NodePorts::Only(now), NodePorts::Only(wanted)) = (&mut self.options.node_ports, node_ports) {
            *now = wanted;
        }
    }

    /// Changes which connections may take the fast path, for the next [`Compiler::compile_all`]. Returns whether that is needed.
    pub fn set_offloads(&mut self, offloads: Offloads) -> bool {
        std::mem::replace(&mut self.options.offloads, offloads) != offloads
    }

    /// The transaction that deletes what no Service has needed since the last call: chains, and what guards against stale
    /// affinity. Often an empty one.
    ///
    /// Apart from the others and later than they, because kernels before 6.2 see the last reference to a chain go only some time
    /// after the commit (contract §5.9): let more than a second pass between calls. After one that fails, what it would have
    /// deleted is found again by [`Compiler::adopt`].
    pub fn sweep(&mut self) -> Transaction {
        let mut ops = self.affinity.sweep(&self.layout);
        if let Some(Rewrite { old, all, .. }) = self.source_lengths.sweep() {
            ops.push(self.layout.flush_source_ranges_check());
            ops.extend(self.layout.source_rules(&all));
            ops.extend(old.into_iter().map(|bits| Op::DeleteSet(self.layout.set(SetId::Sources(bits)).name.clone())));
        }
        ops.extend(self.chains.sweep());
        Transaction { ops, ..self.empty_transaction() }
    }

    /// Whether [`Compiler::sweep`] would have something to do, now or the next time.
    pub fn is_unswept(&self) -> bool {
        self.affinity.is_unswept() || self.source_lengths.is_unswept() || self.chains.is_unswept()
    }

    /// The map in which the kernel remembers where it sent clients, if it may hold something that is not true any more: have
    /// [`Compiler::forget`] delete it, once what was compiled is committed.
    pub fn stale_choices(&self) -> Option<Arc<Set>> {
        self.affinity.is_stale().then(|| self.layout.set(SetId::Choices))
    }

    /// The transaction that deletes of `choices`, which is what the kernel remembers, what is not true any more. Once it is
    /// committed, call [`Compiler::forgotten`] and list again, because a list may miss some, until nothing is left to delete.
    pub fn forget(&mut self, choices: &[Element]) -> Transaction {
        let is_outdated =
            |choice: &&Element| Choice::parse(choice, self.options.family).is_some_and(|choice| !self.is_true(&choice));
        let elements: Vec<_> = choices.iter().filter(is_outdated).cloned().collect();
        if elements.is_empty() {
            self.affinity.nothing_is_stale();
        }
        let ops = vec![Op::DeleteElements { set: self.layout.set(SetId::Choices), elements }];
        Transaction { ops, ..self.empty_transaction() }
    }

    /// What [`Compiler::forget`] found is deleted: what the kernel notes from now on counts, whatever the policy was before.
    pub fn forgotten(&mut self) {
        self.affinity.forgotten();
    }

    /// Frontends whose flows are to be looked at once the transactions compiled since the last call are committed, each once. After
    /// [`Compiler::compile_all`], those are all UDP frontends. After the first one, if something was adopted, they are also all TCP
    /// frontends, where connections may be offloaded, and those that were found and nobody has any more.
    pub fn take_flow_checks(&mut self) -> Vec<FlowCheck> {
        self.flows.take()
    }

    /// Whether, by what was compiled since the last call, connections may not be in the fast path any more that may be there. They stay
    /// there until they have to follow the rules again ([`crate::FastPath::declare`]).
    pub const fn take_opted_out(&mut self) -> bool {
        std::mem::replace(&mut self.opted_out, false)
    }

    /// Treats a Service as if it were not there, from the next transaction that names it on, or as any other again.
    pub fn set_aside(&mut self, service: &ServiceName, aside: bool) {
        if aside {
            self.set_aside.insert(service.clone());
        } else {
            self.set_aside.remove(service);
        }
    }

    /// Service ports whose packets are dropped on this node for want of an endpoint here.
    pub const fn no_local_endpoints(&self) -> NoLocalEndpoints {
        self.no_local_endpoints
    }

    /// How many Service ports are compiled, and endpoints of them all. It walks over all of them.
    pub fn compiled(&self) -> (usize, usize) {
        let ports = self.programmed.values().chain(self.rest.values()).flatten();
        ports.fold((0, 0), |(ports, endpoints), port| (ports + 1, endpoints + port.rules.cluster.len()))
    }

    /// Frontends that several Services claim, in order.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.claims.conflicts()
    }

    fn empty_transaction(&self) -> Transaction {
        let (family, table) = self.table();
        Transaction::new(family, table)
    }
}

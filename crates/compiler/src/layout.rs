//! The part of a table that does not depend on Services: sets, chains and the rules in them.

use std::collections::BTreeSet;
use std::iter;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::Family;
use ruleset::{Chain, ChainKind, Comment, Comparison, Hook, HookPoint, Op, Rule, Selector, Set, Statement, Verdict};

use crate::frontend::Scope;
use crate::lb::{LbChain, LbKind, Target};
use crate::sets::{Role, SetId};
use crate::{NodePorts, Options, name};

/// Chains with rules that come and go.
const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";
const AFFINITY_CHECK: &str = "affinity-check";
const SOURCE_RANGES_CHECK: &str = "source-ranges-check";

/// The sets of one family's table, and its fixed chains and rules.
#[derive(Debug)]
pub(crate) struct Layout {
    sets: Vec<(SetId, Arc<Set>)>,
}

impl Layout {
    /// The load-balancing chains that are there from the start, because rules lead to them.
    pub(crate) const FIXED: [LbChain; 1] = [LbChain::first(Scope::Address, LbKind::Cluster)];

    pub(crate) fn new(options: &Options) -> Self {
        let restricted = matches!(options.node_ports, NodePorts::Only(_));
        let ids = SetId::all().filter(|id| *id != SetId::NodePortIps || restricted);
        Self { sets: ids.map(|id| (id, Arc::new(id.define()))).collect() }
    }

    /// The set with this identity.
    pub(crate) fn set(&self, id: SetId) -> Arc<Set> {
        let there_from_the_start = self.sets.binary_search_by_key(&id, |(id, _)| *id);
        there_from_the_start.map_or_else(|_| Arc::new(id.define()), |index| Arc::clone(&self.sets[index].1))
    }

    /// Creates all sets, fixed chains and their rules.
    pub(crate) fn create(&self, options: &Options) -> Vec<Op> {
        let chains = fixed_chains().map(Op::AddChain);
        let sets = self.sets.iter().map(|(_, set)| Op::AddSet(Arc::clone(set)));
        let lb = Self::FIXED.into_iter().flat_map(|chain| self.create_lb(chain, options));
        let rules = self.fixed_rules(options).into_iter().map(Op::AddRule);
        chains.chain(sets).chain(lb).chain(rules).collect()
    }

    /// Creates a chain that picks endpoints; the one that it goes on to must exist.
    pub(crate) fn create_lb(&self, chain: LbChain, options: &Options) -> Vec<Op> {
        let name = chain.name();
        let act = match chain.kind {
            LbKind::Masquerade => Statement::SetMark(options.mark.bits()),
            _ if chain.affinity => {
                let key = [vec![Selector::SourceAddress], Scope::Address.selectors()].concat();
                Statement::Dnat { key, map: self.set(SetId::Choices) }
            }
            kind => {
                let role = if kind == LbKind::Local { Role::LocalEndpoints } else { Role::Endpoints };
                let key = [chain.scope.selectors(), vec![Selector::Random(chain.endpoints)]].concat();
                Statement::Dnat { key, map: self.set(SetId::Frontends(chain.scope, role)) }
            }
        };
        let go_on = chain.goes_on_to().map(|next| goto(next.name()));
        let rules = [Some(act), go_on].into_iter().flatten();
        let rules = rules.map(|statement| Rule { chain: name.clone(), statements: vec![statement], comment: None });
        let create = Op::AddChain(Chain { name: name.clone(), hook: None, comment: None });
        [create].into_iter().chain(rules.map(Op::AddRule)).collect()
    }

    /// Creates the set of the ClusterIP frontends that lead to a common chain, and the rule that leads there.
    pub(crate) fn create_common(&self, chain: LbChain) -> [Op; 2] {
        let set = self.set(SetId::Common { affinity: chain.affinity, endpoints: chain.endpoints });
        let statements =
            vec![Statement::InSet { key: Scope::Address.selectors(), set: Arc::clone(&set) }, goto(chain.name())];
        [Op::AddSet(set), Op::AddRule(rule("cluster-services", statements, None))]
    }

    /// Creates what session affinity needs whatever the timeout.
    pub(crate) fn create_affinity(&self) -> [Op; 3] {
        let sets = [SetId::Choices, SetId::Gone(Scope::Address), SetId::Gone(Scope::NodePort)];
        sets.map(|set| Op::AddSet(self.set(set)))
    }

    /// Creates the set of frontends whose clients are remembered for so many seconds.
    pub(crate) fn create_timeout(&self, scope: Scope, timeout: NonZeroU32) -> Op {
        Op::AddSet(self.set(SetId::Affinity(scope, timeout)))
    }

    /// Empties the chain that [`Layout::affinity_rules`] fill.
    pub(crate) fn flush_affinity_check(&self) -> Op {
        Op::FlushChain(name(AFFINITY_CHECK))
    }

    /// What happens to connections whose destination has been translated. Endpoints that left a frontend get none, whatever the
    /// kernel remembers; others are noted, for as long as their frontend's timeout says.
    pub(crate) fn affinity_rules(&self, timeouts: &BTreeSet<(Scope, NonZeroU32)>) -> Vec<Op> {
        let endpoint = [Selector::DestinationAddress, Selector::DestinationPort];
        let guard = |scope: Scope| {
            let key = [&scope.original_selectors()[..], &endpoint].concat();
            vec![Statement::InSet { key, set: self.set(SetId::Gone(scope)) }, Statement::Verdict(Verdict::Drop)]
        };
        let remember = |(scope, timeout): &(Scope, NonZeroU32)| {
            let frontends = self.set(SetId::Affinity(*scope, *timeout));
            let client = [Selector::SourceAddress];
            let key = [&client[..], &Scope::Address.original_selectors()].concat();
            vec![
                Statement::InSet { key: scope.original_selectors(), set: frontends },
                Statement::Update { key, data: endpoint.to_vec(), map: self.set(SetId::Choices), timeout: *timeout },
            ]
        };
        let ended = |key: Vec<Selector>, set: SetId| {
            vec![Statement::InSet { key, set: self.set(set) }, Statement::Verdict(Verdict::Accept)]
        };
        // What is a NodePort goes by the number alone, and comes last: another address may have a port of that number.
        let addresses = [
            ended(vec![Selector::OriginalDestinationAddress], SetId::ClusterIps),
            ended(Scope::Address.original_selectors(), SetId::External),
        ];
        let rules_of = |scope: Scope| {
            let of_scope = timeouts.iter().filter(move |(of, _)| *of == scope);
            iter::once(guard(scope)).chain(of_scope.map(remember))
        };
        let rules = rules_of(Scope::Address).chain(addresses).chain(rules_of(Scope::NodePort));
        rules.map(|statements| Op::AddRule(rule(AFFINITY_CHECK, statements, None))).collect()
    }

    /// Creates the set of source ranges with prefixes of so many bits.
    ///
    /// One set of intervals for all lengths would be the obvious thing, but the kernel copies and cuts all of it for each change:
    /// to delete one of 5,000 takes it 30 ms, and all of them, one by one, 26 s (`nft_set_pipapo.c`; measured on 6.18).
    pub(crate) fn create_sources(&self, bits: NonZeroU8) -> Op {
        Op::AddSet(self.set(SetId::Sources(bits)))
    }

    /// Empties the chain that [`Layout::source_rules`] fill.
    pub(crate) fn flush_source_ranges_check(&self) -> Op {
        Op::FlushChain(name(SOURCE_RANGES_CHECK))
    }

    /// Let through whoever is in a source range.
    pub(crate) fn source_rules(&self, lengths: &BTreeSet<NonZeroU8>) -> impl Iterator<Item = Op> {
        lengths.iter().map(|bits| {
            let key = [Scope::Address.selectors(), vec![Selector::SourceNetwork(*bits)]].concat();
            let is_source = Statement::InSet { key, set: self.set(SetId::Sources(*bits)) };
            let accept = Statement::Verdict(Verdict::Accept);
            Op::AddRule(rule(SOURCE_RANGES_CHECK, vec![is_source, accept], None))
        })
    }

    /// Empties the chain that [`Layout::check_cluster_ips`] fills.
    pub(crate) fn flush_cluster_ips_check(&self) -> Op {
        Op::FlushChain(name(CLUSTER_IPS_CHECK))
    }

    /// Refuses what goes to a ClusterIP but to no port of its Service, and drops what goes to an address that is kept for
    /// ClusterIPs but is none (contract §5.4).
    pub(crate) fn check_cluster_ips(&self, service_cidrs: &[IpNet]) -> Vec<Op> {
        const CHAIN: &str = CLUSTER_IPS_CHECK;
        let cluster_ip = Statement::InSet { key: vec![Selector::DestinationAddress], set: self.set(SetId::ClusterIps) };
        let comment = "Reject traffic to invalid ports of ClusterIPs";
        let reject = rule(CHAIN, vec![cluster_ip, Statement::Reject], Some(comment));
        let drop = service_cidrs.iter().map(|prefix| {
            let within = Statement::Prefix {
                selector: Selector::DestinationAddress,
                comparison: Comparison::Is,
                prefix: *prefix,
            };
            let comment = "Drop traffic to unallocated ClusterIPs";
            rule(CHAIN, vec![within, Statement::Verdict(Verdict::Drop)], Some(comment))
        });
        iter::once(reject).chain(drop).map(Op::AddRule).collect()
    }

    fn fixed_rules(&self, options: &Options) -> Vec<Rule> {
        let mut rules = self.base_rules();
        rules.extend(self.service_rules(options));
        rules.extend(Scope::ALL.into_iter().flat_map(|scope| self.external_local_rules(scope, options)));
        rules.extend(self.refusal_rules(options));
        rules.extend(self.firewall_rules());
        rules.extend(self.masquerade_rules(options));
        rules
    }

    /// From the hooks to the chains that do the work (contract §5.2).
    fn base_rules(&self) -> Vec<Rule> {
        use Statement::{NewConnection as New, Translated};
        let jump = |from: &str, conditions: &[Statement], to: &str| {
            let statements = [conditions, &[Statement::Verdict(Verdict::Jump(name(to)))]].concat();
            rule(from, statements, None)
        };
        vec![
            jump("filter-prerouting-pre-dnat", &[New], "firewall-check"),
            jump("filter-output-pre-dnat", &[New], "firewall-check"),
            jump("filter-input", &[New], "nodeport-endpoints-check"),
            jump("filter-input", &[New], "service-endpoints-check"),
            jump("filter-input", &[New, Translated], AFFINITY_CHECK),
            jump("filter-forward", &[New], "service-endpoints-check"),
            jump("filter-forward", &[New], "cluster-ips-check"),
            jump("filter-forward", &[New, Translated], AFFINITY_CHECK),
            jump("filter-output", &[New], "service-endpoints-check"),
            jump("filter-output", &[New], "cluster-ips-check"),
            jump("filter-output", &[New, Translated], AFFINITY_CHECK),
            jump("nat-prerouting", &[], "services"),
            jump("nat-output", &[], "services"),
            jump("nat-postrouting", &[], "masquerading"),
        ]
    }

    /// Where frontends lead, and which ClusterIP traffic is masqueraded (contract §5.4). Rules for common numbers of endpoints
    /// follow in `cluster-services` when they are needed.
    fn service_rules(&self, options: &Options) -> Vec<Rule> {
        let to_cluster_ip = |chain| {
            let cluster_ips = self.set(SetId::ClusterIps);
            let is_one = Statement::InSet { key: vec![Selector::DestinationAddress], set: cluster_ips };
            vec![is_one, Statement::Verdict(Verdict::Jump(chain))]
        };
        let [first] = Self::FIXED;
        let mut to_node_port = self.on_node_port_address(options, true);
        to_node_port.push(self.lookup(Scope::NodePort, Role::Entry));
        let mark = Statement::SetMark(options.mark.bits());
        let masquerade = if options.masquerade_all {
            Some(rule("cluster-services", vec![mark], Some("masquerade all clusterIP traffic")))
        } else {
            options.pods.as_ref().map(|pods| {
                let outside = pods.matched(Comparison::IsNot);
                let comment = "masquerade clusterIP traffic from outside cluster";
                rule("cluster-services", vec![outside, mark], Some(comment))
            })
        };
        let services = [
            (to_cluster_ip(name("cluster-services")), None),
            (vec![self.lookup(Scope::Address, Role::Entry)], None),
            (to_cluster_ip(first.name()), Some("met a change halfway")),
            (to_node_port, None),
        ];
        let services = services.map(|(statements, comment)| rule("services", statements, comment));
        services.into_iter().chain(masquerade).collect()
    }

    /// Frontends with external policy `Local`: pods and the node itself may go to any endpoint (contract §5.6).
    fn external_local_rules(&self, scope: Scope, options: &Options) -> Vec<Rule> {
        let chain = Target::ExternalLocal(scope).chain_name();
        let add = |statements, comment| Rule { chain: chain.clone(), statements, comment: Some(Comment::new(comment)) };
        let any = || self.lookup(scope, Role::ShortCircuit);
        let from_node = || Statement::IsLocal(Selector::SourceAddress);
        let from_pod = options
            .pods
            .as_ref()
            .map(|pods| add(vec![pods.matched(Comparison::Is), any()], "short-circuit pod traffic"));
        let mark = Statement::SetMark(options.mark.bits());
        let others = [
            add(vec![from_node(), mark], "masquerade local traffic"),
            add(vec![from_node(), any()], "short-circuit local traffic"),
            add(vec![self.lookup(scope, Role::Outside)], "external traffic stays on this node"),
        ];
        from_pod.into_iter().chain(others).collect()
    }

    /// Connections to load balancers from where they are not allowed are dropped before they are translated (contract §5.4).
    fn firewall_rules(&self) -> [Rule; 3] {
        let restricted = Statement::InSet { key: Scope::Address.selectors(), set: self.set(SetId::Restricted) };
        [
            rule("firewall-check", vec![restricted, goto(name("firewall-sources"))], None),
            rule("firewall-sources", vec![Statement::Verdict(Verdict::Jump(name(SOURCE_RANGES_CHECK)))], None),
            rule("firewall-sources", vec![Statement::Verdict(Verdict::Drop)], None),
        ]
    }

    /// Frontends without endpoints (contract §5.4).
    fn refusal_rules(&self, options: &Options) -> Vec<Rule> {
        let mut node_port = self.on_node_port_address(options, false);
        node_port.push(self.lookup(Scope::NodePort, Role::Refusal));
        vec![
            rule("service-endpoints-check", vec![self.lookup(Scope::Address, Role::Refusal)], None),
            rule("nodeport-endpoints-check", node_port, None),
            rule("reject-chain", vec![Statement::Reject], None),
        ]
    }

    /// What is masqueraded: marked connections, and endpoints that reached themselves (contract §5.4).
    fn masquerade_rules(&self, options: &Options) -> Vec<Rule> {
        let bits = options.mark.bits();
        let hairpin_key =
            vec![Selector::SourceAddress, Selector::DestinationAddress, Selector::Protocol, Selector::DestinationPort];
        let hairpin = Statement::InSet { key: hairpin_key, set: self.set(SetId::Hairpins) };
        vec![
            rule(
                "masquerading",
                vec![Statement::HasMark(bits), Statement::FlipMark(bits), Statement::Masquerade],
                None,
            ),
            rule("masquerading", vec![Statement::Translated, hairpin, Statement::Masquerade], None),
        ]
    }

    fn lookup(&self, scope: Scope, role: Role) -> Statement {
        Statement::VerdictMap { key: scope.selectors(), map: self.set(SetId::Frontends(scope, role)) }
    }

    /// Matches packets to an address that takes NodePort traffic. `check_local`: where it is not certain yet that the
    /// destination is the node itself.
    fn on_node_port_address(&self, options: &Options, check_local: bool) -> Vec<Statement> {
        if let NodePorts::Only(_) = options.node_ports {
            let set = self.set(SetId::NodePortIps);
            return vec![Statement::InSet { key: vec![Selector::DestinationAddress], set }];
        }
        let loopback = match options.family {
            Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
            Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        };
        let local = check_local.then_some(Statement::IsLocal(Selector::DestinationAddress));
        let not_loopback = Statement::Prefix {
            selector: Selector::DestinationAddress,
            comparison: Comparison::IsNot,
            prefix: loopback,
        };
        local.into_iter().chain([not_loopback]).collect()
    }
}

/// Base chains with the hooks and priorities that other components rely on (contract §5.2, §11.1), then the rest.
fn fixed_chains() -> impl Iterator<Item = Chain> {
    use ChainKind::{Filter, Nat};
    use HookPoint::{Forward, Input, Output, Postrouting, Prerouting};
    let base = [
        ("filter-prerouting-pre-dnat", Filter, Prerouting, -110),
        ("filter-output-pre-dnat", Filter, Output, -110),
        ("filter-input", Filter, Input, 0),
        ("filter-forward", Filter, Forward, 0),
        ("filter-output", Filter, Output, 0),
        ("nat-prerouting", Nat, Prerouting, -100),
        ("nat-output", Nat, Output, -100),
        ("nat-postrouting", Nat, Postrouting, 100),
    ];
    let regular = [
        ("services", None),
        ("cluster-services", None),
        ("service-endpoints-check", None),
        ("nodeport-endpoints-check", None),
        (CLUSTER_IPS_CHECK, None),
        ("firewall-check", None),
        ("firewall-sources", None),
        (SOURCE_RANGES_CHECK, None),
        (AFFINITY_CHECK, None),
        ("masquerading", None),
        ("external-local", None),
        ("nodeport-external-local", None),
        ("reject-chain", Some("helper for @no-endpoint-services / @no-endpoint-nodeports")),
    ];
    let base = base.into_iter().map(|(chain, kind, point, priority)| Chain {
        name: name(chain),
        hook: Some(Hook { kind, point, priority }),
        comment: None,
    });
    let regular = regular.into_iter().map(|(chain, comment)| Chain {
        name: name(chain),
        hook: None,
        comment: comment.map(Comment::new),
    });
    base.chain(regular)
}

fn rule(chain: &str, statements: Vec<Statement>, comment: Option<&str>) -> Rule {
    Rule { chain: name(chain), statements, comment: comment.map(Comment::new) }
}

const fn goto(chain: ruleset::Name) -> Statement {
    Statement::Verdict(Verdict::Goto(chain))
}

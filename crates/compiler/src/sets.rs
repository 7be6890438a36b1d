//! The sets and maps of a table.

use std::num::{NonZeroU8, NonZeroU32};

use ruleset::{Comment, DataType, Field, Set, SetKind};

use crate::frontend::Scope;
use crate::name;

/// How many clients' choices a table remembers at most. kube-proxy's limit is the kernel's, 65,535 for each endpoint
/// (`nft_dynset_init`, net/netfilter/nft_dynset.c). The kernel allots 8 bytes for each at once.
const MAX_CHOICES: NonZeroU32 = NonZeroU32::new(1 << 18).expect("not zero");

/// Each set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SetId {
    /// The ClusterIPs.
    ClusterIps,
    /// The node's addresses that take NodePort traffic.
    NodePortIps,
    /// Frontends on external and load balancer addresses.
    External,
    /// Frontends on addresses whose connections never take the fast path.
    SlowPath,
    /// NodePorts whose connections may take it.
    FastNodePorts,
    /// Endpoints on this node that may connect to themselves.
    Hairpins,
    /// Frontends that not everyone may connect to.
    Restricted,
    /// A map keyed by frontends of one kind.
    Frontends(Scope, Role),
    /// ClusterIP frontends with so many endpoints, with or without affinity, where that is a common case.
    Common { affinity: bool, endpoints: NonZeroU32 },
    /// Client and frontend to endpoint.
    Choices,
    /// Frontends and endpoints that do not belong together any more, although clients may be remembered to have been sent there.
    Gone(Scope),
    /// Frontends whose clients are remembered for so many seconds.
    Affinity(Scope, NonZeroU32),
    /// Who may connect to restricted frontends: those whose addresses begin with so many bits.
    Sources(NonZeroU8),
}

/// What a map keyed by frontends is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// How a frontend is treated.
    Entry,
    /// Frontends that refuse.
    Refusal,
    /// Where pods and the node go, for frontends with external policy `Local`.
    ShortCircuit,
    /// Where others go, for the same frontends.
    Outside,
    /// Frontend and number to endpoint.
    Endpoints,
    /// Frontend and number to endpoint on this node.
    LocalEndpoints,
}

impl SetId {
    /// Every set that is there from the start, in order.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let roles = |scope| Role::ALL.map(|role| Self::Frontends(scope, role));
        let fast_path = [Self::External, Self::SlowPath, Self::FastNodePorts];
        [Self::ClusterIps, Self::NodePortIps]
            .into_iter()
            .chain(fast_path)
            .chain([Self::Hairpins, Self::Restricted])
            .chain(Scope::ALL.into_iter().flat_map(roles))
    }

    /// What the set is.
    pub(crate) fn define(self) -> Set {
        Set {
            name: name(&self.name()),
            key: self.key(),
            data: self.data(),
            kind: match self {
                Self::Choices => SetKind::Dynamic { size: MAX_CHOICES },
                _ => SetKind::Static,
            },
            comment: Some(Comment::new(&self.comment())),
        }
    }

    fn name(self) -> String {
        match self {
            Self::ClusterIps => "cluster-ips".to_owned(),
            Self::NodePortIps => "nodeport-ips".to_owned(),
            Self::SlowPath => "slow-path-ips".to_owned(),
            Self::External => "external-ips".to_owned(),
            Self::FastNodePorts => "fast-path-nodeports".to_owned(),
            Self::Hairpins => "hairpin-connections".to_owned(),
            Self::Restricted => "firewalled-ips".to_owned(),
            Self::Frontends(scope, role) => frontend_map(scope, role).0.to_owned(),
            Self::Common { affinity: false, endpoints } => format!("service-ips-{endpoints}"),
            Self::Common { affinity: true, endpoints } => format!("service-ips-affinity-{endpoints}"),
            Self::Choices => "affinity".to_owned(),
            Self::Gone(Scope::Address) => "affinity-gone-ips".to_owned(),
            Self::Gone(Scope::NodePort) => "affinity-gone-nodeports".to_owned(),
            Self::Affinity(Scope::Address, timeout) => format!("affinity-ips-{timeout}"),
            Self::Affinity(Scope::NodePort, timeout) => format!("affinity-nodeports-{timeout}"),
            Self::Sources(bits) => format!("source-ranges-{bits}"),
        }
    }

    fn key(self) -> Vec<Field> {
        use Field::{Address, Index, Port, Protocol};
        match self {
            Self::ClusterIps | Self::NodePortIps => vec![Address],
            Self::External | Self::SlowPath => Scope::Address.fields(),
            Self::FastNodePorts => Scope::NodePort.fields(),
            Self::Hairpins => vec![Address, Address, Protocol, Port],
            Self::Restricted | Self::Common { .. } => Scope::Address.fields(),
            Self::Sources(_) => vec![Address, Protocol, Port, Address],
            Self::Frontends(scope, Role::Endpoints | Role::LocalEndpoints) => [scope.fields(), vec![Index]].concat(),
            Self::Frontends(scope, _) | Self::Affinity(scope, _) => scope.fields(),
            Self::Choices => vec![Address, Address, Protocol, Port],
            Self::Gone(scope) => [scope.fields(), vec![Address, Port]].concat(),
        }
    }

    fn data(self) -> Option<DataType> {
        match self {
            Self::Choices | Self::Frontends(_, Role::Endpoints | Role::LocalEndpoints) => {
                Some(DataType::Value(vec![Field::Address, Field::Port]))
            }
            Self::Frontends(..) => Some(DataType::Verdict),
            _ => None,
        }
    }

    fn comment(self) -> String {
        let fixed = match self {
            Self::ClusterIps => "Active ClusterIPs",
            Self::NodePortIps => "IPs that accept NodePort traffic",
            Self::External => "ExternalIP and LoadBalancer IP traffic",
            Self::SlowPath => "frontends whose connections never take the fast path",
            Self::FastNodePorts => "NodePorts whose connections may take the fast path",
            Self::Hairpins => "service hairpin connections",
            Self::Restricted => "destinations that are subject to LoadBalancerSourceRanges",
            Self::Frontends(scope, role) => frontend_map(scope, role).1,
            Self::Common { endpoints, .. } => return format!("ClusterIP traffic, number of endpoints: {endpoints}"),
            Self::Choices => "where clients of services with session affinity were sent",
            Self::Gone(_) => "endpoints that left services with session affinity just now",
            Self::Affinity(_, timeout) => return format!("session affinity for {timeout} s"),
            Self::Sources(bits) => return format!("LoadBalancerSourceRanges with prefixes of {bits} bits"),
        };
        fixed.to_owned()
    }
}

impl Role {
    const ALL: [Self; 6] =
        [Self::Entry, Self::Refusal, Self::ShortCircuit, Self::Outside, Self::Endpoints, Self::LocalEndpoints];
}

/// The name of a map and a comment on it.
const fn frontend_map(scope: Scope, role: Role) -> (&'static str, &'static str) {
    match (scope, role) {
        (Scope::Address, Role::Entry) => ("service-ips", "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
        (Scope::Address, Role::Refusal) => {
            ("no-endpoint-services", "vmap to drop or reject packets to services with no endpoints")
        }
        (Scope::Address, Role::ShortCircuit) => {
            ("short-circuit-ips", "external IPs with policy Local: pods and the node")
        }
        (Scope::Address, Role::Outside) => ("local-ips", "external IPs with policy Local: everyone else"),
        (Scope::Address, Role::Endpoints) => ("endpoints", "endpoints of each service IP, numbered from 0"),
        (Scope::Address, Role::LocalEndpoints) => ("local-endpoints", "endpoints on this node, numbered from 0"),
        (Scope::NodePort, Role::Entry) => ("service-nodeports", "NodePort traffic"),
        (Scope::NodePort, Role::Refusal) => {
            ("no-endpoint-nodeports", "vmap to drop or reject packets to service nodeports with no endpoints")
        }
        (Scope::NodePort, Role::ShortCircuit) => {
            ("short-circuit-nodeports", "NodePorts with policy Local: pods and the node")
        }
        (Scope::NodePort, Role::Outside) => ("local-nodeports", "NodePorts with policy Local: everyone else"),
        (Scope::NodePort, Role::Endpoints) => ("nodeport-endpoints", "endpoints of each NodePort, numbered from 0"),
        (Scope::NodePort, Role::LocalEndpoints) => {
            ("nodeport-local-endpoints", "endpoints of each NodePort on this node, numbered from 0")
        }
    }
}

//! The sets and maps of a table.

use std::num::NonZeroU32;

use ruleset::{Comment, DataType, Field, Set, SetKind};

use crate::frontend::Scope;
use crate::name;

/// Each set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SetId {
    /// The ClusterIPs.
    ClusterIps,
    /// The node's addresses that take NodePort traffic.
    NodePortIps,
    /// Endpoints on this node that may connect to themselves.
    Hairpins,
    /// A map keyed by frontends of one kind.
    Frontends(Scope, Role),
    /// ClusterIP frontends with so many endpoints, where that number is a common one.
    Common(NonZeroU32),
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
        [Self::ClusterIps, Self::NodePortIps, Self::Hairpins].into_iter().chain(Scope::ALL.into_iter().flat_map(roles))
    }

    /// What the set is.
    pub(crate) fn define(self) -> Set {
        let verdicts = Some(DataType::Verdict);
        let endpoints = Some(DataType::Value(vec![Field::Address, Field::Port]));
        let (set_name, key, data, comment) = match self {
            Self::ClusterIps => ("cluster-ips", vec![Field::Address], None, "Active ClusterIPs"),
            Self::NodePortIps => ("nodeport-ips", vec![Field::Address], None, "IPs that accept NodePort traffic"),
            Self::Hairpins => {
                let key = vec![Field::Address, Field::Address, Field::Protocol, Field::Port];
                ("hairpin-connections", key, None, "service hairpin connections")
            }
            Self::Frontends(scope, role) => {
                let (set_name, comment) = frontend_map_name(scope, role);
                let numbered = matches!(role, Role::Endpoints | Role::LocalEndpoints);
                let key = scope.fields().into_iter().chain(numbered.then_some(Field::Index)).collect();
                (set_name, key, if numbered { endpoints } else { verdicts }, comment)
            }
            Self::Common(endpoints) => {
                let set_name = name(&format!("service-ips-{endpoints}"));
                let comment = Comment::new(&format!("ClusterIP traffic, number of endpoints: {endpoints}"));
                return Set {
                    name: set_name,
                    key: Scope::Address.fields(),
                    data: None,
                    kind: SetKind::Exact,
                    comment: Some(comment),
                };
            }
        };
        Set { name: name(set_name), key, data, kind: SetKind::Exact, comment: Some(Comment::new(comment)) }
    }
}

impl Role {
    const ALL: [Self; 6] =
        [Self::Entry, Self::Refusal, Self::ShortCircuit, Self::Outside, Self::Endpoints, Self::LocalEndpoints];
}

const fn frontend_map_name(scope: Scope, role: Role) -> (&'static str, &'static str) {
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

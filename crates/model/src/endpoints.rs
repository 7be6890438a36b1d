//! Endpoint slices, and the endpoints of one Service port that they amount to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use crate::{Family, PortNumber, Protocol, ServiceName};

/// The namespace and name of an EndpointSlice.
pub type SliceName = ServiceName;

/// A part of a Service's endpoints (contract §4.5). All addresses are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its own name.
    pub name: SliceName,
    /// The Service it belongs to (label `kubernetes.io/service-name`, same namespace).
    pub service: ServiceName,
    /// The family of its addresses.
    pub family: Family,
    /// The ports that every endpoint of the slice serves.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When the change that caused this version happened (annotation `endpoints.kubernetes.io/last-change-trigger-time`).
    pub triggered: Option<SystemTime>,
}

impl EndpointSlice {
    /// Whether both lead to the same rules: everything but the trigger time is equal.
    pub fn same_endpoints(&self, other: &Self) -> bool {
        self.family == other.family
            && self.service == other.service
            && self.ports == other.ports
            && self.endpoints == other.endpoints
    }
}

/// A port that the endpoints of a slice serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name that ties it to a Service port.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the endpoint, which may differ from the Service's.
    pub port: PortNumber,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, whether or not it is terminating.
    pub serving: bool,
    /// Is being shut down.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Who had better use it, if there are hints. Few endpoints have any, and those of a slice share theirs.
    pub hints: Option<Arc<Hints>>,
}

/// Who had better use an endpoint, so that traffic stays near (`hints` of the slice, contract §4.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Clients on some nodes.
    pub nodes: NodeHint,
    /// Clients in these zones.
    pub zones: Box<[Arc<str>]>,
}

/// The nodes that an endpoint is meant for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeHint {
    /// None is named.
    #[default]
    Unset,
    /// This node, and maybe others.
    ThisNode,
    /// Other nodes.
    Others,
}

impl Endpoint {
    /// Whether it may be used as a last resort: it still serves while it is being shut down.
    pub const fn is_serving_terminating(&self) -> bool {
        self.serving && self.terminating
    }

    /// The nodes it is meant for.
    pub fn node_hint(&self) -> NodeHint {
        self.hints.as_ref().map_or(NodeHint::Unset, |hints| hints.nodes)
    }

    /// Whether it is meant for any zones.
    pub fn names_zones(&self) -> bool {
        self.hints.as_ref().is_some_and(|hints| !hints.zones.is_empty())
    }

    /// Whether it is meant for this zone.
    pub fn is_for_zone(&self, zone: &str) -> bool {
        self.hints.as_ref().is_some_and(|hints| hints.zones.iter().any(|name| **name == *zone))
    }
}

/// An endpoint of one Service port: [`Endpoint`] with the port it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEndpoint<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// The port number on it.
    pub port: PortNumber,
}

impl PortEndpoint<'_> {
    /// Where connections go.
    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.endpoint.address, self.port.get())
    }
}

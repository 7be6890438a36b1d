//! Connections that conntrack still sends where they were sent before a change.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::Frontend;

/// A UDP frontend whose endpoints changed. The kernel keeps the destination of a flow as long as datagrams flow, so those that
/// go elsewhere than they may now have to be forgotten (contract §7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowCheck {
    /// Where the clients send to.
    pub frontend: Frontend,
    /// Endpoints whose flows stay as they are: those that serve, whether or not new flows go there. None if the frontend is
    /// gone, or has no endpoints.
    pub serving: BTreeSet<SocketAddr>,
}

//! Flows of datagrams that conntrack still sends where they were sent before a change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::Frontend;
use crate::port::PortRules;

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

/// What becomes of the flows of one UDP port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagrams<'a> {
    pub(crate) rules: &'a PortRules,
    pub(crate) serving: &'a BTreeSet<SocketAddr>,
}

/// The checks that are to be made.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    checks: BTreeMap<Frontend, BTreeSet<SocketAddr>>,
    /// Of the change at hand: frontends that a port gave up, and those that a port has, in whichever order they are told.
    given_up: BTreeSet<Frontend>,
    served: BTreeMap<Frontend, BTreeSet<SocketAddr>>,
}

impl Flows {
    /// Follows the change of one port.
    pub(crate) fn replace(&mut self, old: Option<Datagrams<'_>>, new: Option<Datagrams<'_>>) {
        let treatment = |port: Option<Datagrams<'_>>, frontend| port?.rules.frontends.get(frontend);
        let same_endpoints = old.map(|port| port.serving) == new.map(|port| port.serving);
        if let Some(port) = new {
            for frontend in port.rules.frontends.iter() {
                if !same_endpoints || treatment(old, frontend) != treatment(new, frontend) {
                    self.served.insert(frontend, port.serving.clone());
                }
            }
        }
        let frontends = old.into_iter().flat_map(|port| port.rules.frontends.iter());
        self.given_up.extend(frontends.filter(|frontend| treatment(new, *frontend).is_none()));
    }

    /// The change at hand is complete. What one port gave up another may have.
    pub(crate) fn settle(&mut self) {
        self.checks.extend(std::mem::take(&mut self.given_up).into_iter().map(|frontend| (frontend, BTreeSet::new())));
        self.checks.append(&mut self.served);
    }

    /// The checks since the last call.
    pub(crate) fn take(&mut self) -> Vec<FlowCheck> {
        let checks = std::mem::take(&mut self.checks);
        checks.into_iter().map(|(frontend, serving)| FlowCheck { frontend, serving }).collect()
    }
}

//! Flows that conntrack still sends where they were sent before a change.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;

use crate::Frontend;
use crate::port::PortRules;

/// A frontend whose endpoints changed. The kernel keeps the destination of a flow as long as packets flow, so those that go elsewhere
/// than they may now have to be forgotten (contract §7). Of TCP, this is for connections in a flowtable: others end by themselves, or
/// with their endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowCheck {
    /// Where the clients send to.
    pub frontend: Frontend,
    /// Endpoints whose flows stay as they are, whether or not new flows go there: of UDP those that serve, of TCP all that there are.
    /// `None` if no Service has the frontend any more.
    pub serving: Option<BTreeSet<SocketAddr>>,
}

/// What becomes of the flows of one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortFlows<'a> {
    pub(crate) rules: &'a PortRules,
    /// Of the endpoints that flows may stay with.
    pub(crate) fingerprint: Fingerprint,
}

/// Tells sets of endpoints apart, without keeping them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn of(endpoints: &BTreeSet<SocketAddr>) -> Self {
        let mut hasher = DefaultHasher::new();
        endpoints.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The checks that are to be made.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    checks: BTreeMap<Frontend, Option<BTreeSet<SocketAddr>>>,
    /// Of the change at hand: frontends that a port gave up, and those that a port has, in whichever order they are told.
    given_up: BTreeSet<Frontend>,
    served: BTreeMap<Frontend, BTreeSet<SocketAddr>>,
}

impl Flows {
    /// Follows the change of one port, whose flows may stay with `serving` now.
    pub(crate) fn replace(
        &mut self,
        old: Option<PortFlows<'_>>,
        new: Option<PortFlows<'_>>,
        serving: &BTreeSet<SocketAddr>,
    ) {
        let treatment = |port: Option<PortFlows<'_>>, frontend| port?.rules.frontends.get(frontend);
        let same_endpoints = old.map(|port| port.fingerprint) == new.map(|port| port.fingerprint);
        if let Some(port) = new {
            for frontend in port.rules.frontends.iter() {
                if !same_endpoints || treatment(old, frontend) != treatment(new, frontend) {
                    self.served.insert(frontend, serving.clone());
                }
            }
        }
        let frontends = old.into_iter().flat_map(|port| port.rules.frontends.iter());
        self.given_up.extend(frontends.filter(|frontend| treatment(new, *frontend).is_none()));
    }

    /// Somebody had these frontends, who may not have them any more.
    pub(crate) fn give_up(&mut self, frontends: impl IntoIterator<Item = Frontend>) {
        self.given_up.extend(frontends);
    }

    /// Frontends that were given up in the change at hand, and that nobody is known to have now.
    pub(crate) fn given_up(&self) -> Vec<Frontend> {
        self.given_up.iter().filter(|frontend| !self.served.contains_key(frontend)).copied().collect()
    }

    /// Somebody has a frontend that was given up.
    pub(crate) fn inherited(&mut self, frontend: Frontend, serving: BTreeSet<SocketAddr>) {
        self.served.insert(frontend, serving);
    }

    /// The change at hand is complete. What one port gave up another may have.
    pub(crate) fn settle(&mut self) {
        self.checks.extend(std::mem::take(&mut self.given_up).into_iter().map(|frontend| (frontend, None)));
        let served = std::mem::take(&mut self.served);
        self.checks.extend(served.into_iter().map(|(frontend, serving)| (frontend, Some(serving))));
    }

    /// The checks since the last call.
    pub(crate) fn take(&mut self) -> Vec<FlowCheck> {
        let checks = std::mem::take(&mut self.checks);
        checks.into_iter().map(|(frontend, serving)| FlowCheck { frontend, serving }).collect()
    }
}

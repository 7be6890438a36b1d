//! Who owns a frontend that several Services claim.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use model::{ServiceName, ServicePortName};

use crate::Frontend;

/// Every frontend and the Service ports that claim it. Whoever has the better right to it owns it; then the oldest Service, among
/// equally old ones the first by name; so the outcome does not depend on the order of events.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    owners: HashMap<Frontend, Claim>,
    /// Claims that lost, in order. Frontends without a conflict are not in it.
    losers: BTreeMap<Frontend, BTreeSet<Claim>>,
}

/// A Service port's wish for a frontend. The lesser one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) right: Right,
    pub(crate) created: i64,
    pub(crate) port: ServicePortName,
}

/// By what right a frontend is claimed, the best first. Who writes Services chooses external IPs alone, and must not take by them
/// what the cluster gave to others, however old their own Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    /// The API server gave it: a ClusterIP, or a NodePort.
    Assigned,
    /// A controller gave it: an address of a load balancer, in the status.
    Balancer,
    /// The Service asks for it: an external IP.
    Asked,
}

/// A frontend that more than one Service port claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The frontend.
    pub frontend: Frontend,
    /// Who has it.
    pub owner: ServicePortName,
    /// Who goes without it until the owner leaves.
    pub loser: ServicePortName,
    /// What decided it.
    pub because: &'static str,
}

impl Claims {
    /// Who owns a frontend, if anyone claims it.
    pub(crate) fn owner(&self, frontend: Frontend) -> Option<&ServicePortName> {
        self.owners.get(&frontend).map(|claim| &claim.port)
    }

    /// Whether this port owns the frontend.
    pub(crate) fn is_owner(&self, frontend: Frontend, port: &ServicePortName) -> bool {
        self.owners.get(&frontend).is_some_and(|owner| owner.port == *port)
    }

    /// Enters a claim, and returns the Service that lost the frontend by it.
    pub(crate) fn add(&mut self, frontend: Frontend, claim: Claim) -> Option<ServiceName> {
        let Some(owner) = self.owners.get_mut(&frontend) else {
            self.owners.insert(frontend, claim);
            return None;
        };
        if *owner == claim {
            return None;
        }
        let wins = claim < *owner;
        let loser = if wins { std::mem::replace(owner, claim) } else { claim };
        let name = loser.port.service.clone();
        self.losers.entry(frontend).or_default().insert(loser);
        wins.then_some(name)
    }

    /// Withdraws a claim, and returns the Service that gets the frontend by it.
    pub(crate) fn remove(&mut self, frontend: Frontend, claim: &Claim) -> Option<ServiceName> {
        let losers = self.losers.get_mut(&frontend);
        if self.owners.get(&frontend) != Some(claim) {
            losers?.remove(claim);
            self.forget_if_settled(frontend);
            return None;
        }
        self.owners.remove(&frontend);
        let heir = losers?.pop_first()?;
        let name = heir.port.service.clone();
        self.owners.insert(frontend, heir);
        self.forget_if_settled(frontend);
        Some(name)
    }

    /// All conflicts, in order of frontends.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.losers.iter().flat_map(|(frontend, losers)| {
            let owner = self.owners.get(frontend);
            losers.iter().filter_map(move |loser| {
                let because = match owner?.right == loser.right {
                    true => "its Service is older or named first",
                    false => "a ClusterIP comes before an address of a load balancer, and that before an external IP",
                };
                Some(Conflict { frontend: *frontend, owner: owner?.port.clone(), loser: loser.port.clone(), because })
            })
        })
    }

    fn forget_if_settled(&mut self, frontend: Frontend) {
        if self.losers.get(&frontend).is_some_and(BTreeSet::is_empty) {
            self.losers.remove(&frontend);
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontend, owner, loser, because } = self;
        write!(f, "{frontend} is claimed by {owner} and {loser}: {owner} has it, because {because}")
    }
}

//! What belongs to whom.

use std::net::{IpAddr, SocketAddr};

use model::ServiceName;
use ruleset::{Op, Transaction, Words};

use super::{Compiler, Port};
use crate::Frontend;
use crate::affinity::Choice;
use crate::edit::Edit;
use crate::frontend::Scope;

impl Compiler {
    /// The Service that an element of a transaction belongs to, by the position of its operation and its own; `None` if it is
    /// not known to belong to one.
    pub fn owner(&self, transaction: &Transaction, position: (usize, Option<usize>)) -> Option<ServiceName> {
        let (Op::AddElements { set, elements } | Op::DeleteElements { set, elements }) =
            transaction.ops.get(position.0)?
        else {
            return None;
        };
        let element = elements.get(position.1?)?;
        let keys_frontends = |scope: Scope| set.key.starts_with(&scope.fields());
        let scope = Scope::ALL.into_iter().find(|scope| keys_frontends(*scope));
        let frontend = scope.and_then(|scope| Frontend::parse(scope, self.options.family, &element.key));
        let owner = frontend.and_then(|frontend| self.claims.owner(frontend));
        owner.map(|port| port.service.clone()).or_else(|| self.owner_of_address(&element.key))
    }

    /// Whether an endpoint serves a frontend with affinity.
    fn belongs(&self, frontend: Frontend, endpoint: SocketAddr) -> bool {
        let Some(owner) = self.claims.owner(frontend) else { return false };
        let ports = self.programmed.get(&owner.service).map_or(&[][..], Vec::as_slice);
        ports.iter().filter(|port| port.claim.port == *owner).any(|port| {
            let view = port.rules.view(frontend);
            view.affinity().is_some() && (view.cluster.contains(&endpoint) || view.local.contains(&endpoint))
        })
    }

    pub(super) fn is_true(&self, choice: &Choice) -> bool {
        let frontend = choice.frontends.into_iter().find(|frontend| self.claims.owner(*frontend).is_some());
        frontend.is_some_and(|frontend| !self.affinity.is_outdated(frontend, self.belongs(frontend, choice.endpoint)))
    }

    /// Takes up again that these endpoints left, those excepted that are back.
    pub(super) fn part_again(&mut self, gone: Vec<(Frontend, SocketAddr)>, edit: &mut Edit) {
        for (frontend, endpoint) in gone {
            if !self.belongs(frontend, endpoint) {
                self.affinity.part(frontend, endpoint, edit);
            }
        }
    }

    /// A Service with a ClusterIP or an endpoint at the address that a key begins with.
    fn owner_of_address(&self, key: &Words) -> Option<ServiceName> {
        let has = |ip: IpAddr| key.as_bytes().starts_with(Words::build().address(ip).finish().as_bytes());
        let is_owner = |port: &Port| {
            port.rules.cluster_ip.is_some_and(has) || port.rules.hairpins.iter().any(|socket| has(socket.ip()))
        };
        let mut owners: Vec<_> = self.programmed.iter().filter(|(_, ports)| ports.iter().any(is_owner)).collect();
        owners.sort_unstable_by_key(|(name, _)| *name);
        owners.first().map(|(name, _)| (*name).clone())
    }
}

//! What belongs to whom.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use model::{PortNumber, Protocol, ServiceName, ServicePortName};
use ruleset::{Set, Words};

use super::{Compiler, Port};
use crate::Frontend;
use crate::affinity::Choice;
use crate::edit::Edit;
use crate::frontend::Scope;
use crate::port::View;

/// A port of a Service, as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedPort {
    /// Its name.
    pub owner: ServicePortName,
    /// Where connections may go; nowhere if there are none, and then they are to be refused.
    pub endpoints: Vec<SocketAddr>,
    /// For how many seconds after its last connection a client is sent to the same endpoint again.
    pub affinity: Option<NonZeroU32>,
}

impl Compiler {
    /// The Service that an element of a set belongs to, by its key; `None` if it is not known to belong to one.
    pub fn owner(&self, set: &Set, key: &Words) -> Option<ServiceName> {
        let keys_frontends = |scope: Scope| set.key.starts_with(&scope.fields());
        let scope = Scope::ALL.into_iter().find(|scope| keys_frontends(*scope));
        let frontend = scope.and_then(|scope| Frontend::parse(scope, self.options.family, key));
        let owner = frontend.and_then(|frontend| self.claims.owner(frontend));
        owner.map(|port| port.service.clone()).or_else(|| self.owner_of_address(key))
    }

    /// Who has a TCP NodePort, and what serves it to a client on this node that does not come by the rules; `None` if no Service has
    /// it. With external policy `Local`, that is what is on this node, and nothing else (KEP-6032).
    pub fn tcp_node_port(&self, port: PortNumber) -> Option<ServedPort> {
        let frontend = Frontend::NodePort { protocol: Protocol::Tcp, port };
        let (owner, view) = (self.claims.owner(frontend)?, self.view(frontend)?);
        Some(ServedPort { owner: owner.clone(), endpoints: view.serving_outside().to_vec(), affinity: view.affinity() })
    }

    /// What a frontend leads to, if anyone has it.
    fn view(&self, frontend: Frontend) -> Option<View<'_>> {
        let owner = self.claims.owner(frontend)?;
        let ports = self.programmed.get(&owner.service).or_else(|| self.rest.get(&owner.service))?;
        let port = ports.iter().find(|port| port.name == *owner)?;
        Some(port.rules.view(frontend))
    }

    pub(super) fn settle_affinity(&mut self, edit: &mut Edit) {
        let mut affinity = std::mem::take(&mut self.affinity);
        affinity.settle(|frontend, endpoint| self.view(frontend).is_some_and(|view| view.has(endpoint)), edit);
        self.affinity = affinity;
    }

    /// Whether the kernel may go by a note of where it sent a client.
    pub(super) fn is_true(&self, choice: &Choice) -> bool {
        let frontend = choice.frontends.into_iter().find(|frontend| self.claims.owner(*frontend).is_some());
        frontend.filter(|frontend| !self.affinity.is_outdated(*frontend)).is_some_and(|frontend| {
            self.view(frontend).is_some_and(|view| view.affinity().is_some() && view.has(choice.endpoint))
        })
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

//! Where verdict maps lead: chains that pick an endpoint, and a few fixed ones.

use std::num::NonZeroU32;

use ruleset::{Name, Verdict};

use crate::frontend::Scope;
use crate::name;

/// A chain that picks one of so many endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LbChain {
    pub(crate) scope: Scope,
    pub(crate) kind: LbKind,
    /// Whether clients are sent where they were sent before.
    pub(crate) affinity: bool,
    pub(crate) endpoints: NonZeroU32,
}

/// From which list a chain picks, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LbKind {
    /// Any endpoint.
    Cluster,
    /// An endpoint on this node.
    Local,
    /// Any endpoint, with the connection masqueraded.
    Masquerade,
}

/// Where a verdict map sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To a chain that picks an endpoint.
    Lb(LbChain),
    /// To the chain for external policy `Local`.
    ExternalLocal(Scope),
    /// To the chain that refuses.
    Reject,
    /// Nowhere.
    Drop,
}

impl LbChain {
    /// The chain for so many endpoints; none for no endpoint.
    pub(crate) fn new(scope: Scope, kind: LbKind, affinity: bool, endpoints: usize) -> Option<Self> {
        let endpoints = u32::try_from(endpoints).ok().and_then(NonZeroU32::new)?;
        Some(Self { scope, kind, affinity, endpoints })
    }

    /// The chain with this name, if it is the name of one.
    pub(crate) fn parse(name: &Name) -> Option<Self> {
        let text = name.as_str();
        let (scope, rest) =
            text.strip_prefix("nodeport-").map_or((Scope::Address, text), |rest| (Scope::NodePort, rest));
        let kinds = [("local-", LbKind::Local), ("masq-", LbKind::Masquerade), ("", LbKind::Cluster)];
        let (kind, rest) = kinds.into_iter().find_map(|(start, kind)| Some((kind, rest.strip_prefix(start)?)))?;
        let (affinity, rest) = rest.strip_prefix("affinity-").map_or((false, rest), |rest| (true, rest));
        let chain = Self { scope, kind, affinity, endpoints: rest.strip_prefix("lb-")?.parse().ok()? };
        (chain.name() == *name).then_some(chain)
    }

    /// The chain that picks the first endpoint of the same list.
    pub(crate) const fn first(scope: Scope, kind: LbKind) -> Self {
        Self { scope, kind, affinity: false, endpoints: NonZeroU32::MIN }
    }

    /// Where it goes on: one that masquerades to the one that picks; one that knows no endpoint of the client's to the one that
    /// picks by chance; and one that picked a number without an endpoint to the first, which every frontend has. That happens
    /// to a packet that meets a change halfway: it was led here by the old elements, and finds the new ones.
    ///
    /// Comes before it in order.
    pub(crate) fn goes_on_to(self) -> Option<Self> {
        match self.kind {
            LbKind::Masquerade => Some(Self { kind: LbKind::Cluster, ..self }),
            _ if self.affinity => Some(Self { affinity: false, ..self }),
            _ if self.endpoints == NonZeroU32::MIN => None,
            kind => Some(Self::first(self.scope, kind)),
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> Name {
        let scope = match self.scope {
            Scope::Address => "",
            Scope::NodePort => "nodeport-",
        };
        let kind = match self.kind {
            LbKind::Cluster => "",
            LbKind::Local => "local-",
            LbKind::Masquerade => "masq-",
        };
        let affinity = if self.affinity { "affinity-" } else { "" };
        name(&format!("{scope}{kind}{affinity}lb-{}", self.endpoints))
    }
}

impl Target {
    /// As the data of a verdict map.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::Drop => Verdict::Drop,
            _ => Verdict::Goto(self.chain_name()),
        }
    }

    /// The chain it leads to.
    pub(crate) fn chain_name(self) -> Name {
        match self {
            Self::Lb(chain) => chain.name(),
            Self::ExternalLocal(Scope::Address) => name("external-local"),
            Self::ExternalLocal(Scope::NodePort) => name("nodeport-external-local"),
            Self::Reject | Self::Drop => name("reject-chain"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for scope in Scope::ALL {
            for kind in [LbKind::Cluster, LbKind::Local, LbKind::Masquerade] {
                for affinity in [false, true] {
                    let chain = LbChain::new(scope, kind, affinity, 12).unwrap();
                    assert_eq!(LbChain::parse(&chain.name()), Some(chain));
                }
            }
        }
        for other in ["lb-0", "lb-01", "lb-", "xlb-1", "lb-99999999999", "masq-local-lb-1", "services"] {
            assert_eq!(LbChain::parse(&name(other)), None, "{other}");
        }
    }
}

//! What kube-proxy's iptables and ipvs modes leave in the tables of iptables.
//!
//! Those of iptables-nft are tables of nf_tables, whose rules have expressions that only iptables understands. So rules are told by
//! the chains that they are in and lead to, and chains by their names. Rules in chains of other programs are theirs, wherever they
//! lead: CNI's plugin for hostPorts, for one, may have its connections marked by `KUBE-MARK-MASQ`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Error, Result};
use netlink::{Jump, NfTables, legacy_chains};
use ruleset::{Family, Kernel as _, Name, Op, Transaction};
use tracing::{debug, info, warn};

/// The chains of both modes in one table.
struct Chains {
    table: &'static str,
    names: &'static [&'static str],
    /// How the names of those for single Services and endpoints begin.
    prefixes: &'static [&'static str],
}

/// All of them (contract §3.3). Others that begin with `KUBE-` are the kubelet's or somebody else's.
const TABLES: [Chains; 3] = [
    Chains {
        table: "nat",
        names: &[
            "KUBE-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-POSTROUTING",
            "KUBE-MARK-MASQ",
            "KUBE-PROXY-CANARY",
            "KUBE-LOAD-BALANCER",
            "KUBE-NODE-PORT",
        ],
        prefixes: &["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"],
    },
    Chains {
        table: "filter",
        names: &[
            "KUBE-SERVICES",
            "KUBE-EXTERNAL-SERVICES",
            "KUBE-FORWARD",
            "KUBE-NODEPORTS",
            "KUBE-PROXY-FIREWALL",
            "KUBE-PROXY-CANARY",
            "KUBE-NODE-PORT",
            "KUBE-SOURCE-RANGES-FIREWALL",
            "KUBE-IPVS-FILTER",
            "KUBE-IPVS-OUT-FILTER",
        ],
        prefixes: &[],
    },
    Chains { table: "mangle", names: &["KUBE-PROXY-CANARY"], prefixes: &[] },
];

/// The chains of iptables itself: the only ones but its own in which kube-proxy has rules.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// How often a table is tried: when another program changes it meanwhile, the kernel refuses all of the transaction.
const TRIES: usize = 5;

/// Removes the chains of both modes and the rules that lead to them from built-in chains, and warns of those that have to stay.
pub(super) fn remove(kernel: &mut NfTables, family: Family, failures: &mut Vec<Error>) {
    for theirs in &TABLES {
        // Of several reasons, the last one is told.
        let removed = (1..TRIES).find_map(|_| remove_from(kernel, family, theirs).ok());
        let removed = removed.map_or_else(|| remove_from(kernel, family, theirs), Ok);
        let context = || format!("kube-proxy's chains in the table {family} {} stay", theirs.table);
        failures.extend(removed.with_context(context).err());
    }
    warn_of_legacy(family);
}

fn remove_from(kernel: &mut NfTables, family: Family, theirs: &Chains) -> Result<()> {
    let table = Name::new(theirs.table)?;
    let chains: BTreeSet<_> =
        kernel.chains(family, &table)?.into_iter().filter(|name| theirs.include(name.as_str())).collect();
    if chains.is_empty() {
        return Ok(());
    }
    let jumps = kernel.jumps(family, &table)?;
    let entries = jumps.iter().filter(|jump| chains.contains(&jump.target) && !chains.contains(&jump.chain));
    let (rules, foreign): (Vec<_>, Vec<_>) = entries.partition(|jump| is_built_in(&jump.chain));
    let going = unneeded(&chains, &jumps);
    let deletions = rules.iter().map(|rule| Op::DeleteRule { chain: rule.chain.clone(), handle: rule.handle });
    // All are emptied first, because they lead to each other.
    let flushes = going.iter().cloned().map(Op::FlushChain);
    let ops: Vec<_> = deletions.chain(flushes).chain(going.iter().cloned().map(Op::DeleteChain)).collect();
    if !ops.is_empty() {
        kernel.commit(&Transaction { ops, ..Transaction::new(family, table.clone()) })?;
        let (chains, rules) = (going.len(), rules.len());
        info!(%family, %table, chains, rules, "removed what kube-proxy's iptables or ipvs mode left");
    }
    if !foreign.is_empty() {
        let ways: BTreeSet<_> = foreign.iter().map(|jump| format!("{} to {}", jump.chain, jump.target)).collect();
        let (chains, ways) = (chains.len() - going.len(), Vec::from_iter(ways).join(", "));
        warn!(
            %family,
            %table,
            chains,
            "chains of kube-proxy stay as they are, because rules of others lead from {ways}: nothing updates them any more"
        );
    }
    Ok(())
}

/// Those of kube-proxy's chains that no rule of others leads to, be it by way of other chains. What such a rule does stays the same
/// without them.
fn unneeded(chains: &BTreeSet<Name>, jumps: &[Jump]) -> BTreeSet<Name> {
    let mut unneeded = chains.clone();
    loop {
        let before = unneeded.len();
        for jump in jumps.iter().filter(|jump| !is_built_in(&jump.chain)) {
            if !unneeded.contains(&jump.chain) {
                unneeded.remove(&jump.target);
            }
        }
        // A round goes at least one jump further, and kube-proxy's chains are few jumps deep.
        if unneeded.len() == before {
            return unneeded;
        }
    }
}

fn is_built_in(chain: &Name) -> bool {
    BUILT_IN.contains(&chain.as_str())
}

impl Chains {
    fn include(&self, chain: &str) -> bool {
        self.names.contains(&chain) || self.prefixes.iter().any(|prefix| chain.starts_with(prefix))
    }
}

/// The tables of iptables-legacy have no interface by which single rules could be removed.
fn warn_of_legacy(family: Family) {
    match legacy_chains(family) {
        Ok(chains) => {
            let chains = chains.iter().filter(|chain| TABLES.iter().any(|table| table.include(chain))).count();
            if chains > 0 {
                warn!(
                    %family,
                    chains,
                    "rules of kube-proxy are left in iptables-legacy, and may lead Services to endpoints that are gone: reboot the \
                     node, or run `kube-proxy --cleanup` of the version that made them, with iptables-legacy"
                );
            }
        }
        Err(error) => debug!(%family, "it cannot be told whether kube-proxy left rules in iptables-legacy: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_others_are_not_ours() {
        let [nat, filter, mangle] = TABLES;
        for chain in ["KUBE-SERVICES", "KUBE-SVC-ERIFXISQEP7F7OF4", "KUBE-FW-X", "KUBE-EXT-X", "KUBE-PROXY-CANARY"] {
            assert!(nat.include(chain), "{chain}");
        }
        let others = ["INPUT", "KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-ROUTER-SERVICES"];
        for chain in others.into_iter().chain(["KUBE-POD-FW-X", "KUBE-NWPLCY-X", "CILIUM_INPUT", "KUBE-SERVICES-2"]) {
            assert!([&nat, &filter, &mangle].iter().all(|table| !table.include(chain)), "{chain}");
        }
        assert!(!filter.include("KUBE-FW-X") && !filter.include("KUBE-MARK-MASQ") && !nat.include("KUBE-FORWARD"));
        assert!(mangle.include("KUBE-PROXY-CANARY") && !mangle.include("KUBE-SERVICES"));
    }

    #[test]
    fn what_others_lead_into_stays_with_all_that_it_leads_to() {
        let name = |text: &str| Name::new(text).unwrap();
        let jump = |(chain, target)| Jump { chain: name(chain), handle: 1, target: name(target) };
        let chains = ["A", "B", "C", "D", "E"].map(name).into();
        // In an order in which one round is not enough.
        let jumps =
            [("C", "D"), ("B", "C"), ("B", "ELSEWHERE"), ("OTHER", "B"), ("A", "B"), ("A", "E"), ("INPUT", "A")];
        assert_eq!(unneeded(&chains, &jumps.map(jump)), ["A", "E"].map(name).into());
    }
}

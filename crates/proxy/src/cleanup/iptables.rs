//! What kube-proxy's iptables and ipvs modes leave in the tables of iptables.
//!
//! Those of iptables-nft are tables of nf_tables, whose rules have expressions that only iptables understands. So rules are told by
//! the chain they lead to, and chains by their names.

use std::collections::BTreeSet;

use anyhow::{Context as _, Error, Result};
use netlink::{Jump, NfTables, legacy_chains};
use ruleset::{Family, Kernel as _, Name, Op, Transaction};
use tracing::{debug, info, warn};

const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// The chains of both modes, in whichever table (contract §3.3). Others that begin with `KUBE-` are the kubelet's, and stay.
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-PROXY-CANARY",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];

/// How the names of chains for single Services and endpoints begin.
const PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"];

/// How often a table is tried: when another program changes it meanwhile, the kernel refuses all of the transaction.
const TRIES: usize = 5;

/// Removes the chains of both modes and the rules that lead to them, and warns of those that iptables-legacy has.
pub(super) fn remove(kernel: &mut NfTables, failures: &mut Vec<Error>) {
    for family in [Family::Ip, Family::Ip6] {
        for table in TABLES {
            // Of several reasons, the last one is told.
            let removed = (1..TRIES).find_map(|_| remove_from(kernel, family, table).ok());
            let removed = removed.map_or_else(|| remove_from(kernel, family, table), Ok);
            failures.extend(
                removed.with_context(|| format!("kube-proxy's chains in the table {family} {table} stay")).err(),
            );
        }
        warn_of_legacy(family);
    }
}

fn remove_from(kernel: &mut NfTables, family: Family, table: &str) -> Result<()> {
    let table = Name::new(table)?;
    let chains: BTreeSet<_> =
        kernel.chains(family, &table)?.into_iter().filter(|name| is_kube_proxys(name.as_str())).collect();
    if chains.is_empty() {
        return Ok(());
    }
    let jumps = kernel.jumps(family, &table)?;
    let rules: Vec<_> = jumps.iter().filter(|jump| leads_into(jump, &chains)).collect();
    let deletions = rules.iter().map(|rule| Op::DeleteRule { chain: rule.chain.clone(), handle: rule.handle });
    // All are emptied first, because they lead to each other.
    let flushes = chains.iter().cloned().map(Op::FlushChain);
    let ops = deletions.chain(flushes).chain(chains.iter().cloned().map(Op::DeleteChain)).collect();
    kernel.commit(&Transaction { ops, ..Transaction::new(family, table.clone()) })?;
    let (chains, rules) = (chains.len(), rules.len());
    info!(%family, %table, chains, rules, "removed what kube-proxy's iptables or ipvs mode left");
    Ok(())
}

/// Whether it is a rule elsewhere that leads to one of these chains.
fn leads_into(jump: &Jump, chains: &BTreeSet<Name>) -> bool {
    chains.contains(&jump.target) && !chains.contains(&jump.chain)
}

fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// The tables of iptables-legacy have no interface by which single rules could be removed.
fn warn_of_legacy(family: Family) {
    match legacy_chains(family) {
        Ok(chains) => {
            let chains = chains.iter().filter(|chain| is_kube_proxys(chain)).count();
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
        for chain in ["KUBE-SERVICES", "KUBE-SVC-ERIFXISQEP7F7OF4", "KUBE-FW-X", "KUBE-EXT-X", "KUBE-PROXY-CANARY"] {
            assert!(is_kube_proxys(chain), "{chain}");
        }
        let others = ["INPUT", "KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-ROUTER-SERVICES"];
        for chain in others.into_iter().chain(["KUBE-POD-FW-X", "KUBE-NWPLCY-X", "CILIUM_INPUT", "KUBE-SERVICES-2"]) {
            assert!(!is_kube_proxys(chain), "{chain}");
        }
    }
}

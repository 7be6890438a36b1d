//! What comes before everything else at a start, and takes more rights than the proxy needs afterwards.

use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Error, Result, ensure};
use compiler::{Compiler, Options};
use config::Config;
use model::{Family, State};
use netlink::NfTables;
use ruleset::{Chain, ChainKind, CommitError, Hook, Kernel as _, Name, Op, Statement, Transaction};
use tracing::{info, warn};

use crate::{fastpath, node, sysctls};

/// The oldest kernel that is tried, as kube-proxy has it (contract §3.8).
const OLDEST_KERNEL: (u32, u32) = (5, 13);

/// Set to anything, it has older kernels tried (contract §3.8).
const SKIP_VERSION_CHECK: &str = "KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK";

/// Does what takes more rights than `CAP_NET_ADMIN` (`--init-only`, contract §1.6): it sets sysctls, and makes sure that the kernel
/// will do. No rule is written or removed: those of another mode serve until the proxy itself runs and takes over, and that takes no
/// more rights than it has. The API server, which could tell nothing that matters here, is not asked.
///
/// # Errors
/// This kernel will not do, or the node has no name.
pub fn initialize(config: &Config) -> Result<()> {
    let name = node::name(config)?;
    let primary = Some(config.bind_address).filter(|address| !address.is_unspecified()).map_or(Family::V4, Family::of);
    let families = node::families(primary, Path::new("/proc"))?;
    let mut kernel = prepare(config)?;
    for family in families {
        probe(&mut kernel, family).with_context(|| format!("this kernel's nf_tables cannot be used for {family}"))?;
        info!(ipFamily = %family, node = name, "System initialized and --init-only specified");
    }
    Ok(())
}

/// Makes sure that the kernel will do, and sets sysctls as far as this process may.
///
/// # Errors
/// It will not.
pub(crate) fn prepare(config: &Config) -> Result<NfTables> {
    check_version(fastpath::version_of_kernel())?;
    let kernel = NfTables::open()?;
    sysctls::apply(&config.conntrack);
    Ok(kernel)
}

/// A kernel whose version cannot be told is tried.
fn check_version(version: Option<(u32, u32, u32)>) -> Result<()> {
    let is_old = version.is_some_and(|(major, minor, _)| (major, minor) < OLDEST_KERNEL);
    if is_old && env::var_os(SKIP_VERSION_CHECK).is_some_and(|value| !value.is_empty()) {
        warn!("this kernel is older than what has ever been tried, but {SKIP_VERSION_CHECK} is set");
        return Ok(());
    }
    let (major, minor) = OLDEST_KERNEL;
    ensure!(
        !is_old,
        "kube-proxy in nftables mode requires kernel {major}.{minor} or later: use a newer one, or set {SKIP_VERSION_CHECK} in the \
         environment to try this one"
    );
    Ok(())
}

/// Commits the table of a cluster without Services, which has chains and rules of every kind, under another name. It is deleted again
/// in the same transaction, so that no packet and no other program ever meets it.
fn probe(kernel: &mut NfTables, family: Family) -> Result<()> {
    let mut compiler = Compiler::new(Options::new(family));
    let Transaction { mut ops, family, .. } = compiler.compile_all(&State::new(SystemTime::now()));
    ops.push(Op::DeleteTable);
    let transaction = Transaction { ops, ..Transaction::new(family, Name::new("kube-proxy-probe")?) };
    kernel.commit(&transaction).map(drop).map_err(|error| {
        let modules = missing(&error, &transaction);
        let advice = format!("load {}, or use a kernel that has what these are for", modules.join(", "));
        if modules.is_empty() { error.into() } else { Error::new(error).context(advice) }
    })
}

/// The kernel modules that are missing, as far as it can be told: those for what was refused that nothing else takes. The kernel goes
/// on after what it refuses.
fn missing(error: &CommitError, transaction: &Transaction) -> Vec<&'static str> {
    let CommitError::Rejected { rejections } = error else { return Vec::new() };
    let refused: BTreeSet<_> = rejections.iter().map(|rejection| rejection.position.0).collect();
    let (mut suspects, mut present) = (BTreeSet::new(), BTreeSet::new());
    for (index, op) in transaction.ops.iter().enumerate() {
        let side = if refused.contains(&index) { &mut suspects } else { &mut present };
        side.extend(modules(op, transaction.family));
    }
    suspects.difference(&present).copied().collect()
}

/// The modules that an operation takes beyond nf_tables itself.
fn modules(op: &Op, family: ruleset::Family) -> Vec<&'static str> {
    let of_family = |v4, v6| if family == ruleset::Family::Ip { v4 } else { v6 };
    let of_statement = |statement: &Statement| match statement {
        Statement::NewConnection | Statement::Translated => Some("nft_ct"),
        Statement::IsLocal(_) => Some(of_family("nft_fib_ipv4", "nft_fib_ipv6")),
        Statement::Dnat { .. } => Some("nft_nat and nft_numgen"),
        Statement::Masquerade => Some("nft_masq"),
        Statement::Reject => Some(of_family("nft_reject_ipv4", "nft_reject_ipv6")),
        _ => None,
    };
    match op {
        Op::AddChain(Chain { hook: Some(Hook { kind: ChainKind::Nat, .. }), .. }) => vec!["nft_chain_nat"],
        Op::AddRule(rule) => rule.statements.iter().filter_map(of_statement).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use ruleset::{Rejection, Rule};

    use super::*;

    #[test]
    fn old_kernels_are_refused() {
        for (version, will_do) in [((5, 12, 99), false), ((4, 19, 1), false), ((5, 13, 0), true), ((6, 1, 0), true)] {
            assert_eq!(check_version(Some(version)).is_ok(), will_do, "{version:?}");
        }
        check_version(None).unwrap();
    }

    /// As of a kernel that can translate connections, but not masquerade them.
    #[test]
    fn a_missing_module_is_told_by_what_was_refused_and_what_was_not() {
        let name = |text| Name::new(text).unwrap();
        let rule = |statements: &[Statement]| {
            Op::AddRule(Rule { chain: name("c"), statements: statements.to_vec(), comment: None })
        };
        let masquerade = [Statement::Translated, Statement::Masquerade];
        let ops = vec![
            rule(&[Statement::NewConnection]),
            rule(&masquerade),
            rule(&[Statement::Reject]),
            rule(&masquerade[1..]),
        ];
        let transaction = Transaction { ops, ..Transaction::new(ruleset::Family::Ip6, name("t")) };
        let missing_of = |refused: &[usize]| {
            let source = || io::Error::from(io::ErrorKind::NotFound);
            let rejections = refused.iter().map(|op| Rejection::new(&transaction, *op, None, source())).collect();
            missing(&CommitError::Rejected { rejections }, &transaction)
        };
        assert_eq!(missing_of(&[1, 3]), ["nft_masq"]);
        assert_eq!(missing_of(&[2]), ["nft_reject_ipv6"]);
        assert_eq!(missing_of(&[1]), [""; 0], "others like it were taken");
    }
}

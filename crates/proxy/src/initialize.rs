//! What comes before everything else at a start, and takes more rights than the proxy needs afterwards.

use std::env;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use config::Config;
use model::Family;
use netlink::NfTables;
use ruleset::{Kernel as _, Name, Op, Table, Transaction};
use tracing::{info, warn};

use crate::flags::Flags;
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
pub async fn initialize(_flags: &Flags, config: &Config) -> Result<()> {
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

/// Commits a table that is deleted again in the same transaction, so that nobody ever sees it.
fn probe(kernel: &mut NfTables, family: Family) -> Result<()> {
    let ops = vec![Op::AddTable(Table { comment: None }), Op::DeleteTable];
    let family = compiler::table_family(family);
    kernel.commit(&Transaction { ops, ..Transaction::new(family, Name::new("kube-proxy-probe")?) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused() {
        for (version, will_do) in [((5, 12, 99), false), ((4, 19, 1), false), ((5, 13, 0), true), ((6, 1, 0), true)] {
            assert_eq!(check_version(Some(version)).is_ok(), will_do, "{version:?}");
        }
        check_version(None).unwrap();
    }
}

//! Whether this kernel can do it, and what is known to be wrong with it.

use std::io;

use anyhow::Result;
use netlink::NfTables;
use nix::libc;
use nix::sys::utsname::uname;
use ruleset::{
    Chain, ChainKind, CommitError, Family, Flowtable, Hook, HookPoint, Interface, Kernel as _, Name, Op, Rule,
    Statement, Table, Transaction,
};
use tracing::warn;

/// Commits a table with a flowtable that is deleted again in the same transaction, so that nobody ever sees it.
///
/// # Errors
/// The kernel cannot do it, and what to do about that.
pub(super) fn probe(kernel: &mut NfTables) -> Result<()> {
    let name = Name::new("kube-proxy-probe")?;
    let hook = Hook { kind: ChainKind::Filter, point: HookPoint::Forward, priority: 0 };
    let rule = Rule { chain: name.clone(), statements: vec![Statement::Offload(name.clone())], comment: None };
    let ops = vec![
        Op::AddTable(Table { comment: None }),
        Op::AddFlowtable {
            flowtable: Flowtable { name: name.clone(), priority: 0 },
            devices: vec![Interface::named("lo")?],
        },
        Op::AddChain(Chain { name: name.clone(), hook: Some(hook), comment: None }),
        Op::AddRule(rule),
        Op::DeleteTable,
    ];
    let transaction = Transaction { ops, ..Transaction::new(Family::Ip, name) };
    kernel.commit(&transaction).map(drop).map_err(|error| {
        let advice = advice(&error);
        anyhow::Error::new(error).context(advice)
    })
}

/// What is missing, and what to do. The kernel says the same of missing modules as of missing devices, but `lo` is always there.
fn advice(error: &CommitError) -> &'static str {
    let source = match error {
        CommitError::Refused { source, .. } | CommitError::Unknown { source, .. } => Some(source),
        CommitError::Rejected { rejections } => rejections.first().map(|rejection| &rejection.source),
    };
    match source.and_then(io::Error::raw_os_error) {
        Some(libc::EPERM | libc::EACCES) => {
            "this process may not make flowtables: give it the capability NET_ADMIN, and see whether a security module or a seccomp \
             profile of the node forbids it"
        }
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
            "this kernel has no flowtables: run `modprobe -a nft_flow_offload nf_flow_table_inet`, or use a kernel built with \
             CONFIG_NF_FLOW_TABLE and CONFIG_NFT_FLOW_OFFLOAD"
        }
        _ => "this kernel did not make a flowtable that was to try whether it can: start again, or use another kernel",
    }
}

/// Warns of what is known to be wrong with flowtables of the running kernel.
pub(super) fn warn_of_defects() {
    let Ok(system) = uname() else { return };
    let release = system.release().to_string_lossy();
    for defect in version(&release).map(defects).unwrap_or_default() {
        warn!(kernel = %release, "the fast path of this kernel has a defect: {defect}");
    }
}

/// Major and minor number, and that of the stable release.
type Version = (u32, u32, u32);

fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next().unwrap_or_default()))
}

/// By the versions that are affected. Distributions mend without another number, so that these are warnings.
fn defects((major, minor, patch): Version) -> Vec<&'static str> {
    let mut defects = Vec::new();
    let series = (major, minor);
    let mended = match series {
        (5, 4) => patch >= 245,
        (5, 10) => patch >= 182,
        (5, 15) => patch >= 115,
        (6, 1) => patch >= 32,
        (6, 3) => patch >= 6,
        _ => series >= (6, 4),
    };
    if !mended {
        defects.push(
            "connections in a flowtable cannot be deleted, so that they go on to endpoints that are gone: use 6.1.32, 6.6 or \
             later, or switch the fast path off",
        );
    }
    if series < (5, 13) {
        defects.push("routes that change are not noticed: use a newer kernel, or switch the fast path off");
    }
    if series >= (6, 14) {
        defects.push(
            "a connection that is never idle for a day may lose its translation, unless the kernel is from after June 2026: set \
             fastpathRevalidationPeriod to some hours",
        );
    }
    defects
}

#[cfg(test)]
mod tests {
    use ruleset::Rejection;

    use super::*;

    #[test]
    fn a_missing_right_is_no_missing_flowtable() {
        let source = io::Error::from_raw_os_error;
        let whole = |errno| CommitError::Refused { table: "ip t".to_owned(), advice: "", source: source(errno) };
        let one = |errno| {
            let operation = "add flowtable ip t f".to_owned();
            let rejection = Rejection { operation, position: (1, None), element: None, source: source(errno) };
            CommitError::Rejected { rejections: vec![rejection] }
        };
        for errno in [libc::EPERM, libc::EACCES] {
            assert!([whole(errno), one(errno)].iter().all(|error| advice(error).contains("NET_ADMIN")));
        }
        for errno in [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT] {
            assert!([whole(errno), one(errno)].iter().all(|error| advice(error).contains("has no flowtables")));
        }
        for errno in [libc::ENOMEM, libc::EINVAL] {
            let other = advice(&one(errno));
            assert!(!other.contains("NET_ADMIN") && !other.contains("has no"), "{other}");
        }
        let lost = CommitError::Unknown { table: "ip t".to_owned(), source: io::ErrorKind::UnexpectedEof.into() };
        assert_eq!(advice(&lost), advice(&one(libc::ENOMEM)));
    }

    #[test]
    fn kernels_are_told_apart() {
        let count = |release| defects(version(release).unwrap()).len();
        assert_eq!(version("6.12.117+deb12-amd64"), Some((6, 12, 117)));
        assert_eq!(version("6.1.0-56-amd64"), Some((6, 1, 0)));
        assert_eq!(version("7.0-rc3"), Some((7, 0, 0)));
        assert_eq!(version("linux"), None);
        for (release, defects) in [
            ("5.10.100", 2),
            ("5.15.114", 1),
            ("5.15.115", 0),
            ("6.1.32", 0),
            ("6.2.1", 1),
            ("6.12.9", 0),
            ("6.14.1", 1),
        ] {
            assert_eq!(count(release), defects, "{release}");
        }
    }
}

//! Whether this kernel can do it, and what is known to be wrong with it.

use std::io;
use std::time::Duration;

use anyhow::Result;
use config::Revalidation;
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

/// How long offloaded connections are to skip the rules on the running kernel, if not as long as they like.
pub(super) fn revalidation_period(wanted: Revalidation) -> Option<Duration> {
    period_on(wanted, version_of_kernel())
}

/// Warns of what is known to be wrong with flowtables of the running kernel, where connections follow the rules again after `period`.
pub(super) fn warn_of_defects(period: Option<Duration>) {
    let Some(release) = release() else { return };
    for defect in version(&release).map(|version| defects(version, period)).unwrap_or_default() {
        warn!(kernel = %release, "the fast path of this kernel has a defect: {defect}");
    }
}

/// The version of the running kernel, unless it calls itself something else.
pub(crate) fn version_of_kernel() -> Option<Version> {
    release().as_deref().and_then(version)
}

fn release() -> Option<String> {
    Some(uname().ok()?.release().to_string_lossy().into_owned())
}

/// Major and minor number, and that of the stable release.
pub(crate) type Version = (u32, u32, u32);

fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next().unwrap_or_default()))
}

/// How long the kernel keeps a connection that it puts into a flowtable, unless it extends that, as it should while packets come
/// (`NF_CT_DAY`, include/net/netfilter/nf_conntrack.h).
const LIFETIME: Duration = Duration::from_hours(24);

/// Whether it forgets to extend that. It does since 6.14. That is mended since June 2026, in which releases is not known here; where it
/// is, all that comes of this is a packet by another way.
fn forgets_connections(version: Version) -> bool {
    version >= (6, 14, 0)
}

/// Where the kernel forgets connections, each is put into the flowtable anew when half of its lifetime is over: that is when the kernel
/// should extend it, and leaves as much time for what may come in between.
fn period_on(wanted: Revalidation, kernel: Option<Version>) -> Option<Duration> {
    match wanted {
        Revalidation::Every(period) => Some(period),
        Revalidation::Never => None,
        Revalidation::ByKernel => kernel.is_some_and(forgets_connections).then_some(LIFETIME / 2),
    }
}

/// By the versions that are affected. Distributions mend without another number, so that these are warnings.
fn defects(version: Version, revalidation_period: Option<Duration>) -> Vec<&'static str> {
    let (major, minor, patch) = version;
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
    if forgets_connections(version) && revalidation_period.is_none_or(|period| period >= LIFETIME) {
        defects.push(
            "a connection that is never idle for a day may lose its translation, unless the kernel is from after June 2026: take \
             fastpathRevalidationPeriod out of the configuration, or set it to less than a day",
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
        let count = |release| defects(version(release).unwrap(), None).len();
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

    #[test]
    fn kernels_that_forget_connections_are_helped_unless_that_is_not_wanted() {
        let period = |wanted, release: &str| period_on(wanted, version(release));
        for (release, helped) in [
            ("5.15.115", false),
            ("6.1.0-56-amd64", false),
            ("6.12.117+deb12-amd64", false),
            ("6.13.9", false),
            ("6.14.0-rc1", true),
            ("6.18.44", true),
            ("7.0.1", true),
            ("linux", false),
        ] {
            let hours = helped.then(|| Duration::from_hours(12));
            assert_eq!(period(Revalidation::ByKernel, release), hours, "{release}");
            assert_eq!(period(Revalidation::Never, release), None, "{release}");
            let minute = Duration::from_mins(1);
            assert_eq!(period(Revalidation::Every(minute), release), Some(minute), "{release}");
        }
        let told = |hours: Option<u64>| defects((6, 14, 0), hours.map(Duration::from_hours)).len();
        assert_eq!([None, Some(24), Some(12)].map(told), [1, 1, 0], "no warning of what does not happen");
    }
}

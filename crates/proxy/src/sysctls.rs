//! The kernel's settings of connection tracking (contract §3.6).
//!
//! Each is read first and written only where it differs. Where that is not possible, it is told what to do, and the proxy goes on: a
//! node with another limit on connections is better than one without Services.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use config::Conntrack;
use netlink::Conntrack as Kernel;
use nix::unistd::{SysconfVar, sysconf};
use tracing::{debug, info, warn};

/// The most entries that are asked for because there are many CPUs.
const MOST_ENTRIES: u64 = 1 << 20;

/// How many entries there may be for each hash.
const ENTRIES_PER_HASH: u64 = 4;

/// How many hashes there are, which is no sysctl.
const HASHSIZE: &str = "sys/module/nf_conntrack/parameters/hashsize";

/// The file of a sysctl of connection tracking.
macro_rules! sysctl {
    ($name:literal) => {
        concat!("proc/sys/net/netfilter/nf_conntrack_", $name)
    };
}

/// A file of the kernel's and what is to be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting {
    /// Its path, without the slash at the beginning.
    file: &'static str,
    /// The field of the configuration that asks for it, and the value of that field which does not.
    field: &'static str,
    off: &'static str,
    value: u64,
    /// Which other values will do.
    other: Other,
}

/// Which values will do in place of the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    None,
    /// Larger ones, where the wanted one cannot be had.
    LargerIfRefused,
    /// Larger ones.
    Larger,
}

/// Sets what differs from the configuration.
pub(crate) fn apply(conntrack: &Conntrack) {
    // Where conntrack is a module, this loads it, and with it come the settings. If it cannot be used, they tell.
    drop(Kernel::open());
    apply_in(Path::new("/"), conntrack, cpus());
}

/// How many CPUs the machine has, whatever of them this process may use.
fn cpus() -> u64 {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|number| u64::try_from(number).ok()).unwrap_or(1)
}

fn apply_in(root: &Path, conntrack: &Conntrack, cpus: u64) {
    if let Some(max) = max(conntrack, cpus) {
        info!(maxvalue = max.value, "Setting nf_conntrack_max");
        // More hashes are of no use without the entries.
        if set(root, &max) {
            set(root, &hashes(max.value));
        }
    }
    for setting in timeouts(conntrack) {
        set(root, &setting);
    }
}

/// How many connections there may be; `None` leaves it to the kernel.
fn max(conntrack: &Conntrack, cpus: u64) -> Option<Setting> {
    let scaled = u64::from(conntrack.max_per_core?.get()) * cpus;
    // The minimum may be more than the most that is asked for because of CPUs.
    let value = if scaled > MOST_ENTRIES { MOST_ENTRIES } else { scaled.max(conntrack.min.into()) };
    let file = sysctl!("max");
    Some(Setting { file, field: "conntrack.maxPerCore", off: "0", value, other: Other::LargerIfRefused })
}

/// How many hashes so many entries need.
const fn hashes(entries: u64) -> Setting {
    let value = entries / ENTRIES_PER_HASH;
    Setting { file: HASHSIZE, field: "conntrack.maxPerCore", off: "0", value, other: Other::Larger }
}

/// All other settings.
fn timeouts(conntrack: &Conntrack) -> Vec<Setting> {
    let setting = |file, field, off, value| Setting { file, field, off, value, other: Other::None };
    let timeouts = [
        (sysctl!("tcp_timeout_established"), "conntrack.tcpEstablishedTimeout", conntrack.tcp_established_timeout),
        (sysctl!("tcp_timeout_close_wait"), "conntrack.tcpCloseWaitTimeout", conntrack.tcp_close_wait_timeout),
        (sysctl!("udp_timeout"), "conntrack.udpTimeout", conntrack.udp_timeout),
        (sysctl!("udp_timeout_stream"), "conntrack.udpStreamTimeout", conntrack.udp_stream_timeout),
    ];
    let seconds = timeouts.into_iter().filter_map(|(file, field, timeout)| {
        let value = timeout?.as_secs();
        (value > 0).then(|| setting(file, field, "0s", value))
    });
    let liberal = setting(sysctl!("tcp_be_liberal"), "conntrack.tcpBeLiberal", "false", 1);
    seconds.chain(conntrack.tcp_be_liberal.then_some(liberal)).collect()
}

/// Returns whether the kernel has a value that will do.
fn set(root: &Path, setting: &Setting) -> bool {
    let Setting { file, field, off, value, other } = *setting;
    let path = root.join(file);
    let found = read(&path);
    if found.is_some_and(|found| found == value || other == Other::Larger && found > value) {
        return true;
    }
    if file == HASHSIZE {
        info!(conntrackHashsize = value, "Setting conntrack hashsize");
    }
    match write(&path, value) {
        Ok(()) => {
            info!(entry = file.trim_start_matches("proc/sys/"), value, "Set sysctl");
            true
        }
        Err(error) if other == Other::LargerIfRefused && found.is_some_and(|found| found > value) => {
            debug!(entry = file, found, value, "cannot be set, and is more than enough: {error}");
            true
        }
        Err(error) => {
            let found = found.map_or_else(|| "unknown".to_owned(), |found| found.to_string());
            warn!(
                "/{file} is {found}, cannot be set to {value} as {field} asks ({error}), and stays: set it on the node, have an init \
                 container that is privileged run kube-proxy with --init-only, or set {field} to {off}"
            );
            false
        }
    }
}

fn read(path: &PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Only into a file that is there.
fn write(path: &PathBuf, value: u64) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use config::Config;
    use tempfile::TempDir;

    use super::*;

    const MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";
    const ESTABLISHED: &str = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";

    /// A kernel's files with these values, and no others.
    fn kernel(values: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, value) in values {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        root
    }

    fn defaults() -> Conntrack {
        Config::default().conntrack
    }

    fn nothing() -> Conntrack {
        Conntrack { max_per_core: None, tcp_established_timeout: None, tcp_close_wait_timeout: None, ..defaults() }
    }

    #[test]
    fn there_are_as_many_entries_as_the_cpus_ask_for_within_limits() {
        for (per_core, min, cpus, value) in [
            (32_768, 131_072, 2, Some(131_072)),
            (32_768, 131_072, 8, Some(262_144)),
            (32_768, 131_072, 64, Some(1_048_576)),
            (32_768, 2_000_000, 2, Some(2_000_000)),
            (32_768, 2_000_000, 64, Some(1_048_576)),
            (0, 131_072, 8, None),
        ] {
            let conntrack = Conntrack { max_per_core: NonZeroU32::new(per_core), min, ..defaults() };
            assert_eq!(max(&conntrack, cpus).map(|setting| setting.value), value, "{per_core} {min} {cpus}");
        }
    }

    #[test]
    fn only_what_is_asked_for_is_set() {
        assert_eq!(timeouts(&nothing()), []);
        let seconds = |seconds: u64| Some(Duration::from_millis(seconds * 1000 + 999));
        let conntrack = Conntrack {
            tcp_established_timeout: seconds(1),
            tcp_close_wait_timeout: seconds(2),
            udp_timeout: seconds(3),
            udp_stream_timeout: seconds(0),
            tcp_be_liberal: true,
            ..nothing()
        };
        let set: Vec<_> =
            timeouts(&conntrack).iter().map(|s| (s.file.rsplit_once("nf_conntrack_").unwrap().1, s.value)).collect();
        assert_eq!(
            set,
            [("tcp_timeout_established", 1), ("tcp_timeout_close_wait", 2), ("udp_timeout", 3), ("tcp_be_liberal", 1)],
            "in whole seconds, of which there is at least one"
        );
    }

    #[test]
    fn what_differs_is_written_and_hashes_only_if_there_are_too_few() {
        for (hashes, after) in [("1024\n", "32768"), ("65536\n", "65536\n")] {
            let root = kernel(&[(MAX, "4096\n"), (HASHSIZE, hashes), (ESTABLISHED, "86400\n")]);
            let conntrack = Conntrack { max_per_core: NonZeroU32::new(1), tcp_close_wait_timeout: None, ..defaults() };
            apply_in(root.path(), &conntrack, 1);
            let read = |file| fs::read_to_string(root.path().join(file)).unwrap();
            assert_eq!([MAX, HASHSIZE, ESTABLISHED].map(read), ["131072", after, "86400\n"], "with {hashes} hashes");
        }
    }

    #[test]
    fn what_is_not_there_is_not_made() {
        let root = kernel(&[]);
        apply_in(root.path(), &defaults(), 1);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}

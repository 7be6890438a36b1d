//! What is to be known of the node: at the start, and as long as the proxy runs.

mod addresses;
mod follow;
mod monitor;
mod ports;
mod sanity;
mod startup;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use config::Config;
use model::Family;
use tracing::info;

pub(crate) use self::addresses::{NodeAddresses, guess_addresses, interface_addresses};
pub(crate) use self::follow::Follower;
pub(crate) use self::ports::PortAddresses;
pub(crate) use self::sanity::warn_of_doubts;
pub(crate) use self::startup::{NodeFacts, wait};

/// The node's name: the override, or the machine's host name, trimmed and in lower case (contract §3.1).
///
/// # Errors
/// There is neither.
pub(crate) fn name(config: &Config) -> Result<String> {
    if let Some(name) = &config.hostname_override {
        return Ok(name.as_str().to_owned());
    }
    let name = host_name().context("cannot read the machine's host name: give --hostname-override")?;
    let name = name.trim().to_lowercase();
    ensure!(!name.is_empty(), "empty hostname is invalid: set the machine's host name, or give --hostname-override");
    Ok(name)
}

/// The name that the machine has for itself.
///
/// # Errors
/// The kernel does not say.
pub(crate) fn host_name() -> Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}

/// The families that the node can do (contract §3.4): IPv4, and IPv6 unless the kernel has it switched off. A cluster of
/// one family does no harm to the table of the other.
///
/// # Errors
/// The node's primary address is of a family it cannot do.
pub(crate) fn families(primary: Family, proc: &Path) -> Result<Vec<Family>> {
    let Some(reason) = no_ipv6(proc) else {
        info!("primary ipFamily" = %primary, "kube-proxy running in dual-stack mode");
        return Ok(Family::ALL.to_vec());
    };
    info!("no support for IPv6: {reason}");
    ensure!(
        primary == Family::V4,
        "no support for primary IP family \"IPv6\": {reason}; enable IPv6 in the kernel, or set bindAddress to an IPv4 \
         address of the node"
    );
    info!(ipFamily = %primary, "kube-proxy running in single-stack mode");
    Ok(vec![Family::V4])
}

fn no_ipv6(proc: &Path) -> Option<&'static str> {
    if !proc.join("net/if_inet6").exists() {
        return Some("the kernel has no IPv6 (/proc/net/if_inet6 is missing)");
    }
    let disabled = fs::read_to_string(proc.join("sys/net/ipv6/conf/all/disable_ipv6")).unwrap_or_default();
    (disabled.trim() == "1").then_some("it is disabled (sysctl net.ipv6.conf.all.disable_ipv6)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_left_out_where_the_kernel_has_none() {
        let proc = tempfile::tempdir().unwrap();
        assert_eq!(families(Family::V4, proc.path()).unwrap(), [Family::V4]);
        let refused = families(Family::V6, proc.path()).unwrap_err().to_string();
        assert!(refused.starts_with("no support for primary IP family \"IPv6\""), "{refused}");

        fs::create_dir_all(proc.path().join("net")).unwrap();
        fs::write(proc.path().join("net/if_inet6"), "").unwrap();
        assert_eq!(families(Family::V6, proc.path()).unwrap(), Family::ALL);

        let conf = proc.path().join("sys/net/ipv6/conf/all");
        fs::create_dir_all(&conf).unwrap();
        fs::write(conf.join("disable_ipv6"), "1\n").unwrap();
        assert_eq!(families(Family::V4, proc.path()).unwrap(), [Family::V4]);
    }
}

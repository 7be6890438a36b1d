//! `nf_conntrack_acct`: without it no packets are counted, and no connection ever becomes a long one.

use std::fs;
use std::io;

use tracing::{info, warn};

const SYSCTL: &str = "/proc/sys/net/netfilter/nf_conntrack_acct";

/// Keeps the kernel counting. A rule that asks for a connection's packets switches it on (`nft_ct_get_init`, net/netfilter/nft_ct.c),
/// but anyone may switch it off again, and then new connections stay in the slow path without a word.
#[derive(Debug, Default)]
pub(super) struct Accounting {
    /// Whether it was told of that it is off and stays so.
    told: bool,
}

impl Accounting {
    /// Switches it on if it is off.
    pub(super) fn keep(&mut self) {
        match switch_on() {
            Ok(false) => self.told = false,
            Ok(true) => info!("{SYSCTL} was 0, and is 1 again: connections of the meantime stay in the slow path"),
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    warn!("{SYSCTL} is 0, so that no new connection takes the fast path: set it to 1 ({error})");
                }
            }
        }
    }
}

/// Returns whether it had to be switched on.
fn switch_on() -> io::Result<bool> {
    // Where it is not there to be read, the rules have the last word.
    if fs::read_to_string(SYSCTL).is_ok_and(|value| value.trim() == "0") {
        fs::write(SYSCTL, "1")?;
        return Ok(true);
    }
    Ok(false)
}

//! Taking away what Slipstream, and every mode of kube-proxy, leaves in the kernel.

use anyhow::{Result, bail};
use config::Config;

/// Takes away the rules of Slipstream and of every mode of kube-proxy (`--cleanup`, contract §1.5).
///
/// # Errors
/// Something of ours could not be taken away.
pub fn cleanup(_config: &Config) -> Result<()> {
    bail!("--cleanup is not there yet")
}

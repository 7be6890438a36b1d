//! What takes more rights at the start than `CAP_NET_ADMIN`.

use anyhow::{Result, bail};
use config::Config;

use crate::flags::Flags;

/// Does what takes more rights than the proxy needs afterwards (`--init-only`, contract §1.6).
///
/// # Errors
/// The node cannot be found out about, or this kernel will not do.
pub async fn initialize(_flags: &Flags, _config: &Config) -> Result<()> {
    bail!("--init-only is not there yet")
}

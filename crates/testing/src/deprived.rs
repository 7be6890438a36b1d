//! Tests in a process without the capability `NET_ADMIN`.

use std::env;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Runs an ignored test of the calling test program, by its name, in such a process.
///
/// # Errors
/// It does not pass, or there is no `setpriv`.
pub fn run(test: &str) -> Result<()> {
    let output = Command::new("setpriv")
        .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"])
        .arg(env::current_exe()?)
        .args(["--ignored", "--exact", test, "--nocapture"])
        .output()
        .context("cannot run `setpriv` (Debian package util-linux)")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && stdout.contains("1 passed"), "{test} has not passed:\n{stdout}");
    Ok(())
}

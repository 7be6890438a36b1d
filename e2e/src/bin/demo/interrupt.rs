//! Ctrl-C.

use std::path::PathBuf;
use std::{fs, process, thread};

use anyhow::Result;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// From now on, a signal that asks for the end removes `directory` first. All else goes with this process: namespaces
/// live as long as it has them open, and the kernel kills the proxy.
pub(crate) fn leave_nothing_behind(directory: PathBuf) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        // Without it there is nothing left to tell of.
        fs::remove_dir_all(directory).ok();
        eprintln!("\ndemo: interrupted, everything is cleaned up");
        // 128 + SIGINT, as shells have it.
        process::exit(130);
    });
    Ok(())
}

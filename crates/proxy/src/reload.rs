//! Following the configuration file.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use config::{Config, Loaded};
use informer::DirectoryWatch;
use serde_json::Value;
use telemetry::logging;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::flags::Flags;
use crate::live::{self, Live};

/// How often the file is read even if nothing tells of a change: it may be a link to somewhere that is not watched.
const UNASKED: Duration = Duration::from_secs(10);

/// Who follows what is in force.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) live: watch::Sender<Live>,
    /// The configuration as a whole, to be shown.
    pub(crate) configuration: watch::Sender<Value>,
}

/// Has changes of the configuration file take effect, whichever way it is changed: written, replaced by another file, or
/// by the swap of a symbolic link, as in the volume of a ConfigMap. What makes no sense is refused, and what was read before stays in
/// force.
///
/// # Errors
/// Something changed that takes a restart (contract §1.9).
pub(crate) async fn follow(flags: Flags, started: Loaded, in_force: InForce) -> Result<Infallible> {
    let Some(file) = flags.config.clone() else { return std::future::pending().await };
    let mut directory = Directory::of(&file);
    let Loaded { config: mut running, warnings: mut warned, .. } = started;
    let mut told = None;
    loop {
        // First of all now: it may have changed since it was read. The file may be slow to read.
        let flags = flags.clone();
        let refused = match spawn_blocking(move || flags.configure()).await? {
            Ok(loaded) => {
                for warning in loaded.warnings.iter().filter(|warning| !warned.contains(warning)) {
                    warn!("{warning}");
                }
                warned.clone_from(&loaded.warnings);
                apply(&mut running, loaded, &in_force)?;
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(error) = refused.as_ref().filter(|_| refused != told) {
            error!("the configuration was changed, but cannot be used; what was read before stays in force: {error}");
        }
        told = refused;
        directory.changed().await;
    }
}

/// Has what is wanted take effect, if anything differs.
fn apply(running: &mut Config, loaded: Loaded, in_force: &InForce) -> Result<()> {
    let Loaded { config: wanted, effective, .. } = loaded;
    if *running != wanted {
        ensure!(
            live::applied(running, &wanted) == wanted,
            "content of the proxy server's configuration file was updated: to take effect, it has to be started again"
        );
        // It may have been set by `/debug/flags/v` since.
        if wanted.logging.verbosity != running.logging.verbosity {
            logging::set_verbosity(wanted.logging.verbosity);
        }
        in_force.live.send_replace(Live::of(&wanted));
        info!("the configuration was changed, and is in force");
        *running = wanted;
    }
    let shown = effective.to_json();
    in_force.configuration.send_if_modified(|now| std::mem::replace(now, shown.clone()) != shown);
    Ok(())
}

/// Where the configuration file is.
struct Directory<'a> {
    path: &'a Path,
    watch: Option<DirectoryWatch>,
}

impl<'a> Directory<'a> {
    fn of(file: &'a Path) -> Self {
        let path = file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let start = DirectoryWatch::start(path);
        let watch = start.inspect_err(|error| {
            warn!(directory = %path.display(), "changes of the configuration are noticed only after a while: {error}");
        });
        Self { path, watch: watch.ok() }
    }

    /// Waits until something in it may have changed.
    async fn changed(&mut self) {
        let Some(watch) = &mut self.watch else { return sleep(UNASKED).await };
        tokio::select! {
            () = watch.changed() => {}
            () = sleep(UNASKED) => {}
        }
        if let Err(error) = watch.renew_if_lost() {
            debug!(directory = %self.path.display(), "it cannot be watched: {error}");
        }
    }
}

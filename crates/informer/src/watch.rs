//! A directory whose changes are noticed, whatever becomes of it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// How long a directory must be quiet after a change: a change of several files is taken as one.
const QUIET: Duration = Duration::from_millis(50);
/// How long it may stay unquiet.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// How often it is checked whether the path still leads to the directory that is watched: inotify follows the directory,
/// not the path.
const CHECK: Duration = Duration::from_secs(1);

/// An inotify watch of what is right in a directory, and of the directory itself.
#[derive(Debug)]
pub struct DirectoryWatch {
    path: PathBuf,
    /// Device and inode: what the path led to when the watch began.
    identity: (u64, u64),
    /// Something in the directory changed.
    changed: Arc<Notify>,
    /// The directory was removed or moved away. Its inode number may be used again at once.
    gone: Arc<AtomicBool>,
    /// Watches until it is dropped.
    _watcher: RecommendedWatcher,
}

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It is not there, or it is not ours to look at.
    #[error("{0}")]
    Unreadable(io::Error),
    /// The kernel does not watch it; why, and what can be done.
    #[error("{0}")]
    Unwatchable(String),
}

impl DirectoryWatch {
    /// Watches the directory that `path` leads to now.
    ///
    /// # Errors
    /// There is none, or the kernel has no watch to spare.
    pub fn start(path: &Path) -> Result<Self, WatchError> {
        let identity = identity(path).map_err(WatchError::Unreadable)?;
        let (changed, gone) = (Arc::<Notify>::default(), Arc::<AtomicBool>::default());
        let unwatchable = |error: notify::Error| {
            let reason = match error.kind {
                notify::ErrorKind::Io(error) => error.to_string(),
                notify::ErrorKind::MaxFilesWatch => "no inotify watch is left".to_owned(),
                kind => format!("{kind:?}"),
            };
            WatchError::Unwatchable(format!(
                "{reason}; if inotify instances or watches have run out, raise fs.inotify.max_user_instances or \
                 fs.inotify.max_user_watches"
            ))
        };
        let handler = on_event(path.to_owned(), changed.clone(), gone.clone());
        let mut watcher = notify::recommended_watcher(handler).map_err(unwatchable)?;
        watcher.watch(path, RecursiveMode::NonRecursive).map_err(unwatchable)?;
        Ok(Self { path: path.to_owned(), identity, changed, gone, _watcher: watcher })
    }

    /// Waits until something in the directory has changed and it is quiet again, or the path leads somewhere else.
    pub async fn changed(&self) {
        loop {
            if timeout(CHECK, self.changed.notified()).await.is_ok() {
                let deadline = Instant::now() + IMPATIENCE;
                while Instant::now() < deadline && timeout(QUIET, self.changed.notified()).await.is_ok() {}
                return;
            }
            if !self.is_current() {
                return;
            }
        }
    }

    /// Watches what the path leads to now, if that is another directory than before.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn renew_if_lost(&mut self) -> Result<(), WatchError> {
        if !self.is_current() {
            *self = Self::start(&self.path)?;
        }
        Ok(())
    }

    fn is_current(&self) -> bool {
        !self.gone.load(Ordering::Acquire) && identity(&self.path).is_ok_and(|now| now == self.identity)
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn on_event(
    directory: PathBuf,
    changed: Arc<Notify>,
    gone: Arc<AtomicBool>,
) -> impl FnMut(notify::Result<notify::Event>) + Send + 'static {
    move |event| {
        // An error means that events may have been lost.
        if let Ok(event) = event {
            match event.kind {
                // Reading the directory must not cause it to be read again.
                EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => return,
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) if event.paths.contains(&directory) => {
                    gone.store(true, Ordering::Release);
                }
                _ => {}
            }
        }
        changed.notify_one();
    }
}

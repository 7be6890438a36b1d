//! A directory of manifests as a source.

mod files;
mod manifest;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use model::{Node, NodeStatus, Update};
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::Sender;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use self::files::Files;
use crate::problem::{Problem, Reporter};

/// How long a directory must be quiet before it is read: a change of several files is taken as one.
const QUIET: Duration = Duration::from_millis(50);
/// How long it may stay unquiet before it is read all the same.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// How often it is checked whether the path still leads to the directory that is watched: inotify follows the directory,
/// not the path.
const CHECK: Duration = Duration::from_secs(1);

/// Why a directory of manifests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be listed.
    #[error(
        "manifest directory {path} cannot be read: {cause}: check the path given with --manifest-dir and its permissions"
    )]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Its changes cannot be followed.
    #[error(
        "manifest directory {path} cannot be watched: {reason}; if inotify instances or watches have run out, raise \
         fs.inotify.max_user_instances or fs.inotify.max_user_watches"
    )]
    Unwatchable {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Several Nodes, and none of them is ours.
    #[error("manifest directory {path} has the Nodes {}, none of them {wanted:?}: set --hostname-override to one", .found.join(", "))]
    WhichNode {
        /// The directory.
        path: PathBuf,
        /// The name looked for.
        wanted: String,
        /// The names there.
        found: Vec<String>,
    },
}

/// Reads the Services, EndpointSlices and ServiceCIDRs in `directory`, and again whenever something changes, until the receiver
/// of `updates` is dropped. What the Node called `node_name` is like goes to `status`.
///
/// Every change is sent as complete lists in one message, so that a Service never shows without the endpoints that
/// were written together with it; [`model::State`] finds the difference. Files are `*.yaml`, `*.yml` and
/// `*.json` right in the directory, symbolic links included; changes to a link's target elsewhere are noticed only if
/// the link changes too. Endpoints on the node `node_name` are local. Once started, a directory that vanishes is
/// reported, and read again when it is back; what was known stays.
///
/// # Errors
/// The directory cannot be read or watched at the start.
pub async fn watch_directory(
    directory: PathBuf,
    node_name: Arc<str>,
    updates: Sender<Vec<Update>>,
    status: watch::Sender<NodeStatus>,
    reporter: Reporter,
) -> Result<(), DirectoryError> {
    let mut watch = Watch::start(&directory)?;
    let (mut files, first) = read(Files::new(directory.clone(), node_name.clone(), reporter.clone())).await;
    first.map_err(|cause| DirectoryError::Unreadable { path: directory.clone(), cause })?;
    let mut check = interval_at(Instant::now() + CHECK, CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lost = false;
    loop {
        if !lost {
            let node = files.node(&node_name);
            status.send_if_modified(|known| std::mem::replace(known, node.clone()) != node);
            if updates.send(files.updates()).await.is_err() {
                return Ok(());
            }
        }
        loop {
            tokio::select! {
                () = updates.closed() => return Ok(()),
                () = watch.changed.notified() => break watch.settle().await,
                _ = check.tick() => if !watch.is_current() { break },
            }
        }
        let renewed = watch.renew_if_lost();
        let (same, reread) = read(files).await;
        files = same;
        let reread = reread.map_err(|cause| DirectoryError::Unreadable { path: directory.clone(), cause });
        let error = renewed.and(reread).err();
        lost = error.is_some();
        tell(&directory, error, &reporter);
    }
}

/// The Node in `directory` that is called `name`; failing that, the only one there; `None` if there are none.
///
/// # Errors
/// The directory cannot be read, or it has several Nodes and none is called `name`.
pub fn node_in_directory(directory: &Path, name: &str, reporter: &Reporter) -> Result<Option<Node>, DirectoryError> {
    let path = directory.to_owned();
    let mut nodes =
        files::nodes(directory, reporter).map_err(|cause| DirectoryError::Unreadable { path: path.clone(), cause })?;
    if let Some(ours) = nodes.iter().position(|node| *node.name == *name) {
        return Ok(Some(nodes.swap_remove(ours)));
    }
    if nodes.len() > 1 {
        let found = nodes.iter().map(|node| node.name.to_string()).collect();
        return Err(DirectoryError::WhichNode { path, wanted: name.to_owned(), found });
    }
    Ok(nodes.pop())
}

/// An inotify watch of a directory.
struct Watch {
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

impl Watch {
    fn start(path: &Path) -> Result<Self, DirectoryError> {
        let identity = identity(path).map_err(|cause| DirectoryError::Unreadable { path: path.to_owned(), cause })?;
        let (changed, gone) = (Arc::<Notify>::default(), Arc::<AtomicBool>::default());
        let unwatchable = |error: notify::Error| {
            let reason = match error.kind {
                notify::ErrorKind::Io(error) => error.to_string(),
                notify::ErrorKind::MaxFilesWatch => "no inotify watch is left".to_owned(),
                kind => format!("{kind:?}"),
            };
            DirectoryError::Unwatchable { path: path.to_owned(), reason }
        };
        let handler = on_event(path.to_owned(), changed.clone(), gone.clone());
        let mut watcher = notify::recommended_watcher(handler).map_err(unwatchable)?;
        watcher.watch(path, RecursiveMode::NonRecursive).map_err(unwatchable)?;
        Ok(Self { path: path.to_owned(), identity, changed, gone, _watcher: watcher })
    }

    /// Waits until the directory is quiet.
    async fn settle(&self) {
        let deadline = Instant::now() + IMPATIENCE;
        while Instant::now() < deadline && timeout(QUIET, self.changed.notified()).await.is_ok() {}
    }

    fn is_current(&self) -> bool {
        !self.gone.load(Ordering::Acquire) && identity(&self.path).is_ok_and(|now| now == self.identity)
    }

    fn renew_if_lost(&mut self) -> Result<(), DirectoryError> {
        if !self.is_current() {
            *self = Self::start(&self.path)?;
        }
        Ok(())
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

/// Reads off the async threads.
async fn read(mut files: Files) -> (Files, io::Result<()>) {
    let reading = tokio::task::spawn_blocking(move || {
        let result = files.read();
        (files, result)
    });
    match reading.await {
        Ok(read) => read,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn tell(directory: &Path, error: Option<DirectoryError>, reporter: &Reporter) {
    const DIRECTORY: &str = "directory";
    let object = directory.to_string_lossy().into_owned();
    let problems = error.map(|error| Problem {
        kind: DIRECTORY,
        object: object.clone(),
        field: String::new(),
        message: format!("{error}; what was last read stays in use until it is back"),
    });
    reporter.report(DIRECTORY, &object, problems.as_slice());
}

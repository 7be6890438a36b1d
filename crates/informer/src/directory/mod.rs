//! A directory of manifests as a source.

pub(crate) mod files;
mod manifest;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Node, NodeStatus, Update};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use self::files::Files;
use crate::problem::{Problem, Reporter};
use crate::watch::{DirectoryWatch, WatchError};

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
    #[error("manifest directory {path} cannot be watched: {reason}")]
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
    let unwatchable = |error| match error {
        WatchError::Unreadable(cause) => DirectoryError::Unreadable { path: directory.clone(), cause },
        WatchError::Unwatchable(reason) => DirectoryError::Unwatchable { path: directory.clone(), reason },
    };
    let mut watch = DirectoryWatch::start(&directory).map_err(unwatchable)?;
    let (mut files, first) = read(Files::new(directory.clone(), node_name.clone(), reporter.clone())).await;
    first.map_err(|cause| DirectoryError::Unreadable { path: directory.clone(), cause })?;
    let mut lost = false;
    loop {
        if !lost {
            let node = files.node(&node_name);
            status.send_if_modified(|known| std::mem::replace(known, node.clone()) != node);
            if updates.send(files.updates()).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            () = updates.closed() => return Ok(()),
            () = watch.changed() => {}
        }
        let renewed = watch.renew_if_lost().map_err(unwatchable);
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
    let told = |error| format!("{error}; what was last read stays in use until it is back");
    let problems = error.map(|error| Problem::new(DIRECTORY, &object, "", told(error)));
    reporter.report(DIRECTORY, &object, problems.as_slice());
}

//! What fuzz targets share.

use std::cell::LazyCell;
use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

thread_local! {
    static DIRECTORY: LazyCell<TempDir> = LazyCell::new(|| match TempDir::new_in("/dev/shm") {
        Ok(directory) => directory,
        Err(error) => panic!("no temporary directory in /dev/shm: {error}"),
    });
}

/// The path of a file in memory. Its directory belongs to the fuzz target, and is empty at first.
pub fn path(name: &str) -> PathBuf {
    DIRECTORY.with(|directory| directory.path().join(name))
}

/// Writes a file in memory.
pub fn write(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = path(name);
    done(fs::write(&path, content));
    path
}

/// What cannot fail if the code is right.
pub fn done<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}

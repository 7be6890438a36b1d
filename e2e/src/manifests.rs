//! The directory that the proxy takes its objects from.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};

/// A directory of manifests, and edits to it as careful tools do them: a file appears as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Manifests(PathBuf);

impl Manifests {
    /// Makes the directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
        Ok(Self(directory))
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Writes objects to a file, in place of what it had. Returns the time right before that became visible.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&self, file: &str, objects: &[&dyn Display]) -> Result<SystemTime> {
        let documents: Vec<_> = objects.iter().map(|object| format!("---\n{object}\n")).collect();
        let (hidden, path) = (self.0.join(format!(".{file}.new")), self.0.join(file));
        fs::write(&hidden, documents.concat()).with_context(|| format!("cannot write {}", hidden.display()))?;
        let now = SystemTime::now();
        fs::rename(&hidden, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(now)
    }

    /// Removes a file. Returns the time right before.
    ///
    /// # Errors
    /// There is no such file.
    pub fn remove(&self, file: &str) -> Result<SystemTime> {
        let path = self.0.join(file);
        let now = SystemTime::now();
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(now)
    }
}

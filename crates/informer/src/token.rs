//! A token in a file, such as that of a service account, which the kubelet replaces long before it expires.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

/// A file with a bearer token, read for each request: requests are few, and so no clock has to tell when it is time to. kube's own
/// layer goes by the time of day, and keeps a token that has expired for as long as a clock was set back.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    /// What was read last.
    last: Mutex<HeaderValue>,
}

impl TokenFile {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// There is no token to be had, in words.
    pub(crate) fn open(path: PathBuf) -> Result<Self, String> {
        let last = Mutex::new(read(&path)?);
        Ok(Self { path, last })
    }

    /// The value of the header `Authorization`. If the file cannot be read any more, what was read last may still be good.
    pub(crate) fn authorization(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(token) = read(&self.path) {
            *last = token;
        }
        last.clone()
    }
}

fn read(path: &Path) -> Result<HeaderValue, String> {
    let told = |reason: &dyn std::fmt::Display| format!("tokenFile {}: {reason}", path.display());
    let token = fs::read_to_string(path).map_err(|error| told(&error))?;
    let token = token.trim();
    if token.is_empty() {
        return Err(told(&"it is empty"));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| told(&"this is no token"))?;
    value.set_sensitive(true);
    Ok(value)
}

//! What can be wrong with a configuration, in words for the person who wrote it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::v1alpha1::{API_VERSION, KIND};

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: check the path given with --config and its permissions", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no YAML or JSON, or a value has the wrong type.
    #[error("failed to decode: {}:{line}:{column}: {message}: correct it, the file must be one {KIND} as YAML or JSON", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1; 0 if not known.
        line: u64,
        /// The column, counted from 1; 0 if not known.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// It is another kind of object.
    #[error(
        "failed to decode: {} is not a kube-proxy configuration: it has apiVersion {api_version:?} and kind {kind:?}, and must have \
         apiVersion: {API_VERSION} and kind: {KIND}",
        file.display()
    )]
    WrongKind {
        /// The file.
        file: PathBuf,
        /// Its `apiVersion`, empty if it has none.
        api_version: String,
        /// Its `kind`, empty if it has none.
        kind: String,
    },
}

/// All the mistakes of a configuration, at least one. Prints as kube-proxy prints them (contract §2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldErrors(pub(crate) Vec<FieldError>);

impl FieldErrors {
    /// The mistakes, in the order in which the fields are checked.
    pub fn iter(&self) -> impl Iterator<Item = &FieldError> {
        self.0.iter()
    }
}

impl std::error::Error for FieldErrors {}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, &self.0)
    }
}

/// One by itself, several as `[a, b]`.
pub(crate) fn write_list(f: &mut fmt::Formatter<'_>, list: &[impl fmt::Display]) -> fmt::Result {
    if let [only] = list {
        return only.fmt(f);
    }
    f.write_str("[")?;
    for (i, item) in list.iter().enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
    }
    f.write_str("]")
}

/// One field with a value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Which field, by kube-proxy's internal names, which tools match on: `KubeProxyConfiguration.BindAddress`.
    pub path: String,
    /// What kind of mistake.
    pub kind: ErrorKind,
    /// The value as it would be written in Go, strings in quotes.
    pub value: String,
    /// What it must be.
    pub detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, kind, value, detail } = self;
        write!(f, "{path}: {kind}: ")?;
        match kind {
            ErrorKind::Invalid | ErrorKind::Unsupported => write!(f, "{value}: {detail}"),
            ErrorKind::Required | ErrorKind::Forbidden => f.write_str(detail),
        }
    }
}

/// The kind of a [`FieldError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The value is malformed or out of range.
    Invalid,
    /// The value is none of those there are to choose from.
    Unsupported,
    /// There has to be a value.
    Required,
    /// There must be no value, as other fields are set.
    Forbidden,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "Invalid value",
            Self::Unsupported => "Unsupported value",
            Self::Required => "Required value",
            Self::Forbidden => "Forbidden",
        })
    }
}

/// Something in a usable configuration that does not do what its author may think.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// A field that the API does not have.
    #[error(
        "Using lenient decoding as strict decoding failed: unknown field {0} is ignored: check its spelling, upper and lower \
         case included"
    )]
    UnknownField(String),
    /// A field that is there twice.
    #[error("Using lenient decoding as strict decoding failed: line {line}: {message}: the last value counts")]
    DuplicateField {
        /// Where it is repeated, counted from 1.
        line: u64,
        /// Which field.
        message: String,
    },
    /// No mode was chosen, and the default is not kube-proxy's.
    #[error(
        "mode is not set: kube-proxy would choose iptables, Slipstream runs nftables with the settings of the nftables \
         block, and NodePorts answer on the node's primary addresses only unless nodePortAddresses is set; set mode \
         (--proxy-mode) to nftables to confirm"
    )]
    ModeNotSet,
    /// `iptables.masqueradeAll` is on, which would have counted in kube-proxy without a mode.
    #[error("iptables.masqueradeAll has no effect in nftables mode: set nftables.masqueradeAll instead")]
    MasqueradeAllElsewhere,
    /// Another mode was chosen, and nftables is forced.
    #[error(
        "mode is {mode}: Slipstream runs nftables all the same, as --force-nftables says, with {taken}; NodePorts answer on the \
         node's primary addresses only unless nodePortAddresses is set"
    )]
    ForcedMode {
        /// The mode.
        mode: String,
        /// Which settings are taken from where.
        taken: &'static str,
    },
    /// A feature gate of no known name.
    #[error("unrecognized feature gate: {0}: it is ignored; check its spelling")]
    UnknownGate(String),
}

//! KubeProxyConfiguration: types, defaults, validation.
//!
//! [`v1alpha1`] is the file as written: every field of the API, each of which may be missing or `null`. Flags are put into the
//! same form. [`Completed`] has all defaults filled in. [`Config`] is what the proxy runs on: every value parsed into a type
//! that cannot be wrong; to get there reports all mistakes at once.

mod complete;
mod config;
mod duration;
mod error;
mod features;
mod read;
pub mod v1alpha1;
mod validate;
mod values;

pub use complete::{Completed, Loaded};
pub use config::{Config, Conntrack, FastPath, Logging, Masquerade, Revalidation};
pub use duration::{GoDuration, ParseGoDurationError};
pub use error::{ConfigError, ErrorKind, FieldError, FieldErrors, Warning};
pub use features::{FeatureGates, LockedGates, Stage};
pub use values::{
    Hostname, InterfaceName, LocalTraffic, LogFormat, MasqueradeBit, NodePortAddresses, ParseHostnameError,
    ParseInterfaceNameError, ParseLogFormatError,
};

/// The version of Kubernetes whose kube-proxy this stands in for.
pub const KUBERNETES_VERSION: &str = "v1.36.2";
/// The minor version before, whose hidden metrics may be asked for (contract §2.4).
const PREVIOUS_MINOR: &str = "1.35";

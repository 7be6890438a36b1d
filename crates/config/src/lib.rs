//! KubeProxyConfiguration: types, defaults, validation.
//!
//! Two layers. [`v1alpha1`] is the file as written: every field of the API, each of which may be missing or `null`.
//! [`Config`] is what the proxy runs on: defaults filled in, every value parsed into a type that cannot be wrong.
//! [`Config::load`] leads from a file to the second through the first and reports all mistakes at once.

mod config;
mod duration;
mod error;
mod read;
pub mod v1alpha1;
mod validate;
mod values;

pub use config::{Config, Conntrack, FastPath, Logging, Masquerade, Revalidation};
pub use duration::{GoDuration, ParseGoDurationError};
pub use error::{ConfigError, ErrorKind, FieldError, FieldErrors, Warning};
pub use values::{
    Hostname, InterfaceName, LocalTraffic, LogFormat, MasqueradeBit, NodePortAddresses, ParseHostnameError,
    ParseInterfaceNameError, ParseLogFormatError,
};

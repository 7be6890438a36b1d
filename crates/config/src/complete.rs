//! The way from what was written to what the proxy runs on, in the steps in which mistakes are told (contract §1.1).

use crate::config::{Config, Logging};
use crate::error::{FieldErrors, Warning};
use crate::features::{FeatureGates, LockedGates};
use crate::v1alpha1::KubeProxyConfiguration;
use crate::validate;

/// A configuration with all its defaults, not yet checked.
#[derive(Clone, Debug)]
pub struct Completed {
    written: KubeProxyConfiguration,
    features: FeatureGates,
    force_nftables: bool,
    warnings: Vec<Warning>,
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the proxy runs on.
    pub config: Config,
    /// The same in the form of the file, with all defaults, and nothing but the mode and the settings that are in force: what
    /// `--write-config-to` writes and `/configz` shows (contract §1.4).
    pub effective: KubeProxyConfiguration,
    /// What does not do what its author may think.
    pub warnings: Vec<Warning>,
}

impl Completed {
    /// Takes what was [read](KubeProxyConfiguration::read), with the warnings about that, or else the
    /// [defaults](KubeProxyConfiguration::defaults), and the flags that win over it. `force_nftables`: run nftables also if the
    /// mode is another one.
    ///
    /// # Errors
    /// Feature gates are set that are locked.
    pub fn new(
        mut written: KubeProxyConfiguration,
        mut warnings: Vec<Warning>,
        force_nftables: bool,
    ) -> Result<Self, LockedGates> {
        written.fill_in_platform();
        let features = FeatureGates::new(&written.feature_gates, &mut warnings)?;
        Ok(Self { written, features, force_nftables, warnings })
    }

    /// How to log, which counts before anything else is checked.
    ///
    /// # Errors
    /// All that is wrong with the section `logging`.
    pub fn logging(&self) -> Result<Logging, FieldErrors> {
        validate::logging(&self.written.logging, &self.features)
    }

    /// Checks everything.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn validate(self) -> Result<Loaded, FieldErrors> {
        let Self { written, features, force_nftables, mut warnings } = self;
        let (config, effective) = validate::validate(written, features, force_nftables, &mut warnings)?;
        Ok(Loaded { config, effective, warnings })
    }
}

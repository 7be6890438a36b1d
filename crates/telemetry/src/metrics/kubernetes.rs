//! What all components of Kubernetes tell of themselves.

use prometheus::IntGaugeVec;

use super::register::Register;
use super::{Metrics, MetricsError};

#[derive(Debug)]
pub(super) struct Kubernetes {
    build: IntGaugeVec,
    features: IntGaugeVec,
}

/// Operating system and architecture, by Go's names.
const PLATFORM: &str = if cfg!(target_arch = "x86_64") {
    "linux/amd64"
} else if cfg!(target_arch = "aarch64") {
    "linux/arm64"
} else {
    "linux"
};

impl Kubernetes {
    pub(super) fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        let of_build = [
            "major",
            "minor",
            "git_version",
            "git_commit",
            "git_tree_state",
            "build_date",
            "go_version",
            "compiler",
            "platform",
        ];
        Ok(Self {
            build: register.gauges_by(
                "kubernetes_build_info",
                "[BETA] Always 1; the labels tell which release of Kubernetes this belongs to. What only a Go program has is empty",
                &of_build,
            )?,
            features: register.gauges_by(
                "kubernetes_feature_enabled",
                "[BETA] 1 if this feature gate is on, 0 if it is off",
                &["name", "stage"],
            )?,
        })
    }
}

impl Metrics {
    /// This stands in for the kube-proxy of a release of Kubernetes, such as `v1.36.2`. Our own version is build metadata of it, so that
    /// what compares the versions of a cluster's components sees which release this one belongs to.
    pub fn stands_in_for(&self, release: &str) {
        let mut numbers = release.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let version = format!("{release}+slipstream.{}", env!("CARGO_PKG_VERSION"));
        let labels = [major, minor, &version, "", "", "", "", "rustc", PLATFORM];
        self.kubernetes.build.with_label_values(&labels).set(1);
    }

    /// A feature gate has this value. `stage` is `ALPHA`, `BETA`, `DEPRECATED`, or empty for what is generally available.
    pub fn feature(&self, name: &str, stage: &str, enabled: bool) {
        self.kubernetes.features.with_label_values(&[name, stage]).set(enabled.into());
    }
}

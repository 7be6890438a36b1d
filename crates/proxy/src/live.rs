//! The settings that may change while the proxy runs.

use std::time::Duration;

use config::Config;

/// Those parts of the configuration that need no restart, but for the verbosity of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) sync_period: Duration,
    pub(crate) min_sync_period: Duration,
    pub(crate) fast_path: Option<config::FastPath>,
}

impl Live {
    pub(crate) fn of(config: &Config) -> Self {
        let Config { sync_period, min_sync_period, fast_path, .. } = config;
        Self { sync_period: *sync_period, min_sync_period: *min_sync_period, fast_path: fast_path.clone() }
    }

    /// How long a change may wait until that is unhealthy (contract §3.1).
    pub(crate) fn health_timeout(&self) -> Duration {
        self.sync_period * 2
    }
}

/// `running` with everything that may change without a restart as it is in `wanted`.
pub(crate) fn applied(running: &Config, wanted: &Config) -> Config {
    let mut config = running.clone();
    config.sync_period = wanted.sync_period;
    config.min_sync_period = wanted.min_sync_period;
    config.fast_path = wanted.fast_path.clone();
    config.logging.verbosity = wanted.logging.verbosity;
    // Of no effect here.
    config.config_sync_period = wanted.config_sync_period;
    config
}

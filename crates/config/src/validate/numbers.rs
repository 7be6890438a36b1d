//! Numbers, durations and logging.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Check, non_empty, quoted};
use crate::config::{Config, Conntrack, Logging};
use crate::error::ErrorKind;
use crate::v1alpha1::{self, KubeProxyConfiguration};
use crate::{GoDuration, LogFormat};

pub(super) const POSITIVE: &str = "must be greater than 0";
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// The longest time without a full sync (contract §6); a longer pause between syncs could not keep to it.
const MAX_INTERVAL: Duration = Duration::from_hours(1);

impl Check {
    /// The sync period and the minimal one.
    pub(super) fn sync_periods(&mut self, written: &KubeProxyConfiguration) -> (Duration, Duration) {
        let default = Config::default();
        let (written, written_min) = (written.nftables.sync_period, written.nftables.min_sync_period);
        let period = self.period("SyncPeriod", written, default.sync_period, POSITIVE);
        let min = self.period("MinSyncPeriod", written_min, default.min_sync_period, NOT_NEGATIVE);
        let shown = written_min.filter(|min| !min.is_zero()).map_or_else(|| "1s".to_owned(), |min| min.to_string());
        if period < min {
            // On this path with the other's value, as kube-proxy does.
            let detail = "must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod";
            self.invalid("SyncPeriod", &shown, detail);
        }
        if min > MAX_INTERVAL {
            self.invalid("MinSyncPeriod", shown, "must be less than or equal to 1h0m0s");
        }
        (period, min)
    }

    pub(super) fn config_sync_period(&mut self, written: &KubeProxyConfiguration) -> Duration {
        let default = Config::default().config_sync_period;
        self.period("ConfigSyncPeriod", written.config_sync_period, default, POSITIVE)
    }

    /// A duration whose zero means "not set"; `detail` is what to say of a negative one.
    pub(super) fn period(
        &mut self,
        path: &str,
        written: Option<GoDuration>,
        default: Duration,
        detail: &str,
    ) -> Duration {
        let Some(written) = written.filter(|duration| !duration.is_zero()) else {
            return default;
        };
        written.to_std().unwrap_or_else(|| {
            self.invalid(path, written, detail);
            default
        })
    }

    pub(super) fn conntrack(&mut self, written: &v1alpha1::Conntrack) -> Conntrack {
        let default = Conntrack::default();
        let max_per_core = self.conntrack_count("MaxPerCore", written.max_per_core);
        Conntrack {
            max_per_core: max_per_core.map_or(default.max_per_core, NonZeroU32::new),
            min: self.conntrack_count("Min", written.min).unwrap_or(default.min),
            tcp_established_timeout: self
                .conntrack_timeout("TCPEstablishedTimeout", written.tcp_established_timeout)
                .unwrap_or(default.tcp_established_timeout),
            tcp_close_wait_timeout: self
                .conntrack_timeout("TCPCloseWaitTimeout", written.tcp_close_wait_timeout)
                .unwrap_or(default.tcp_close_wait_timeout),
            tcp_be_liberal: written.tcp_be_liberal.unwrap_or(default.tcp_be_liberal),
            udp_timeout: self.conntrack_timeout("UDPTimeout", written.udp_timeout).unwrap_or(default.udp_timeout),
            udp_stream_timeout: self
                .conntrack_timeout("UDPStreamTimeout", written.udp_stream_timeout)
                .unwrap_or(default.udp_stream_timeout),
        }
    }

    fn conntrack_count(&mut self, field: &str, written: Option<i32>) -> Option<u32> {
        let number = written?;
        u32::try_from(number).map_err(|_| self.invalid(&conntrack_path(field), number, NOT_NEGATIVE)).ok()
    }

    /// `None` if not set; zero leaves the kernel's value alone.
    fn conntrack_timeout(&mut self, field: &str, written: Option<GoDuration>) -> Option<Option<Duration>> {
        let duration = written?;
        let Some(timeout) = duration.to_std() else {
            self.invalid(&conntrack_path(field), duration, NOT_NEGATIVE);
            return None;
        };
        Some((!timeout.is_zero()).then_some(timeout))
    }

    pub(super) fn oom_score_adj(&mut self, written: &KubeProxyConfiguration) -> i16 {
        let default = Config::default().oom_score_adj;
        let Some(number) = written.oom_score_adj else {
            return default;
        };
        i16::try_from(number).ok().filter(|score| (-1000..=1000).contains(score)).unwrap_or_else(|| {
            let path = "KubeProxyLinuxConfiguration.OOMScoreAdj";
            self.invalid(path, number, "must be within the range [-1000, 1000]");
            default
        })
    }

    pub(super) fn burst(&mut self, written: &KubeProxyConfiguration) {
        if let Some(burst @ ..0) = written.client_connection.burst {
            self.invalid("ClientConnection.Burst", burst, NOT_NEGATIVE);
        }
    }

    pub(super) fn logging(&mut self, written: &v1alpha1::Logging) -> Logging {
        let format = non_empty(&written.format).map_or(Ok(LogFormat::Text), str::parse);
        let verbosity = written.verbosity.unwrap_or_default();
        let flush_frequency = written.flush_frequency.map(|frequency| frequency.0).unwrap_or_default();

        let mut invalid = |field: &str, value: String, detail: String| {
            self.add(format!("logging.{field}"), ErrorKind::Invalid, value, detail);
        };
        if let Err(error) = &format {
            invalid("format", quoted(non_empty(&written.format).unwrap_or_default()), error.to_string());
        }
        if flush_frequency < GoDuration::default() {
            invalid("flushFrequency", flush_frequency.to_string(), POSITIVE.to_owned());
        }
        if i32::try_from(verbosity).is_err() {
            invalid("verbosity", verbosity.to_string(), format!("must be less than or equal to {}", i32::MAX));
        }
        Logging { format: format.unwrap_or_default(), verbosity }
    }
}

fn conntrack_path(field: &str) -> String {
    format!("KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration.{field}")
}

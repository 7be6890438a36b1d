//! Numbers and durations.

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use super::mode::Block;
use super::{Check, quoted};
use crate::GoDuration;
use crate::config::Conntrack;
use crate::v1alpha1::{self, KubeProxyConfiguration};

pub(super) const POSITIVE: &str = "must be greater than 0";
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// The longest time without a full sync (contract §6); a longer pause between syncs could not keep to it.
const MAX_INTERVAL: Duration = Duration::from_hours(1);

impl Check {
    /// The sync period and the minimal one.
    pub(super) fn sync_periods(&mut self, written: &KubeProxyConfiguration, block: Block) -> (Duration, Duration) {
        let common = block.common(written);
        let period = self.positive("SyncPeriod", common.sync_period);
        let min = self.not_negative("MinSyncPeriod", common.min_sync_period);
        if period < min {
            // On this path with the other's value, as kube-proxy does.
            let detail = "must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod";
            self.invalid("SyncPeriod", common.min_sync_period, detail);
        }
        if min > MAX_INTERVAL {
            self.invalid("MinSyncPeriod", common.min_sync_period, "must be less than or equal to 1h0m0s");
        }
        (period, min)
    }

    pub(super) fn positive(&mut self, path: &str, written: GoDuration) -> Duration {
        written.to_std().filter(|duration| !duration.is_zero()).unwrap_or_else(|| {
            self.invalid(path, written, POSITIVE);
            Duration::ZERO
        })
    }

    pub(super) fn not_negative(&mut self, path: &str, written: GoDuration) -> Duration {
        written.to_std().unwrap_or_else(|| {
            self.invalid(path, written, NOT_NEGATIVE);
            Duration::ZERO
        })
    }

    pub(super) fn count(&mut self, path: &str, written: i32) -> u32 {
        u32::try_from(written).unwrap_or_else(|_| {
            self.invalid(path, written, NOT_NEGATIVE);
            0
        })
    }

    pub(super) fn conntrack(&mut self, written: &v1alpha1::Conntrack) -> Conntrack {
        let path = |field: &str| format!("KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration.{field}");
        // Zero leaves the kernel's value alone.
        let mut timeout = |field: &str, written: GoDuration| {
            Some(self.not_negative(&path(field), written)).filter(|timeout| !timeout.is_zero())
        };
        let tcp_established_timeout =
            timeout("TCPEstablishedTimeout", written.tcp_established_timeout.unwrap_or_default());
        let tcp_close_wait_timeout = timeout("TCPCloseWaitTimeout", written.tcp_close_wait_timeout.unwrap_or_default());
        let udp_timeout = timeout("UDPTimeout", written.udp_timeout);
        let udp_stream_timeout = timeout("UDPStreamTimeout", written.udp_stream_timeout);
        Conntrack {
            max_per_core: NonZeroU32::new(self.count(&path("MaxPerCore"), written.max_per_core.unwrap_or_default())),
            min: self.count(&path("Min"), written.min.unwrap_or_default()),
            tcp_established_timeout,
            tcp_close_wait_timeout,
            tcp_be_liberal: written.tcp_be_liberal,
            udp_timeout,
            udp_stream_timeout,
        }
    }

    pub(super) fn oom_score_adj(&mut self, written: &KubeProxyConfiguration) -> i16 {
        let number = written.oom_score_adj.unwrap_or_default();
        i16::try_from(number).ok().filter(|score| (-1000..=1000).contains(score)).unwrap_or_else(|| {
            self.invalid("KubeProxyLinuxConfiguration.OOMScoreAdj", number, "must be within the range [-1000, 1000]");
            0
        })
    }

    pub(super) fn burst(&mut self, written: &KubeProxyConfiguration) {
        self.count("ClientConnection.Burst", written.client_connection.burst);
    }

    /// The settings of IPVS alone, of which only this is of interest.
    pub(super) fn ipvs(&mut self, written: &KubeProxyConfiguration, block: Block) {
        if block != Block::Ipvs {
            return;
        }
        let path = |field: &str| format!("KubeProxyIPVSConfiguration.{field}");
        let ipvs = &written.ipvs;
        self.not_negative(&path("TCPTimeout"), ipvs.tcp_timeout);
        self.not_negative(&path("TCPFinTimeout"), ipvs.tcp_fin_timeout);
        self.not_negative(&path("UDPTimeout"), ipvs.udp_timeout);
        for (i, cidr) in ipvs.exclude_cidrs.iter().flatten().enumerate() {
            if cidr.parse::<IpNet>().is_err() {
                self.invalid(&path(&format!("ExcludeCidrs[{i}]")), quoted(cidr), "must be a valid CIDR");
            }
        }
    }
}

//! The fast path.

use std::num::NonZeroU32;
use std::time::Duration;

use super::numbers::{NOT_NEGATIVE, POSITIVE};
use super::{Check, quoted};
use crate::config::{FastPath, Revalidation};
use crate::v1alpha1::Nftables;
use crate::{GoDuration, InterfaceName};

impl Check {
    pub(super) fn fast_path(&mut self, written: &Nftables) -> Option<FastPath> {
        let default = FastPath::default();
        let threshold = match written.fastpath_packet_threshold {
            None => Some(default.threshold),
            Some(number) => {
                let threshold = u32::try_from(number);
                threshold.map_or_else(
                    |_| {
                        self.invalid("KubeProxyNFTablesConfiguration.FastpathPacketThreshold", number, NOT_NEGATIVE);
                        None
                    },
                    NonZeroU32::new,
                )
            }
        };
        let (min, period) = (written.fastpath_min_interface_sync_period, written.fastpath_interface_sync_period);
        let (min_path, path) = (nftables("FastpathMinInterfaceSyncPeriod"), nftables("FastpathInterfaceSyncPeriod"));
        let settings = FastPath {
            threshold: threshold.unwrap_or(default.threshold),
            all_frontends: self.scope(written.fastpath_scope.as_deref()),
            dry_run: written.fastpath_dry_run.unwrap_or_default(),
            exclude_interfaces: self.interfaces(written.fastpath_exclude_interfaces.as_deref().unwrap_or_default()),
            min_interface_sync_period: self.period(&min_path, min, default.min_interface_sync_period, NOT_NEGATIVE),
            interface_sync_period: self.period(&path, period, default.interface_sync_period, POSITIVE),
            revalidation: self.revalidation(written.fastpath_revalidation_period),
        };
        threshold.map(|_| settings)
    }

    fn revalidation(&mut self, written: Option<GoDuration>) -> Revalidation {
        if written.is_none() {
            return Revalidation::ByKernel;
        }
        match self.period(&nftables("FastpathRevalidationPeriod"), written, Duration::ZERO, NOT_NEGATIVE) {
            Duration::ZERO => Revalidation::Never,
            period => Revalidation::Every(period),
        }
    }

    fn scope(&mut self, written: Option<&str>) -> bool {
        match written {
            None | Some("" | "ClusterIP") => false,
            Some("All") => true,
            Some(unknown) => {
                self.invalid(&nftables("FastpathScope"), quoted(unknown), "must be ClusterIP or All");
                false
            }
        }
    }

    fn interfaces(&mut self, patterns: &[String]) -> Vec<String> {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err(error) = pattern.strip_suffix('*').unwrap_or(pattern).parse::<InterfaceName>() {
                self.invalid(&nftables(&format!("FastpathExcludeInterfaces[{index}]")), quoted(pattern), error);
            }
        }
        patterns.to_vec()
    }
}

fn nftables(field: &str) -> String {
    format!("KubeProxyNFTablesConfiguration.{field}")
}

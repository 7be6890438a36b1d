//! The fast path.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Check, quoted};
use crate::InterfaceName;
use crate::config::{FastPath, Revalidation};
use crate::v1alpha1::Nftables;

impl Check {
    pub(super) fn fast_path(&mut self, written: &Nftables) -> Option<FastPath> {
        let (min, period) = (written.fastpath_min_interface_sync_period, written.fastpath_interface_sync_period);
        let threshold = written.fastpath_packet_threshold.unwrap_or_default();
        let threshold = NonZeroU32::new(self.count(&path("FastpathPacketThreshold"), threshold));
        // Checked also if the fast path is off.
        let all_frontends = self.scope(&written.fastpath_scope);
        let exclude_interfaces = self.interfaces(&written.fastpath_exclude_interfaces);
        let min_interface_sync_period = self.not_negative(&path("FastpathMinInterfaceSyncPeriod"), min);
        let interface_sync_period = self.positive(&path("FastpathInterfaceSyncPeriod"), period);
        let revalidation = self.revalidation(written);
        threshold.map(|threshold| FastPath {
            threshold,
            all_frontends,
            dry_run: written.fastpath_dry_run,
            exclude_interfaces,
            min_interface_sync_period,
            interface_sync_period,
            revalidation,
        })
    }

    fn revalidation(&mut self, written: &Nftables) -> Revalidation {
        let Some(period) = written.fastpath_revalidation_period else {
            return Revalidation::ByKernel;
        };
        match self.not_negative(&path("FastpathRevalidationPeriod"), period) {
            Duration::ZERO => Revalidation::Never,
            period => Revalidation::Every(period),
        }
    }

    fn scope(&mut self, written: &str) -> bool {
        if !matches!(written, "ClusterIP" | "All") {
            self.invalid(&path("FastpathScope"), quoted(written), "must be ClusterIP or All");
        }
        written == "All"
    }

    fn interfaces(&mut self, patterns: &[String]) -> Vec<String> {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err(error) = pattern.strip_suffix('*').unwrap_or(pattern).parse::<InterfaceName>() {
                self.invalid(&path(&format!("FastpathExcludeInterfaces[{index}]")), quoted(pattern), error);
            }
        }
        patterns.to_vec()
    }
}

fn path(field: &str) -> String {
    format!("KubeProxyNFTablesConfiguration.{field}")
}

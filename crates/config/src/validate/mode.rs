//! Which mode is asked for, and what it has that counts in nftables mode, which is the only one there is.

use super::{Check, quoted};
use crate::GoDuration;
use crate::error::Warning;
use crate::v1alpha1::KubeProxyConfiguration;

/// Whose mode's settings count where all modes have them (contract §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Nftables,
    Iptables,
    Ipvs,
}

/// The settings that all modes have.
pub(super) struct Common {
    pub(super) sync_period: GoDuration,
    pub(super) min_sync_period: GoDuration,
    pub(super) masquerade_all: bool,
    pub(super) masquerade_bit: i32,
}

impl Block {
    pub(super) fn common(self, written: &KubeProxyConfiguration) -> Common {
        let KubeProxyConfiguration { nftables, iptables, ipvs, .. } = written;
        let (sync_period, min_sync_period) = match self {
            Self::Nftables => (nftables.sync_period, nftables.min_sync_period),
            Self::Iptables => (iptables.sync_period, iptables.min_sync_period),
            Self::Ipvs => (ipvs.sync_period, ipvs.min_sync_period),
        };
        let (masquerade_all, masquerade_bit) = match self {
            Self::Nftables => (nftables.masquerade_all, nftables.masquerade_bit),
            Self::Iptables | Self::Ipvs => (iptables.masquerade_all, iptables.masquerade_bit),
        };
        Common { sync_period, min_sync_period, masquerade_all, masquerade_bit: masquerade_bit.unwrap_or_default() }
    }

    /// The configuration as it is in force: nftables mode, and no settings of other modes that all have (contract §1.4).
    pub(super) fn in_force(self, mut written: KubeProxyConfiguration) -> KubeProxyConfiguration {
        let common = self.common(&written);
        "nftables".clone_into(&mut written.mode);
        let KubeProxyConfiguration { nftables, iptables, ipvs, .. } = &mut written;
        nftables.sync_period = common.sync_period;
        nftables.min_sync_period = common.min_sync_period;
        nftables.masquerade_all = common.masquerade_all;
        nftables.masquerade_bit = Some(common.masquerade_bit);
        iptables.masquerade_all = false;
        for period in
            [&mut iptables.sync_period, &mut iptables.min_sync_period, &mut ipvs.sync_period, &mut ipvs.min_sync_period]
        {
            *period = GoDuration::default();
        }
        written
    }
}

impl Check {
    pub(super) fn mode(
        &mut self,
        written: &KubeProxyConfiguration,
        force_nftables: bool,
        warnings: &mut Vec<Warning>,
    ) -> Block {
        let mode = &written.mode;
        let (block, taken) = match &mode[..] {
            "nftables" => return Block::Nftables,
            "" => {
                warnings.push(Warning::ModeNotSet);
                if written.iptables.masquerade_all && !written.nftables.masquerade_all {
                    warnings.push(Warning::MasqueradeAllElsewhere);
                }
                return Block::Nftables;
            }
            "iptables" => {
                (Block::Iptables, "masqueradeAll, masqueradeBit, syncPeriod and minSyncPeriod of the iptables block")
            }
            "ipvs" => (
                Block::Ipvs,
                "syncPeriod and minSyncPeriod of the ipvs block and masqueradeAll and masqueradeBit of the iptables block",
            ),
            _ => {
                let detail = "must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently \
                              nftables])";
                self.invalid("Mode.ProxyMode", quoted(mode), detail);
                return Block::Nftables;
            }
        };
        if force_nftables {
            warnings.push(Warning::ForcedMode { mode: mode.clone(), taken });
        } else {
            let detail = format!(
                "Slipstream runs nftables only: set mode: nftables, or give --force-nftables to run nftables with {taken}"
            );
            self.invalid("Mode.ProxyMode", quoted(mode), detail);
        }
        block
    }
}

//! From fields with their defaults to a [`Config`]: the rules of contract §2.4.

mod addresses;
mod fastpath;
mod logging;
mod mode;
mod numbers;

use crate::PREVIOUS_MINOR;
use crate::config::{Config, Masquerade};
use crate::error::{ErrorKind, FieldError, FieldErrors, Warning};
use crate::features::FeatureGates;
use crate::v1alpha1::KubeProxyConfiguration;
use crate::values::MasqueradeBit;

pub(crate) use logging::logging;
use mode::Block;

/// Checks all fields that count in nftables mode, and those that are checked in any. Also returns what is in force of them.
pub(crate) fn validate(
    written: KubeProxyConfiguration,
    features: FeatureGates,
    force_nftables: bool,
    warnings: &mut Vec<Warning>,
) -> Result<(Config, KubeProxyConfiguration), FieldErrors> {
    let mut check = Check::default();
    let block = check.mode(&written, force_nftables, warnings);
    let masquerade = check.masquerade(&written, block);
    check.ipvs(&written, block);
    let (sync_period, min_sync_period) = check.sync_periods(&written, block);
    let config = Config {
        masquerade,
        sync_period,
        min_sync_period,
        fast_path: check.fast_path(&written.nftables),
        conntrack: check.conntrack(&written.conntrack),
        oom_score_adj: check.oom_score_adj(&written),
        config_sync_period: check.positive("ConfigSyncPeriod", written.config_sync_period),
        bind_address: check.bind_address(&written),
        healthz_address: check.healthz_address(&written),
        metrics_address: check.metrics_address(&written),
        bind_address_hard_fail: written.bind_address_hard_fail,
        profiling: written.enable_profiling,
        node_port_addresses: check.node_port_addresses(&written),
        local_traffic: check.local_traffic(&written),
        kubeconfig: non_empty(&written.client_connection.kubeconfig).map(Into::into),
        hostname_override: check.hostname(&written),
        logging: check.logging(&written.logging, &features),
        features,
    };
    check.burst(&written);
    check.show_hidden_metrics(&written);
    if check.errors.is_empty() { Ok((config, block.in_force(written))) } else { Err(FieldErrors(check.errors)) }
}

/// An empty string means the same as none.
fn non_empty(field: &str) -> Option<&str> {
    Some(field).filter(|text| !text.is_empty())
}

/// Collects mistakes. Each method checks one or a few fields and returns their value, or any after a mistake.
#[derive(Default)]
struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    fn masquerade(&mut self, written: &KubeProxyConfiguration, block: Block) -> Masquerade {
        let iptables = written.iptables.masquerade_bit.unwrap_or_default();
        let iptables = self.masquerade_bit("KubeProxyIPTablesConfiguration.MasqueradeBit", iptables);
        let common = block.common(written);
        let bit = match block {
            Block::Nftables => {
                self.masquerade_bit("KubeProxyNFTablesConfiguration.MasqueradeBit", common.masquerade_bit)
            }
            Block::Iptables | Block::Ipvs => iptables,
        };
        Masquerade { bit, all: common.masquerade_all }
    }

    fn masquerade_bit(&mut self, path: &str, number: i32) -> MasqueradeBit {
        MasqueradeBit::new(number).unwrap_or_else(|| {
            self.invalid(path, number, "must be within the range [0, 31]");
            MasqueradeBit::default()
        })
    }

    /// Only checked: no metrics are hidden.
    fn show_hidden_metrics(&mut self, written: &KubeProxyConfiguration) {
        let version = &written.show_hidden_metrics_for_version;
        if !version.is_empty() && version != PREVIOUS_MINOR {
            let detail = format!("must be {PREVIOUS_MINOR}, the minor version before this one, or empty");
            self.invalid("ShowHiddenMetricsForVersion", quoted(version), detail);
        }
    }

    /// Adds a mistake in a field of KubeProxyConfiguration.
    fn invalid(&mut self, path: &str, value: impl ToString, detail: impl ToString) {
        self.add(format!("KubeProxyConfiguration.{path}"), ErrorKind::Invalid, value, detail);
    }

    fn add(&mut self, path: String, kind: ErrorKind, value: impl ToString, detail: impl ToString) {
        self.errors.push(FieldError { path, kind, value: value.to_string(), detail: detail.to_string() });
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

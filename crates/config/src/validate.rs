//! From the fields as written to a [`Config`]: defaults, and the rules of contract §2.4.

mod addresses;
mod fastpath;
mod numbers;

use crate::config::{Config, Masquerade};
use crate::error::{ErrorKind, FieldError, FieldErrors, Warning};
use crate::v1alpha1::KubeProxyConfiguration;
use crate::values::MasqueradeBit;

/// Checks all fields that count in nftables mode, and those that are checked in any.
pub(crate) fn validate(written: &KubeProxyConfiguration) -> Result<(Config, Vec<Warning>), FieldErrors> {
    let mut check = Check::default();
    let warnings = check.mode(written);
    let masquerade = check.masquerade(written);
    let bind_address = check.bind_address(written);
    let (sync_period, min_sync_period) = check.sync_periods(written);
    let config = Config {
        masquerade,
        bind_address,
        sync_period,
        min_sync_period,
        fast_path: check.fast_path(&written.nftables),
        config_sync_period: check.config_sync_period(written),
        conntrack: check.conntrack(&written.conntrack),
        oom_score_adj: check.oom_score_adj(written),
        healthz_address: check.healthz_address(written, bind_address),
        metrics_address: check.metrics_address(written, bind_address),
        bind_address_hard_fail: written.bind_address_hard_fail.unwrap_or_default(),
        node_port_addresses: check.node_port_addresses(written),
        local_traffic: check.local_traffic(written),
        kubeconfig: non_empty(&written.client_connection.kubeconfig).map(Into::into),
        hostname_override: check.hostname(written),
        logging: check.logging(&written.logging),
    };
    check.burst(written);
    if check.errors.is_empty() { Ok((config, warnings)) } else { Err(FieldErrors(check.errors)) }
}

/// An empty string means the same as none.
fn non_empty(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// Collects mistakes. Each method checks one or a few fields and returns their value, or the default after a mistake.
#[derive(Default)]
struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    fn mode(&mut self, written: &KubeProxyConfiguration) -> Vec<Warning> {
        let mut warnings = Vec::new();
        match non_empty(&written.mode) {
            Some("nftables") => {}
            None => {
                warnings.push(Warning::ModeNotSet);
                if written.iptables.masquerade_all == Some(true) {
                    warnings.push(Warning::MasqueradeAllElsewhere);
                }
            }
            Some(mode) => {
                self.invalid("Mode.ProxyMode", quoted(mode), "Slipstream runs nftables only: set mode: nftables");
            }
        }
        warnings
    }

    fn masquerade(&mut self, written: &KubeProxyConfiguration) -> Masquerade {
        self.masquerade_bit("KubeProxyIPTablesConfiguration.MasqueradeBit", written.iptables.masquerade_bit);
        Masquerade {
            bit: self.masquerade_bit("KubeProxyNFTablesConfiguration.MasqueradeBit", written.nftables.masquerade_bit),
            all: written.nftables.masquerade_all.unwrap_or_default(),
        }
    }

    fn masquerade_bit(&mut self, path: &str, written: Option<i32>) -> MasqueradeBit {
        let Some(number) = written else {
            return MasqueradeBit::default();
        };
        MasqueradeBit::new(number).unwrap_or_else(|| {
            self.invalid(path, number, "must be within the range [0, 31]");
            MasqueradeBit::default()
        })
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

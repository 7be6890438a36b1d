//! How the traffic of pods is told from other traffic.

use anyhow::{Context as _, Result, ensure};
use compiler::Pods;
use config::LocalTraffic;
use ipnet::IpNet;
use model::{Family, PerFamily};
use ruleset::Interface;
use tracing::{info, warn};

/// What to go by in each family (contract §3.11). `node_cidrs` are the prefixes of the Node object.
///
/// # Errors
/// The configuration makes no sense for a node of these families (contract §3.7).
pub(crate) fn detection(
    local_traffic: &LocalTraffic,
    node_cidrs: &[IpNet],
    primary: Family,
    families: &[Family],
) -> Result<PerFamily<Option<Pods>>> {
    match local_traffic {
        LocalTraffic::ClusterCidr(prefixes) => {
            check("clusterCIDR", prefixes, primary, families, families.len() == 1)?;
            if prefixes.get(primary).is_none() {
                info!(
                    "Detect-local-mode set to ClusterCIDR, but no cluster CIDR specified for primary IP family: connections to \
                     ClusterIPs are not masqueraded; set clusterCIDR to the addresses of the pods"
                );
                info!("Defaulting to no-op detect-local");
            }
            Ok(from(*prefixes))
        }
        LocalTraffic::NodeCidr => {
            let first = |family| node_cidrs.iter().find(|prefix| Family::of_prefix(prefix) == family).copied();
            let prefixes = PerFamily { v4: first(Family::V4), v6: first(Family::V6) };
            check("spec.podCIDRs of the Node", &prefixes, primary, families, true)?;
            Ok(from(prefixes))
        }
        LocalTraffic::BridgeInterface(name) => by(Interface::named(name.as_str())),
        LocalTraffic::InterfaceNamePrefix(prefix) => by(Interface::prefixed(prefix.as_str())),
    }
}

fn from(prefixes: PerFamily<Option<IpNet>>) -> PerFamily<Option<Pods>> {
    PerFamily { v4: prefixes.v4.map(Pods::From), v6: prefixes.v6.map(Pods::From) }
}

fn by(interface: Result<Interface, ruleset::InterfaceError>) -> Result<PerFamily<Option<Pods>>> {
    let pods = Some(Pods::By(interface.context("detectLocal")?));
    Ok(PerFamily { v4: pods.clone(), v6: pods })
}

/// Prefixes of the other family alone are a mistake.
fn check(
    setting: &str,
    prefixes: &PerFamily<Option<IpNet>>,
    primary: Family,
    families: &[Family],
    is_fatal: bool,
) -> Result<()> {
    let other = if primary == Family::V4 { Family::V6 } else { Family::V4 };
    if prefixes.get(primary).is_some() || prefixes.get(other).is_none() {
        return Ok(());
    }
    let kind = if families.len() == 1 { "only" } else { "primary" };
    let mistake = format!("cluster is {primary}-{kind} but {setting} has only {other} prefixes");
    ensure!(!is_fatal, "kube-proxy configuration is incorrect: {mistake}");
    warn!("Kube-proxy configuration may be incomplete or incorrect: {mistake}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn cluster_cidr(v4: Option<&str>, v6: Option<&str>) -> LocalTraffic {
        LocalTraffic::ClusterCidr(PerFamily { v4: v4.map(prefix), v6: v6.map(prefix) })
    }

    #[test]
    fn each_family_goes_by_its_first_prefix() {
        let detect =
            |traffic: &LocalTraffic, cidrs: &[IpNet]| detection(traffic, cidrs, Family::V4, &Family::ALL).unwrap();
        let from = |text| Some(Pods::From(prefix(text)));
        let both = cluster_cidr(Some("10.0.0.0/8"), Some("fd00::/48"));
        assert_eq!(detect(&both, &[]), PerFamily { v4: from("10.0.0.0/8"), v6: from("fd00::/48") });
        let cidrs = ["fd00:1::/64", "10.1.0.0/24", "10.2.0.0/24"].map(prefix);
        assert_eq!(
            detect(&LocalTraffic::NodeCidr, &cidrs),
            PerFamily { v4: from("10.1.0.0/24"), v6: from("fd00:1::/64") }
        );
        assert_eq!(detect(&cluster_cidr(None, None), &cidrs), PerFamily::default());
    }

    #[test]
    fn interfaces_tell_in_both_families() {
        let detect = |traffic| detection(&traffic, &[], Family::V6, &Family::ALL).unwrap();
        let by = |interface: Result<Interface, _>| {
            let pods = Some(Pods::By(interface.unwrap()));
            PerFamily { v4: pods.clone(), v6: pods }
        };
        let name = || "veth".parse().unwrap();
        assert_eq!(detect(LocalTraffic::BridgeInterface(name())), by(Interface::named("veth")));
        assert_eq!(detect(LocalTraffic::InterfaceNamePrefix(name())), by(Interface::prefixed("veth")));
    }

    /// The two types are of crates that do not know each other.
    #[test]
    fn what_config_takes_for_an_interface_is_one() {
        for name in ["cni0", "fifteen-letters", "a", "@.-_", "!#$%&'()+,;<=>", "?[]^`{|}~"] {
            let parsed: config::InterfaceName = name.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(Interface::named(parsed.as_str()).is_ok(), "{name}");
        }
        assert_eq!(config::InterfaceName::MAX, Interface::MAX);
    }

    #[test]
    fn prefixes_of_the_wrong_family_alone_are_refused_where_kube_proxy_does() {
        let cases = [
            (
                cluster_cidr(None, Some("fd00::/48")),
                &Family::ALL[..1],
                Some("cluster is IPv4-only but clusterCIDR has"),
            ),
            (cluster_cidr(None, Some("fd00::/48")), &Family::ALL[..], None),
            (cluster_cidr(None, None), &Family::ALL[..1], None),
            (
                LocalTraffic::NodeCidr,
                &Family::ALL[..],
                Some("cluster is IPv4-primary but spec.podCIDRs of the Node has"),
            ),
        ];
        for (traffic, families, wanted) in cases {
            let refused = detection(&traffic, &[prefix("fd00:1::/64")], Family::V4, families).err();
            let refused = refused.map(|error| error.to_string());
            let told = |wanted: &str| refused.as_ref().is_some_and(|r| r.contains(wanted) && r.contains("incorrect"));
            assert!(wanted.map_or(refused.is_none(), told), "{traffic:?}: {refused:?}");
        }
    }
}

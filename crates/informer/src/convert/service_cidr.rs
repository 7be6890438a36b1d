//! ServiceCIDRs (contract §3.10).

use model::{ServiceCidr, Update};

use super::Identified;
use super::fields::{Findings, Unreadable};
use crate::slim;

/// Whether it is ready does not matter: an address that it had may still be in use.
pub(super) fn service_cidr(
    raw: Identified<'_, slim::ServiceCidr>,
    findings: &mut Findings,
) -> Result<Update, Unreadable> {
    let Identified { object, name, .. } = raw;
    let prefixes = match findings.shape(&object.spec, "spec")? {
        Some(spec) => {
            let list = findings.list(&spec.cidrs, "spec.cidrs")?;
            findings.prefixes(list, "spec.cidrs")
        }
        None => Vec::new(),
    };
    Ok(Update::ServiceCidr(ServiceCidr { name: name.name, prefixes }))
}

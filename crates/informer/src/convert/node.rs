//! Nodes (contract §3.2).

use model::{Node, parse_prefix};

use super::fields::{Findings, SKIPPED, Unreadable};
use crate::Problem;
use crate::lenient::Lenient;
use crate::slim;

/// Reads a Node; `None` if it cannot be understood at all.
pub(crate) fn node(raw: &Lenient<slim::Node>) -> (Option<Node>, Vec<Problem>) {
    let mut findings = Findings::new("Node", "(without a name, ignored)");
    let node = read(raw, &mut findings).ok();
    (node, findings.into_problems())
}

fn read(raw: &Lenient<slim::Node>, findings: &mut Findings) -> Result<Node, Unreadable> {
    let object = findings.required(raw, "")?;
    let meta = findings.required(&object.metadata, "metadata")?;
    let name = findings.required(&meta.name, "metadata.name")?;
    findings.name_object(name.clone());
    Ok(Node {
        name: name.as_str().into(),
        addresses: addresses(object, findings)?,
        pod_cidrs: pod_cidrs(object, findings)?,
    })
}

fn addresses(object: &slim::Node, findings: &mut Findings) -> Result<Vec<std::net::IpAddr>, Unreadable> {
    let Some(status) = findings.shape(&object.status, "status")? else { return Ok(Vec::new()) };
    let (mut internal, mut external) = (Vec::new(), Vec::new());
    for (index, entry) in findings.list(&status.addresses, "status.addresses")?.iter().enumerate() {
        let Some(raw) = findings.optional(entry, format_args!("status.addresses[{index}]"), SKIPPED) else { continue };
        let found = match findings.optional(&raw.r#type, format_args!("status.addresses[{index}].type"), SKIPPED) {
            Some(kind) if kind == "InternalIP" => &mut internal,
            Some(kind) if kind == "ExternalIP" => &mut external,
            _ => continue,
        };
        let field = format_args!("status.addresses[{index}].address");
        let Some(text) = findings.optional(&raw.address, field, SKIPPED) else { continue };
        found.extend(findings.address(text, field, SKIPPED));
    }
    internal.append(&mut external);
    Ok(internal)
}

fn pod_cidrs(object: &slim::Node, findings: &mut Findings) -> Result<Vec<ipnet::IpNet>, Unreadable> {
    let Some(spec) = findings.shape(&object.spec, "spec")? else { return Ok(Vec::new()) };
    let mut list = findings.list(&spec.pod_cidrs, "spec.podCIDRs")?;
    let mut field = "spec.podCIDRs";
    if list.is_empty() {
        (list, field) = (std::slice::from_ref(&spec.pod_cidr), "spec.podCIDR");
    }
    let mut prefixes = Vec::new();
    for entry in list {
        let Some(text) = findings.optional(entry, field, SKIPPED).filter(|text| !text.is_empty()) else { continue };
        match parse_prefix(text) {
            Ok(prefix) => prefixes.push(prefix),
            Err(error) => findings.report(field, format!("{error}: {SKIPPED}")),
        }
    }
    Ok(prefixes)
}

//! Nodes (contract §3.2).

use std::sync::Arc;

use model::{Node, parse_prefix};

use super::fields::{Findings, SKIPPED, Unreadable};
use crate::Problem;
use crate::lenient::Lenient;
use crate::slim::{self, ApiObject as _, Meta};

/// The key of the taint that the cluster autoscaler puts on a node that it is about to delete (contract §8.1).
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Reads a Node; nothing if it cannot be understood at all.
pub(crate) fn node(raw: &Lenient<slim::Node>) -> NodeRead {
    let mut findings = Findings::new(slim::Node::KIND, "(without a name, ignored)");
    let mut name = String::new();
    let node = read(raw, &mut name, &mut findings).ok();
    NodeRead { name, node, problems: findings.into_problems() }
}

/// What became of one Node object.
#[derive(Debug)]
pub(crate) struct NodeRead {
    /// Its name; empty if it does not even have one.
    pub(crate) name: String,
    /// The Node, if it can be understood.
    pub(crate) node: Option<Node>,
    /// What is wrong with it.
    pub(crate) problems: Vec<Problem>,
}

fn read(raw: &Lenient<slim::Node>, name: &mut String, findings: &mut Findings) -> Result<Node, Unreadable> {
    let object = findings.required(raw, "")?;
    let meta = findings.required(&object.metadata, "metadata")?;
    let text = findings.required(&meta.name, "metadata.name")?;
    if !findings.is_name(text, "metadata.name", "the Node is ignored") {
        return Err(Unreadable);
    }
    name.clone_from(text);
    findings.name_object(name.clone());
    Ok(Node {
        name: name.as_str().into(),
        addresses: addresses(object, findings)?,
        pod_cidrs: pod_cidrs(object, findings)?,
        zone: zone(meta, findings)?,
        is_leaving: is_leaving(object, meta, findings)?,
    })
}

fn zone(meta: &Meta, findings: &mut Findings) -> Result<Option<Arc<str>>, Unreadable> {
    let Some(labels) = findings.shape(&meta.labels, "metadata.labels")? else { return Ok(None) };
    let zone = findings.shape(&labels.zone, "metadata.labels[topology.kubernetes.io/zone]")?;
    Ok(zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()))
}

fn is_leaving(object: &slim::Node, meta: &Meta, findings: &mut Findings) -> Result<bool, Unreadable> {
    let mut is_leaving = meta.deletion_timestamp != Lenient::Absent;
    let Some(spec) = findings.shape(&object.spec, "spec")? else { return Ok(is_leaving) };
    for (index, entry) in findings.list(&spec.taints, "spec.taints")?.iter().enumerate() {
        let Some(taint) = findings.optional(entry, format_args!("spec.taints[{index}]"), SKIPPED) else { continue };
        let key = findings.optional(&taint.key, format_args!("spec.taints[{index}].key"), SKIPPED);
        is_leaving |= key.is_some_and(|key| key == AUTOSCALER_TAINT);
    }
    Ok(is_leaving)
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

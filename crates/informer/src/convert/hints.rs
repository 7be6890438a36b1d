//! Who had better use an endpoint (contract §4.5).

use std::fmt::Arguments;
use std::sync::Arc;

use model::{Endpoint, Hints, NodeHint};

use super::Converter;
use super::fields::{Findings, SKIPPED};
use crate::lenient::Lenient;
use crate::slim::{self, List};

/// The hints of the endpoint with this index. `before` are the endpoints before it, whose hints it shares where they are
/// equal: a slice has many endpoints and few zones. Of one that has many, only the last are looked at.
pub(super) fn hints(
    converter: &mut Converter,
    raw: &Lenient<slim::Hints>,
    index: usize,
    before: &[Endpoint],
    findings: &mut Findings,
) -> Option<Arc<Hints>> {
    let field = format_args!("endpoints[{index}].hints");
    let raw = findings.optional(raw, field, IGNORED)?;
    let nodes = names(&raw.for_nodes, format_args!("endpoints[{index}].hints.forNodes"), findings);
    let ours = |name: &&str| !name.is_empty() && **name == *converter.node_name;
    let nodes = match nodes.is_empty() {
        true => NodeHint::Unset,
        false if nodes.iter().any(ours) => NodeHint::ThisNode,
        false => NodeHint::Others,
    };
    let zones = names(&raw.for_zones, format_args!("endpoints[{index}].hints.forZones"), findings);
    if nodes == NodeHint::Unset && zones.is_empty() {
        return None;
    }
    let is_equal =
        |known: &&Arc<Hints>| known.nodes == nodes && known.zones.iter().map(|zone| &**zone).eq(zones.iter().copied());
    let recent = before.iter().rev().take(RECENT);
    let known = recent.filter_map(|endpoint| endpoint.hints.as_ref()).find(is_equal).cloned();
    let intern = |zone: &&str| converter.pool.intern(zone);
    Some(known.unwrap_or_else(|| Arc::new(Hints { nodes, zones: zones.iter().map(intern).collect() })))
}

/// The names in a list of hints; bad ones are skipped.
fn names<'a>(list: &'a List<slim::Hint>, field: Arguments<'_>, findings: &mut Findings) -> Vec<&'a str> {
    let entries = findings.optional(list, field, IGNORED).map_or(&[][..], Vec::as_slice);
    let mut names = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let Some(hint) = findings.optional(entry, format_args!("{field}[{index}]"), SKIPPED) else { continue };
        match findings.optional(&hint.name, format_args!("{field}[{index}].name"), SKIPPED) {
            Some(name) if !name.is_empty() => names.push(name.as_str()),
            Some(_) => findings.report(format_args!("{field}[{index}].name"), format!("is empty: {SKIPPED}")),
            None => {}
        }
    }
    names
}

const IGNORED: &str = "they are ignored";
/// How many endpoints before one may share hints with it.
const RECENT: usize = 100;

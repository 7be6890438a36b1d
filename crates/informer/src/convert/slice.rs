//! Endpoint slices (contract §4.5).

use std::net::IpAddr;
use std::time::SystemTime;

use model::{Endpoint, EndpointSlice, Family, ServiceName, SlicePort, Update};

use super::fields::{Findings, SKIPPED, Unreadable, ZeroPort};
use super::hints::hints;
use super::{Converter, Identified};
use crate::lenient::Lenient;
use crate::slim::{self, Meta};

pub(super) fn slice(
    converter: &mut Converter,
    raw: Identified<'_, slim::EndpointSlice>,
    findings: &mut Findings,
) -> Result<Update, Unreadable> {
    let Identified { object, meta, name } = raw;
    let labels = findings.shape(&meta.labels, "metadata.labels")?.cloned().unwrap_or_default();
    if labels.headless != Lenient::Absent {
        // The API server does not send these; the directory has no selector.
        return Ok(Update::SliceGone(name));
    }
    let service = findings.shape(&labels.service_name, "metadata.labels[kubernetes.io/service-name]")?;
    let Some(service) = service.filter(|service| !service.is_empty()) else {
        findings.report(
            "metadata.labels[kubernetes.io/service-name]",
            "is missing: the slice belongs to no Service and is ignored",
        );
        return Ok(Update::SliceGone(name));
    };
    let Some(family) = family(object, findings)? else { return Ok(Update::SliceGone(name)) };
    Ok(Update::Slice(EndpointSlice {
        service: ServiceName { namespace: name.namespace.clone(), name: converter.pool.intern(service) },
        family,
        ports: ports(converter, object, findings)?,
        endpoints: endpoints(converter, object, family, findings)?,
        triggered: triggered(meta, findings),
        name,
    }))
}

fn family(object: &slim::EndpointSlice, findings: &mut Findings) -> Result<Option<Family>, Unreadable> {
    const FIELD: &str = "addressType";
    let label = findings.shape(&object.address_type, FIELD)?.map_or("", String::as_str);
    let family = Family::ALL.into_iter().find(|family| family.label() == label);
    if family.is_none() {
        let why = match label {
            "" => "is missing".to_owned(),
            "FQDN" => "host names (FQDN) cannot be proxied to".to_owned(),
            unknown => format!("{unknown:?} is not IPv4 or IPv6"),
        };
        findings.report(FIELD, format!("{why}: the slice is ignored"));
    }
    Ok(family)
}

fn ports(
    converter: &mut Converter,
    object: &slim::EndpointSlice,
    findings: &mut Findings,
) -> Result<Vec<SlicePort>, Unreadable> {
    let mut ports: Vec<SlicePort> = Vec::new();
    for (index, entry) in findings.list(&object.ports, "ports")?.iter().enumerate() {
        let field = format!("ports[{index}]");
        let Some(raw) = findings.optional(entry, &field, SKIPPED) else { continue };
        if let Some(oddity) = raw.name.oddity() {
            findings.report(format_args!("{field}.name"), format!("{oddity}: the port is skipped"));
            continue;
        }
        // The API server fills in the empty name; a manifest may leave it out.
        let name = raw.name.value().map_or("", String::as_str);
        let protocol = findings.protocol(&raw.protocol, format_args!("{field}.protocol"));
        let skipped = "the port is skipped";
        let port = findings.port_number(&raw.port, format_args!("{field}.port"), ZeroPort::IsWrong, skipped);
        if let (Some(protocol), Some(port)) = (protocol, port) {
            ports.push(SlicePort { name: converter.pool.intern(name), protocol, port });
        }
    }
    Ok(ports)
}

fn endpoints(
    converter: &mut Converter,
    object: &slim::EndpointSlice,
    family: Family,
    findings: &mut Findings,
) -> Result<Vec<Endpoint>, Unreadable> {
    let list = findings.list(&object.endpoints, "endpoints")?;
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let Some(raw) = findings.optional(entry, format_args!("endpoints[{index}]"), SKIPPED) else { continue };
        let Some(mut endpoint) = endpoint(converter, raw, index, family, findings) else { continue };
        endpoint.hints = hints(converter, &raw.hints, index, &endpoints, findings);
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// Without its hints.
fn endpoint(
    converter: &Converter,
    raw: &slim::Endpoint,
    index: usize,
    family: Family,
    findings: &mut Findings,
) -> Option<Endpoint> {
    const ENDPOINT_SKIPPED: &str = "the endpoint is skipped";
    let field = format_args!("endpoints[{index}].addresses");
    let addresses = findings.optional(&raw.addresses, field, ENDPOINT_SKIPPED)?;
    let Some(first) = addresses.first() else {
        findings.report(field, format!("is empty: {ENDPOINT_SKIPPED}"));
        return None;
    };
    let field = format_args!("endpoints[{index}].addresses[0]");
    let address = findings.optional(first, field, ENDPOINT_SKIPPED)?;
    let address = findings.address(address, field, ENDPOINT_SKIPPED)?;
    if let Some(why) = why_unusable(address, family) {
        findings.report(field, format!("{address} {why}: {ENDPOINT_SKIPPED}"));
        return None;
    }

    let field = |name| format!("endpoints[{index}].{name}");
    let unknown = "taken as unset";
    let conditions = findings.optional(&raw.conditions, field("conditions"), unknown);
    let mut condition = |value: fn(&slim::Conditions) -> &Lenient<bool>, name| {
        conditions.and_then(|c| findings.optional(value(c), field(name), unknown)).copied()
    };
    let ready = condition(|c| &c.ready, "conditions.ready").unwrap_or(true);
    let serving = condition(|c| &c.serving, "conditions.serving").unwrap_or(true);
    let terminating = condition(|c| &c.terminating, "conditions.terminating").unwrap_or(false);
    let node = findings.optional(&raw.node_name, field("nodeName"), "the endpoint counts as remote");
    let local = node.is_some_and(|node| !node.is_empty() && **node == *converter.node_name);
    Some(Endpoint { address, ready, serving, terminating, local, hints: None })
}

/// Why packets cannot be sent on to an address, if so. NAT to such addresses is refused by the kernel or leads nowhere.
fn why_unusable(address: IpAddr, family: Family) -> Option<String> {
    if Family::of(address) != family {
        return Some(format!("is not an {family} address, as addressType says"));
    }
    let what = if address.is_loopback() {
        "a loopback"
    } else if address.is_unspecified() {
        "the unspecified"
    } else if address.is_multicast() {
        "a multicast"
    } else {
        return None;
    };
    Some(format!("is {what} address, which cannot be an endpoint"))
}

fn triggered(meta: &Meta, findings: &mut Findings) -> Option<SystemTime> {
    const FIELD: &str = "metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]";
    let annotations = findings.optional(&meta.annotations, "metadata.annotations", "they are ignored")?;
    let text = findings.optional(&annotations.last_change, FIELD, "it is ignored")?;
    text.parse()
        .map(|time: jiff::Timestamp| time.into())
        .inspect_err(|_| findings.report(FIELD, format!("{text:?} is not an RFC 3339 time: it is ignored")))
        .ok()
}

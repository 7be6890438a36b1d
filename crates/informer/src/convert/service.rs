//! Services (contract §4.2, §4.3).

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;
use model::{Family, PerFamily, PortNumber, Service, ServicePort, TrafficPolicy, Update};

use super::fields::{Findings, SKIPPED, Unreadable, ZeroPort};
use super::{Converter, Identified};
use crate::lenient::Lenient;
use crate::slim::{self, ServiceSpec, Text};

/// The timeout of session affinity where none is given, in seconds: three hours (`DefaultClientIPServiceAffinitySeconds` of
/// the API).
const DEFAULT_AFFINITY: NonZeroU32 = NonZeroU32::new(10_800).unwrap();
/// The longest that the API takes: a day.
const MAX_AFFINITY: NonZeroU32 = NonZeroU32::new(86_400).unwrap();

/// How many pairs of a port and an address outside of the cluster one Service may have. A megabyte of ports and addresses would make
/// hundreds of millions, and every one takes memory here and in the kernel.
const MOST_OUTSIDE: usize = 10_000;
/// The same of pairs of those with a range of clients of one family, for each of which the kernel holds an element.
const MOST_RANGES: usize = 100_000;

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

pub(super) fn service(
    converter: &mut Converter,
    raw: Identified<'_, slim::Service>,
    findings: &mut Findings,
) -> Result<Update, Unreadable> {
    let Identified { object, meta, name } = raw;
    let labels = findings.shape(&meta.labels, "metadata.labels")?;
    if labels.is_some_and(|labels| labels.proxy_name != Lenient::Absent) {
        // Another proxy's Service. The API server does not send these; the directory has no selector.
        return Ok(Update::ServiceGone(name));
    }
    let Some(spec) = findings.shape(&object.spec, "spec")? else { return Ok(Update::ServiceGone(name)) };
    let service_type = service_type(spec, findings)?;
    let cluster_ips = if service_type == Type::ExternalName { None } else { cluster_ips(spec, findings)? };
    let Some(cluster_ips) = cluster_ips else { return Ok(Update::ServiceGone(name)) };

    let external_list = findings.list(&spec.external_ips, "spec.externalIPs")?;
    let external_ips = findings.addresses(external_list, "spec.externalIPs");
    let reaches_outside = match service_type {
        Type::LoadBalancer | Type::NodePort => true,
        Type::ClusterIp => !external_list.is_empty(),
        Type::ExternalName => false,
    };
    let external_policy = policy(&spec.external_traffic_policy, "spec.externalTrafficPolicy", findings);
    let external_policy = if reaches_outside { external_policy } else { TrafficPolicy::Cluster };
    let ports = ports(converter, spec, findings)?;
    let mut addresses = Outside { balancers: load_balancer_ips(object, findings)?, external_ips };
    addresses.limit(ports.len(), findings);
    let Outside { balancers: load_balancer_ips, external_ips } = addresses;
    let mut source_ranges = source_ranges(spec, findings)?;
    limit_ranges(&mut source_ranges, ports.len() * load_balancer_ips.len(), findings);
    Ok(Update::Service(Service {
        created: created(&meta.creation_timestamp, findings),
        cluster_ips,
        external_ips,
        load_balancer_ips,
        internal_policy: policy(&spec.internal_traffic_policy, "spec.internalTrafficPolicy", findings),
        external_policy,
        health_check_node_port: health_check_node_port(spec, service_type, external_policy, findings),
        affinity: affinity(spec, findings),
        fast_path: fast_path(meta, findings),
        source_ranges,
        ports,
        name,
    }))
}

/// Addresses outside of the cluster.
struct Outside {
    balancers: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
}

impl Outside {
    /// Leaves as many as are served, one at least, if each has so many ports.
    fn limit(&mut self, ports: usize, findings: &mut Findings) {
        let mut room = (MOST_OUTSIDE / ports.max(1)).max(1);
        let lists =
            [(&mut self.balancers, "status.loadBalancer.ingress"), (&mut self.external_ips, "spec.externalIPs")];
        for (list, field) in lists {
            if list.len() > room {
                let message = format!(
                    "has {} addresses, for {ports} ports: only the first {room} are served, as a Service may have {MOST_OUTSIDE} \
                     pairs of them: divide it into several",
                    list.len()
                );
                findings.report(field, message);
                list.truncate(room);
            }
            room -= list.len();
        }
    }
}

/// Leaves as many ranges of each family as the kernel is asked to hold, if there are so many pairs of a port and an address. Clients in
/// others are refused, as nobody knows which of them are meant to be; those of a family without any range would be let in.
fn limit_ranges(ranges: &mut Vec<IpNet>, pairs: usize, findings: &mut Findings) {
    let room = (MOST_RANGES / pairs.max(1)).max(1);
    for family in Family::ALL {
        let mut count = 0;
        ranges.retain(|range| {
            count += usize::from(Family::of_prefix(range) == family);
            Family::of_prefix(range) != family || count <= room
        });
        if count > room {
            let message = format!(
                "has {count} {family} ranges, for {pairs} pairs of a port and an address: clients in the first {room} are let in and no \
                 others, as a Service may have {MOST_RANGES} elements for them: join ranges, or divide it into several"
            );
            findings.report("spec.loadBalancerSourceRanges", message);
        }
    }
}

/// Where load balancers ask whether this node has endpoints, which only matters to those that send to such nodes alone. The API
/// server fills it in.
fn health_check_node_port(
    spec: &ServiceSpec,
    service_type: Type,
    external_policy: TrafficPolicy,
    findings: &mut Findings,
) -> Option<PortNumber> {
    const FIELD: &str = "spec.healthCheckNodePort";
    const THEN: &str = "load balancers cannot ask whether this node has endpoints of the Service";
    if service_type != Type::LoadBalancer || external_policy != TrafficPolicy::Local {
        return None;
    }
    findings.port_number(&spec.health_check_node_port, FIELD, ZeroPort::IsWrong, THEN)
}

/// Whether connections may take the fast path, of which a Service can be left out by an annotation.
fn fast_path(meta: &slim::Meta, findings: &mut Findings) -> bool {
    const FIELD: &str = "metadata.annotations[slipstream.dev/fastpath]";
    let annotations = findings.optional(&meta.annotations, "metadata.annotations", "they are ignored");
    match annotations.and_then(|a| findings.optional(&a.fast_path, FIELD, "it is ignored")).map(String::as_str) {
        None | Some("on") => true,
        Some("off") => false,
        Some(unknown) => {
            findings.report(FIELD, format!("{unknown:?} is not on or off: taken as on"));
            true
        }
    }
}

/// For how long a client stays with an endpoint, if it does. The API server fills in the timeout.
fn affinity(spec: &ServiceSpec, findings: &mut Findings) -> Option<NonZeroU32> {
    const FIELD: &str = "spec.sessionAffinity";
    const TIMEOUT: &str = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let then = format!("taken as {DEFAULT_AFFINITY}");
    match findings.optional(&spec.session_affinity, FIELD, "taken as None").map(String::as_str) {
        None | Some("None" | "") => return None,
        Some("ClientIP") => {}
        Some(unknown) => {
            findings.report(FIELD, format!("{unknown:?} is not None or ClientIP: taken as None"));
            return None;
        }
    }
    let config = findings.optional(&spec.session_affinity_config, "spec.sessionAffinityConfig", "it is ignored");
    let config =
        config.and_then(|c| findings.optional(&c.client_ip, "spec.sessionAffinityConfig.clientIP", "it is ignored"));
    let Some(seconds) = config.and_then(|c| findings.optional(&c.timeout_seconds, TIMEOUT, &then)) else {
        return Some(DEFAULT_AFFINITY);
    };
    let timeout = u32::try_from(*seconds).ok().and_then(NonZeroU32::new).filter(|seconds| *seconds <= MAX_AFFINITY);
    if timeout.is_none() {
        findings.report(TIMEOUT, format!("{seconds} is not within 1 and {MAX_AFFINITY}: {then}"));
    }
    Some(timeout.unwrap_or(DEFAULT_AFFINITY))
}

/// Who may connect to the load balancer addresses (contract §4.3); none of a family where everyone may.
fn source_ranges(spec: &ServiceSpec, findings: &mut Findings) -> Result<Vec<IpNet>, Unreadable> {
    const FIELD: &str = "spec.loadBalancerSourceRanges";
    let list = findings.list(&spec.load_balancer_source_ranges, FIELD)?;
    let mut ranges = findings.prefixes(list, FIELD);
    if ranges.is_empty() && !list.is_empty() {
        findings.report(FIELD, "has no usable range: the load balancer's addresses are open to everyone");
    }
    for family in Family::ALL {
        let is_open = |range: &IpNet| Family::of_prefix(range) == family && range.prefix_len() == 0;
        if ranges.iter().any(is_open) {
            ranges.retain(|range| Family::of_prefix(range) != family);
        }
    }
    Ok(ranges)
}

fn service_type(spec: &ServiceSpec, findings: &mut Findings) -> Result<Type, Unreadable> {
    Ok(match findings.shape(&spec.r#type, "spec.type")?.map_or("ClusterIP", String::as_str) {
        "ClusterIP" => Type::ClusterIp,
        "NodePort" => Type::NodePort,
        "LoadBalancer" => Type::LoadBalancer,
        "ExternalName" => Type::ExternalName,
        unknown => {
            findings.report("spec.type", format!("{unknown:?} is not a type of Service: taken as ClusterIP"));
            Type::ClusterIp
        }
    })
}

/// The ClusterIP of each family, or `None` if there is none to proxy.
///
/// The API server keeps `clusterIP` and `clusterIPs[0]` equal, and fills in `ipFamilies`. Manifests in a directory may
/// have only one of the two, and no families: then the addresses tell.
fn cluster_ips(spec: &ServiceSpec, findings: &mut Findings) -> Result<Option<PerFamily<Option<IpAddr>>>, Unreadable> {
    let first = findings.shape(&spec.cluster_ip, "spec.clusterIP")?.map_or("", String::as_str);
    let mut texts = Vec::new();
    for (index, text) in findings.list(&spec.cluster_ips, "spec.clusterIPs")?.iter().enumerate() {
        texts.push(findings.shape(text, format_args!("spec.clusterIPs[{index}]"))?.map_or("", String::as_str));
    }
    let field = if texts.is_empty() { "spec.clusterIP" } else { "spec.clusterIPs" };
    if texts.is_empty() {
        texts.push(first);
    }
    let main = if first.is_empty() { texts[0] } else { first };
    if main.is_empty() {
        let message = "is missing: the Service is not served, and without an API server nobody gives it an address";
        findings.report("spec.clusterIP", message);
    }
    if main.is_empty() || main == "None" {
        return Ok(None);
    }

    let families = families(spec, findings)?;
    let mut found = PerFamily::<Option<IpAddr>>::default();
    for (index, text) in texts.into_iter().enumerate() {
        if text.is_empty() || (!families.is_empty() && index >= families.len()) {
            continue;
        }
        let Some(address) = findings.address(text, field, "this ClusterIP is not served") else { continue };
        let family = Family::of(address);
        if let Some(Some(wanted)) = families.get(index).filter(|wanted| **wanted != Some(family)) {
            findings.report(field, format!("{address} is not an {wanted} address, as spec.ipFamilies[{index}] says: this ClusterIP is not served"));
            continue;
        }
        found.get_mut(family).get_or_insert(address);
    }
    Ok((found != PerFamily::default()).then_some(found))
}

/// `spec.ipFamilies`; `None` stands for one that is unknown.
fn families(spec: &ServiceSpec, findings: &mut Findings) -> Result<Vec<Option<Family>>, Unreadable> {
    let list = findings.list(&spec.ip_families, "spec.ipFamilies")?;
    let mut families = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let field = format_args!("spec.ipFamilies[{index}]");
        let label = findings.optional(entry, field, "the address tells").map_or("", String::as_str);
        let family = Family::ALL.into_iter().find(|family| family.label() == label);
        if family.is_none() && !label.is_empty() {
            findings.report(field, format!("{label:?} is not IPv4 or IPv6: the address tells"));
        }
        families.push(family);
    }
    Ok(families)
}

fn load_balancer_ips(object: &slim::Service, findings: &mut Findings) -> Result<Vec<IpAddr>, Unreadable> {
    let Some(status) = findings.shape(&object.status, "status")? else { return Ok(Vec::new()) };
    let Some(balancer) = findings.shape(&status.load_balancer, "status.loadBalancer")? else { return Ok(Vec::new()) };
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    for (index, entry) in findings.list(&balancer.ingress, "status.loadBalancer.ingress")?.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        let Some(ingress) = findings.optional(entry, &field, SKIPPED) else { continue };
        let mode = format!("{field}.ipMode");
        match findings.optional(&ingress.ip_mode, &mode, "taken as VIP").map(String::as_str) {
            None | Some("VIP") => {}
            Some("Proxy") => continue,
            Some(unknown) => {
                findings.report(mode, format!("{unknown:?} is not VIP or Proxy: the address is skipped"));
                continue;
            }
        }
        let field = format!("{field}.ip");
        let text = findings.optional(&ingress.ip, &field, SKIPPED).map_or("", |text| text.trim());
        if text.is_empty() {
            continue;
        }
        if let Some(address) = findings.address(text, &field, SKIPPED)
            && seen.insert(address)
        {
            found.push(address);
        }
    }
    Ok(found)
}

fn policy(value: &Text, field: &str, findings: &mut Findings) -> TrafficPolicy {
    match findings.optional(value, field, "taken as Cluster").map(String::as_str) {
        // The API server leaves out externalTrafficPolicy where it has no meaning.
        None | Some("Cluster" | "") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(unknown) => {
            findings.report(field, format!("{unknown:?} is not Cluster or Local: taken as Cluster"));
            TrafficPolicy::Cluster
        }
    }
}

/// Seconds since the epoch. Manifests have no such timestamp: all are equally old, and names decide. What cannot be read
/// counts as newest, so that it takes no frontend from another Service.
fn created(value: &Text, findings: &mut Findings) -> i64 {
    const FIELD: &str = "metadata.creationTimestamp";
    const NEWEST: &str = "the Service counts as the newest";
    let text = match value {
        Lenient::Absent => return 0,
        Lenient::Odd(oddity) => {
            findings.report(FIELD, format!("{oddity}: {NEWEST}"));
            return i64::MAX;
        }
        Lenient::Value(text) => text,
    };
    text.parse().map(jiff::Timestamp::as_second).unwrap_or_else(|_| {
        findings.report(FIELD, format!("{text:?} is not an RFC 3339 time: {NEWEST}"));
        i64::MAX
    })
}

fn ports(
    converter: &mut Converter,
    spec: &ServiceSpec,
    findings: &mut Findings,
) -> Result<Vec<ServicePort>, Unreadable> {
    let (mut ports, mut names) = (Vec::new(), HashSet::new());
    for (index, entry) in findings.list(&spec.ports, "spec.ports")?.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let Some(raw) = findings.optional(entry, &field, SKIPPED) else { continue };
        let Some(port) = port(converter, raw, &field, findings) else { continue };
        if !names.insert((port.name.clone(), port.protocol)) {
            let ServicePort { name, protocol, .. } = port;
            let message = format!("the name {name:?} is used before by another {protocol} port: this one is skipped");
            findings.report(format_args!("{field}.name"), message);
            continue;
        }
        ports.push(port);
    }
    Ok(ports)
}

fn port(
    converter: &mut Converter,
    raw: &slim::ServicePort,
    field: &str,
    findings: &mut Findings,
) -> Option<ServicePort> {
    if let Some(oddity) = raw.name.oddity() {
        findings.report(format_args!("{field}.name"), format!("{oddity}: the port is skipped"));
        return None;
    }
    let protocol = findings.protocol(&raw.protocol, format_args!("{field}.protocol"));
    let skipped = "the port is skipped";
    let port = findings.port_number(&raw.port, format_args!("{field}.port"), ZeroPort::IsWrong, skipped);
    let node_port = findings.port_number(
        &raw.node_port,
        format_args!("{field}.nodePort"),
        ZeroPort::MeansNone,
        "the port has no NodePort",
    );
    let name = raw.name.value().map_or("", String::as_str);
    if !findings.is_name(name, format_args!("{field}.name"), skipped) {
        return None;
    }
    Some(ServicePort { name: converter.pool.intern(name), protocol: protocol?, port: port?, node_port })
}

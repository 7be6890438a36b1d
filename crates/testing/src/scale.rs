//! Many Services at once: the same ones at every call, so that runs can be compared.
//!
//! Service `i` has a ClusterIP from 10.96.0.0/12, one TCP port 80, and endpoints with port 8080 from 10.128.0.0/9. All
//! addresses are distinct, and neighbouring Services have neighbouring addresses. Every tenth endpoint is on
//! [`LOCAL_NODE`]. Of IPv6, each address is that of IPv4 behind fd00::.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use model::{
    Endpoint, EndpointSlice, Family, Kind, PerFamily, PortNumber, Protocol, Service, ServiceName, ServicePort,
    SlicePort, Update,
};
use serde_json::Value;

use crate::objects;

/// The node that runs every tenth endpoint; the others are on `node-far`.
pub const LOCAL_NODE: &str = "node-near";

/// The most Services that fit into 10.96.0.0/12.
pub const MAX_SERVICES: u32 = (1 << 20) - 256;

/// The most endpoints that fit into 10.128.0.0/9.
const MAX_ENDPOINTS: u32 = (1 << 23) - 1;

const PORT: PortNumber = PortNumber::new(80).expect("not zero");
const TARGET_PORT: PortNumber = PortNumber::new(8080).expect("not zero");
/// 2026-01-01T00:00:00Z, as in the objects of the fake API server.
const CREATED: i64 = 1_767_225_600;

/// `services` Services with `endpoints` endpoints each.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    services: u32,
    endpoints: u32,
    /// How many endpoints of a Service and family a slice has, but the last one.
    per_slice: u32,
    families: &'static [Family],
    mixed: bool,
}

impl Scale {
    /// Chooses the size. The Services are of IPv4, and each has one slice.
    ///
    /// # Panics
    /// If there are more than [`MAX_SERVICES`], or 10.128.0.0/9 has too few addresses for all endpoints.
    pub fn new(services: u32, endpoints: u32) -> Self {
        assert!(services <= MAX_SERVICES, "10.96.0.0/12 has no room for {services} Services");
        let total = services.checked_mul(endpoints);
        assert!(
            total.is_some_and(|n| n <= MAX_ENDPOINTS),
            "10.128.0.0/9 has no room for {services}×{endpoints} endpoints"
        );
        Self { services, endpoints, per_slice: endpoints.max(1), families: &[Family::V4], mixed: false }
    }

    /// The same in slices of at most so many endpoints.
    ///
    /// # Panics
    /// If that is 0.
    #[must_use]
    pub const fn in_slices_of(self, endpoints: u32) -> Self {
        assert!(endpoints > 0, "a slice without endpoints");
        Self { per_slice: endpoints, ..self }
    }

    /// The same with an IPv6 address for each of IPv4.
    #[must_use]
    pub const fn dual_stack(self) -> Self {
        Self { families: &[Family::V4, Family::V6], ..self }
    }

    /// The same with session affinity for every tenth Service, and a load balancer with source ranges for every twentieth.
    #[must_use]
    pub const fn mixed(self) -> Self {
        Self { mixed: true, ..self }
    }

    /// The first so many Services of it.
    #[must_use]
    pub const fn first(self, services: u32) -> Self {
        Self { services, ..self }
    }

    /// Everything a source would send: both lists, complete.
    pub fn updates(self) -> impl Iterator<Item = Update> {
        let start = |kind| std::iter::once(Update::ListStarted(kind));
        let end = |kind| std::iter::once(Update::ListComplete(kind));
        let services = (0..self.services).map(move |i| Update::Service(self.service(i)));
        let slices = (0..self.services).flat_map(move |i| self.slices(i)).map(Update::Slice);
        let services = start(Kind::Service).chain(services).chain(end(Kind::Service));
        services.chain(start(Kind::EndpointSlice)).chain(slices).chain(end(Kind::EndpointSlice))
    }

    /// The same as objects of the Kubernetes API: for each Service itself and its EndpointSlices.
    pub fn objects(self) -> impl Iterator<Item = Value> {
        (0..self.services).flat_map(move |i| std::iter::once(self.service_object(i)).chain(self.slice_objects(i)))
    }

    /// Service `i`.
    pub fn service(self, i: u32) -> Service {
        let is_balancer = self.mixed && i % 20 == 7;
        let range = |prefix: &str| prefix.parse().expect("a constant prefix");
        let cluster_ip = |family| self.families.contains(&family).then(|| address(family, cluster_ip(i)));
        Service {
            created: CREATED,
            cluster_ips: PerFamily { v4: cluster_ip(Family::V4), v6: cluster_ip(Family::V6) },
            load_balancer_ips: is_balancer
                .then(|| offset(Ipv4Addr::new(172, 20, 0, 0), i).into())
                .into_iter()
                .collect(),
            affinity: NonZeroU32::new(10_800).filter(|_| self.mixed && i % 10 == 3),
            source_ranges: if is_balancer { vec![range("192.0.2.0/24"), range("203.0.113.64/26")] } else { Vec::new() },
            ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: PORT, node_port: None }],
            ..Service::new(ServiceName::new("scale", name(i)))
        }
    }

    /// The first slice of Service `i`, which of one family is the only one unless [`Scale::in_slices_of`] made more.
    pub fn slice(self, i: u32) -> EndpointSlice {
        self.slices(i).next().expect("every Service has a slice")
    }

    /// The slices of Service `i`.
    pub fn slices(self, i: u32) -> impl Iterator<Item = EndpointSlice> {
        self.parts(i).map(move |part| {
            let endpoints = self.addresses(part).map(|(address, local)| Endpoint {
                address,
                ready: true,
                serving: true,
                terminating: false,
                local,
                hints: None,
            });
            EndpointSlice {
                name: ServiceName::new("scale", part.name()),
                service: ServiceName::new("scale", name(i)),
                family: part.family,
                ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: TARGET_PORT }],
                endpoints: endpoints.collect(),
                triggered: None,
            }
        })
    }

    /// Service `i` as an object of the Kubernetes API.
    pub fn service_object(self, i: u32) -> Value {
        let service = objects::service("scale", &name(i));
        let cluster_ips = self.families.iter().map(|family| address(*family, cluster_ip(i)).to_string());
        let service = cluster_ips.fold(service, |service, cluster_ip| service.cluster_ip(&cluster_ip));
        service.port("http", "TCP", PORT.get()).set("/spec/ports/0/targetPort", TARGET_PORT.get()).into()
    }

    /// The slices of Service `i` as objects of the Kubernetes API.
    pub fn slice_objects(self, i: u32) -> impl Iterator<Item = Value> {
        self.parts(i).map(move |part| {
            let empty = objects::slice("scale", &part.name(), &name(i)).port("http", "TCP", TARGET_PORT.get());
            let add = |slice: objects::Slice, (address, local): (IpAddr, bool)| {
                slice.endpoint(&address.to_string()).on_node(if local { LOCAL_NODE } else { "node-far" })
            };
            self.addresses(part).fold(empty, add).into()
        })
    }

    /// What the endpoints of Service `i` are divided into.
    fn parts(self, i: u32) -> impl Iterator<Item = Part> {
        let slices = self.endpoints.div_ceil(self.per_slice).max(1);
        let parts = move |family: &Family| {
            (0..slices).map({
                let family = *family;
                move |number| Part { service: i, family, number }
            })
        };
        self.families.iter().flat_map(parts)
    }

    /// The endpoints of a slice, and whether they are local.
    fn addresses(self, Part { service, family, number }: Part) -> impl Iterator<Item = (IpAddr, bool)> {
        let first = service * self.endpoints;
        let begin = first + number * self.per_slice;
        let end = (begin + self.per_slice).min(first + self.endpoints);
        (begin..end).map(move |n| (address(family, offset(Ipv4Addr::new(10, 128, 0, 1), n)), n.is_multiple_of(10)))
    }
}

/// Which slice of which Service.
#[derive(Clone, Copy)]
struct Part {
    service: u32,
    family: Family,
    /// The first one of its family is 0.
    number: u32,
}

impl Part {
    /// With a suffix as long as that of real slices.
    fn name(self) -> String {
        format!("{}-{}{:03}", name(self.service), if self.family == Family::V4 { "v4" } else { "v6" }, self.number)
    }
}

/// Names sort as their numbers do.
fn name(i: u32) -> String {
    format!("service-{i:07}")
}

/// The first 255 addresses are left for those that a test or demo chooses itself.
fn cluster_ip(i: u32) -> Ipv4Addr {
    offset(Ipv4Addr::new(10, 96, 1, 0), i)
}

fn offset(first: Ipv4Addr, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + n)
}

fn address(family: Family, v4: Ipv4Addr) -> IpAddr {
    match family {
        Family::V4 => v4.into(),
        Family::V6 => Ipv6Addr::from_bits((0xfd00 << 112) | u128::from(v4.to_bits())).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::SystemTime;

    use model::{PortEndpoint, State};

    use super::*;

    #[test]
    fn every_service_has_its_endpoints_and_a_tenth_is_local() {
        let mut state = State::new(SystemTime::UNIX_EPOCH);
        Scale::new(500, 4).updates().for_each(|update| state.apply(update));
        assert!(state.is_complete());
        let endpoints: Vec<_> = state
            .services()
            .flat_map(|service| state.endpoints(&service.name, &service.ports[0], Family::V4))
            .collect();
        let distinct: BTreeSet<_> = endpoints.iter().map(PortEndpoint::socket).collect();
        assert_eq!((state.services().count(), endpoints.len(), distinct.len()), (500, 2000, 2000));
        assert_eq!(endpoints.iter().filter(|found| found.endpoint.local).count(), 200);
    }

    #[test]
    fn updates_and_objects_say_the_same() {
        let one_slice = Scale::new(30, 3);
        for scale in [one_slice, one_slice.dual_stack().in_slices_of(2)] {
            let mut objects = scale.objects();
            for i in 0..30 {
                let (service, object) = (scale.service(i), objects.next().unwrap());
                assert_eq!(object["metadata"]["name"], *service.name.name);
                let cluster_ips = [service.cluster_ips.v4, service.cluster_ips.v6].into_iter().flatten();
                let cluster_ips: Vec<_> = cluster_ips.map(|ip| Value::from(ip.to_string())).collect();
                assert_eq!(object["spec"]["clusterIPs"], Value::from(cluster_ips));
                for slice in scale.slices(i) {
                    says_the_same(&objects.next().unwrap(), &slice);
                }
            }
            assert_eq!(objects.next(), None);
        }
    }

    fn says_the_same(object: &Value, slice: &EndpointSlice) {
        assert_eq!(object["metadata"]["labels"]["kubernetes.io/service-name"], *slice.service.name);
        assert_eq!(object["metadata"]["name"], *slice.name.name);
        assert_eq!(object["addressType"], slice.family.label());
        let endpoints = object["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), slice.endpoints.len());
        for (object, endpoint) in endpoints.iter().zip(&slice.endpoints) {
            assert_eq!(object["addresses"][0], endpoint.address.to_string());
            assert_eq!(object["nodeName"] == LOCAL_NODE, endpoint.local);
        }
    }

    #[test]
    fn slices_divide_the_endpoints_of_each_family() {
        let scale = Scale::new(2, 600);
        let divided = scale.in_slices_of(250).dual_stack();
        let sizes: Vec<_> = divided.slices(1).map(|slice| (slice.family, slice.endpoints.len())).collect();
        let expected = [Family::V4, Family::V6].map(|family| [250, 250, 100].map(|size| (family, size)));
        assert_eq!(sizes, expected.concat());
        let names: BTreeSet<_> = divided.slices(1).map(|slice| slice.name).collect();
        assert_eq!(names.len(), sizes.len());
        let of_v4 = divided.slices(1).filter(|slice| slice.family == Family::V4);
        assert_eq!(of_v4.flat_map(|slice| slice.endpoints).collect::<Vec<_>>(), scale.slice(1).endpoints);

        let mut state = State::new(SystemTime::UNIX_EPOCH);
        divided.updates().for_each(|update| state.apply(update));
        for family in [Family::V4, Family::V6] {
            let found = state.services().map(|service| state.endpoints(&service.name, &service.ports[0], family).len());
            assert_eq!(found.collect::<Vec<_>>(), [600, 600]);
        }
    }

    #[test]
    fn the_largest_scale_stays_within_its_prefixes() {
        let last = MAX_SERVICES - 1;
        let scale = Scale::new(MAX_SERVICES, 8);
        assert_eq!(scale.service(last).cluster_ips.v4, Some("10.111.255.255".parse().unwrap()));
        assert!(scale.slice(last).endpoints[7].address < IpAddr::from([10, 255, 255, 255]));
    }
}

//! Many Services at once: the same ones at every call, so that runs can be compared.
//!
//! Service `i` has a ClusterIP from 10.96.0.0/12, one TCP port 80, and endpoints with port 8080 from 10.128.0.0/9. All
//! addresses are distinct, and neighbouring Services have neighbouring addresses. Every tenth endpoint is on
//! [`LOCAL_NODE`].

use std::net::{IpAddr, Ipv4Addr};
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
    mixed: bool,
}

impl Scale {
    /// Chooses the size.
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
        Self { services, endpoints, mixed: false }
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
        let slices = (0..self.services).map(move |i| Update::Slice(self.slice(i)));
        let services = start(Kind::Service).chain(services).chain(end(Kind::Service));
        services.chain(start(Kind::EndpointSlice)).chain(slices).chain(end(Kind::EndpointSlice))
    }

    /// The same as objects of the Kubernetes API: for each Service itself and its EndpointSlice.
    pub fn objects(self) -> impl Iterator<Item = Value> {
        (0..self.services).flat_map(move |i| [self.service_object(i), self.slice_object(i)])
    }

    /// Service `i`.
    pub fn service(self, i: u32) -> Service {
        let is_balancer = self.mixed && i % 20 == 7;
        let range = |prefix: &str| prefix.parse().expect("a constant prefix");
        Service {
            created: CREATED,
            cluster_ips: PerFamily { v4: Some(cluster_ip(i).into()), v6: None },
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

    /// The slice of Service `i`.
    pub fn slice(self, i: u32) -> EndpointSlice {
        let endpoints = self.addresses(i).map(|(address, local)| Endpoint {
            address: IpAddr::V4(address),
            ready: true,
            serving: true,
            terminating: false,
            local,
            hints: None,
        });
        EndpointSlice {
            name: ServiceName::new("scale", slice_name(i)),
            service: ServiceName::new("scale", name(i)),
            family: Family::V4,
            ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: TARGET_PORT }],
            endpoints: endpoints.collect(),
            triggered: None,
        }
    }

    /// Service `i` as an object of the Kubernetes API.
    pub fn service_object(self, i: u32) -> Value {
        let service = objects::service("scale", &name(i)).cluster_ip(&cluster_ip(i).to_string());
        service.port("http", "TCP", PORT.get()).set("/spec/ports/0/targetPort", TARGET_PORT.get()).into()
    }

    /// The slice of Service `i` as an object of the Kubernetes API.
    pub fn slice_object(self, i: u32) -> Value {
        let empty = objects::slice("scale", &slice_name(i), &name(i)).port("http", "TCP", TARGET_PORT.get());
        let add = |slice: objects::Slice, (address, local): (Ipv4Addr, bool)| {
            slice.endpoint(&address.to_string()).on_node(if local { LOCAL_NODE } else { "node-far" })
        };
        self.addresses(i).fold(empty, add).into()
    }

    /// The endpoints of Service `i`, and whether they are local.
    fn addresses(self, i: u32) -> impl Iterator<Item = (Ipv4Addr, bool)> {
        let first = i * self.endpoints;
        (first..first + self.endpoints).map(|n| (offset(Ipv4Addr::new(10, 128, 0, 1), n), n.is_multiple_of(10)))
    }
}

/// Names sort as their numbers do.
fn name(i: u32) -> String {
    format!("service-{i:07}")
}

fn slice_name(i: u32) -> String {
    format!("{}-abcde", name(i))
}

/// The first 255 addresses are left for those that a test or demo chooses itself.
fn cluster_ip(i: u32) -> Ipv4Addr {
    offset(Ipv4Addr::new(10, 96, 1, 0), i)
}

fn offset(first: Ipv4Addr, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + n)
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
        let scale = Scale::new(30, 3);
        for (i, pair) in scale.objects().collect::<Vec<_>>().chunks(2).enumerate() {
            let i = u32::try_from(i).unwrap();
            let (service, slice) = (scale.service(i), scale.slice(i));
            assert_eq!(pair[0]["metadata"]["name"], *service.name.name);
            assert_eq!(pair[0]["spec"]["clusterIP"], service.cluster_ips.v4.unwrap().to_string());
            assert_eq!(pair[1]["metadata"]["labels"]["kubernetes.io/service-name"], *service.name.name);
            assert_eq!(pair[1]["metadata"]["name"], *slice.name.name);
            let endpoints = pair[1]["endpoints"].as_array().unwrap();
            assert_eq!(endpoints.len(), slice.endpoints.len());
            for (object, endpoint) in endpoints.iter().zip(&slice.endpoints) {
                assert_eq!(object["addresses"][0], endpoint.address.to_string());
                assert_eq!(object["nodeName"] == LOCAL_NODE, endpoint.local);
            }
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

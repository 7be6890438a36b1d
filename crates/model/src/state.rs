//! The current Services and endpoint slices, and which Services changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::{Endpoint, EndpointSlice, Family, PerFamily, PortEndpoint, Service, ServiceName, ServicePort, SliceName};

/// A kind of object that is listed and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// ServiceCIDRs.
    ServiceCidr,
}

/// Where ClusterIPs are allocated from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// The name of the object.
    pub name: Arc<str>,
    /// Its prefixes, of either family.
    pub prefixes: Vec<IpNet>,
}

/// What a source says about the cluster.
///
/// For each kind: `ListStarted`, the objects, `ListComplete`, then changes; a source that lost its place starts over with
/// another `ListStarted`, and what the new list does not name is gone once it is complete.
#[derive(Clone, Debug)]
pub enum Update {
    /// A complete list of this kind begins.
    ListStarted(Kind),
    /// Every object of this kind has been sent since `ListStarted`.
    ListComplete(Kind),
    /// A Service is now like this.
    Service(Service),
    /// A Service is gone, or must not be proxied any more.
    ServiceGone(ServiceName),
    /// An object could not be read; what was known of it stays.
    Unreadable(Kind, ServiceName),
    /// An endpoint slice is now like this.
    Slice(EndpointSlice),
    /// An endpoint slice is gone, or must not be used any more.
    SliceGone(SliceName),
    /// A ServiceCIDR is now like this.
    ServiceCidr(ServiceCidr),
    /// The ServiceCIDR of this name is gone.
    ServiceCidrGone(Arc<str>),
    /// The node is in this zone, or in none that is known (label `topology.kubernetes.io/zone`).
    Zone(Option<Arc<str>>),
}

/// Everything known of the cluster, and what changed since it was last asked.
#[derive(Debug)]
pub struct State {
    entries: BTreeMap<ServiceName, Entry>,
    slice_services: HashMap<SliceName, ServiceName>,
    service_cidrs: BTreeMap<Arc<str>, Listed<ServiceCidr>>,
    zone: Option<Arc<str>>,
    lists: Lists,
    changes: Changes,
    started: SystemTime,
}

/// What changed in a [`State`], in order of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services with a change in themselves or their endpoints.
    pub services: BTreeSet<ServiceName>,
    /// Whether the prefixes of ServiceCIDRs changed.
    pub service_cidrs: bool,
    /// When the changes of endpoints happened in the cluster, where their slices tell.
    pub triggered: PerFamily<Vec<SystemTime>>,
}

#[derive(Debug, Default)]
struct Entry {
    service: Option<Listed<Service>>,
    slices: Vec<Listed<EndpointSlice>>,
}

/// An object and the list that last named it.
#[derive(Debug)]
struct Listed<T> {
    object: T,
    list: u64,
}

/// How many lists of each kind began, and whether one was ever completed.
#[derive(Debug, Default)]
struct Lists {
    services: Progress,
    slices: Progress,
    service_cidrs: Progress,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    current: u64,
    complete: bool,
}

impl State {
    /// An empty state. Trigger times before `started` say nothing about this process and are ignored.
    pub fn new(started: SystemTime) -> Self {
        Self {
            entries: BTreeMap::new(),
            slice_services: HashMap::new(),
            service_cidrs: BTreeMap::new(),
            zone: None,
            lists: Lists::default(),
            changes: Changes::default(),
            started,
        }
    }

    /// Takes in what a source says.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::ListStarted(kind) => self.lists.of(kind).current += 1,
            Update::ListComplete(kind) => self.complete_list(kind),
            Update::Service(service) => self.put_service(service),
            Update::ServiceGone(name) => self.remove_service(&name),
            Update::Unreadable(kind, name) => self.keep(kind, &name),
            Update::Slice(slice) => self.put_slice(slice),
            Update::SliceGone(name) => self.remove_slice(&name),
            Update::ServiceCidr(cidr) => self.put_service_cidr(cidr),
            Update::ServiceCidrGone(name) => self.remove_service_cidr(&name),
            Update::Zone(zone) => self.move_to_zone(zone),
        }
    }

    /// Whether Services and endpoint slices have been listed once. Before that, absence means nothing. ServiceCIDRs are not waited
    /// for, as not every cluster has them.
    pub const fn is_complete(&self) -> bool {
        self.lists.services.complete && self.lists.slices.complete
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Whether [`State::take_changes`] would name anything.
    pub fn has_changes(&self) -> bool {
        !self.changes.services.is_empty() || self.changes.service_cidrs
    }

    /// The prefixes of one family that ClusterIPs are allocated from, in order, each once. None if they are not known.
    pub fn service_cidrs(&self, family: Family) -> Vec<IpNet> {
        let all = self.service_cidrs.values().flat_map(|cidr| &cidr.object.prefixes);
        let of_family: BTreeSet<_> = all.filter(|prefix| Family::of_prefix(prefix) == family).copied().collect();
        of_family.into_iter().collect()
    }

    /// The zone of the node, if it is known.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The Service of this name, if it is to be proxied.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        Some(&self.entries.get(name)?.service.as_ref()?.object)
    }

    /// All Services, in order of their names.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.entries.values().filter_map(|entry| Some(&entry.service.as_ref()?.object))
    }

    /// The endpoints of one Service port, in order of address and port, each once.
    ///
    /// Where slices disagree about an endpoint, one that is not terminating beats one that is (contract §4.5).
    pub fn endpoints(&self, service: &ServiceName, port: &ServicePort, family: Family) -> Vec<PortEndpoint<'_>> {
        let Some(entry) = self.entries.get(service) else {
            return Vec::new();
        };
        let mut found: Vec<PortEndpoint<'_>> = entry
            .slices
            .iter()
            .map(|slice| &slice.object)
            .filter(|slice| slice.family == family)
            .flat_map(|slice| {
                let matching = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
                matching.flat_map(|p| slice.endpoints.iter().map(|endpoint| PortEndpoint { endpoint, port: p.port }))
            })
            .collect();
        // Where slices disagree, whichever came first: alive, ready, serving.
        found.sort_by_key(|found| {
            let Endpoint { terminating, ready, serving, .. } = *found.endpoint;
            (found.socket(), terminating, !ready, !serving)
        });
        found.dedup_by_key(|found| found.socket());
        found
    }

    /// How many addresses on this node are ready to serve a Service, by whichever of its ports.
    pub fn ready_on_this_node(&self, service: &ServiceName, family: Family) -> usize {
        let slices = self.entries.get(service).map(|entry| &entry.slices).into_iter().flatten();
        let slices =
            slices.map(|slice| &slice.object).filter(|slice| slice.family == family && !slice.ports.is_empty());
        let ready = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.local && endpoint.ready);
        ready.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
    }

    fn put_service(&mut self, service: Service) {
        let list = self.lists.services.current;
        let entry = self.entries.entry(service.name.clone()).or_default();
        if entry.service.as_ref().is_none_or(|old| old.object != service) {
            self.changes.services.insert(service.name.clone());
        }
        entry.service = Some(Listed { object: service, list });
    }

    fn remove_service(&mut self, name: &ServiceName) {
        if let Some(entry) = self.entries.get_mut(name)
            && entry.service.take().is_some()
        {
            self.changes.services.insert(name.clone());
            self.drop_if_empty(name);
        }
    }

    fn put_slice(&mut self, slice: EndpointSlice) {
        let list = self.lists.slices.current;
        if self.slice_services.get(&slice.name).is_some_and(|service| *service != slice.service) {
            self.remove_slice(&slice.name);
        }
        let service = slice.service.clone();
        let triggered = slice.triggered.filter(|time| *time > self.started);
        let pending = self.changes.triggered.get_mut(slice.family);
        let entry = self.entries.entry(service.clone()).or_default();
        match entry.slices.iter_mut().find(|old| old.object.name == slice.name) {
            Some(old) => {
                let same = old.object.same_endpoints(&slice);
                *old = Listed { object: slice, list };
                if same {
                    return;
                }
            }
            None => {
                self.slice_services.insert(slice.name.clone(), service.clone());
                // Most Services have one: room for more would take as much as all their endpoints.
                entry.slices.reserve_exact(1);
                entry.slices.push(Listed { object: slice, list });
            }
        }
        pending.extend(triggered);
        self.changes.services.insert(service);
    }

    fn remove_slice(&mut self, name: &SliceName) {
        let Some(service) = self.slice_services.remove(name) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&service) {
            entry.slices.retain(|slice| slice.object.name != *name);
        }
        self.drop_if_empty(&service);
        self.changes.services.insert(service);
    }

    fn put_service_cidr(&mut self, cidr: ServiceCidr) {
        let list = self.lists.service_cidrs.current;
        self.change_service_cidrs(|all| drop(all.insert(cidr.name.clone(), Listed { object: cidr, list })));
    }

    fn remove_service_cidr(&mut self, name: &str) {
        self.change_service_cidrs(|all| drop(all.remove(name)));
    }

    /// Only the prefixes of all objects together count: one that two objects name stays while either of them does.
    fn change_service_cidrs(&mut self, change: impl FnOnce(&mut BTreeMap<Arc<str>, Listed<ServiceCidr>>)) {
        let before = Family::ALL.map(|family| self.service_cidrs(family));
        change(&mut self.service_cidrs);
        self.changes.service_cidrs |= before != Family::ALL.map(|family| self.service_cidrs(family));
    }

    /// Only where endpoints are meant for zones does ours matter.
    fn move_to_zone(&mut self, zone: Option<Arc<str>>) {
        if self.zone == zone {
            return;
        }
        self.zone = zone;
        let is_hinted = |slice: &Listed<EndpointSlice>| slice.object.endpoints.iter().any(Endpoint::names_zones);
        let hinted = self.entries.iter().filter(|(_, entry)| entry.slices.iter().any(is_hinted));
        self.changes.services.extend(hinted.map(|(name, _)| name.clone()));
    }

    fn keep(&mut self, kind: Kind, name: &ServiceName) {
        let list = self.lists.of(kind).current;
        match kind {
            Kind::Service => {
                if let Some(listed) = self.entries.get_mut(name).and_then(|entry| entry.service.as_mut()) {
                    listed.list = list;
                }
            }
            Kind::EndpointSlice => {
                let entry = self.slice_services.get(name).and_then(|service| self.entries.get_mut(service));
                let slices = entry.map(|entry| entry.slices.iter_mut()).into_iter().flatten();
                slices.filter(|slice| slice.object.name == *name).for_each(|slice| slice.list = list);
            }
            Kind::ServiceCidr => {
                if let Some(listed) = self.service_cidrs.get_mut(&name.name) {
                    listed.list = list;
                }
            }
        }
    }

    /// Removes what the list that just ended did not name.
    fn complete_list(&mut self, kind: Kind) {
        let progress = self.lists.of(kind);
        progress.complete = true;
        let current = progress.current;
        match kind {
            Kind::Service => {
                let services = self.entries.values().filter_map(|entry| entry.service.as_ref());
                let gone: Vec<_> = services.filter(|s| s.list != current).map(|s| s.object.name.clone()).collect();
                gone.iter().for_each(|name| self.remove_service(name));
            }
            Kind::EndpointSlice => {
                let slices = self.entries.values().flat_map(|entry| &entry.slices);
                let gone: Vec<_> = slices.filter(|s| s.list != current).map(|s| s.object.name.clone()).collect();
                gone.iter().for_each(|name| self.remove_slice(name));
            }
            Kind::ServiceCidr => {
                let listed = self.service_cidrs.iter();
                let gone: Vec<_> = listed.filter(|(_, s)| s.list != current).map(|(name, _)| name.clone()).collect();
                gone.iter().for_each(|name| self.remove_service_cidr(name));
            }
        }
    }

    fn drop_if_empty(&mut self, name: &ServiceName) {
        if self.entries.get(name).is_some_and(|entry| entry.service.is_none() && entry.slices.is_empty()) {
            self.entries.remove(name);
        }
    }
}

impl Lists {
    const fn of(&mut self, kind: Kind) -> &mut Progress {
        match kind {
            Kind::Service => &mut self.services,
            Kind::EndpointSlice => &mut self.slices,
            Kind::ServiceCidr => &mut self.service_cidrs,
        }
    }
}

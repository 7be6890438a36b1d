//! What the state makes of a source's updates.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::{
    Endpoint, EndpointSlice, Family, Hints, Kind, PerFamily, PortNumber, Protocol, Selection, Service, ServiceCidr,
    ServiceName, ServicePort, SlicePort, State, TrafficPolicy, Update, select,
};

fn name(name: &str) -> ServiceName {
    ServiceName::new("ns", name)
}

fn number(port: u16) -> PortNumber {
    PortNumber::new(port).unwrap()
}

fn service(service: &str) -> Service {
    Service {
        cluster_ips: PerFamily { v4: Some("10.96.0.1".parse().unwrap()), v6: None },
        ports: vec![ServicePort { name: "p".into(), protocol: Protocol::Tcp, port: number(80), node_port: None }],
        ..Service::new(name(service))
    }
}

/// An endpoint: address, then flags out of `l`ocal, not ready (`-`), `t`erminating, `d`ead.
fn endpoint(address: &str, flags: &str) -> Endpoint {
    let has = |flag| flags.contains(flag);
    Endpoint {
        address: address.parse().unwrap(),
        ready: !has('-') && !has('t') && !has('d'),
        serving: !has('-') && !has('d'),
        terminating: has('t') || has('d'),
        local: has('l'),
        hints: None,
    }
}

fn slice(slice: &str, service: &str, endpoints: &[(&str, &str)]) -> EndpointSlice {
    EndpointSlice {
        name: name(slice),
        service: name(service),
        family: Family::V4,
        ports: vec![SlicePort { name: "p".into(), protocol: Protocol::Tcp, port: number(8080) }],
        endpoints: endpoints.iter().map(|(address, flags)| endpoint(address, flags)).collect(),
        triggered: None,
    }
}

/// A state after these updates, each kind listed once before.
fn state(updates: impl IntoIterator<Item = Update>) -> State {
    let mut state = State::new(SystemTime::UNIX_EPOCH);
    for kind in [Kind::Service, Kind::EndpointSlice] {
        state.apply(Update::ListStarted(kind));
        state.apply(Update::ListComplete(kind));
    }
    updates.into_iter().for_each(|update| state.apply(update));
    state
}

/// The names of Services that changed since the last call.
fn changed(state: &mut State) -> Vec<String> {
    state.take_changes().services.iter().map(|name| name.name.to_string()).collect()
}

/// The endpoints of a Service's only port, as text.
fn endpoints(state: &State, service: &str) -> Vec<String> {
    let port = &self::service(service).ports[0];
    let found = state.endpoints(&name(service), port, Family::V4);
    found
        .iter()
        .map(|e| format!("{}{}", e.socket(), if e.endpoint.terminating { " terminating" } else { "" }))
        .collect()
}

#[test]
fn it_is_complete_once_both_kinds_were_listed() {
    let mut state = State::new(SystemTime::UNIX_EPOCH);
    let steps = [
        (Update::ListStarted(Kind::Service), false),
        (Update::ListStarted(Kind::EndpointSlice), false),
        (Update::ListComplete(Kind::EndpointSlice), false),
        (Update::ListComplete(Kind::Service), true),
        (Update::ListStarted(Kind::Service), true),
    ];
    for (step, complete) in steps {
        state.apply(step.clone());
        assert_eq!(state.is_complete(), complete, "{step:?}");
    }
}

#[test]
fn only_what_changed_is_named() {
    let mut state = state([Update::Service(service("a")), Update::Slice(slice("b-1", "b", &[("10.0.0.1", "")]))]);
    assert_eq!(changed(&mut state), ["a", "b"]);
    state.apply(Update::Service(service("a")));
    let mut same = slice("b-1", "b", &[("10.0.0.1", "")]);
    same.triggered = Some(SystemTime::now());
    state.apply(Update::Slice(same));
    state.apply(Update::ServiceGone(name("unknown")));
    state.apply(Update::SliceGone(name("unknown")));
    assert!(!state.has_changes(), "{:?}", state.take_changes());
    state.apply(Update::Slice(slice("b-1", "b", &[("10.0.0.1", "-")])));
    assert_eq!(changed(&mut state), ["b"]);
}

#[test]
fn a_new_list_removes_what_it_does_not_name_and_keeps_what_it_cannot_read() {
    let mut state = state([
        Update::Service(service("a")),
        Update::Service(service("b")),
        Update::Service(service("c")),
        Update::Slice(slice("a-1", "a", &[("10.0.0.1", "")])),
        Update::Slice(slice("a-2", "a", &[("10.0.0.2", "")])),
        Update::Slice(slice("a-3", "a", &[("10.0.0.3", "")])),
    ]);
    changed(&mut state);
    for update in [
        Update::ListStarted(Kind::Service),
        Update::Service(service("a")),
        Update::Unreadable(Kind::Service, name("c")),
        Update::Unreadable(Kind::Service, name("never-seen")),
        Update::ListComplete(Kind::Service),
        Update::ListStarted(Kind::EndpointSlice),
        Update::Slice(slice("a-1", "a", &[("10.0.0.1", "")])),
        Update::Unreadable(Kind::EndpointSlice, name("a-3")),
        Update::ListComplete(Kind::EndpointSlice),
    ] {
        state.apply(update);
    }
    assert_eq!(changed(&mut state), ["a", "b"], "b itself, a by its slice");
    assert!(state.service(&name("b")).is_none());
    assert!(state.service(&name("c")).is_some());
    assert_eq!(endpoints(&state, "a"), ["10.0.0.1:8080", "10.0.0.3:8080"]);
}

#[test]
fn a_list_that_breaks_off_removes_nothing() {
    let mut state = state([Update::Service(service("a")), Update::Service(service("b"))]);
    changed(&mut state);
    state.apply(Update::ListStarted(Kind::Service));
    state.apply(Update::Service(service("b")));
    state.apply(Update::ListStarted(Kind::Service));
    assert!(state.service(&name("a")).is_some());
    state.apply(Update::Service(service("a")));
    state.apply(Update::ListComplete(Kind::Service));
    assert_eq!(changed(&mut state), ["b"], "only the list that was completed counts");
}

#[test]
fn slices_are_merged_and_a_live_endpoint_beats_a_terminating_one() {
    let state = state([
        Update::Slice(slice("z", "a", &[("10.0.0.2", ""), ("10.0.0.10", "t")])),
        Update::Slice(slice("m", "a", &[("10.0.0.1", ""), ("10.0.0.2", "t"), ("10.0.0.1", "")])),
        Update::Slice(slice("other", "b", &[("10.0.0.9", "")])),
    ]);
    assert_eq!(endpoints(&state, "a"), ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.10:8080 terminating"]);
}

/// The same state gives the same rules, in whichever order it came.
#[test]
fn where_slices_disagree_the_ready_endpoint_counts() {
    let unready = || {
        let mut slice = slice("m", "a", &[("10.0.0.1", "")]);
        (slice.endpoints[0].ready, slice.endpoints[0].serving) = (false, false);
        Update::Slice(slice)
    };
    let ready = || Update::Slice(slice("z", "a", &[("10.0.0.1", "")]));
    for updates in [[unready(), ready()], [ready(), unready()]] {
        let state = state([Update::Service(service("a"))].into_iter().chain(updates));
        let port = &state.service(&name("a")).unwrap().ports[0];
        assert!(state.endpoints(&name("a"), port, Family::V4)[0].endpoint.ready);
    }
}

#[test]
fn a_slice_may_move_to_another_service() {
    let mut state = state([Update::Slice(slice("s", "a", &[("10.0.0.1", "")]))]);
    changed(&mut state);
    state.apply(Update::Slice(slice("s", "b", &[("10.0.0.1", "")])));
    assert_eq!(changed(&mut state), ["a", "b"]);
    assert!(endpoints(&state, "a").is_empty());
    assert_eq!(endpoints(&state, "b"), ["10.0.0.1:8080"]);
    state.apply(Update::SliceGone(name("s")));
    assert!(endpoints(&state, "b").is_empty());
}

#[test]
fn trigger_times_count_from_the_start() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let mut state = State::new(start);
    for (seconds, address) in [(900, "10.0.0.1"), (1100, "10.0.0.2"), (1200, "10.0.0.3")] {
        let mut slice = slice("s", "a", &[(address, "")]);
        slice.triggered = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        state.apply(Update::Slice(slice));
    }
    let triggered = state.take_changes().triggered;
    let expected = [1100, 1200].map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(triggered.v4, expected);
    assert!(triggered.v6.is_empty());
}

/// Contract §4.6: policies, whether the Service can be reached from outside, endpoints; then the lists, the endpoints on
/// this node among them, and whether anything can serve.
#[test]
fn endpoints_are_selected_by_policy_and_condition() {
    use TrafficPolicy::{Cluster, Local};
    type Case<'a> = (TrafficPolicy, TrafficPolicy, bool, &'a [(&'a str, &'a str)], &'a str, &'a str, &'a str, bool);
    let all: &[_] = &[("10.0.0.1", "l"), ("10.0.0.2", ""), ("10.0.0.3", "lt"), ("10.0.0.4", "t"), ("10.0.0.5", "-")];
    let terminating: &[_] = &[("10.0.0.3", "lt"), ("10.0.0.4", "t"), ("10.0.0.5", "l-"), ("10.0.0.6", "ld")];
    let remote: &[_] = &[("10.0.0.2", ""), ("10.0.0.3", "lt")];
    let cases: &[Case<'_>] = &[
        (Cluster, Cluster, false, all, "1 2", "", "1", true),
        (Cluster, Cluster, false, terminating, "3 4", "", "3", true),
        (Cluster, Cluster, false, &[("10.0.0.5", "-"), ("10.0.0.6", "d")], "", "", "", false),
        (Cluster, Cluster, false, &[], "", "", "", false),
        // An external policy means nothing where there is no external frontend.
        (Cluster, Local, false, all, "1 2", "", "1", true),
        (Cluster, Local, true, all, "1 2", "1", "1", true),
        (Cluster, Local, true, remote, "2", "3", "3", true),
        (Cluster, Local, true, &[("10.0.0.2", "")], "2", "", "", true),
        (Local, Cluster, false, all, "", "1", "1", true),
        (Local, Cluster, true, all, "1 2", "1", "1", true),
        (Local, Cluster, false, terminating, "", "3", "3", true),
        (Local, Cluster, false, &[("10.0.0.2", "")], "", "", "", true),
        (Local, Local, false, &[("10.0.0.5", "l-")], "", "", "", false),
    ];
    let text = |list: &[std::net::SocketAddr]| {
        list.iter().map(|s| s.ip().to_string().replace("10.0.0.", "")).collect::<Vec<_>>().join(" ")
    };
    for case @ (internal, external, reachable, given, cluster, local, here, any) in cases {
        let mut service = service("a");
        (service.internal_policy, service.external_policy) = (*internal, *external);
        service.ports[0].node_port = reachable.then(|| number(30080));
        let state = state([Update::Slice(slice("s", "a", given))]);
        let port = &service.ports[0];
        let found = select(&service, port, Family::V4, &state.endpoints(&service.name, port, Family::V4), None);
        let Selection { cluster: c, local: l, on_this_node: h, any: a } = &found;
        assert_eq!(
            (text(c), text(l), text(h), *a),
            ((*cluster).into(), (*local).into(), (*here).into(), *any),
            "{case:?}"
        );
    }
}

/// A state that has Services for any zone, for other zones and for none.
fn zoned() -> State {
    let hinted = |service: &str, zones: Option<&[&str]>| {
        let mut slice = slice(&format!("{service}-1"), service, &[("10.0.0.1", "")]);
        let hints =
            |zones: &[&str]| Hints { zones: zones.iter().map(|zone| (*zone).into()).collect(), ..Hints::default() };
        slice.endpoints[0].hints = zones.map(|zones| Arc::new(hints(zones)));
        Update::Slice(slice)
    };
    let mut state =
        state([hinted("east", Some(&["east"])), hinted("both", Some(&["east", "west"])), hinted("any", None)]);
    changed(&mut state);
    state
}

#[test]
fn a_new_zone_concerns_services_with_hints_for_zones() {
    let mut state = zoned();
    state.apply(Update::Zone(None));
    assert!(!state.has_changes());
    state.apply(Update::Zone(Some("east".into())));
    assert_eq!(changed(&mut state), ["both", "east"]);
    assert_eq!(state.zone(), Some("east"));
    state.apply(Update::Zone(Some("east".into())));
    assert!(!state.has_changes());
    state.apply(Update::Zone(None));
    assert_eq!(changed(&mut state), ["both", "east"]);
}

fn cidr(name: &str, prefixes: &[&str]) -> Update {
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    Update::ServiceCidr(ServiceCidr { name: name.into(), prefixes })
}

/// Whether the prefixes changed since the last call, and what they are now.
fn cidrs(state: &mut State) -> (bool, String) {
    let all: Vec<_> = Family::ALL.iter().flat_map(|family| state.service_cidrs(*family)).collect();
    (state.take_changes().service_cidrs, all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

#[test]
fn service_cidrs_are_known_by_family_and_in_order() {
    let mut state = state([cidr("b", &["fd00::/112", "10.97.0.0/16"]), cidr("a", &["10.112.0.0/12", "10.96.0.0/16"])]);
    assert_eq!(cidrs(&mut state), (true, "10.96.0.0/16 10.97.0.0/16 10.112.0.0/12 fd00::/112".to_owned()));
    state.apply(cidr("b", &["10.97.0.0/16"]));
    assert_eq!(cidrs(&mut state), (true, "10.96.0.0/16 10.97.0.0/16 10.112.0.0/12".to_owned()));
    state.apply(Update::ServiceCidrGone("unknown".into()));
    state.apply(cidr("empty", &[]));
    assert!(!state.has_changes());
}

/// In kube-proxy, the prefix would be gone with either of them.
#[test]
fn a_service_cidr_that_two_objects_name_stays_while_one_of_them_does() {
    let both = "10.96.0.0/16".to_owned();
    let mut state = state([cidr("a", &["10.96.0.0/16"])]);
    assert_eq!(cidrs(&mut state), (true, both.clone()));
    state.apply(cidr("b", &["10.96.0.0/16"]));
    assert_eq!(cidrs(&mut state), (false, both.clone()));
    state.apply(Update::ServiceCidrGone("a".into()));
    assert_eq!(cidrs(&mut state), (false, both));
    state.apply(Update::ServiceCidrGone("b".into()));
    assert_eq!(cidrs(&mut state), (true, String::new()));
}

#[test]
fn a_new_list_of_service_cidrs_counts_once_it_is_complete() {
    let mut state = state([cidr("a", &["10.96.0.0/16"]), cidr("b", &["10.97.0.0/16"]), cidr("c", &["10.98.0.0/16"])]);
    cidrs(&mut state);
    let kind = Kind::ServiceCidr;
    state.apply(Update::ListStarted(kind));
    state.apply(cidr("a", &["10.96.0.0/16"]));
    state.apply(Update::Unreadable(kind, ServiceName::new("", "c")));
    assert!(!state.has_changes());
    state.apply(Update::ListComplete(kind));
    assert_eq!(cidrs(&mut state), (true, "10.96.0.0/16 10.98.0.0/16".to_owned()));
}

#[test]
fn nobody_waits_for_service_cidrs() {
    let state = state([]);
    assert!(state.is_complete(), "Services and slices were listed");
}

#[test]
fn names_without_a_namespace_print_without_it() {
    assert_eq!(ServiceName::new("", "kubernetes").to_string(), "kubernetes");
    assert_eq!(name("web").to_string(), "ns/web");
}

/// Contract §8.2: by address, whatever slices and ports name it.
#[test]
fn addresses_that_are_ready_on_this_node_are_counted_once() {
    let first = slice(
        "a",
        "web",
        &[("10.0.0.1", "l"), ("10.0.0.2", "l"), ("10.0.0.3", ""), ("10.0.0.4", "lt"), ("10.0.0.5", "l-")],
    );
    let second = slice("b", "web", &[("10.0.0.1", "l"), ("10.0.0.6", "l")]);
    let without_ports = EndpointSlice { ports: Vec::new(), ..slice("c", "web", &[("10.0.0.7", "l")]) };
    let others = slice("d", "other", &[("10.0.0.8", "l")]);
    let slices = [first, second, without_ports, others];
    let state = state([Update::Service(service("web"))].into_iter().chain(slices.map(Update::Slice)));
    assert_eq!(state.ready_on_this_node(&name("web"), Family::V4), 3);
    assert_eq!(state.ready_on_this_node(&name("web"), Family::V6), 0);
    assert_eq!(state.ready_on_this_node(&name("none"), Family::V4), 0);
}

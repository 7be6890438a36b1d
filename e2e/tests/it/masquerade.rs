//! Upstream's InternalExternalMasquerade (contract §12.1): who reaches which endpoints, and as whom. Three Services, three
//! clients, three kinds of frontend, with and without a way to tell pods, with and without masqueradeAll.

use e2e::{Expected, Pods, Settings, Source, answers};
use model::Family;

use crate::world::{HTTP, World, case, everything, ways};

const LOCAL: [&str; 1] = ["web-0:8080"];
const BOTH: [&str; 2] = ["web-0:8080", "web-2:8080"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    Default,
    ExternalLocal,
    InternalLocal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Pod,
    Node,
    Outside,
}

const POLICIES: [Policy; 3] = [Policy::Default, Policy::ExternalLocal, Policy::InternalLocal];
const CLIENTS: [Client; 3] = [Client::Pod, Client::Node, Client::Outside];

/// The table of contract §5.7.
fn expected(policy: Policy, client: Client, to_cluster_ip: bool, settings: &Settings) -> Expected {
    let (endpoints, masqueraded): (&[&str], bool) = if to_cluster_ip {
        let endpoints: &[&str] = if policy == Policy::InternalLocal { &LOCAL } else { &BOTH };
        (endpoints, settings.masquerade_all || (settings.pods != Pods::Untold) && client != Client::Pod)
    } else if policy == Policy::ExternalLocal {
        match client {
            Client::Pod if (settings.pods != Pods::Untold) => (&BOTH, false),
            Client::Node => (&BOTH, true),
            Client::Pod | Client::Outside => (&LOCAL, false),
        }
    } else {
        (&BOTH, true)
    };
    answers(endpoints, if masqueraded { Source::Node } else { Source::Client })
}

/// All 27 flows, in both families, over the external IP as well.
fn check_all(settings: Settings) {
    let mut world = World::new(&settings);
    let mut objects: Vec<Box<dyn std::fmt::Display>> = Vec::new();
    for (policy, number) in POLICIES.into_iter().zip(1..) {
        let name = format!("svc{number}");
        let service = everything(&name, number);
        objects.push(Box::new(match policy {
            Policy::Default => service,
            Policy::ExternalLocal => service.set("/spec/externalTrafficPolicy", "Local"),
            Policy::InternalLocal => service.set("/spec/internalTrafficPolicy", "Local"),
        }));
        objects.extend(world.slices(&name, &[HTTP], &[(0, "l"), (2, "")]).map(|slice| Box::new(slice) as Box<_>));
    }
    world.apply(&objects.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    for family in Family::ALL {
        for (policy, number) in POLICIES.into_iter().zip(1..) {
            for client in CLIENTS {
                let from = match client {
                    Client::Pod => world.pod(),
                    Client::Node => world.node(),
                    Client::Outside => world.outside(),
                };
                for (frontend, to) in ways(family, number) {
                    let expected = expected(policy, client, frontend == "ClusterIP", &settings);
                    let name = format!("{policy:?}: {client:?} to the {frontend}");
                    world.check([case(&name, from, to, expected)]);
                }
            }
        }
    }
}

#[test]
fn as_configured_by_default() {
    check_all(Settings::default());
}

#[test]
fn without_a_way_to_tell_pods() {
    check_all(Settings { pods: Pods::Untold, ..Settings::default() });
}

#[test]
fn masquerade_all() {
    check_all(Settings { masquerade_all: true, ..Settings::default() });
}

#[test]
fn masquerade_all_without_a_way_to_tell_pods() {
    check_all(Settings { masquerade_all: true, pods: Pods::Untold, ..Settings::default() });
}

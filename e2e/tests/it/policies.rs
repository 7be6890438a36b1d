//! Traffic policies and terminating endpoints (contract §5.7, §12.1).

use e2e::Expected::{self, Lost, Refused};
use e2e::{Destination, Settings, Source, answers};
use model::Family;

use crate::world::{End, HTTP, World, case, cluster_ip, everything, service, vip, ways};

const LOCAL: &str = "/spec/externalTrafficPolicy";
const INTERNAL: &str = "/spec/internalTrafficPolicy";

fn web(workloads: &[usize], source: Source) -> Expected {
    let names: Vec<_> = workloads.iter().map(|number| format!("web-{number}:8080")).collect();
    answers(&names.iter().map(String::as_str).collect::<Vec<_>>(), source)
}

#[test]
fn external_policy_local_keeps_the_source_and_the_node() {
    let mut world = World::new(&Settings::default());
    let (here, away) = (everything("here", 1).set(LOCAL, "Local"), everything("away", 2).set(LOCAL, "Local"));
    let [here4, here6] = world.slices("here", &[HTTP], &[(0, "l"), (1, "")]);
    let [away4, away6] = world.slices("away", &[HTTP], &[(1, "")]);
    world.apply(&[&here, &here4, &here6, &away, &away4, &away6]);
    // So that what is lost was dropped.
    let _servers = world.answer_unhandled(Family::ALL.into_iter().flat_map(|family| ways(family, 2).map(|(_, to)| to)));
    let (pod, node, outside) = (world.pod(), world.node(), world.outside());
    for family in Family::ALL {
        let [(_, cluster_ip), external @ ..] = ways(family, 1);
        world.check([
            case("a pod to the ClusterIP", pod, cluster_ip, web(&[0, 1], Source::Client)),
            case("outside to the ClusterIP", outside, cluster_ip, web(&[0, 1], Source::Node)),
        ]);
        for (name, to) in external {
            world.check([
                case(name, pod, to, web(&[0, 1], Source::Client)),
                case(name, node, to, web(&[0, 1], Source::Node)),
                case(name, outside, to, web(&[0], Source::Client)),
                // Only what comes back to where it came from is masqueraded, or the answer would not come back through the node.
                case(name, world.web[0].host(), to, web(&[0, 1], Source::Client).but("web-0:8080", Source::Node)),
            ]);
        }
        let [(_, cluster_ip), external @ ..] = ways(family, 2);
        world.check([case("no local endpoint: ClusterIP", pod, cluster_ip, web(&[1], Source::Client))]);
        for (name, to) in external {
            world.check([
                case(name, pod, to, web(&[1], Source::Client)),
                case(name, node, to, web(&[1], Source::Node)),
                case(name, outside, to, Lost),
            ]);
        }
    }
}

#[test]
fn internal_policy_local() {
    let mut world = World::new(&Settings::default());
    let cases: [(&str, u8, &[End], Expected); 4] = [
        ("one local of two", 1, &[(0, "l"), (2, "")], web(&[0], Source::Client)),
        ("two local of three", 2, &[(0, "l"), (1, "l"), (2, "")], web(&[0, 1], Source::Client)),
        ("none local", 3, &[(2, "")], Lost),
        ("none at all", 4, &[], Refused),
    ];
    let mut objects: Vec<Box<dyn std::fmt::Display>> = Vec::new();
    for (_, number, ends, _) in &cases {
        let name = format!("web{number}");
        objects.push(Box::new(service(&name, *number, &[HTTP]).set(INTERNAL, "Local")));
        objects.extend(world.slices(&name, &[HTTP], ends).map(|slice| Box::new(slice) as Box<_>));
    }
    world.apply(&objects.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    let to = |family, number| Destination::tcp(cluster_ip(family, number), 80);
    let _servers = world.answer_unhandled(Family::ALL.map(|family| to(family, 3)));
    for family in Family::ALL {
        let to = |number| to(family, number);
        world.check(
            cases.iter().map(|(name, number, _, expected)| case(name, world.pod(), to(*number), expected.clone())),
        );
    }
}

/// Contract §12.1, TerminatingEndpointsTrafficPolicyCluster and -Local: they serve where no other does.
#[test]
fn terminating_endpoints() {
    let mut world = World::new(&Settings::default());
    // Policy; endpoints; what a pod reaches at the ClusterIP, and a stranger at the load balancer.
    let cases: [(&str, &'static [End], Expected, Expected); 7] = [
        ("Cluster", &[(0, "l"), (1, "lt"), (2, "d")], web(&[0], Source::Client), web(&[0], Source::Node)),
        ("Cluster", &[(0, "lt"), (1, "t"), (2, "d")], web(&[0, 1], Source::Client), web(&[0, 1], Source::Node)),
        ("Cluster", &[(0, "ld"), (1, "-")], Refused, Refused),
        ("Local", &[(0, "l"), (1, "lt"), (2, "")], web(&[0, 2], Source::Client), web(&[0], Source::Client)),
        ("Local", &[(0, "lt"), (1, "ld"), (2, "")], web(&[2], Source::Client), web(&[0], Source::Client)),
        ("Local", &[(0, "ld"), (1, "t")], web(&[1], Source::Client), Lost),
        ("Local", &[(0, "ld"), (1, "-")], Refused, Refused),
    ];
    let _servers = world.answer_unhandled(Family::ALL.map(|family| Destination::tcp(vip(family, 1), 80)));
    for (policy, ends, inside, outside) in cases {
        let service = everything("web", 1).set(LOCAL, policy);
        let [v4, v6] = world.slices("web", &[HTTP], ends);
        world.apply(&[&service, &v4, &v6]);
        let name = format!("policy {policy}, endpoints {ends:?}");
        for family in Family::ALL {
            world.check([
                case(&name, world.pod(), Destination::tcp(cluster_ip(family, 1), 80), inside.clone()),
                case(&name, world.outside(), Destination::tcp(vip(family, 1), 80), outside.clone()),
            ]);
        }
    }
}

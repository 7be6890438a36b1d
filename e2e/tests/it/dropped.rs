//! What is dropped, what is rejected, and what no longer is any of ours (contract §5.6, §12.1).

use std::fmt::Display;

use e2e::Expected::{self, Lost, Refused};
use e2e::{Settings, Source, answers};
use model::Family;
use testing::objects::{self, Slice};

use crate::world::{Case, End, HTTP, World, case, everything, unhandled, ways};

/// A Service whose only endpoint is not one for everybody: its policies, the endpoint, and what a pod, the node and a stranger
/// reach at the ClusterIP and by each other way.
struct Row {
    name: &'static str,
    policies: [&'static str; 2],
    endpoint: End,
    cluster_ip: [Expected; 3],
    external: [Expected; 3],
}

fn reaches(sources: [Source; 3], endpoint: &'static str) -> [Expected; 3] {
    sources.map(|source| answers(&[endpoint], source))
}

fn rows() -> [Row; 5] {
    use Source::{Client, Node};
    let (web0, web1) = ("web-0:8080", "web-1:8080");
    let [pod, node, _] = reaches([Client, Node, Node], web1);
    let no_local = [pod, node, Lost];
    let row = |name, policies, endpoint, cluster_ip, external| Row { name, policies, endpoint, cluster_ip, external };
    let cluster_ip = |web| reaches([Client, Node, Node], web);
    let masqueraded = |web| reaches([Node; 3], web);
    [
        row("internal Local, none local", ["Local", "Cluster"], (1, ""), [Lost, Lost, Lost], masqueraded(web1)),
        row("external Local, none local", ["Cluster", "Local"], (1, ""), cluster_ip(web1), no_local.clone()),
        row("external Local, a remote one terminates", ["Cluster", "Local"], (1, "t"), cluster_ip(web1), no_local),
        row("a remote one terminates", ["Cluster"; 2], (1, "t"), cluster_ip(web1), masqueraded(web1)),
        row("a local one terminates", ["Cluster"; 2], (0, "lt"), cluster_ip(web0), masqueraded(web0)),
    ]
}

/// Every way to every row's Service, and what is to come of it from a pod, the node and outside.
fn cases<'a>(
    world: &'a World,
    rows: &'a [Row],
    expected: impl Fn(&Row, &str) -> [Expected; 3] + Copy + 'a,
) -> impl Iterator<Item = Case<'a>> {
    let all = (1..).zip(rows).flat_map(|(number, row)| Family::ALL.map(|family| (row, ways(family, number))));
    all.flat_map(move |(row, ways)| {
        ways.into_iter().flat_map(move |(way, to)| {
            let hosts = [world.pod(), world.node(), world.outside()];
            hosts.into_iter().zip(expected(row, way)).map(move |(from, expected)| case(row.name, from, to, expected))
        })
    })
}

/// The Services of all rows, followed by their slices.
fn objects(world: &World, rows: &[Row], with_slices: bool) -> Vec<Box<dyn Display>> {
    let mut objects: Vec<Box<dyn Display>> = Vec::new();
    for (number, row) in (1..).zip(rows) {
        let (name, [internal, external]) = (format!("web{number}"), row.policies);
        let service = everything(&name, number).set("/spec/internalTrafficPolicy", internal);
        objects.push(Box::new(service.set("/spec/externalTrafficPolicy", external)));
        if with_slices {
            let slices: [Slice; 2] = world.slices(&name, &[HTTP], &[row.endpoint]);
            objects.extend(slices.map(|slice| Box::new(slice) as Box<_>));
        }
    }
    objects
}

#[test]
fn what_is_dropped_is_rejected_without_endpoints_and_left_alone_without_its_service() {
    let mut world = World::new(&Settings::default());
    let rows = rows();
    let all =
        (1..).zip(&rows).flat_map(|(number, _)| Family::ALL.into_iter().flat_map(move |family| ways(family, number)));
    let _servers = world.answer_unhandled(all.map(|(_, to)| to));
    let apply = |world: &mut World, objects: &[Box<dyn Display>]| {
        world.apply(&objects.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    };
    world.check(cases(&world, &rows, |_, _| [unhandled(), unhandled(), unhandled()]));

    let full = objects(&world, &rows, true);
    apply(&mut world, &full);
    let by_way = |row: &Row, way: &str| if way == "ClusterIP" { row.cluster_ip.clone() } else { row.external.clone() };
    world.check(cases(&world, &rows, by_way));

    let empty = objects(&world, &rows, false);
    apply(&mut world, &empty);
    world.check(cases(&world, &rows, |_, _| [Refused, Refused, Refused]));

    // From what they were at first to nothing at all, too.
    apply(&mut world, &full);
    world.proxy.withdraw("objects.yaml").unwrap();
    world.check(cases(&world, &rows, |_, _| [unhandled(), unhandled(), unhandled()]));

    // A ClusterIP of no Service is kept for one.
    apply(&mut world, &full);
    let cidrs: Box<dyn Display> = Box::new(objects::service_cidr("kubernetes", &["10.96.0.0/16", "fd00:10:96::/112"]));
    apply(&mut world, &[cidrs]);
    world.check(cases(&world, &rows, |_, way| {
        if way == "ClusterIP" { [Lost, Lost, Lost] } else { [unhandled(), unhandled(), unhandled()] }
    }));
}

//! Traffic that stays near (contract §4.6): hints of endpoints, the zone of the node, and changes of either.

use std::fmt::Display;

use e2e::{Destination, Expected, Proxy, Settings, Source, answers};
use model::Family;
use serde_json::{Value, json};
use testing::objects::{self, Slice};

use crate::world::{HTTP, World, case, cluster_ip, everything, vip, ways};

/// A world where the node is in `zone` from the start.
fn world(zone: &str) -> World {
    let mut world = World::new(&Settings::default());
    world.proxy.manifests().put("node.yaml", &[&node(zone)]).unwrap();
    world.configure(Settings::default());
    world
}

fn node(zone: &str) -> Value {
    let mut node = objects::node(Proxy::NODE, &[], &["192.0.2.10", "2001:db8::10"]);
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = zone.into();
    node
}

/// The slices of both families, with three endpoints, the last on our node, and hints for each.
fn slices(world: &World, hints: [Value; 3], ready: [bool; 3]) -> [Slice; 2] {
    let flags =
        |index: usize, local: &'static str, unready: &'static str| (index, if ready[index] { local } else { unready });
    let ends = [flags(0, "", "-"), flags(1, "", "-"), flags(2, "l", "l-")];
    world.slices("web", &[HTTP], &ends).map(|slice| {
        let hinted = (0..).zip(&hints);
        hinted.fold(slice, |slice, (index, hints): (usize, _)| {
            slice.set(&format!("/endpoints/{index}/hints"), hints.clone())
        })
    })
}

fn zones(names: &[&str]) -> Value {
    json!({"forZones": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()})
}

fn at(zone: &str, node: &str) -> Value {
    json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]})
}

impl World {
    fn apply_web(&mut self, slices: &[Slice; 2]) {
        let web = everything("web", 1).set("/spec/externalTrafficPolicy", "Local");
        let objects: [&dyn Display; 3] = [&web, &slices[0], &slices[1]];
        self.apply(&objects);
    }

    /// A pod reaches these at the ClusterIP. A stranger reaches the local one at the load balancer, whatever hints say.
    fn reaches(&self, name: &str, workloads: &[usize]) {
        let names: Vec<_> = workloads.iter().map(|number| format!("web-{number}:8080")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let local: Expected = answers(&["web-2:8080"], Source::Client);
        for family in Family::ALL {
            let cluster_ip = Destination::tcp(cluster_ip(family, 1), 80);
            self.check([
                case(name, self.pod(), cluster_ip, answers(&names, Source::Client)),
                case(name, self.outside(), Destination::tcp(vip(family, 1), 80), local.clone()),
            ]);
        }
    }

    fn move_to(&mut self, zone: &str) {
        let written = self.proxy.manifests().put("node.yaml", &[&node(zone)]).unwrap();
        self.proxy.wait_synced(written).unwrap();
    }
}

#[test]
fn traffic_stays_in_the_zone_and_follows_the_node() {
    let mut world = world("zone-a");
    let hinted = slices(&world, [zones(&["zone-a"]), zones(&["zone-b", "zone-c"]), zones(&["zone-b"])], [true; 3]);
    world.apply_web(&hinted);
    world.reaches("zone-a", &[0]);
    // From one without endpoints to another without nothing would change, and nothing be synced.
    for (zone, workloads) in [("zone-b", &[1, 2][..]), ("", &[0, 1, 2]), ("zone-c", &[1]), ("zone-d", &[0, 1, 2])] {
        world.move_to(zone);
        world.reaches(zone, workloads);
    }
    world.move_to("zone-a");
    world.reaches("zone-a again", &[0]);
    let incomplete = slices(&world, [zones(&["zone-a"]), json!(null), zones(&["zone-b"])], [true; 3]);
    world.apply_web(&incomplete);
    world.reaches("an endpoint without hints", &[0, 1, 2]);
}

/// As with trafficDistribution PreferSameNode: on the node, then in the zone, then anywhere.
#[test]
fn traffic_stays_on_the_node_while_it_can() {
    let mut world = world("zone-a");
    let hints = || [at("zone-b", "elsewhere"), at("zone-a", "elsewhere"), at("zone-a", Proxy::NODE)];
    for (name, ready, workloads) in [
        ("all are ready", [true, true, true], &[2][..]),
        ("the one on the node is not", [true, true, false], &[1]),
        ("the one in the zone is neither", [true, false, false], &[0]),
    ] {
        let slices = slices(&world, hints(), ready);
        world.apply_web(&slices);
        let names: Vec<_> = workloads.iter().map(|number| format!("web-{number}:8080")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for family in Family::ALL {
            let to = Destination::tcp(cluster_ip(family, 1), 80);
            world.check([case(name, world.pod(), to, answers(&names, Source::Client))]);
        }
    }
}

/// Hints are for whatever may leave the node: with external policy Cluster also for strangers, and for pods by every way. They are
/// not for what has to stay on it, where policy Local decides alone.
#[test]
fn hints_count_on_every_frontend_and_policies_count_more() {
    let mut world = world("zone-a");
    let away = zones(&["zone-a"]);
    let [v4, v6] = slices(&world, [away.clone(), away, zones(&["zone-b"])], [true; 3]);
    let (near, local) = (&["web-0:8080", "web-1:8080"][..], &["web-2:8080"][..]);
    for (internal, inside) in [("Cluster", near), ("Local", local)] {
        for (external, outside, source) in [("Cluster", near, Source::Node), ("Local", local, Source::Client)] {
            let service = everything("web", 1).set("/spec/internalTrafficPolicy", internal);
            world.apply(&[&service.set("/spec/externalTrafficPolicy", external), &v4, &v6]);
            let name = format!("internal {internal}, external {external}");
            for family in Family::ALL {
                let [(_, cluster_ip), others @ ..] = ways(family, 1);
                world.check([
                    case(&name, world.pod(), cluster_ip, answers(inside, Source::Client)),
                    case(&name, world.node(), cluster_ip, answers(inside, Source::Node)),
                    case(&name, world.outside(), cluster_ip, answers(inside, Source::Node)),
                ]);
                for (way, to) in others {
                    let name = format!("{way}, {name}");
                    // What a pod or the node sends there may leave the node, whatever the policy.
                    world.check([
                        case(&name, world.pod(), to, answers(near, source)),
                        case(&name, world.node(), to, answers(near, Source::Node)),
                        case(&name, world.outside(), to, answers(outside, source)),
                    ]);
                }
            }
        }
    }
}

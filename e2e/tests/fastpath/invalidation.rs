//! What becomes of offloaded connections whose endpoint or Service goes.

use std::fmt::Display;
use std::time::Instant;

use e2e::{PATIENCE, Sender, Settings};
use model::Family;
use nix::sys::signal::Signal;
use testing::traffic::Stream;

use crate::forwarded::Forwarded;
use crate::long::{PORTS, address, exchange, offloaded, wait_for_devices, world};
use crate::world::{End, World, service};

/// The connections that were taken out of the flowtable, because of their endpoints and because of their Services; and how many of
/// them there are where each family has one.
const INVALIDATED: &str = "kubeproxy_fastpath_invalidated_flows_total";
const FOR_ENDPOINTS: [f64; 2] = [2.0, 0.0];
const FOR_SERVICES: [f64; 2] = [0.0, 2.0];

fn endpoints(world: &mut World, ends: &[End]) {
    let [v4, v6] = world.slices("web", &PORTS, ends);
    world.apply(&[&service("web", 1, &PORTS), &v4, &v6]);
}

/// Uses the connections until they end, which may take as long as the proxy waits between two syncs.
fn ends(streams: &mut [Stream], otherwise: &str) {
    let deadline = Instant::now() + PATIENCE;
    for stream in streams {
        while stream.echo("still there?").is_ok() {
            assert!(Instant::now() < deadline, "{otherwise}");
        }
    }
}

#[test]
fn udp_leaves_an_endpoint_that_is_gone() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let shop = &world.shop.pod().namespace;
    let senders = Family::ALL.map(|family| Sender::start("shop", shop, address(family, 81)));
    let deadline = Instant::now() + PATIENCE;
    senders.iter().for_each(|sender| sender.expect(&["web-0:5302"], deadline));
    // They never pause, so that nothing in forward means that they are offloaded.
    let is_quiet = || {
        forwarded.take();
        std::thread::sleep(std::time::Duration::from_millis(200));
        forwarded.take() == 0
    };
    world.proxy.wait("both flows in the fast path", |_| Ok(is_quiet())).unwrap();
    endpoints(&mut world, &[(1, "l")]);
    let deadline = Instant::now() + PATIENCE;
    senders.iter().for_each(|sender| sender.expect(&["web-0:5302", "web-1:5302"], deadline));
    assert_eq!(world.proxy.metric(INVALIDATED).unwrap(), FOR_ENDPOINTS);
}

#[test]
fn tcp_stays_with_an_endpoint_while_there_is_one_and_ends_with_it() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let mut streams = offloaded(&world, &forwarded);
    for ends in [&[(0, "l"), (1, "l")][..], &[(0, "-"), (1, "l")], &[(0, "t"), (1, "l")], &[(0, "d"), (1, "l")]] {
        endpoints(&mut world, ends);
        streams.iter_mut().for_each(|stream| exchange(stream, 5));
    }
    forwarded.take();
    streams.iter_mut().for_each(|stream| exchange(stream, 5));
    assert_eq!(forwarded.take(), 0, "they never left the fast path");
    endpoints(&mut world, &[(1, "l")]);
    ends(&mut streams, "it goes on to an endpoint that the Service does not have");
    assert_eq!(world.proxy.metric(INVALIDATED).unwrap(), FOR_ENDPOINTS);
}

#[test]
fn tcp_to_a_service_that_is_deleted_ends() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let mut streams = offloaded(&world, &forwarded);
    world.apply(&[&service("other", 2, &PORTS)]);
    ends(&mut streams, "it outlives its Service");
    assert_eq!(world.proxy.metric(INVALIDATED).unwrap(), FOR_SERVICES);
}

/// What happened to endpoints and Services while nobody looked is made up for at the start, also for connections that say nothing.
#[test]
fn tcp_to_what_went_while_the_proxy_did_not_run_ends() {
    let mut world = world(&Settings::default());
    let cluster = world.cluster.clone();
    let forwarded = Forwarded::count(&cluster.node);
    let mut at_endpoints = offloaded(&world, &forwarded);
    let restart = |world: &mut World, streams: &mut [Stream], objects: &[&dyn Display]| {
        streams.iter_mut().for_each(|stream| exchange(stream, 1));
        world.proxy.stop(Signal::SIGKILL).unwrap();
        world.proxy.manifests().put("objects.yaml", objects).unwrap();
        world.proxy.run(&Settings::default()).unwrap();
        wait_for_devices(world);
    };
    let [v4, v6] = world.slices("web", &PORTS, &[(1, "l")]);
    restart(&mut world, &mut at_endpoints, &[&service("web", 1, &PORTS), &v4, &v6]);
    assert_eq!(world.proxy.metric(INVALIDATED).unwrap(), FOR_ENDPOINTS);
    ends(&mut at_endpoints, "it goes on to an endpoint that the Service does not have");

    let mut at_services = offloaded(&world, &forwarded);
    restart(&mut world, &mut at_services, &[&service("other", 2, &PORTS)]);
    assert_eq!(world.proxy.metric(INVALIDATED).unwrap(), FOR_SERVICES);
    ends(&mut at_services, "it outlives its Service");
}

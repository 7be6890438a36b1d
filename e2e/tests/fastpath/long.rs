//! Connections that last.

use std::net::SocketAddr;

use e2e::{PATIENCE, Settings};
use model::Family;
use testing::traffic::{Flow, Stream};

use crate::forwarded::Forwarded;
use crate::world::{HTTP, Port, World, cluster_ip, service};

/// The ports of the Service.
pub(crate) const PORTS: [Port; 3] = [HTTP, ("udp", "UDP", 81, 5302), ("dns", "UDP", 53, 5353)];

/// A world in which the fast path is on, with a Service number 1 that has one endpoint.
pub(crate) fn world(settings: &Settings) -> World {
    let mut world = World::new(settings);
    let [v4, v6] = world.slices("web", &PORTS, &[(0, "l")]);
    world.apply(&[&service("web", 1, &PORTS), &v4, &v6]);
    wait_for_devices(&mut world);
    world
}

/// Waits until both families have a device for the client outside and for each of the four pods.
pub(crate) fn wait_for_devices(world: &mut World) {
    let wanted = "five devices in the flowtable of each family";
    world.proxy.wait(wanted, |proxy| Ok(proxy.metric("kubeproxy_fastpath_devices")? == [5.0, 5.0])).unwrap();
}

/// A port of the Service.
pub(crate) fn address(family: Family, port: u16) -> SocketAddr {
    (cluster_ip(family, 1), port).into()
}

/// Exchanges something with a server again and again.
pub(crate) fn exchange(stream: &mut Stream, times: usize) {
    for _ in 0..times {
        stream.echo("still there?").unwrap();
    }
}

/// Likewise.
pub(crate) fn ask(flow: &Flow, times: usize) {
    for _ in 0..times {
        flow.ask_within(PATIENCE).unwrap();
    }
}

/// A connection from a pod to the Service over each family, in the fast path.
pub(crate) fn offloaded(world: &World, forwarded: &Forwarded<'_>) -> [Stream; 2] {
    Family::ALL.map(|family| {
        let mut stream = Stream::open(&world.shop.pod().namespace, None, address(family, 80)).unwrap();
        exchange(&mut stream, 30);
        forwarded.take();
        exchange(&mut stream, 10);
        assert_eq!(forwarded.take(), 0, "it is in the fast path, over {family}");
        stream
    })
}

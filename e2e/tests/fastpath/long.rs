//! Connections that last.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use e2e::{PATIENCE, Settings};
use model::Family;
use testing::netns::Namespace;
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

/// Waits until these devices are in the flowtable of each family, among others.
pub(crate) fn wait_for_names(world: &mut World, names: &[&str]) {
    let node = &world.cluster.clone().node;
    let is_there = |family| names.iter().all(|name| flowtable(node, family).iter().any(|device| device == name));
    let wanted = format!("{names:?} in the flowtable of each family");
    world.proxy.wait(&wanted, |_| Ok(Family::ALL.into_iter().all(is_there))).unwrap();
}

/// The names of the devices in the flowtable of a family.
pub(crate) fn flowtable(node: &Namespace, family: Family) -> Vec<String> {
    let table = if family == Family::V4 { "ip" } else { "ip6" };
    // With some hundred devices, `nft` does not show the one that it is asked for by name.
    let listed = node.sh(&format!("nft list flowtables {table}")).unwrap();
    let ours = listed.split_once(&format!("table {table} kube-proxy {{"));
    let devices = ours.and_then(|(_, rest)| rest.split_once("devices = {")?.1.split_once('}'));
    let names = devices.map_or("", |(devices, _)| devices).split(',').map(|name| name.trim().trim_matches('"'));
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Long connections to the ports 80 by TCP and 81 by UDP take the fast path in both directions, and the server sees the same client
/// there as before.
pub(crate) fn check_fast(forwarded: &Forwarded<'_>, from: &Namespace, to: IpAddr, seen: IpAddr, endpoint: &str) {
    let mut stream = Stream::open(from, None, (to, 80).into()).unwrap();
    assert_eq!(
        (stream.reply().seen_source.ip(), stream.reply().endpoint.as_str()),
        (seen, &*format!("{endpoint}:8080"))
    );
    forwarded.take();
    exchange(&mut stream, 30);
    assert!(forwarded.take() > 15, "TCP to {to}: the slow path comes first");
    exchange(&mut stream, 20);
    assert_eq!(forwarded.take(), 0, "TCP to {to}: the fast path follows");
    let flow = Flow::open(from, None, (to, 81).into()).unwrap();
    ask(&flow, 30);
    assert!(forwarded.take() > 20, "UDP to {to}: the slow path comes first");
    for _ in 0..20 {
        let reply = flow.ask_within(PATIENCE).unwrap();
        assert_eq!((reply.seen_source.ip(), reply.endpoint), (seen, format!("{endpoint}:5302")));
    }
    assert_eq!(forwarded.take(), 0, "UDP to {to}: the fast path follows");
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

/// Waits until connections are in the fast path, after it was declared anew: the kernel lets go of what was there before only some time
/// after the commit, and until then they stay in the slow path.
pub(crate) fn wait_until_fast(streams: &mut [Stream], forwarded: &Forwarded<'_>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        forwarded.take();
        streams.iter_mut().for_each(|stream| exchange(stream, 10));
        match forwarded.take() {
            0 => return,
            slow => assert!(Instant::now() < deadline, "{slow} packets took the slow path"),
        }
    }
}

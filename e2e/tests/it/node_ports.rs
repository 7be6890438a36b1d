//! NodePorts answer on the addresses that the node has now, not on those that it had at the start.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use e2e::Expected::Refused;
use e2e::{Destination, Probe, Settings, Source, answers};
use model::Family;
use testing::traffic::{Stream, ask_tcp};

use crate::world::{HTTP, World, case, everything, node_port};

/// "Within a second or so": an address is looked at 100 ms after it comes, and minSyncPeriod may have to pass. Twice that, for
/// two CPUs that run other tests.
const FOLLOWED: Duration = Duration::from_millis(2200);

/// An address of the node that comes and goes, and one outside of nodePortAddresses.
const COMING: [(&str, &str); 2] = [("192.0.2.11/24", "192.0.2.11"), ("2001:db8::11/64", "2001:db8::11")];
const OUTSIDE: [(&str, &str); 2] = [("198.18.0.11/32", "198.18.0.11"), ("2001:db8:18::11/128", "2001:db8:18::11")];

fn to(address: &str) -> Destination {
    let address: IpAddr = address.parse().unwrap();
    Destination::tcp(address, node_port(1))
}

/// Which addresses NodePorts of a family answer on.
fn listed(world: &World, family: Family) -> String {
    let table = if family == Family::V4 { "ip" } else { "ip6" };
    world.cluster.node.sh(&format!("nft list set {table} kube-proxy nodeport-ips")).unwrap()
}

#[test]
fn node_ports_follow_the_addresses_of_interfaces() {
    let node_port_addresses = &["192.0.2.0/24", "2001:db8::/64"];
    let mut world = World::new(&Settings { min_sync_period: "1s", node_port_addresses, ..Settings::default() });
    let web = everything("web", 1);
    let [v4, v6] = world.slices("web", &[HTTP], &[(0, "l"), (1, "")]);
    world.apply(&[&web, &v4, &v6]);
    let all = || answers(&["web-0:8080", "web-1:8080"], Source::Node);
    let (client, node) = (&world.cluster.client, &world.cluster.node);
    for (family, ((prefix, address), (out_prefix, out_address))) in
        Family::ALL.into_iter().zip(COMING.into_iter().zip(OUTSIDE))
    {
        let before = to(&world.node().address(family).to_string());
        world.check([
            case("an address from the start", world.outside(), before, all()),
            case("one that is not there yet", world.outside(), to(out_address), e2e::Expected::Lost),
        ]);

        node.add_address("eth0", out_prefix).unwrap();
        let came = Instant::now();
        node.add_address("eth0", prefix).unwrap();
        while ask_tcp(client, None, to(address).socket).is_err() {
            assert!(came.elapsed() < FOLLOWED, "{address}: {}\n{}", listed(&world, family), world.proxy.log_tail());
        }
        world.check([
            case("one that has come", world.outside(), to(address), all()),
            case("from a pod", world.pod(), to(address), all()),
            case("an address from the start", world.outside(), before, all()),
            case("one outside of nodePortAddresses", world.outside(), to(out_address), Refused),
        ]);

        let mut stream = Stream::open(client, None, before.socket).unwrap();
        let goes = Instant::now();
        node.ip(&format!("address del {prefix} dev eth0")).unwrap();
        while listed(&world, family).contains(address) {
            assert!(goes.elapsed() < FOLLOWED, "{}\n{}", listed(&world, family), world.proxy.log_tail());
        }
        stream.echo("after another address has gone").unwrap();
        let probe = Probe { from: world.outside(), to: before };
        assert!(probe.ask(&all()).is(&probe, &all()), "the address from the start stays");
    }
}

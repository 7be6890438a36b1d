//! UDP flows that never pause follow the endpoints. The kernel would keep them where they are for as long as they last.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use e2e::{Sender, Settings};
use model::Family;
use nix::sys::signal::Signal;
use testing::netns::Cluster;
use testing::objects::Service;
use testing::traffic::Flow;

use crate::changes::all_alive;
use crate::world::{Port, World, cluster_ip, external_ip, node_port, service, vip};

const DNS: Port = ("dns", "UDP", 53, 5353);
/// The same Service port over another port of the endpoints.
const MOVED: Port = ("dns", "UDP", 53, 5302);

/// How soon after a change is in the kernel flows have followed it.
const FOLLOWED: Duration = Duration::from_secs(1);

/// A Service that can be reached over UDP in every way.
fn dns() -> Service {
    let mut dns = service("dns", 1, &[DNS]).node_port(node_port(1));
    for family in Family::ALL {
        dns = dns.external_ip(&external_ip(family, 1).to_string());
        dns = dns.load_balancer_ip(&vip(family, 1).to_string());
    }
    dns
}

impl World {
    /// A sender for each way to [`dns`], in both families.
    fn senders(&self) -> Vec<Sender> {
        let mut senders = Vec::new();
        for family in Family::ALL {
            let ways = [
                ("a pod to the ClusterIP", self.pod(), cluster_ip(family, 1), 53),
                ("a pod to the load balancer", self.pod(), vip(family, 1), 53),
                ("a pod to the NodePort", self.pod(), Cluster::node_address(family), node_port(1)),
                ("the node to the ClusterIP", self.node(), cluster_ip(family, 1), 53),
                ("outside to the external IP", self.outside(), external_ip(family, 1), 53),
                ("outside to the load balancer", self.outside(), vip(family, 1), 53),
                ("outside to the NodePort", self.outside(), Cluster::node_address(family), node_port(1)),
            ];
            senders.extend(ways.map(|(way, from, address, port)| {
                Sender::start(&format!("{way}, {family}"), from.namespace, (address, port).into())
            }));
        }
        senders
    }

    /// A sender from `shop` to the ClusterIP.
    fn sender(&self, family: Family) -> Sender {
        Sender::start(family.label(), &self.shop.pod().namespace, (cluster_ip(family, 1), 53).into())
    }

    /// Makes this the port and these the endpoints of [`dns`], and returns when flows have to have followed.
    fn change(&mut self, dns: &Service, port: Port, ends: &[(usize, &'static str)]) -> Instant {
        let [v4, v6] = self.slices("dns", &[port], ends);
        self.apply(&[dns, &v4, &v6]);
        Instant::now() + FOLLOWED
    }
}

fn all_hear(senders: &[Sender], expected: &[&str], deadline: Instant) {
    senders.iter().for_each(|sender| sender.expect(expected, deadline));
}

/// A change moves nobody, for longer than it takes to look at flows after the commit and to send once more.
fn all_stay(senders: &[Sender], expected: &[&str]) {
    const LOOKED_AT: Duration = Duration::from_millis(200);
    let committed = Instant::now();
    while committed.elapsed() < LOOKED_AT {
        senders.iter().for_each(|sender| assert_eq!(sender.heard(), expected, "{}", sender.name()));
        thread::yield_now();
    }
}

/// A world in which [`dns`] has one endpoint, to which a flow goes in each way there is.
fn flowing() -> (World, Vec<Sender>) {
    let mut world = World::new(&Settings::default());
    world.change(&dns(), DNS, &[(0, "l")]);
    let senders = world.senders();
    all_hear(&senders, &["web-0:5353"], Instant::now() + FOLLOWED);
    (world, senders)
}

#[test]
fn they_move_to_the_new_endpoint_in_every_way_there_is() {
    let (mut world, senders) = flowing();
    // An endpoint that only joins moves nobody.
    world.change(&dns(), DNS, &[(0, "l"), (1, "l")]);
    all_stay(&senders, &["web-0:5353"]);

    let deadline = world.change(&dns(), DNS, &[(1, "l")]);
    all_hear(&senders, &["web-0:5353", "web-1:5353"], deadline);
    let deleted: f64 = world.proxy.metric("kubeproxy_conntrack_reconciler_deleted_entries_total").unwrap().iter().sum();
    assert!(deleted >= senders.len() as f64, "{deleted} entries deleted for {} senders", senders.len());

    // While it terminates but serves it keeps what it has.
    world.change(&dns(), DNS, &[(1, "lt"), (2, "")]);
    all_stay(&senders, &["web-0:5353", "web-1:5353"]);
    let deadline = world.change(&dns(), DNS, &[(1, "ld"), (2, "")]);
    all_hear(&senders, &["web-0:5353", "web-1:5353", "web-2:5353"], deadline);
}

#[test]
fn they_are_refused_when_the_last_endpoint_has_gone_and_go_to_the_next_that_comes() {
    let (mut world, senders) = flowing();
    let deadline = world.change(&dns(), DNS, &[]);
    all_hear(&senders, &["web-0:5353", Sender::REFUSED], deadline);

    world.change(&dns(), DNS, &[(1, "l-")]);
    all_stay(&senders, &["web-0:5353", Sender::REFUSED]);
    let deadline = world.change(&dns(), DNS, &[(1, "l")]);
    all_hear(&senders, &["web-0:5353", Sender::REFUSED, "web-1:5353"], deadline);
}

/// Before there is a Service, what is sent to its ClusterIP is sent on, and its NodePort is a port of the node that is closed:
/// conntrack takes both for flows without any translation.
#[test]
fn those_that_began_before_there_was_a_service_reach_it() {
    let mut world = World::new(&Settings::default());
    let mut pods = Vec::new();
    let mut outside = Vec::new();
    for family in Family::ALL {
        pods.push(world.sender(family));
        let to = (Cluster::node_address(family), node_port(1)).into();
        outside.push(Sender::start(&format!("outside, {family}"), &world.cluster.client, to));
    }
    pods.iter().for_each(|sender| sender.expect_silence(Instant::now() + FOLLOWED));
    all_hear(&outside, &[Sender::REFUSED], Instant::now() + FOLLOWED);

    let deadline = world.change(&dns(), DNS, &[(0, "l")]);
    // What goes to a ClusterIP without translation is refused, for the moment that it is still that.
    pods.iter().for_each(|sender| sender.expect_last("web-0:5353", deadline));
    all_hear(&outside, &[Sender::REFUSED, "web-0:5353"], deadline);
}

#[test]
fn they_leave_the_endpoints_of_a_service_that_is_deleted() {
    let (mut world, senders) = flowing();
    world.proxy.withdraw("objects.yaml").unwrap();
    let deadline = Instant::now() + FOLLOWED;
    for sender in &senders {
        // A ClusterIP of no Service leads nowhere; the node refuses on a port that is none.
        if sender.name().contains("NodePort") {
            sender.expect(&["web-0:5353", Sender::REFUSED], deadline);
        } else {
            sender.expect_silence(deadline);
        }
    }
}

#[test]
fn they_follow_a_target_port() {
    let (mut world, senders) = flowing();
    let deadline = world.change(&dns(), MOVED, &[(0, "l")]);
    all_hear(&senders, &["web-0:5353", "web-0:5302"], deadline);
}

/// The Service gets another port and another NodePort, and loses its other addresses.
#[test]
fn they_leave_frontends_that_are_gone() {
    let (mut world, senders) = flowing();
    let moved = service("dns", 1, &[("dns", "UDP", 54, 5353)]).node_port(node_port(2));
    let deadline = world.change(&moved, DNS, &[(0, "l")]);
    for sender in &senders {
        if sender.name().contains("ClusterIP") || sender.name().contains("NodePort") {
            sender.expect(&["web-0:5353", Sender::REFUSED], deadline);
        } else {
            sender.expect_silence(deadline);
        }
    }
}

#[test]
fn those_to_endpoints_that_stay_are_not_moved_and_tcp_connections_live() {
    const TCP: Port = ("http", "TCP", 80, 8080);
    let mut world = World::new(&Settings::default());
    let both = service("dns", 1, &[DNS, TCP]);
    let apply = |world: &mut World, ends: &[(usize, &'static str)]| {
        let [v4, v6] = world.slices("dns", &[DNS, TCP], ends);
        world.apply(&[&both, &v4, &v6]);
        Instant::now() + FOLLOWED
    };
    apply(&mut world, &[(0, "l"), (1, "l")]);
    let mut streams: Vec<_> =
        Family::ALL.iter().flat_map(|family| world.streams(*family, &["web-0:8080", "web-1:8080"])).collect();
    // Some that pause, which is up to conntrack's patience, and some that do not.
    let to = |family| SocketAddr::from((cluster_ip(family, 1), 53));
    let idle = Family::ALL.map(|family| Flow::open(&world.shop.pod().namespace, None, to(family)).unwrap());
    let asked = idle.each_ref().map(|flow| flow.ask().unwrap().endpoint);
    let senders: Vec<_> = Family::ALL.iter().flat_map(|family| [0; 8].map(|_| world.sender(*family))).collect();
    let deadline = Instant::now() + FOLLOWED;
    let nth = |sender: &Sender, n: usize, deadline| loop {
        if let Some(heard) = sender.heard().get(n) {
            return heard.clone();
        }
        assert!(Instant::now() < deadline, "{} heard only {:?}", sender.name(), sender.heard());
        thread::yield_now();
    };
    let before: Vec<_> = senders.iter().map(|sender| nth(sender, 0, deadline)).collect();

    let deadline = apply(&mut world, &[(1, "l"), (2, "")]);
    for (sender, before) in senders.iter().zip(&before) {
        if before == "web-1:5353" {
            sender.expect(&["web-1:5353"], deadline);
            continue;
        }
        // To either of the two, and no further.
        let now = nth(sender, 1, deadline);
        assert!(["web-1:5353", "web-2:5353"].contains(&now.as_str()), "{now}");
        sender.expect(&[before, &now], deadline);
    }
    for (flow, before) in idle.iter().zip(&asked) {
        let now = flow.ask().unwrap().endpoint;
        assert!(now == *before || before == "web-0:5353" && now != "web-0:5353", "{before} → {now}");
    }
    all_alive(&mut streams, "after an endpoint of its Service was removed");

    let deadline = apply(&mut world, &[]);
    senders.iter().for_each(|sender| sender.expect_last(Sender::REFUSED, deadline));
    all_alive(&mut streams, "after all endpoints of its Service were removed");
}

/// What was committed before the proxy's start, or while it was down, counts as well.
#[test]
fn those_that_a_proxy_finds_at_its_start_follow_too() {
    let (mut world, senders) = flowing();
    world.proxy.stop(Signal::SIGTERM).unwrap();

    let [v4, v6] = world.slices("dns", &[DNS], &[(1, "l")]);
    world.proxy.manifests().put("objects.yaml", &[&dns(), &v4, &v6]).unwrap();
    world.proxy.run(&Settings::default()).unwrap();
    all_hear(&senders, &["web-0:5353", "web-1:5353"], Instant::now() + FOLLOWED);
}

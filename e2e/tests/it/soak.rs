//! Random changes for a minute while connections run: nobody is sent astray, and what does not change does not break.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::{Settings, Traffic};
use model::Family;
use serde_json::json;
use testing::netns::Namespace;
use testing::objects::Service;
use testing::traffic::{Stream, ask_tcp};

use crate::changes::all_alive;
use crate::world::{End, HTTP, World, cluster_ip, everything, ways};

const FOR: Duration = Duration::from_mins(1);
/// Between two connections of one client.
const PAUSE: Duration = Duration::from_millis(3);
/// Services that change: name, number, and the port of their endpoints, which is not that of Service 1, which does not.
const CHANGING: [(&str, u8, u16); 3] = [("a", 2, 8081), ("b", 3, 5301), ("c", 4, 8081)];
/// Which pods may be endpoints of each: no two Services have one in common.
const PODS: [&[usize]; 3] = [&[0, 1], &[0, 1, 2], &[2]];
const FLAGS: [&str; 5] = ["l", "", "lt", "t", "-"];

/// Numbers that only depend on the seed (xorshift64; Marsaglia 2003).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// The endpoints that each changing Service may have, and had before: a connection may take as long as several changes, where its first
/// packet was dropped, and be sent by any of them.
#[derive(Debug, Default)]
struct Allowed(Mutex<[History; 3]>);

#[derive(Debug, Default)]
struct History {
    all: Vec<BTreeSet<String>>,
    /// How many of these are over.
    over: usize,
}

impl Allowed {
    fn lock(&self) -> MutexGuard<'_, [History; 3]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a Service may have these endpoints, besides those that it has.
    fn begin(&self, service: usize, endpoints: BTreeSet<String>) {
        self.lock()[service].all.push(endpoints);
    }

    /// It has no others any more.
    fn end(&self, service: usize) {
        let history = &mut self.lock()[service];
        history.over = history.all.len() - 1;
    }

    /// How many changes are over.
    fn over(&self, service: usize) -> usize {
        self.lock()[service].over
    }

    /// What a Service may have had since so many changes were over.
    fn since(&self, service: usize, over: usize) -> BTreeSet<String> {
        self.lock()[service].all[over..].iter().flatten().cloned().collect()
    }
}

/// From `SLIPSTREAM_SEED`, or by the clock.
pub(crate) fn seed() -> u64 {
    let chosen = std::env::var("SLIPSTREAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    chosen.unwrap_or_else(now) | 1
}

/// A Service with random settings, if any, and its random endpoints, of these pods.
pub(crate) fn change(dice: &mut Dice, name: &str, number: u8, pods: &[usize]) -> (Option<Service>, Vec<End>) {
    let ends: Vec<End> =
        pods.iter().filter_map(|pod| Some((dice.pick(&[Some(*pod), Some(*pod), None])?, dice.pick(&FLAGS)))).collect();
    if dice.below(8) == 0 {
        return (None, ends);
    }
    let policies = ["Cluster", "Cluster", "Local"];
    let mut service = everything(name, number)
        .set("/spec/externalTrafficPolicy", dice.pick(&policies))
        .set("/spec/internalTrafficPolicy", dice.pick(&policies));
    if dice.below(2) == 0 {
        let timeout = dice.pick(&[1, 60, 10_800]);
        service = service
            .set("/spec/sessionAffinity", "ClientIP")
            .set("/spec/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": timeout}}));
    }
    if dice.below(3) == 0 {
        service = service
            .set("/spec/loadBalancerSourceRanges", vec![dice.pick(&["192.0.2.0/24", "10.1.0.0/16", "198.18.0.0/15"])]);
    }
    (Some(service), ends)
}

/// Which workloads may answer for endpoints like these: a terminating one where no other is ready, one that is not ready never.
pub(crate) fn usable(ends: &[End], port: u16) -> BTreeSet<String> {
    ends.iter().filter(|(_, flags)| *flags != "-").map(|(pod, _)| format!("web-{pod}:{port}")).collect()
}

/// Connects to the frontends of a changing Service, one after the other, again and again.
fn harass(client: &Namespace, to: [SocketAddr; 4], (allowed, service): (&Allowed, usize), watch: &Watch) {
    for to in to.into_iter().cycle() {
        if watch.over.load(Ordering::Relaxed) {
            return;
        }
        let before = allowed.over(service);
        // It may have no endpoint just now, or be closed to this client.
        if let Ok(reply) = ask_tcp(client, None, to) {
            let all = allowed.since(service, before);
            assert!(all.contains(&reply.endpoint), "{to} led to {}, not to any of {all:?}", reply.endpoint);
            watch.answers.fetch_add(1, Ordering::Relaxed);
        }
        // Two CPUs have other tests to run as well.
        thread::sleep(PAUSE);
    }
}

/// What those who connect share.
#[derive(Debug, Default)]
struct Watch {
    over: AtomicBool,
    answers: AtomicUsize,
}

#[test]
fn random_changes_break_nothing_and_lead_nobody_astray() {
    let seed = seed();
    println!("SLIPSTREAM_SEED={seed}");
    let mut dice = Dice(seed);
    let mut world = World::new(&Settings::default());
    let stable = everything("stable", 1);
    let [v4, v6] = world.slices("stable", &[HTTP], &[(0, "l"), (1, "")]);
    world.apply(&[&stable, &v4, &v6]);
    let mut running: Vec<_> =
        Family::ALL.into_iter().flat_map(|family| world.streams(family, &["web-0:8080", "web-1:8080"])).collect();
    let (allowed, watch) = (Allowed::default(), Watch::default());
    let cluster = world.cluster.clone();
    let pod = cluster.pod("pod").unwrap();
    let clients = [&pod.namespace, &cluster.client];
    let stable = Family::ALL.map(|family| (cluster_ip(family, 1), 80).into());
    let changes = thread::scope(|scope| {
        for (index, (_, number, _)) in CHANGING.into_iter().enumerate() {
            for (family, client) in Family::ALL.into_iter().flat_map(|family| clients.map(|client| (family, client))) {
                let (allowed, watch) = (&allowed, &watch);
                let to = ways(family, number).map(|(_, to)| to.socket);
                scope.spawn(move || harass(client, to, (allowed, index), watch));
            }
        }
        let (inside, (outside, changes)) = Traffic::during(clients[0], stable[0], || {
            Traffic::during(clients[1], stable[1], || soak(&mut world, &mut dice, &allowed, &mut running))
        });
        watch.over.store(true, Ordering::Relaxed);
        for traffic in [inside, outside] {
            assert_eq!(traffic.failures(), None, "of {} connections to the stable Service", traffic.count());
        }
        changes
    });
    let answers = watch.answers.into_inner();
    assert!(
        changes > 100 && answers > 1000,
        "{changes} changes, {answers} answers of Services that changed: too few to tell"
    );
}

/// Makes random changes for a while; returns how many.
fn soak(world: &mut World, dice: &mut Dice, allowed: &Allowed, running: &mut [Stream]) -> usize {
    let began = Instant::now();
    let mut changes = 0_usize;
    while began.elapsed() < FOR {
        let index = dice.below(CHANGING.len());
        let (name, number, port) = CHANGING[index];
        let (service, ends) = change(dice, name, number, PODS[index]);
        allowed.begin(index, usable(&ends, port));
        let [v4, v6] = world.slices(name, &[("http", "TCP", 80, port)], &ends);
        let mut objects: Vec<&dyn Display> = vec![&v4, &v6];
        objects.extend(service.as_ref().map(|service| service as &dyn Display));
        // Something always changes, or there would be no sync to wait for.
        let tick = everything(&format!("tick-{name}"), 10 + number).set("/spec/ports/0/port", 1000 + changes);
        objects.push(&tick);
        world.proxy.apply(&format!("{name}.yaml"), &objects).unwrap();
        allowed.end(index);
        changes += 1;
        all_alive(running, "while other Services changed");
    }
    changes
}

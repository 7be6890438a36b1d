//! Nobody tells it that it is about to end.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use e2e::{Proxy, Settings, Traffic};
use model::Family;
use nix::sys::signal::Signal;
use serde_json::Value;
use testing::http;
use testing::netns::{Cluster, Namespace};
use testing::traffic::Stream;

use super::table::{outline, programmed};
use crate::changes::all_alive;
use crate::soak::{Dice, change, seed, usable};
use crate::world::{HTTP, World, cluster_ip, everything};

/// Says how often it is to be killed (`make soak`).
pub(crate) const SOAK: &str = "SOAK";
/// How often it is, without.
const KILLS: usize = 60;
/// The most Services that there are at a time.
const MOST: u8 = 60;
/// How many connections are kept open.
const STREAMS: usize = 24;
/// The number of the first Service that changes; 1 is the stable one.
const FIRST: u8 = 2;
/// A change takes less than this from the file to the kernel, and a start from the call to the first sync.
const CHANGED: usize = 40_000;
const STARTED: usize = 200_000;

/// A cluster, and what it takes to tell whether the rules of its node are right.
struct Kills {
    world: World,
    /// Starts anew each time, on a node without rules.
    twin: Proxy,
    twin_cluster: Arc<Cluster>,
    dice: Dice,
    /// Those that there are, and whether a pod can reach them.
    services: BTreeMap<u8, bool>,
    running: Vec<Stream>,
    kills: usize,
}

fn name(number: u8) -> String {
    format!("service-{number}")
}

fn file(number: u8) -> String {
    format!("{}.yaml", name(number))
}

/// What may be left behind on a node, rules aside.
fn surroundings(node: &Namespace) -> String {
    node.sh("ip -oneline link | cut -d: -f2; ip address; ip rule; ip route show table all; nft list tables").unwrap()
}

#[test]
fn killed_at_random_instants_it_finds_its_way_back() {
    let seed = seed();
    println!("SLIPSTREAM_SEED={seed}");
    let wanted = env::var(SOAK).ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut world = World::new(&Settings::default());
    let stable = everything("stable", 1);
    let [v4, v6] = world.slices("stable", &[HTTP], &[(0, "l"), (1, "")]);
    world.proxy.apply("stable.yaml", &[&stable, &v4, &v6]).unwrap();
    let running =
        Family::ALL.into_iter().flat_map(|family| world.streams(family, &["web-0:8080", "web-1:8080"])).collect();
    let twin_cluster = Arc::new(Cluster::new().unwrap());
    let twin = world.proxy.twin(twin_cluster.clone()).unwrap();
    let pod = world.cluster.pod("asks").unwrap();
    let before = surroundings(&world.cluster.node);
    let cluster = world.cluster.clone();
    let mut kills = Kills { world, twin, twin_cluster, dice: Dice(seed), services: BTreeMap::new(), running, kills: 0 };
    let [v4, v6] = Family::ALL.map(|family| (cluster_ip(family, 1), 80).into());
    let (inside, (outside, ())) = Traffic::during(&pod.namespace, v4, || {
        Traffic::during(&cluster.client, v6, || {
            while kills.kills < wanted {
                kills.round();
            }
            kills.end();
        })
    });
    let connections = inside.count() + outside.count();
    println!("{} kills, during which {connections} connections to the stable Service were made", kills.kills);
    for traffic in [inside, outside] {
        assert!(traffic.count() > wanted, "too few connections to tell: {}", traffic.count());
        assert_eq!(traffic.failures(), None, "of {} connections to the stable Service", traffic.count());
    }
    assert_eq!(surroundings(&cluster.node), before);
}

impl Kills {
    /// Changes the cluster, kills the proxy once or twice on the way, and looks whether all is well afterwards.
    fn round(&mut self) {
        self.change();
        self.pause(CHANGED);
        self.kill();
        if self.dice.below(2) == 0 {
            self.change();
        }
        if self.dice.below(3) == 0 {
            self.world.proxy.launch(&Settings::default()).unwrap();
            self.pause(STARTED);
            self.kill();
        }
        self.restart();
        self.connect();
    }

    /// Some Services come, change or go: more and more of them, then fewer and fewer.
    fn change(&mut self) {
        for _ in 0..=self.dice.below(4) {
            let growing = (self.kills / 20).is_multiple_of(2);
            let known = self.any();
            if let Some(number) = known
                && self.dice.below(if growing { 8 } else { 2 }) == 0
            {
                self.services.remove(&number);
                self.world.proxy.manifests().remove(&file(number)).unwrap();
                continue;
            }
            let new = (FIRST..FIRST + MOST).find(|number| growing && !self.services.contains_key(number));
            let Some(number) = new.or(known) else { continue };
            let (service, ends) = change(&mut self.dice, &name(number), number, &[0, 1, 2]);
            let [v4, v6] = self.world.slices(&name(number), &[HTTP], &ends);
            let service = service.unwrap_or_else(|| everything(&name(number), number));
            self.world.proxy.manifests().put(&file(number), &[&service, &v4, &v6]).unwrap();
            let local = Value::from(service)["spec"]["internalTrafficPolicy"] == "Local";
            self.services.insert(number, !local && !usable(&ends, 8080).is_empty());
        }
    }

    /// One of the Services that there are.
    fn any(&mut self) -> Option<u8> {
        let index = self.dice.below(self.services.len().max(1));
        self.services.keys().nth(index).copied()
    }

    fn pause(&mut self, most: usize) {
        thread::sleep(Duration::from_micros(self.dice.below(most) as u64));
    }

    fn kill(&mut self) {
        self.world.proxy.stop(Signal::SIGKILL).unwrap();
        self.kills += 1;
    }

    /// Starts it, and compares its rules with those that one makes that knows nothing of the past. Returns the outline of these.
    fn restart(&mut self) -> String {
        let proxy = &mut self.world.proxy;
        let logged = proxy.logged();
        let began = proxy.launch(&Settings::default()).unwrap();
        proxy.wait_synced(began).unwrap();
        // It says what it found, and that it had to replace neither table.
        proxy.wait_for_log(logged, "all rules are in place: ").unwrap();
        let (_, metrics) = http::fetch(&self.world.cluster.node, 10249, "/metrics").unwrap();
        let syncs: Vec<_> = metrics.lines().filter(|line| line.starts_with("slipstream_full_syncs_total{")).collect();
        let adopted = |line: &&str| line.ends_with(" 1") && (line.contains("unchanged") || line.contains("\"changed"));
        assert!(syncs.len() == 2 && syncs.iter().all(adopted), "{syncs:?}\n{}", self.world.proxy.log_tail());
        all_alive(&mut self.running, "when the proxy was killed and came back");
        self.twin.run(&Settings::default()).unwrap();
        let node = &self.twin_cluster.node;
        let (wanted, outline) = (programmed(node), outline(node));
        let known = wanted.iter().filter(|what| what.starts_with("ip cluster-ips: ")).count();
        assert_eq!(known, 1 + self.services.len(), "{}", self.twin.log_tail());
        self.twin.stop(Signal::SIGKILL).unwrap();
        node.sh("nft flush ruleset").unwrap();
        let found = programmed(&self.world.cluster.node);
        let of = |these: &BTreeSet<String>, others| these.difference(others).cloned().collect::<Vec<_>>().join("\n");
        let (kills, log) = (self.kills, self.world.proxy.log_tail());
        assert_eq!((of(&wanted, &found), of(&found, &wanted)), Default::default(), "after {kills} kills\n{log}");
        outline
    }

    /// Keeps another connection open, to a Service that can be reached; all pods live on, whatever Services say of them.
    fn connect(&mut self) {
        let family = self.dice.pick(&Family::ALL);
        let Some(number) = self.any().filter(|number| self.services[number]) else { return };
        let to = (cluster_ip(family, number), 80).into();
        let stream = Stream::open(&self.world.shop.pod().namespace, None, to);
        let stream = stream.unwrap_or_else(|refusal| panic!("{to}: {refusal}\n{}", self.world.proxy.log_tail()));
        if self.running.len() == STREAMS {
            self.running.swap_remove(self.dice.below(STREAMS));
        }
        self.running.push(stream);
    }

    /// All Services but the stable one go, and so does, after several sweeps of ten seconds, what nothing needs any more.
    fn end(&mut self) {
        for number in std::mem::take(&mut self.services).into_keys() {
            self.world.proxy.manifests().remove(&file(number)).unwrap();
        }
        self.kill();
        let wanted = self.restart();
        if env::var_os(SOAK).is_none() {
            return;
        }
        let node = self.world.cluster.clone();
        let waited = self.world.proxy.wait("nothing is left behind", |_| Ok(outline(&node.node) == wanted));
        assert_eq!(outline(&node.node), wanted, "{waited:?}");
    }
}

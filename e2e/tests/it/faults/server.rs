//! The API server, and the way to it.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use e2e::{PATIENCE, Settings, Traffic};
use model::Family;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::api::{Expiry, FakeApi, Request, Resource};
use testing::netns::Cluster;
use testing::objects;
use testing::traffic::{Stream, ask_tcp};

use super::kills::SOAK;
use crate::changes::all_alive;
use crate::soak::{Dice, seed};
use crate::world::{HTTP, World, cluster_ip, everything};

/// How soon a server that does not answer any more has to be noticed.
const NOTICED: Duration = Duration::from_secs(60);
/// The number of the Service that changes; 1 does not.
const CHANGING: u8 = 2;

/// A node that follows an API server, with connections to a Service that stays as it is.
struct Followed {
    world: World,
    api: FakeApi,
    running: Vec<Stream>,
    files: TempDir,
}

impl Followed {
    /// With these credentials, as in a kubeconfig.
    fn new(user: impl FnOnce(&TempDir) -> Value) -> Self {
        let files = tempfile::tempdir().unwrap();
        let world = World::prepare();
        let api = world.cluster.node.run(FakeApi::start).unwrap();
        let addresses = Family::ALL.map(|family| Cluster::node_address(family).to_string());
        api.put(objects::node("node", &[], &addresses.each_ref().map(String::as_str)));
        let kubeconfig = api.kubeconfig_of(files.path(), &user(&files)).unwrap();
        let mut followed = Self { world, api, running: Vec::new(), files };
        followed.put("stable", 1, &[0, 1]);
        followed.put("changing", CHANGING, &[0]);
        followed.world.proxy.follow("node", &kubeconfig);
        followed.world.proxy.run(&Settings::default()).unwrap();
        let streams = |family| followed.world.streams(family, &["web-0:8080", "web-1:8080"]);
        followed.running = Family::ALL.into_iter().flat_map(streams).collect();
        for resource in [Resource::Services, Resource::EndpointSlices] {
            followed.api.wait_for_watch(resource);
        }
        followed
    }

    /// Has the API server know a Service with these endpoints.
    fn put(&self, name: &str, number: u8, ends: &[usize]) {
        let ends: Vec<_> = ends.iter().map(|end| (*end, "l")).collect();
        self.api.put(everything(name, number));
        for slice in self.world.slices(name, &[HTTP], &ends) {
            self.api.put(slice);
        }
    }

    /// Waits until the Service that changes leads to this endpoint, in both families, and looks whether connections live.
    fn until_led_to(&mut self, end: usize, when: &str) {
        let (endpoint, deadline) = (format!("web-{end}:8080"), Instant::now() + PATIENCE);
        for family in Family::ALL {
            let to = (cluster_ip(family, CHANGING), 80).into();
            let client = &self.world.shop.pod().namespace;
            while ask_tcp(client, None, to).map_or_else(|_| String::new(), |reply| reply.endpoint) != endpoint {
                assert!(
                    Instant::now() < deadline,
                    "{to} does not lead to {endpoint} {when}\n{}",
                    self.world.proxy.log_tail()
                );
                thread::sleep(Duration::from_millis(10));
            }
        }
        all_alive(&mut self.running, when);
    }

    /// Waits until it has logged this.
    fn until_logged(&mut self, text: &str) {
        self.world.proxy.wait_for_log(0, text).unwrap();
    }

    fn watch_failures(&self) -> f64 {
        self.world.proxy.metric("slipstream_watch_failures_total").unwrap().iter().sum()
    }

    /// Does something while a client connects to the Service that stays as it is, which never fails.
    fn under_traffic<T>(&mut self, doing: impl FnOnce(&mut Self) -> T) -> T {
        let cluster = self.world.cluster.clone();
        let [v4, v6] = Family::ALL.map(|family| (cluster_ip(family, 1), 80).into());
        let (inside, (outside, done)) =
            Traffic::during(&cluster.node, v4, || Traffic::during(&cluster.client, v6, || doing(self)));
        for traffic in [inside, outside] {
            let failures = traffic.failures();
            assert_eq!(failures, None, "of {} connections\n{}", traffic.count(), self.world.proxy.log_tail());
        }
        done
    }
}

fn without_credentials(_: &TempDir) -> Value {
    json!({})
}

/// What can be wrong with a server for a while.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Down,
    Failing,
    Throttling,
    SlowLists,
    WatchesCut,
    EventsCut,
    WatchesEnded,
    Expired(Expiry),
    /// Its lists are older than what was seen, and its watches repeat what was seen.
    Lagging,
    Garbage,
}

impl Fault {
    const ALL: [Self; 11] = [
        Self::Down,
        Self::Failing,
        Self::Throttling,
        Self::SlowLists,
        Self::WatchesCut,
        Self::EventsCut,
        Self::WatchesEnded,
        Self::Expired(Expiry::Event),
        Self::Expired(Expiry::Status),
        Self::Lagging,
        Self::Garbage,
    ];

    fn begin(self, api: &FakeApi, dice: &mut Dice) {
        match self {
            Self::Down => api.go_down(),
            Self::Failing => api.fail_requests(true),
            Self::Throttling => api.throttle(Some(Duration::from_secs(1))),
            Self::SlowLists => api.slow_lists(Duration::from_millis(dice.below(1000) as u64)),
            Self::Expired(expiry) => api.compact(expiry),
            Self::Lagging => api.lag(1 + dice.below(8) as u64),
            Self::EventsCut => api.send_line(Resource::EndpointSlices, r#"{"type":"ADDED","object":{"kind"#),
            Self::Garbage => api.send_line(Resource::EndpointSlices, "<html>"),
            Self::WatchesCut | Self::WatchesEnded => {}
        }
        match self {
            Self::WatchesCut => api.break_watches(),
            Self::SlowLists | Self::Lagging => api.expire_watches(),
            // What is not an event ends a watch.
            Self::Garbage => {}
            _ => api.end_watches(),
        }
    }

    /// What the log says of it. What happens in any healthy cluster is not worth a warning.
    const fn told(self) -> Option<&'static str> {
        match self {
            Self::Down => {
                Some("check that the server runs and can be reached from this node; what was known stays in use")
            }
            Self::Failing => Some("the server answered 500, "),
            Self::Throttling => Some("the server answered 429, "),
            Self::Garbage => Some("cannot watch endpointslices at "),
            Self::WatchesCut | Self::EventsCut | Self::WatchesEnded | Self::SlowLists | Self::Lagging => {
                Some("and is resumed")
            }
            // A watch that has seen the latest is not refused.
            Self::Expired(_) => None,
        }
    }

    /// Whether it is a failure, and counted as one.
    const fn is_failure(self) -> bool {
        matches!(self, Self::Down | Self::Failing | Self::Throttling | Self::Garbage)
    }

    fn end(api: &FakeApi) {
        api.come_up().unwrap();
        api.fail_requests(false);
        api.throttle(None);
        api.slow_lists(Duration::ZERO);
        api.lag(0);
    }
}

/// Some faults occur, in any order, or with `make soak` each of them once. A fault lasts for a while during which the cluster changes, and
/// until it is noticed, which takes longer each time.
#[test]
fn whatever_the_api_server_does_it_is_followed_afterwards() {
    let seed = seed();
    println!("SLIPSTREAM_SEED={seed}");
    let mut dice = Dice(seed);
    // With `make soak`, a fault may last for two minutes.
    let (count, longer) = match env::var_os(SOAK) {
        Some(_) => (Fault::ALL.len(), Duration::from_millis(60)),
        None => (5, Duration::from_millis(1)),
    };
    let mut followed = Followed::new(without_credentials);
    followed.under_traffic(|followed| {
        let mut left = Vec::from(Fault::ALL);
        for round in 0..count {
            let fault = left.swap_remove(dice.below(left.len()));
            println!("{round}: {fault:?}");
            followed.put("changing", CHANGING, &[(round + 2) % 3]);
            let (logged, failures) = (followed.world.proxy.logged(), followed.watch_failures());
            fault.begin(&followed.api, &mut dice);
            if let Some(line) = fault.told() {
                followed.world.proxy.wait_for_log(logged, line).unwrap();
            }
            assert_eq!(followed.watch_failures() > failures, fault.is_failure(), "{fault:?}");
            thread::sleep(longer * dice.below(1500) as u32);
            followed.put("changing", CHANGING, &[(round + 1) % 3]);
            thread::sleep(longer * dice.below(500) as u32);
            Fault::end(&followed.api);
            followed.until_led_to((round + 1) % 3, &format!("after {fault:?}"));
            if fault.is_failure() {
                followed.world.proxy.wait_for_log(logged, "are listed and watched again").unwrap();
            }
        }
    });
}

/// The times between a request that was refused and the next one for the same.
fn pauses(requests: &[Request]) -> Vec<Duration> {
    let mut last = BTreeMap::new();
    let pause = |request: &Request| Some(request.time - last.insert(request.path.clone(), request.time)?);
    requests.iter().filter_map(pause).collect()
}

#[test]
fn a_pause_that_the_api_server_asks_for_is_kept() {
    const PAUSE: Duration = Duration::from_secs(5);
    let mut followed = Followed::new(without_credentials);
    followed.under_traffic(|followed| {
        let before = followed.api.requests().len();
        followed.api.throttle(Some(PAUSE));
        followed.api.end_watches();
        followed.put("changing", CHANGING, &[1]);
        let asked_again = |requests: &[Request]| pauses(&requests[before..]).len() >= 3;
        followed.api.wait_for_requests("watches that are tried again", asked_again);
        let pauses = pauses(&followed.api.requests()[before..]);
        assert!(pauses.iter().all(|pause| *pause >= PAUSE), "{pauses:?}");
        followed.api.throttle(None);
        followed.until_led_to(1, "after the server was overloaded");
    });
    followed.until_logged(
        "the server answered 429, Too many requests, please try again later.; what was known stays in use",
    );
    assert!(followed.watch_failures() > 0.0);
}

/// The kubelet replaces the token of a service account long before it expires.
#[test]
fn a_new_token_is_used_for_the_next_request() {
    let mut followed = Followed::new(|files| {
        let path = files.path().join("token");
        fs::write(&path, "first").unwrap();
        json!({"tokenFile": path})
    });
    followed.api.accept_only("first");
    fs::write(followed.files.path().join("token"), "second\n").unwrap();
    followed.api.accept_only("second");
    let before = followed.api.requests();
    assert!(before.iter().all(|request| request.authorization == "Bearer first"), "{before:#?}");
    followed.api.end_watches();
    followed.put("changing", CHANGING, &[1]);
    followed.until_led_to(1, "with another token");
    let after = &followed.api.requests()[before.len()..];
    assert!(!after.is_empty() && after.iter().all(|request| request.authorization == "Bearer second"), "{after:#?}");

    // It expires before there is another: the log says what to look at, and the rules stay.
    followed.api.accept_only("third");
    followed.api.end_watches();
    followed.put("changing", CHANGING, &[2]);
    followed
        .until_logged("the server does not accept our credentials (401, Unauthorized): check the token or certificate");
    followed.until_led_to(1, "without a token that is accepted");
    fs::write(followed.files.path().join("token"), "third").unwrap();
    followed.until_led_to(2, "with a third token");
    assert!(followed.watch_failures() > 0.0);
}

/// No packet arrives, and none says so: a firewall that forgot the connection, a node that lost its power.
#[test]
fn a_server_that_fell_silent_is_noticed_within_a_minute() {
    let mut followed = Followed::new(without_credentials);
    let port = followed.api.url().rsplit_once(':').unwrap().1.to_owned();
    followed.under_traffic(|followed| {
        let node = &followed.world.cluster.node;
        node.sh(&format!(
            "nft -f - <<'END'\ntable inet cut {{\n chain cut {{\n type filter hook input priority -300;\n \
             tcp dport {port} drop\n tcp sport {port} drop\n }}\n}}\nEND"
        ))
        .unwrap();
        let cut = Instant::now();
        followed.put("changing", CHANGING, &[1]);
        followed
            .until_logged("check that the server runs and can be reached from this node; what was known stays in use");
        let noticed = cut.elapsed();
        println!("a silent server was noticed after {noticed:?}");
        assert!(noticed < NOTICED, "noticed after {noticed:?}");
        assert!(followed.watch_failures() > 0.0);
        followed.until_led_to(0, "while the server is silent");
        followed.world.cluster.node.sh("nft delete table inet cut").unwrap();
        followed.until_led_to(1, "after the server was silent");
    });
    followed.until_logged("are listed and watched again");
}

/// A list is held in memory as a whole.
#[test]
fn a_list_without_end_is_bounded_and_reported() {
    let mut followed = Followed::new(without_credentials);
    followed.under_traffic(|followed| {
        followed.api.endless_lists(Resource::EndpointSlices, true);
        followed.api.expire_watches();
        followed.until_logged("cannot list endpointslices at ");
        followed.until_logged("the answer is larger than 256 MiB, and no larger one is taken in");
        assert!(followed.watch_failures() > 0.0);
        followed.until_led_to(0, "while a list has no end");
        let status = fs::read_to_string(format!("/proc/{}/status", followed.world.proxy.process().unwrap())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak: u64 = peak.unwrap().parse().unwrap();
        assert!(peak < 600 << 10, "{peak} KiB at the peak");
        followed.put("changing", CHANGING, &[1]);
        followed.api.endless_lists(Resource::EndpointSlices, false);
        followed.until_led_to(1, "after a list without end");
    });
}

//! The node: its clock, its disk, its network devices.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::{PATIENCE, Settings, Traffic};
use model::Family;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use testing::netns::Namespace;
use testing::traffic::ask_tcp;
use testing::{http, metrics, objects};

use crate::changes::all_alive;
use crate::world::{HTTP, World, cluster_ip, everything};

/// Of Debian's package libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
/// A change is in force within this, whatever the time of day, under the product's own settings.
const FOLLOWED: Duration = Duration::from_secs(10);
/// What is logged in place of lines that are lost.
const LOST: &str = " log lines were lost here, because standard error did not take them";
/// Network devices of a node with many pods.
const LINKS: usize = 2000;

impl World {
    /// Gives the Service 1 one endpoint, and waits until it leads there, in both families.
    fn lead_to(&mut self, end: usize, when: &str) -> Duration {
        let [v4, v6] = self.slices("web", &[HTTP], &[(end, "l")]);
        self.proxy.manifests().put("web.yaml", &[&everything("web", 1), &v4, &v6]).unwrap();
        let (began, endpoint) = (Instant::now(), format!("web-{end}:8080"));
        for family in Family::ALL {
            let to = (cluster_ip(family, 1), 80).into();
            let ask = || ask_tcp(&self.shop.pod().namespace, None, to).map(|reply| reply.endpoint);
            while ask().as_ref() != Ok(&endpoint) {
                assert!(began.elapsed() < PATIENCE, "{to} leads to {:?} {when}\n{}", ask(), self.proxy.log_tail());
                thread::sleep(Duration::from_millis(5));
            }
        }
        began.elapsed()
    }

    /// Does something while a client connects to the Service 1, which never fails.
    fn under_traffic(&mut self, doing: impl FnOnce(&mut Self)) {
        let cluster = self.cluster.clone();
        let to = (cluster_ip(Family::V4, 1), 80).into();
        let (traffic, ()) = Traffic::during(&cluster.client, to, || doing(self));
        assert_eq!(traffic.failures(), None, "of {} connections\n{}", traffic.count(), self.proxy.log_tail());
    }

    fn lost_lines(&self) -> f64 {
        self.proxy.metric("slipstream_log_lines_lost_total").unwrap()[0]
    }

    /// Has it log a line for each of many changes, as it does where it is told when they were made, until some lines are lost. With each
    /// change, endpoints get a port of which nothing was known, the first of which is this.
    fn log_until_lines_are_lost(&mut self, first_port: u16) {
        let before = self.lost_lines();
        for port in first_port.. {
            if self.lost_lines() > before {
                return;
            }
            assert!(port < first_port + 1000, "a log that nobody reads takes whatever there is");
            let changed = json!({"endpoints.kubernetes.io/last-change-trigger-time": "2100-01-01T00:00:00Z"});
            let slice = |number| {
                let slice = objects::slice("default", &format!("many-{number}"), "many").endpoint("10.1.0.250");
                slice.port("http", "TCP", port).set("/metadata/annotations", changed.clone())
            };
            let slices: Vec<_> = (0..500).map(slice).collect();
            let slices: Vec<_> = slices.iter().map(|slice| slice as &dyn Display).collect();
            self.proxy.apply("many.yaml", &slices).unwrap();
        }
    }
}

/// Pauses, time limits and health go by a clock that does not jump, and what is told of the time of day is never negative.
#[test]
fn a_clock_that_jumps_holds_nothing_up() {
    assert!(
        Path::new(FAKETIME).exists(),
        "there is no {FAKETIME} to change the time with: install Debian's libfaketime"
    );
    let mut world = World::prepare();
    let files = tempfile::tempdir().unwrap();
    let clock = files.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    for (name, value) in [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ] {
        world.proxy.set_environment(name, value.to_owned());
    }
    world.proxy.launch(&Settings { min_sync_period: "1s", ..Settings::default() }).unwrap();
    world.lead_to(0, "at first");
    let mut running: Vec<_> =
        Family::ALL.into_iter().flat_map(|family| world.streams(family, &["web-0:8080"])).collect();
    world.under_traffic(|world| {
        let real = last_sync(world);
        for (round, days) in [30, -30, 0, -300, 3000].into_iter().enumerate() {
            let jump = format!("{days:+}d");
            fs::write(&clock, &jump).unwrap();
            let took = world.lead_to((round + 1) % 3, &jump);
            assert!(took < FOLLOWED, "{jump}: a change was followed after {took:?}\n{}", world.proxy.log_tail());
            let (status, body) = http::fetch(&world.cluster.node, 10256, "/healthz").unwrap();
            assert_eq!(status, 200, "{jump}: {body}");
            let seen = (last_sync(world) - real) / 86_400.0;
            assert!((seen - f64::from(days)).abs() < 1.0, "{jump}: the proxy has seen a jump by {seen} days");
        }
    });
    all_alive(&mut running, "while the clock jumped");
    world.proxy.wait_for_log(0, "because somebody set it or the node slept").unwrap();
    assert!(world.proxy.metric("slipstream_clock_jumps_total").unwrap()[0] > 0.0);
    let (_, page) = http::fetch(&world.cluster.node, 10249, "/metrics").unwrap();
    for (name, family) in metrics::parse(&page).unwrap() {
        assert!(family.samples.values().all(|value| *value >= 0.0), "{name} is negative:\n{page}");
    }
}

/// When both families were synced last, by the proxy's word, in seconds since 1970.
fn last_sync(world: &World) -> f64 {
    let times = world.proxy.metric("kubeproxy_sync_proxy_rules_last_timestamp_seconds").unwrap();
    times.into_iter().fold(0.0, f64::max)
}

/// A file system that is full, until it is dropped.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&at).status().unwrap();
        assert!(mounted.success(), "mount: {mounted}");
        Self(at)
    }

    fn fill(&self) {
        fs::write(self.0.join("filler"), vec![0; 1 << 20]).unwrap_err();
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_costs_log_lines_and_nothing_else() {
    let mut world = World::prepare();
    let files = tempfile::tempdir().unwrap();
    let disk = Tiny::mount(files.path().join("disk"));
    world.proxy.log_to(disk.0.join("log"));
    world.proxy.run(&Settings::default()).unwrap();
    world.lead_to(0, "before the disk was full");
    world.under_traffic(|world| {
        disk.fill();
        let mut end = 0;
        while world.lost_lines() == 0.0 {
            end += 1;
            world.lead_to(end % 3, "while the disk filled up");
        }
        // A restart has nowhere to log to, either.
        world.proxy.stop(Signal::SIGKILL).unwrap();
        world.proxy.launch(&Settings::default()).unwrap();
        world.lead_to((end + 1) % 3, "after a start with a full disk");
        assert!(world.lost_lines() > 0.0);
        disk.make_room();
        world.lead_to((end + 2) % 3, "when there is room again");
        world.proxy.wait_for_log(0, LOST).unwrap();
    });
}

/// A container runtime that does not read what its containers write.
#[test]
fn a_log_that_nobody_reads_costs_lines_and_nothing_else() {
    let mut world = World::prepare();
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("log");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    // To open it for reading alone would be to wait for a writer.
    let mut log = BufReader::new(File::options().read(true).write(true).open(&path).unwrap()).lines();
    world.proxy.log_to(path);
    world.proxy.run(&Settings::default()).unwrap();
    world.lead_to(0, "while the log has room");
    world.under_traffic(|world| {
        world.log_until_lines_are_lost(1000);
        let took = world.lead_to(1, "while nobody reads the log");
        assert!(took < FOLLOWED, "a change was followed after {took:?}");
        // It is read again.
        thread::scope(|scope| {
            // As many lines as never wait.
            let told = scope.spawn(|| log.by_ref().take(20_000).map(Result::unwrap).find(|line| line.contains(LOST)));
            for end in (0..3).cycle().take_while(|_| !told.is_finished()) {
                world.lead_to(end, "when the log is read again");
            }
            println!("{}", told.join().unwrap().expect("a line that tells of those that were lost"));
        });
        // It is not, and its end does not wait for that.
        world.log_until_lines_are_lost(2000);
        let began = Instant::now();
        world.proxy.stop(Signal::SIGTERM).unwrap();
        assert!(began.elapsed() < FOLLOWED, "it ended after {:?}", began.elapsed());
        world.proxy.launch(&Settings::default()).unwrap();
        world.lead_to(2, "after a start while nobody reads the log");
    });
}

/// Has `ip` do this for each pair of devices, where `#` is its number.
fn each_pair(node: &Namespace, command: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |pair: usize| command.replace('#', &pair.to_string()) + "\n";
    fs::write(file.path(), (0..LINKS / 2).map(line).collect::<String>()).unwrap();
    node.ip(&format!("-batch {}", file.path().display())).unwrap();
}

fn links(node: &Namespace) -> usize {
    node.sh("ip -oneline link | wc -l").unwrap().trim().parse().unwrap()
}

/// Each device is told of with a message, and none of them costs a look at all others.
#[test]
fn thousands_of_network_devices_come_and_go() {
    let mut world = World::new(&Settings { node_port_addresses: &["198.18.0.0/15"], ..Settings::default() });
    world.lead_to(0, "before");
    let mut running: Vec<_> =
        Family::ALL.into_iter().flat_map(|family| world.streams(family, &["web-0:8080"])).collect();
    let cpu = |world: &World| world.proxy.metric("process_cpu_seconds_total").unwrap()[0];
    world.under_traffic(|world| {
        let before = cpu(world);
        let node = &world.cluster.node;
        let there = links(node);
        each_pair(node, "link add a# type veth peer name b#");
        each_pair(node, "link set a# up");
        each_pair(node, "link set b# up");
        assert_eq!(links(node), there + LINKS);
        node.ip("address add 198.18.0.1/32 dev a0").unwrap();
        let node_port = (std::net::Ipv4Addr::new(198, 18, 0, 1), 30_001).into();
        let began = Instant::now();
        while ask_tcp(node, None, node_port).is_err() {
            assert!(began.elapsed() < PATIENCE, "the new address takes no NodePort\n{}", world.proxy.log_tail());
        }
        world.proxy.wait_for_log(0, "the addresses that NodePorts answer on have changed").unwrap();
        let took = world.lead_to(1, "with thousands of devices");
        assert!(took < FOLLOWED, "a change was followed after {took:?}");
        each_pair(&world.cluster.node, "link delete a#");
        world.lead_to(2, "after they went");
        let spent = cpu(world) - before;
        println!("{LINKS} devices that came and went cost {spent} s of CPU");
        assert!(spent < 2.0, "{LINKS} devices that came and went cost {spent} s of CPU");
    });
    all_alive(&mut running, "while thousands of devices came and went");
}

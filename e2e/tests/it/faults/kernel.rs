//! What other programs do to the kernel's rules, and to us; and a kernel that is out of memory.

use std::fs;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use e2e::{SetWhenDropped, Settings, Traffic};
use model::Family;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::netns::Namespace;

use super::table::programmed;
use crate::changes::all_alive;
use crate::repair::{WEB, world};
use crate::soak::{Dice, seed};
use crate::world::{HTTP, World, cluster_ip, everything};

/// How many changes are made meanwhile.
const CHANGES: usize = 20;
/// How often our table is edited.
const EDITS: usize = 24;

/// A program of its own, with chains wherever we have some, by our priorities.
const SAME_HOOKS: &str = "nft -f - <<'END'
table inet other {
    chain a { type filter hook prerouting priority -110; counter; }
    chain b { type nat hook prerouting priority -100; counter; }
    chain c { type filter hook input priority 0; counter; }
    chain d { type filter hook forward priority 0; counter; }
    chain e { type filter hook output priority -110; counter; }
    chain f { type nat hook output priority -100; counter; }
    chain g { type filter hook output priority 0; counter; }
    chain h { type nat hook postrouting priority 100; counter; }
}
END";

impl World {
    /// Has another Service change, again and again.
    fn change_other(&mut self, rounds: Range<usize>) {
        for round in rounds {
            let [v4, v6] = self.slices("other", &[HTTP], &[(round % 3, "l"), ((round + 1) % 3, "")][..1 + round % 2]);
            self.proxy.apply("other.yaml", &[&everything("other", 3), &v4, &v6]).unwrap();
        }
    }
}

/// Whoever came first.
#[test]
fn another_table_with_the_same_hooks_and_priorities_changes_nothing() {
    let mut world = world();
    let mut running: Vec<_> = Family::ALL.into_iter().flat_map(|family| world.streams(family, &WEB)).collect();
    world.cluster.node.sh(SAME_HOOKS).unwrap();
    world.change_other(0..3);
    world.check_from_outside(&WEB);
    world.proxy.stop(Signal::SIGKILL).unwrap();
    world.cluster.node.sh("nft delete table ip kube-proxy; nft delete table ip6 kube-proxy").unwrap();
    world.proxy.run(&Settings::default()).unwrap();
    world.check_from_outside(&WEB);
    all_alive(&mut running, "next to another table with the same hooks");
    let edits = world.proxy.metric("slipstream_foreign_edits_total").unwrap();
    assert_eq!(edits, [] as [f64; 0], "a table of its own is no edit of ours\n{}", world.proxy.log_tail());
}

/// Commits to a table of its own until it is told to stop.
fn commit_all_the_time(node: &Namespace, name: &str, over: &AtomicBool, commits: &AtomicUsize) {
    while !over.load(Ordering::Relaxed) {
        node.sh(&format!("nft add table ip {name}; nft add chain ip {name} c; nft delete table ip {name}")).unwrap();
        commits.fetch_add(3, Ordering::Relaxed);
    }
}

/// Each of its commits makes a reading of ours void that is under way.
#[test]
fn another_program_that_commits_all_the_time_holds_nothing_up() {
    let mut world = world();
    let cluster = world.cluster.clone();
    let (over, commits) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut running: Vec<_> = Family::ALL.into_iter().flat_map(|family| world.streams(family, &WEB)).collect();
    let [v4, v6] = Family::ALL.map(|family| (cluster_ip(family, 1), 80).into());
    thread::scope(|scope| {
        for name in ["busy", "busier"] {
            let (node, over, commits) = (&cluster.node, &over, &commits);
            scope.spawn(move || commit_all_the_time(node, name, over, commits));
        }
        let (inside, (outside, ())) = Traffic::during(&cluster.node, v4, || {
            Traffic::during(&cluster.client, v6, || {
                let _over = SetWhenDropped(&over);
                world.change_other(0..CHANGES);
                world.proxy.stop(Signal::SIGKILL).unwrap();
                world.proxy.run(&Settings::default()).unwrap();
                world.change_other(CHANGES..2 * CHANGES);
            })
        });
        for traffic in [inside, outside] {
            assert_eq!(traffic.failures(), None, "of {} connections\n{}", traffic.count(), world.proxy.log_tail());
        }
    });
    let commits = commits.into_inner();
    assert!(commits > 100, "{commits} commits are too few to tell");
    all_alive(&mut running, "while another program committed all the time");
    world.check_from_outside(&WEB);
}

/// Some of them make the kernel refuse what we write at that moment: an element that is there already, or is not there any more, a chain
/// that is in use.
const EDIT: [&str; 9] = [
    "nft flush ruleset",
    "nft delete table ip kube-proxy",
    "nft flush set ip kube-proxy cluster-ips",
    "nft flush map ip6 kube-proxy endpoints",
    "nft add element ip kube-proxy cluster-ips '{ 10.96.0.3, 10.96.0.77 }'",
    "nft flush chain ip kube-proxy services",
    "nft add chain ip kube-proxy foreign; nft add rule ip kube-proxy foreign jump lb-2",
    "nft insert rule ip6 kube-proxy nat-prerouting drop",
    "nft delete element ip6 kube-proxy cluster-ips '{ fd00:10:96::3 }'",
];

#[test]
fn edits_of_our_table_at_random_instants_of_changes_are_undone() {
    let seed = seed();
    println!("SLIPSTREAM_SEED={seed}");
    let mut dice = Dice(seed);
    let mut world = world();
    let mut running: Vec<_> = Family::ALL.into_iter().flat_map(|family| world.streams(family, &WEB)).collect();
    world.change_other(0..1);
    let wanted = programmed(&world.cluster.node);
    let cluster = world.cluster.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..EDITS {
                // What it edits may be gone already.
                cluster.node.sh(&format!("({}) || true", dice.pick(&EDIT))).unwrap();
                thread::sleep(Duration::from_millis(dice.below(200) as u64));
            }
        });
        world.change_other(1..EDITS);
    });
    // As it was at first.
    world.change_other(EDITS..EDITS + 1);
    let undone = |_: &mut _| Ok(programmed(&cluster.node) == wanted);
    world.proxy.wait("all edits are undone", undone).unwrap();
    world.check_from_outside(&WEB);
    all_alive(&mut running, "while another program edited our table");
    let edits: f64 = world.proxy.metric("slipstream_foreign_edits_total").unwrap().iter().sum();
    let refused = world.proxy.metric("kubeproxy_sync_proxy_rules_nftables_sync_failures_total").unwrap();
    println!("{edits} edits; syncs that the kernel refused meanwhile: {refused:?}");
    assert!(edits > 0.0);
    world.proxy.wait_for_log(0, "changed the table kube-proxy, which is ours: it is being repaired").unwrap();
    world.proxy.wait_for_log(0, "nft (process ").unwrap();
}

/// The kernel tells of each element, and keeps only so much for who does not listen: a proxy that got no CPU for a while.
#[test]
fn edits_that_were_not_heard_of_are_found_all_the_same() {
    const ELEMENTS: u32 = 200_000;
    let mut world = world();
    let mut running: Vec<_> = Family::ALL.into_iter().flat_map(|family| world.streams(family, &WEB)).collect();
    let wanted = programmed(&world.cluster.node);
    let process = Pid::from_raw(world.proxy.process().unwrap().cast_signed());
    kill(process, Signal::SIGSTOP).unwrap();
    let elements: Vec<_> = (0..ELEMENTS).map(|number| Ipv4Addr::from_bits(number).to_string()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let big =
        format!("table ip big {{\n set s {{\n type ipv4_addr\n elements = {{ {} }}\n }}\n}}\n", elements.join(", "));
    fs::write(file.path(), big).unwrap();
    let path = file.path().display();
    world.cluster.node.sh(&format!("nft -f {path}; nft flush map ip6 kube-proxy service-nodeports")).unwrap();
    assert_ne!(programmed(&world.cluster.node), wanted);
    kill(process, Signal::SIGCONT).unwrap();
    let node = world.cluster.clone();
    world.proxy.wait("the edit is undone", |_| Ok(programmed(&node.node) == wanted)).unwrap();
    let missed = "commits of other programs may have been missed: the table is checked";
    world.proxy.wait_for_log(0, missed).unwrap();
    world.proxy.wait_for_log(0, "what differed in the table that was there was changed").unwrap();
    assert!(world.proxy.metric("slipstream_foreign_edits_missed_total").unwrap()[0] > 0.0);
    world.check_from_outside(&WEB);
    all_alive(&mut running, "while the proxy stood still");
}

/// A memory cgroup whose threads the kernel refuses all memory that it takes for them. Whoever runs out of it is killed elsewhere, but
/// not with cgroup v1. There, too, a thread may be in another one than its process, whose own memory is not limited then.
struct NoMemory(PathBuf);

impl NoMemory {
    const ROOT: &str = "/sys/fs/cgroup/memory";

    fn new() -> Self {
        let missing = "this takes cgroup v1's memory controller, and the right to make a cgroup there";
        let path = Path::new(Self::ROOT).join(format!("slipstream-{}", std::process::id()));
        fs::create_dir(&path).expect(missing);
        let cgroup = Self(path);
        cgroup.write("memory.oom_control", "1");
        cgroup.write("memory.limit_in_bytes", "0");
        cgroup
    }

    fn write(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }

    /// Takes in the threads of this name; returns how many there are.
    fn take(&self, process: u32, name: &str) -> usize {
        let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|thread| thread.unwrap().path());
        let is_named = |thread: &PathBuf| fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let named = threads.filter(is_named);
        named.inspect(|thread| self.write("tasks", thread.file_name().unwrap().to_str().unwrap())).count()
    }

    fn end(&self) {
        self.write("memory.limit_in_bytes", "-1");
    }
}

impl Drop for NoMemory {
    fn drop(&mut self) {
        // It can go when no thread is in it.
        for thread in fs::read_to_string(self.0.join("tasks")).unwrap_or_default().lines() {
            fs::write(Path::new(Self::ROOT).join("tasks"), thread).ok();
        }
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
#[ignore = "it takes cgroup v1's memory controller: `make unit` runs it where there is one"]
fn a_kernel_without_memory_is_told_of_and_made_up_for() {
    let mut world = world();
    let mut running: Vec<_> = Family::ALL.into_iter().flat_map(|family| world.streams(family, &WEB)).collect();
    let wanted = programmed(&world.cluster.node);
    let memory = NoMemory::new();
    assert_eq!(memory.take(world.proxy.process().unwrap(), "committer"), 2, "one for each family");
    let [v4, v6] = world.slices("other", &[HTTP], &[(2, "")]);
    world.proxy.manifests().put("other.yaml", &[&everything("other", 3), &v4, &v6]).unwrap();
    for line in ["nftables sync failed, the rules in place stay", "Cannot allocate memory", "out of memory: free some"]
    {
        world.proxy.wait_for_log(0, line).unwrap();
    }
    let failures = || world.proxy.metric("kubeproxy_sync_proxy_rules_nftables_sync_failures_total").unwrap();
    assert!(failures().iter().all(|failures| *failures > 0.0), "{:?}", failures());
    assert_eq!(programmed(&world.cluster.node), wanted);
    world.check_from_outside(&WEB);
    memory.end();
    world.proxy.wait_for_log(0, "nftables sync works again, all changes are in place").unwrap();
    let cluster = world.cluster.clone();
    let all = |_: &mut _| Ok(programmed(&cluster.node).len() > wanted.len());
    world.proxy.wait("the change is in place", all).unwrap();
    world.check_from_outside(&WEB);
    all_alive(&mut running, "while the kernel had no memory");
}

/// Debuggers, job control, supervisors: it is stopped, goes on, and is told of what does not concern it. What waits is interrupted.
#[test]
fn signals_by_the_thousand_hold_nothing_up() {
    let mut world = world();
    let mut running: Vec<_> = Family::ALL.into_iter().flat_map(|family| world.streams(family, &WEB)).collect();
    let process = Pid::from_raw(world.proxy.process().unwrap().cast_signed());
    let (over, signals) = (AtomicBool::new(false), AtomicUsize::new(0));
    let to = (cluster_ip(Family::V6, 1), 80).into();
    let cluster = world.cluster.clone();
    let (traffic, ()) = thread::scope(|scope| {
        scope.spawn(|| {
            use Signal::{SIGCHLD, SIGCONT, SIGSTOP, SIGURG, SIGWINCH};
            for signal in [SIGSTOP, SIGCONT, SIGCHLD, SIGURG, SIGWINCH].into_iter().cycle() {
                if over.load(Ordering::Relaxed) && signal == SIGSTOP {
                    return;
                }
                kill(process, signal).unwrap();
                signals.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        Traffic::during(&cluster.client, to, || {
            let _over = SetWhenDropped(&over);
            world.change_other(0..CHANGES);
            world.cluster.node.sh("nft flush map ip kube-proxy endpoints").unwrap();
            world.proxy.wait_for_log(0, "changed the table kube-proxy, which is ours: it is being repaired").unwrap();
            world.change_other(CHANGES..2 * CHANGES);
        })
    });
    assert_eq!(traffic.failures(), None, "of {} connections\n{}", traffic.count(), world.proxy.log_tail());
    let signals = signals.into_inner();
    assert!(signals > 1000, "{signals} signals are too few to tell");
    all_alive(&mut running, "while signals came");
    world.check_from_outside(&WEB);
}

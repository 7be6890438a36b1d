//! A node with an API server of many Services, and kube-proxy on it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netlink::{ForeignEdit, Monitor};
use serde_json::Value;
use tempfile::TempDir;
use testing::api::FakeApi;
use testing::netns::Namespace;
use testing::scale::{LOCAL_NODE, Scale};
use testing::{http, metrics, objects};

use crate::figures::peak_rss_mib;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longer than `minSyncPeriod` while changes are timed.
const QUIET: Duration = Duration::from_millis(5);
const POLL: Duration = Duration::from_millis(2);
/// Clock ticks in a second, by which the kernel counts CPU time (`sysconf(_SC_CLK_TCK)`, the same on all of Linux' platforms today).
const TICKS: f64 = 100.0;
/// Where kube-proxy serves metrics, on localhost.
const METRICS: u16 = 10249;

pub(crate) struct Node {
    namespace: Namespace,
    pub(crate) api: FakeApi,
    files: TempDir,
}

/// kube-proxy at work. It is killed when this is dropped; its rules stay.
pub(crate) struct Proxy<'a> {
    node: &'a Node,
    child: Child,
    log: PathBuf,
    started: Instant,
}

/// How a start went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// From the start of the process until all rules are in place.
    pub(crate) whole: Duration,
    /// Of that, from when all lists were complete.
    pub(crate) from_lists: Duration,
    /// Of that, what the kernel took for all transactions of a family. That of the family for which it took longer: each has the time
    /// in which the other's are carried out in it.
    pub(crate) kernel: Duration,
    /// What it took for the longest transaction.
    pub(crate) longest: Duration,
    /// How many operations the kernel was sent.
    pub(crate) operations: u64,
}

impl Node {
    /// One whose API server knows all of `scale`.
    pub(crate) fn new(scale: Scale) -> Result<Self> {
        let namespace = Namespace::new("node")?;
        let api = namespace.run(FakeApi::start)?;
        api.put(objects::node(LOCAL_NODE, &[], &["192.0.2.10", "2001:db8::10"]));
        scale.objects().for_each(|object| api.put(object));
        Ok(Self { namespace, api, files: tempfile::tempdir()? })
    }

    /// Starts kube-proxy with this pause between syncs, and waits until all rules are in place.
    pub(crate) fn start(&self, min_sync_period: &str) -> Result<(Proxy<'_>, Start)> {
        let (config, log) = (self.files.path().join("config.conf"), self.files.path().join("log"));
        let kubeconfig = self.api.kubeconfig(self.files.path())?;
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
             nftables: {{minSyncPeriod: {min_sync_period}, fastpathPacketThreshold: 0}}\n\
             clusterCIDR: 10.128.0.0/9,fd00::a80:0/105\n\
             nodePortAddresses: [all]\nconntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}\n\
             clientConnection: {{kubeconfig: {}}}\n",
            kubeconfig.display()
        );
        fs::write(&config, text)?;
        let mut command = self.namespace.command("target/release/kube-proxy");
        command.arg("--config").arg(&config).args(["--hostname-override", LOCAL_NODE]);
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let started = Instant::now();
        let child = command.spawn().context("cannot run target/release/kube-proxy: build it with `make build`")?;
        let mut proxy = Proxy { node: self, child, log, started };
        let start = proxy.wait_until_written()?;
        Ok((proxy, start))
    }

    /// Starts it where no rules are, and leaves none.
    pub(crate) fn cold_start(&self) -> Result<Start> {
        let (proxy, start) = self.start("1s")?;
        drop(proxy);
        self.remove_rules()?;
        Ok(start)
    }

    /// As [`Node::cold_start`], while another program adds a table again and again. Returns the longest that it took for that,
    /// which is some milliseconds where nobody else commits.
    pub(crate) fn longest_wait(&self) -> Result<Duration> {
        let done = AtomicBool::new(false);
        let add_tables = || {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                let status = self.namespace.command("nft").args(["add", "table", "ip", "bystander"]).status()?;
                longest = longest.max(began.elapsed());
                ensure!(status.success(), "nft cannot add a table: {status}");
                thread::sleep(POLL);
            }
            Ok(longest)
        };
        let longest = thread::scope(|scope| {
            let bystander = scope.spawn(add_tables);
            let started = self.start("1s").map(drop);
            done.store(true, Ordering::Relaxed);
            let longest = bystander.join().expect("it does not panic");
            started.and(longest)
        })?;
        self.remove_rules()?;
        Ok(longest)
    }

    fn remove_rules(&self) -> Result<()> {
        let name = compiler::table_name();
        self.namespace.sh(&format!("nft delete table ip {name}; nft delete table ip6 {name}")).map(drop)
    }

    /// Makes one change after the other, and waits for the commit that follows from each. Returns how long those took.
    pub(crate) fn time(&self, changes: impl Iterator<Item = Value>) -> Result<Vec<Duration>> {
        let (sender, commits) = mpsc::channel();
        let report = move |edit| {
            if matches!(edit, ForeignEdit::Seen { .. }) {
                // Who receives does so until the last change.
                sender.send(Instant::now()).ok();
            }
        };
        self.namespace.run(|| Monitor::spawn(compiler::table_name(), report).map_err(anyhow::Error::from))?;
        let time = |change| {
            // So that it does not wait for what is left of `minSyncPeriod`, which is the pacer's doing and nobody's cost.
            thread::sleep(QUIET);
            while commits.try_recv().is_ok() {}
            let began = Instant::now();
            self.api.put(change);
            let committed = commits.recv_timeout(PATIENCE).context("no commit followed a change")?;
            Ok(committed - began)
        };
        changes.map(time).collect()
    }
}

impl Proxy<'_> {
    fn wait_until_written(&mut self) -> Result<Start> {
        loop {
            let log = fs::read_to_string(&self.log)?;
            let written: Vec<_> = log.lines().filter(|line| line.contains("all rules are in place")).collect();
            if let [_, last] = *written {
                let whole = self.started.elapsed();
                let lists = log.lines().find(|line| line.contains("Caches are synced")).unwrap_or_default();
                let from_lists =
                    time_of_day(last).zip(time_of_day(lists)).and_then(|(end, begin)| end.checked_sub(begin));
                let from_lists =
                    from_lists.context("cannot tell the time of log lines, or midnight came between them")?;
                let operations =
                    written.iter().filter_map(|line| line.rsplit_once("operations=")?.1.trim().parse::<u64>().ok());
                let (kernel, longest) = self.kernel_times()?;
                return Ok(Start { whole, from_lists, kernel, longest, operations: operations.sum() });
            }
            ensure!(self.child.try_wait()?.is_none(), "kube-proxy has ended:\n{log}");
            ensure!(self.started.elapsed() < PATIENCE, "kube-proxy does not write its rules:\n{log}");
            thread::sleep(POLL);
        }
    }

    /// What the kernel took for all transactions of a family so far, and for the longest one; of both families, the larger.
    fn kernel_times(&self) -> Result<(Duration, Duration)> {
        let (_, page) = http::fetch(&self.node.namespace, METRICS, "/metrics")?;
        let families = metrics::parse(&page)?;
        let larger = |name, suffix| {
            let samples = families.get(name).into_iter().flat_map(|family| &family.samples);
            let values = samples.filter(|((found, _), _)| found == suffix).map(|(_, value)| *value);
            // None if nothing was committed.
            Duration::try_from_secs_f64(values.fold(0.0, f64::max))
        };
        let all = larger("slipstream_kernel_commit_duration_seconds", "_sum")?;
        Ok((all, larger("slipstream_kernel_commit_longest_seconds", "")?))
    }

    /// The part of a CPU that it uses while `doing` runs.
    pub(crate) fn cpu(&self, doing: impl FnOnce()) -> Result<f64> {
        let (began, before) = (Instant::now(), self.cpu_seconds()?);
        doing();
        Ok((self.cpu_seconds()? - before) / began.elapsed().as_secs_f64())
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // utime and stime are the 14th and 15th field, the 12th and 13th after the name (proc(5)).
        let fields = stat.rsplit_once(") ").context("/proc/PID/stat has no name")?.1.split(' ');
        let ticks: Vec<f64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() / TICKS)
    }

    /// The most memory it ever had, in MiB.
    pub(crate) fn peak_rss_mib(&self) -> Result<f64> {
        peak_rss_mib(self.child.id())
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        // Both fail only if it is over already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// When a line was logged, as klog writes it: `I1128 20:31:20.123456`.
fn time_of_day(line: &str) -> Option<Duration> {
    let mut parts = line.split(' ').nth(1)?.split(':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    Duration::try_from_secs_f64(next()? * 3600.0 + next()? * 60.0 + next()?).ok()
}

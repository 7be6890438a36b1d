//! A node with an API server of many Services, and kube-proxy on it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netlink::{ForeignEdit, Monitor};
use tempfile::TempDir;
use testing::api::FakeApi;
use testing::netns::Namespace;
use testing::objects;
use testing::scale::{LOCAL_NODE, Scale};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(2);
/// Clock ticks in a second, by which the kernel counts CPU time (`sysconf(_SC_CLK_TCK)`, the same on all of Linux' platforms today).
const TICKS: f64 = 100.0;

pub(crate) struct Node {
    namespace: Namespace,
    pub(crate) api: FakeApi,
    commits: Receiver<Instant>,
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
    /// How many operations the kernel was sent.
    pub(crate) operations: u64,
}

impl Node {
    /// One whose API server knows all of `scale`.
    pub(crate) fn new(scale: Scale) -> Result<Self> {
        let namespace = Namespace::new("node")?;
        let api = namespace.run(FakeApi::start)?;
        api.put(objects::node(LOCAL_NODE, &[], &["192.0.2.10"]));
        scale.objects().for_each(|object| api.put(object));
        let (sender, commits) = mpsc::channel();
        let report = move |edit| {
            if matches!(edit, ForeignEdit::Seen { .. }) {
                // The receiver lives as long as the node.
                sender.send(Instant::now()).ok();
            }
        };
        namespace.run(|| Monitor::spawn(compiler::table_name(), report).map_err(anyhow::Error::from))?;
        Ok(Self { namespace, api, commits, files: tempfile::tempdir()? })
    }

    /// Starts kube-proxy with this pause between syncs, and waits until all rules are in place.
    pub(crate) fn start(&self, min_sync_period: &str) -> Result<(Proxy<'_>, Start)> {
        let (config, log) = (self.files.path().join("config.conf"), self.files.path().join("log"));
        let kubeconfig = self.api.kubeconfig(self.files.path())?;
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
             nftables: {{minSyncPeriod: {min_sync_period}, fastpathPacketThreshold: 0}}\nclusterCIDR: 10.128.0.0/9\n\
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

    /// Makes a change, and waits for the commit that follows from it. Returns how long that took.
    pub(crate) fn time(&self, change: impl FnOnce(&FakeApi)) -> Result<Duration> {
        while self.commits.try_recv().is_ok() {}
        let began = Instant::now();
        change(&self.api);
        match self.commits.recv_timeout(PATIENCE) {
            Ok(committed) => Ok(committed - began),
            Err(RecvTimeoutError::Timeout) => bail!("nothing was committed within {PATIENCE:?} of a change"),
            Err(RecvTimeoutError::Disconnected) => bail!("nobody listens for commits any more"),
        }
    }
}

impl Proxy<'_> {
    fn wait_until_written(&mut self) -> Result<Start> {
        let mut lists = None;
        loop {
            let log = fs::read_to_string(&self.log)?;
            if lists.is_none() && log.contains("Caches are synced") {
                lists = Some(self.started.elapsed());
            }
            let written: Vec<_> = log.lines().filter(|line| line.contains("all rules are in place")).collect();
            if written.len() == 2 {
                let whole = self.started.elapsed();
                let operations =
                    written.iter().filter_map(|line| line.rsplit_once("operations=")?.1.trim().parse::<u64>().ok());
                let operations = operations.sum();
                return Ok(Start { whole, from_lists: whole - lists.unwrap_or(whole), operations });
            }
            ensure!(self.child.try_wait()?.is_none(), "kube-proxy has ended:\n{log}");
            ensure!(self.started.elapsed() < PATIENCE, "kube-proxy does not write its rules:\n{log}");
            thread::sleep(POLL);
        }
    }

    /// The part of a CPU that it uses while `doing` runs.
    pub(crate) fn cpu(&self, doing: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (began, before) = (Instant::now(), self.cpu_seconds()?);
        doing()?;
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
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// The node that it is on.
    pub(crate) const fn node(&self) -> &Node {
        self.node
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        // Both fail only if it is over already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

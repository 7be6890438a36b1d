//! The binary under test, as a process on a node.

use std::env;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use testing::http;
use testing::netns::Cluster;

use crate::manifests::Manifests;
use crate::settings::Settings;

/// How long anything may take that the proxy does by itself. It takes milliseconds where nothing else runs, but tests
/// share two CPUs, and some run on emulated ones.
pub const PATIENCE: Duration = Duration::from_secs(100);
/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(2);
/// How much of the log an error shows.
const TAIL: usize = 40;
/// When the last sync of each family ended, in seconds since 1970.
const LAST_SYNC: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
/// How long syncs took, in total.
const SYNC_TIME: &str = "kubeproxy_sync_proxy_rules_duration_seconds_sum";

/// `kube-proxy`, running on the node of a cluster, with a manifest directory as its source of objects.
///
/// It is killed when this is dropped, and when the thread that started it ends, however that happens.
#[derive(Debug)]
pub struct Proxy {
    cluster: Arc<Cluster>,
    /// Everything on disk: manifests, configuration, log.
    directory: TempDir,
    manifests: Manifests,
    /// Its name, and how to reach an API server, if it takes its objects from one and not from the manifests.
    api: Option<(String, PathBuf)>,
    /// What it may do, as `setpriv` takes it.
    capabilities: &'static str,
    /// More of its environment.
    environment: Vec<(&'static str, String)>,
    /// Where it logs to.
    log: PathBuf,
    process: Option<Child>,
}

impl Proxy {
    /// The name of the node that it runs on: endpoints with this `nodeName` are local.
    pub const NODE: &str = "node";

    /// Starts it with an empty manifest directory, and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or ends, or is not ready in time; the error has the end of its log.
    pub fn start(cluster: Arc<Cluster>, settings: &Settings) -> Result<Self> {
        let mut proxy = Self::prepare(cluster)?;
        proxy.run(settings)?;
        Ok(proxy)
    }

    /// Makes its directories, so that manifests can be there before it starts; see [`Self::run`].
    ///
    /// # Errors
    /// There is no room for them.
    pub fn prepare(cluster: Arc<Cluster>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("slipstream-").tempdir().context("no temporary directory")?;
        let manifests = Manifests::new(directory.path().join("manifests"))?;
        // Tests ask faster than 1000 times a second, and every refusal is to be told. Before kernel 6.13 this cannot be had
        // for one namespace, and the limit is that of the whole machine.
        for (parameter, value) in [("net/ipv4/icmp_msgs_per_sec", "1000000"), ("net/ipv4/icmp_msgs_burst", "10000")] {
            cluster.node.sysctl(parameter, value).ok();
        }
        // All the rights it needs, so that whatever is seen of it shows that they are enough.
        let (capabilities, log) = ("-all,+net_admin", directory.path().join("kube-proxy.log"));
        Ok(Self { cluster, directory, manifests, api: None, capabilities, environment: Vec::new(), log, process: None })
    }

    /// Makes directories for one on the node of another cluster, which reads the manifests of this one.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn twin(&self, cluster: Arc<Cluster>) -> Result<Self> {
        let mut twin = Self::prepare(cluster)?;
        twin.manifests = self.manifests.clone();
        Ok(twin)
    }

    /// Has it take its objects from an API server, as the node of this name, from its next start on.
    pub fn follow(&mut self, node: &str, kubeconfig: &Path) {
        self.api = Some((node.to_owned(), kubeconfig.to_owned()));
    }

    /// Has it find this in its environment, from its next start on.
    pub fn set_environment(&mut self, name: &'static str, value: String) {
        self.environment.push((name, value));
    }

    /// Has it log to this file, from its next start on.
    pub fn log_to(&mut self, path: PathBuf) {
        self.log = path;
    }

    /// Lets it make network namespaces, from its next start on.
    pub const fn allow_namespaces(&mut self) {
        self.capabilities = "-all,+net_admin,+sys_admin";
    }

    /// Starts it, and waits until everything in the manifest directory is in the kernel. Returns how long that took.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn run(&mut self, settings: &Settings) -> Result<Duration> {
        let began = self.launch(settings)?;
        let ready = self.wait_synced(began)?;
        self.wait("it is healthy", |proxy| {
            Ok(http::fetch(&proxy.cluster.node, 10256, "/healthz").is_ok_and(|(status, _)| status == 200))
        })?;
        Ok(ready)
    }

    /// Starts it, and returns the time right before.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn launch(&mut self, settings: &Settings) -> Result<SystemTime> {
        let configuration = self.path("kube-proxy.yaml");
        let kubeconfig =
            self.api.as_ref().map(|(_, path)| format!("clientConnection: {{kubeconfig: {}}}\n", path.display()));
        fs::write(&configuration, settings.to_string() + &kubeconfig.unwrap_or_default())?;
        let began = SystemTime::now();
        self.spawn(&configuration)?;
        Ok(began)
    }

    /// Changes its configuration while it runs. That this has taken effect is not waited for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn reconfigure(&self, settings: &Settings) -> Result<()> {
        fs::write(self.path("kube-proxy.yaml"), settings.to_string()).context("cannot change the configuration")
    }

    /// Runs another one with `--cleanup` to its end, which has to be a good one. Returns what it logs.
    ///
    /// # Errors
    /// It fails, or cannot be started.
    pub fn clean_up(&self) -> Result<String> {
        let output = self.command()?.arg("--cleanup").output().context("cannot run kube-proxy --cleanup")?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "kube-proxy --cleanup has ended, {}:\n{log}", output.status);
        Ok(log)
    }

    /// The binary on the node, with the capabilities that it may have.
    fn command(&self) -> Result<Command> {
        // The kernel kills it with us: neither Ctrl-C nor a test run that is shot leaves it behind.
        let mut command = self.cluster.node.command("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        command.args(["--bounding-set", self.capabilities, "--inh-caps=-all", "--no-new-privs", "--"]).arg(binary()?);
        Ok(command)
    }

    fn spawn(&mut self, configuration: &Path) -> Result<()> {
        ensure!(self.process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command()?;
        command.arg("--config").arg(configuration).args(["-v", "4", "--hostname-override"]);
        match &self.api {
            Some((name, _)) => command.arg(name),
            None => command.args([Self::NODE, "--manifest-dir"]).arg(self.manifests.directory()),
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // Ctrl-C is for us to act on.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.process = Some(command.spawn().context("cannot run `nsenter` and `setpriv` (Debian package util-linux)")?);
        Ok(())
    }

    /// The cluster on whose node it runs.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its manifests. Edits made here are not waited for.
    pub const fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Writes objects to a file of the manifest directory, and waits until they are in the kernel. Returns how long after
    /// the file's appearance that was.
    ///
    /// # Errors
    /// The change does not arrive in time; so it is, too, if nothing in it changes any Service.
    pub fn apply(&mut self, file: &str, objects: &[&dyn Display]) -> Result<Duration> {
        let written = self.manifests.put(file, objects)?;
        self.wait_synced(written)
    }

    /// Removes a file from the manifest directory, and waits until its objects are gone from the kernel. Returns how long
    /// after that was.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn withdraw(&mut self, file: &str) -> Result<Duration> {
        let removed = self.manifests.remove(file)?;
        self.wait_synced(removed)
    }

    /// Waits until both families were synced after `since`. Returns how long after: by the proxy's word, to the end of
    /// the later sync.
    ///
    /// # Errors
    /// It has ended, or this does not happen in time.
    pub fn wait_synced(&mut self, since: SystemTime) -> Result<Duration> {
        let since = since.duration_since(UNIX_EPOCH)?.as_secs_f64();
        let mut last = 0.0;
        self.wait("a sync of both families after the change", |proxy| {
            let ends = proxy.metric(LAST_SYNC).unwrap_or_default();
            last = ends.iter().copied().fold(0.0, f64::max);
            Ok(ends.len() == 2 && ends.iter().all(|end| *end > since))
        })?;
        Ok(Duration::from_secs_f64(last - since))
    }

    /// How long its syncs took since it started, both families together.
    ///
    /// # Errors
    /// Its metrics do not answer.
    pub fn sync_time(&self) -> Result<Duration> {
        Ok(Duration::from_secs_f64(self.metric(SYNC_TIME)?.iter().sum()))
    }

    /// The values of a metric, one for each set of labels.
    ///
    /// # Errors
    /// Its metrics do not answer.
    pub fn metric(&self, name: &str) -> Result<Vec<f64>> {
        let (_, metrics) = http::fetch(&self.cluster.node, 10249, "/metrics")?;
        let samples = metrics.lines().filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            (sample.split('{').next() == Some(name)).then(|| value.parse().ok())?
        });
        Ok(samples.collect())
    }

    /// Waits until `condition` holds, which is looked at every few milliseconds. `wanted` says what it is.
    ///
    /// # Errors
    /// The proxy has ended, or the condition does not hold within [`PATIENCE`], or cannot be found out.
    pub fn wait(&mut self, wanted: &str, mut condition: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if condition(self)? {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                return Err(self.with_log(&format!("waiting for: {wanted}: kube-proxy has ended, {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.with_log(&format!("waiting for: {wanted}: not within {PATIENCE:?}")));
            }
            thread::sleep(POLL);
        }
    }

    /// Sends it a signal and waits for its end. The rules stay in the kernel.
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        let process = self.process.as_ref().context("it does not run")?;
        kill(Pid::from_raw(i32::try_from(process.id())?), signal)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended()? {
                self.process = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(self.with_log(&format!("it does not end within {PATIENCE:?} of {signal}")));
            }
            thread::sleep(POLL);
        }
    }

    /// The number of its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("it does not run")?.id())
    }

    /// Everything that it logged so far, if that is in a file.
    pub fn log(&self) -> String {
        self.log_since(0)
    }

    /// How much it logged so far, in bytes; see [`Self::log_since`].
    pub fn logged(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    /// What it logged after so many bytes.
    pub fn log_since(&self, logged: u64) -> String {
        // Who reads a pipe waits for its end.
        if !self.log.is_file() {
            return String::new();
        }
        let read = || {
            let (mut log, mut text) = (File::open(&self.log)?, String::new());
            log.seek(SeekFrom::Start(logged))?;
            log.read_to_string(&mut text).map(|_| text)
        };
        read().unwrap_or_default()
    }

    /// Waits until it has logged this, after so many bytes.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_for_log(&mut self, logged: u64, text: &str) -> Result<()> {
        self.wait(&format!("a log line with {text:?}"), |proxy| Ok(proxy.log_since(logged).contains(text)))
    }

    /// The last lines that it logged.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        format!("the last {} of {} lines of its log:\n{}", tail.len(), lines.len(), tail.join("\n"))
    }

    fn with_log(&self, error: &str) -> Error {
        anyhow!("{error}\n{}", self.log_tail())
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Where its manifests, configuration and log are. The directory goes when this is dropped, unless it is to be kept.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves its files on disk for someone to look at.
    pub fn keep_files(&mut self) {
        self.directory.disable_cleanup(true);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.as_mut().map_or(Ok(None), |process| process.try_wait().context("cannot ask for its status"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Fails only if it is over already.
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// The binary: `SLIPSTREAM_BIN`, or the one of the same build as the running program.
fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SLIPSTREAM_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "SLIPSTREAM_BIN says {}, which is not there", path.display());
        return Ok(path);
    }
    // Tests are in target/PROFILE/deps, the demo is in target/PROFILE.
    let program = env::current_exe().context("cannot tell where this program is")?;
    let candidates: Vec<_> =
        program.ancestors().skip(1).take(2).map(|directory| directory.join("kube-proxy")).collect();
    candidates.iter().find(|path| path.is_file()).cloned().with_context(|| {
        let profile = if program.components().any(|part| part.as_os_str() == "release") { " --release" } else { "" };
        format!(
            "there is no {}: run `cargo build -p proxy{profile}` first, or set SLIPSTREAM_BIN",
            candidates.last().map_or_else(String::new, |path| path.display().to_string())
        )
    })
}

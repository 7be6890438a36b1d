//! Starting kube-proxy and waiting for what it does.

use std::fmt::Display;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testing::http;
use testing::netns::Namespace;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-proxy");
/// How long anything may take: far longer than it does on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);
const POLL: Duration = Duration::from_millis(20);

pub(crate) const HEALTH_PORT: u16 = 10256;
pub(crate) const METRICS_PORT: u16 = 10249;

/// A running kube-proxy, which is killed when this is dropped. Its rules stay.
pub(crate) struct Proxy<'a> {
    namespace: &'a Namespace,
    child: Child,
    directory: TempDir,
}

impl<'a> Proxy<'a> {
    /// Starts it with these arguments.
    pub(crate) fn start(namespace: &'a Namespace, arguments: &[&str]) -> Self {
        let mut command = namespace.command(PROGRAM);
        command.args(arguments);
        Self::spawn(namespace, command)
    }

    /// Starts it as root without one capability, such as `net_admin`.
    pub(crate) fn start_without(namespace: &'a Namespace, capability: &str, arguments: &[&str]) -> Self {
        let [bounding, inherited] = ["--bounding-set", "--inh-caps"].map(|set| format!("{set}=-{capability}"));
        Self::start_by(namespace, &["setpriv", &bounding, &inherited], arguments)
    }

    /// Has another program start it.
    pub(crate) fn start_by(namespace: &'a Namespace, starter: &[&str], arguments: &[&str]) -> Self {
        let mut command = namespace.command(starter[0]);
        command.args(&starter[1..]).arg(PROGRAM).args(arguments);
        Self::spawn(namespace, command)
    }

    /// A file of `/proc` about it.
    pub(crate) fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }

    /// Starts it where it may not write sysctls, as in a container that is not privileged.
    pub(crate) fn start_contained(namespace: &'a Namespace, arguments: &[&str]) -> Self {
        let mut command = namespace.command("unshare");
        command.args([
            "--mount",
            "sh",
            "-ec",
            "mount --options bind,ro /proc/sys /proc/sys; exec \"$@\"",
            "sh",
            PROGRAM,
        ]);
        command.args(arguments);
        Self::spawn(namespace, command)
    }

    fn spawn(namespace: &'a Namespace, mut command: Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let output = File::create(directory.path().join("log")).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        // As in a process that no cluster started.
        command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBERNETES_SERVICE_PORT");
        Self { namespace, child: command.spawn().unwrap(), directory }
    }

    /// All that it printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// How many syncs of changes it has logged, as it does only with a verbosity of 2 and above.
    pub(crate) fn debug_lines(&self) -> usize {
        self.log().matches("Syncing nftables rules").count()
    }

    /// Waits until `condition` holds.
    pub(crate) fn wait(&self, what: impl Display, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}; log:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// Waits until it has logged this.
    pub(crate) fn wait_for_log(&self, text: &str) {
        self.wait(format_args!("a log line with {text:?}"), || self.log().contains(text));
    }

    /// Waits until its IPv4 table, as `nft` lists it, has this text in it.
    pub(crate) fn wait_for_rule(&self, text: &str) {
        self.wait(format_args!("{text:?} in the table"), || table(self.namespace).contains(text));
    }

    /// Waits until its IPv4 table does not have this text in it any more.
    pub(crate) fn wait_for_no_rule(&self, text: &str) {
        self.wait(format_args!("{text:?} out of the table"), || !table(self.namespace).contains(text));
    }

    /// Waits until it has ended, and returns how, and all that it printed.
    pub(crate) fn wait_for_end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.log());
            }
            assert!(Instant::now() < deadline, "it did not end within {PATIENCE:?}; log:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// Sends a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// The most memory that it ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Gets a path of one of its servers: status and body. `None` if nobody listens.
    pub(crate) fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        http::fetch(self.namespace, port, path).ok()
    }

    /// Waits until a path is answered with this status, and returns the body.
    pub(crate) fn wait_for_status(&self, port: u16, path: &str, status: u16) -> String {
        self.wait(format_args!("{status} from {path}"), || {
            self.get(port, path).is_some_and(|(found, _)| found == status)
        });
        self.get(port, path).unwrap().1
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The IPv4 table as `nft` lists it; empty if there is none.
pub(crate) fn table(namespace: &Namespace) -> String {
    namespace.sh("nft list table ip kube-proxy 2>/dev/null || true").unwrap()
}

/// Writes objects into a file of a manifest directory, in one step as an editor would.
pub(crate) fn write(directory: &Path, file: &str, objects: &[Value]) {
    let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
    let temporary = directory.join(".new");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, directory.join(file)).unwrap();
}

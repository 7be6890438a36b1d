//! Network namespaces as hosts.
//!
//! A [`Namespace`] has no name in the file system: an open file keeps it alive, so it vanishes with the process that
//! made it, however that ends, and tests that run side by side cannot meet. [`Cluster`] joins several into a node, its
//! pods and a client outside.

mod cluster;

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use crate::children;

pub use cluster::{Cluster, Pod};
/// The family of the addresses of a [`Cluster`].
pub use model::Family;

/// What makes a namespace predictable. Links that are made or arrive there later inherit what `default` says.
const PARAMETERS: [(&str, &str); 8] = [
    // Link-local addresses can be used at once.
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    // Every refusal is told, not one in a second.
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
    // Routes stay as they were set, even where a packet leaves by the interface it came from.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
];

/// A network namespace with its loopback interface up, without duplicate address detection, and without limits on the
/// rate of ICMP errors.
#[derive(Debug)]
pub struct Namespace {
    label: String,
    handle: File,
}

impl Namespace {
    /// Makes a namespace. The label is for messages only and need not be unique.
    ///
    /// # Errors
    /// Without root (`CAP_SYS_ADMIN`), `ip` or `nsenter`.
    pub fn new(label: impl Into<String>) -> Result<Self> {
        let label = label.into();
        let handle =
            on_a_thread(&label, unshared).with_context(|| format!("cannot make the network namespace {label:?}"))?;
        let namespace = Self { label, handle };
        for (parameter, value) in PARAMETERS {
            namespace.sysctl(parameter, value)?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// What messages call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A number that tells it from every other namespace that exists: what `ls -i /proc/self/ns/net` prints inside.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn id(&self) -> Result<u64> {
        Ok(self.handle.metadata().context("cannot read the number of a network namespace")?.ino())
    }

    /// A path that stands for it as long as it lives, for programs that take one: `nsenter --net=PATH`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd()))
    }

    /// Runs `f` inside, on a thread of its own. Sockets that it opens, and threads and processes that it starts, belong
    /// to this namespace for good. A panic in `f` goes on in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        on_a_thread(&self.label, || {
            setns(&self.handle, CloneFlags::CLONE_NEWNET)
                .expect("entering a namespace takes no more privilege than making it, which was granted");
            f()
        })
    }

    /// A command that will run inside. For one that is over soon, [`Namespace::sh`] and [`Namespace::ip`] are better: they
    /// check the outcome, and servers of this crate are not stopped while one of them runs, so that no child that is
    /// being started has a copy of their sockets.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a shell script inside, which stops at its first failure, and returns what it prints.
    ///
    /// # Errors
    /// The script failed; the error has what it wrote to standard error.
    pub fn sh(&self, script: &str) -> Result<String> {
        let mut command = self.command("sh");
        command.arg("-ec").arg(script);
        self.output(command, script)
    }

    /// Runs `ip` inside with `arguments`, separated by spaces, and returns what it prints.
    ///
    /// # Errors
    /// `ip` failed; the error has its message.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut command = self.command("ip");
        command.args(arguments.split_whitespace());
        self.output(command, &format!("ip {arguments}"))
    }

    /// Sets a parameter below `/proc/sys`, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// There is no such parameter in a network namespace, or it does not take the value.
    pub fn sysctl(&self, parameter: &str, value: &str) -> Result<()> {
        // The kernel shows each thread the parameters of its own namespace.
        self.run(|| fs::write(format!("/proc/sys/{parameter}"), value))
            .with_context(|| format!("in namespace {:?}: cannot set /proc/sys/{parameter} to {value}", self.label))
    }

    /// Gives `interface` an address, alone or with the length of its prefix. It can be used at once.
    ///
    /// # Errors
    /// There is no such interface, or it has the address already.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        // Even without duplicate address detection, only `nodad` makes the kernel skip the tentative state.
        let flags = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {address} dev {interface} {flags}")).map(drop)
    }

    /// Connects it to `peer` with a cable: an interface here and one named `peer_interface` there, both up.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn link(&self, interface: &str, peer: &Self, peer_interface: &str) -> Result<()> {
        let there = peer.path();
        let there = there.display();
        self.ip(&format!("link add {interface} type veth peer name {peer_interface} netns {there}"))?;
        self.ip(&format!("link set {interface} up"))?;
        peer.ip(&format!("link set {peer_interface} up"))?;
        Ok(())
    }

    fn output(&self, mut command: Command, shown: &str) -> Result<String> {
        let label = &self.label;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = children::run(&mut command)
            .with_context(|| format!("in namespace {label:?}: cannot run `nsenter` (Debian package util-linux)"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let hint = match output.status.code() {
                Some(127) => " (a program is missing; Debian packages: iproute2 for ip, nftables for nft)",
                _ => "",
            };
            bail!("in namespace {label:?}: `{shown}` failed, {}{hint}: {}", output.status, stderr.trim());
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("in namespace {label:?}: `{shown}` printed what is not UTF-8"))
    }
}

/// Moves the calling thread to a new namespace and opens that.
fn unshared() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        Errno::EPERM => anyhow::anyhow!("this needs root (CAP_SYS_ADMIN): run it with sudo"),
        other => other.into(),
    })?;
    File::open("/proc/thread-self/ns/net").context("cannot open /proc/thread-self/ns/net")
}

fn on_a_thread<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, f);
        let thread = thread.expect("a test has threads to spare");
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

//! A container of the image, as a kubelet and its runtime would run it for a pod of the manifests: by runc.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::netns::Namespace;

use crate::image::Image;
use crate::render::printed;

/// How long anything may take: far longer than it does on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// The system calls that container runtimes allow where a pod asks for RuntimeDefault, as podman and CRI-O have the list.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";

/// A container, which is killed when this is dropped.
pub(crate) struct Container {
    id: String,
    runtime: Child,
    bundle: TempDir,
}

impl Container {
    /// Runs a container of a pod with hostNetwork on a node whose network this is. `files` is the folder whose files are in
    /// `/var/lib/kube-proxy`, `/etc` and the service account's folder.
    pub(crate) fn run(image: &Image, spec: &core::Container, node: &Namespace, files: &Path) -> Self {
        let bundle = TempDir::new().unwrap();
        let config = configuration(image, spec, node, files);
        fs::write(bundle.path().join("config.json"), format!("{config:#}")).unwrap();
        let log = File::create(bundle.path().join("log")).unwrap();
        let id = bundle.path().file_name().unwrap().to_str().unwrap().replace('.', "slipstream-");
        let runtime = Command::new("runc")
            .arg("--root")
            .arg(bundle.path().join("state"))
            .args(["run", "--bundle"])
            .arg(bundle.path())
            .arg(&id)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("runc (Debian package runc) can be run");
        Self { id, runtime, bundle }
    }

    /// All that it printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.bundle.path().join("log")).unwrap()
    }

    /// Waits until `condition` holds.
    pub(crate) fn wait(&mut self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            let ended = self.runtime.try_wait().unwrap();
            let waited = ended.is_none() && Instant::now() < deadline;
            assert!(waited, "waited for {what}; status: {ended:?}; log:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.runtime.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end; log:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// What the kernel says of its process: the file `name` below `/proc/PID`.
    pub(crate) fn process(&self, name: &str) -> String {
        let state: Value = serde_json::from_str(&self.runc(&["state", &self.id]).unwrap()).unwrap();
        fs::read_to_string(format!("/proc/{}/{name}", state["pid"])).unwrap()
    }

    fn runc(&self, arguments: &[&str]) -> Result<String, String> {
        let state = self.bundle.path().join("state");
        printed(Command::new("runc").arg("--root").arg(state).args(arguments).output().unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Fails if it has ended already.
        self.runc(&["delete", "--force", &self.id]).ok();
        self.runtime.wait().ok();
    }
}

/// What the runtime is to do (`config.json` of the OCI runtime specification).
fn configuration(image: &Image, spec: &core::Container, node: &Namespace, files: &Path) -> Value {
    let security = spec.security_context.as_ref().expect("the manifests say what a container may");
    let privileged = security.privileged == Some(true);
    let capabilities = capabilities(security);
    let arguments = spec.command.iter().flatten().map(|argument| argument.replace("$(NODE_NAME)", "node-1"));
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        // A privileged container could write there, but these are parameters of the whole machine.
        json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]}),
    ];
    // What a kubelet adds by itself, and the volumes.
    let service_account = "/var/run/secrets/kubernetes.io/serviceaccount".to_owned();
    let volumes = spec.volume_mounts.iter().flatten().map(|mount| (mount.name.clone(), mount.mount_path.clone()));
    let own = [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("token", &service_account)];
    let own = own.map(|(name, path)| (name.to_owned(), path.to_owned()));
    mounts.extend(own.into_iter().chain(volumes).map(|(name, destination)| {
        json!({"destination": destination, "source": files.join(name), "options": ["bind", "ro"]})
    }));
    let read_only: &[&str] = if privileged { &[] } else { &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"] };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": arguments.collect::<Vec<_>>(),
            "env": ["PATH=/usr/local/bin"],
            "cwd": "/",
            "noNewPrivileges": security.allow_privilege_escalation == Some(false),
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": image.root(), "readonly": security.read_only_root_filesystem == Some(true)},
        "mounts": mounts,
        "linux": {
            "namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network", "path": node.path()},
            ],
            "readonlyPaths": read_only,
            "maskedPaths": if privileged { &[][..] } else { &["/proc/kcore", "/proc/keys", "/sys/firmware"] },
            "seccomp": security.seccomp_profile.as_ref().map(|profile| {
                assert_eq!(profile.type_, "RuntimeDefault");
                seccomp()
            }),
        },
    })
}

/// What a privileged container has and may need, by bit; it has no more than the machine gives this process.
const PRIVILEGED: [(u32, &str); 5] =
    [(1, "DAC_OVERRIDE"), (12, "NET_ADMIN"), (16, "SYS_MODULE"), (21, "SYS_ADMIN"), (24, "SYS_RESOURCE")];

/// The capabilities that a container gets: all if it is privileged, else those it adds, as ours drop the others.
fn capabilities(security: &core::SecurityContext) -> Vec<String> {
    if security.privileged == Some(true) {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let own = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
        let own = u64::from_str_radix(own, 16).unwrap();
        let given = PRIVILEGED.iter().filter(|(bit, _)| own >> bit & 1 == 1);
        return given.map(|(_, name)| format!("CAP_{name}")).collect();
    }
    let capabilities = security.capabilities.clone().unwrap_or_default();
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]), "what runtimes add by themselves is not known here");
    capabilities.add.iter().flatten().map(|name| format!("CAP_{name}")).collect()
}

/// The filter for containers with no more than `CAP_NET_ADMIN`, in the words of the runtime specification.
fn seccomp() -> Value {
    let text = fs::read_to_string(SECCOMP).expect("it is in the Debian package golang-github-containers-common");
    let profile: Value = serde_json::from_str(&text).unwrap();
    let names = |rule: &Value, when: &str, what: &str| rule[when][what].as_array().cloned().unwrap_or_default();
    let applies = |rule: &&Value| {
        // Rules are for some architectures, or for containers with some capability, or without.
        let here = |list: Vec<Value>| list.iter().any(|name| name == "amd64" || name == "CAP_NET_ADMIN");
        let included = |what| {
            let list = names(rule, "includes", what);
            list.is_empty() || here(list)
        };
        included("arches")
            && included("caps")
            && !here(names(rule, "excludes", "arches"))
            && !here(names(rule, "excludes", "caps"))
    };
    let rules = profile["syscalls"].as_array().unwrap().iter().filter(applies).map(|rule| {
        let mut rule = rule.clone();
        rule.as_object_mut().unwrap().retain(|key, _| ["names", "action", "args", "errnoRet"].contains(&key.as_str()));
        rule
    });
    let architecture = &profile["archMap"][0];
    let mut architectures = architecture["subArchitectures"].as_array().unwrap().clone();
    architectures.push(architecture["architecture"].clone());
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": architectures,
        "syscalls": rules.collect::<Vec<_>>(),
    })
}

/// The files that a node and a cluster provide, for [`Container::run`].
pub(crate) struct Files(TempDir);

impl Files {
    /// With the files of the ConfigMap, the service account of a pod, and a node that knows the API server by its `/etc/hosts` alone.
    pub(crate) fn new(config_map: &Value, api_server: u16) -> Self {
        let files = Self(TempDir::new().unwrap());
        for directory in ["kube-proxy", "token"] {
            fs::create_dir(files.path().join(directory)).unwrap();
        }
        let data = config_map["data"].as_object().unwrap();
        for (name, text) in data {
            let text = text.as_str().unwrap();
            let text = text
                .replace("https://control-plane.example:6443", &format!("http://control-plane.example:{api_server}"));
            fs::write(files.path().join("kube-proxy").join(name), text).unwrap();
        }
        fs::write(files.path().join("token/token"), "a token").unwrap();
        fs::write(files.path().join("token/ca.crt"), include_str!("ca.crt")).unwrap();
        fs::write(files.path().join("hosts"), "127.0.0.1 localhost control-plane.example\n").unwrap();
        fs::write(files.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        files
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

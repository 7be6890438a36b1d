//! What is written to the kernel, by the word of `nft monitor`.

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use e2e::PATIENCE;
use tempfile::TempDir;
use testing::netns::Namespace;

/// Lists every commit to the nftables of a namespace, by whomever.
pub(crate) struct Monitor<'a> {
    namespace: &'a Namespace,
    process: Child,
    directory: TempDir,
    /// How many lines were looked at.
    seen: usize,
    /// How many times a table was made to be seen.
    marks: usize,
}

impl<'a> Monitor<'a> {
    pub(crate) fn start(namespace: &'a Namespace) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let output = File::create(directory.path().join("monitor")).unwrap();
        let mut command = namespace.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "stdbuf", "-oL", "nft", "monitor"]).stdin(Stdio::null());
        let process = command.stdout(output).spawn().unwrap();
        let mut monitor = Self { namespace, process, directory, seen: 0, marks: 0 };
        monitor.take();
        monitor
    }

    /// What was written since the last call, one object a line.
    pub(crate) fn take(&mut self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let prefix = "mark-";
        loop {
            // A commit of our own comes after all others. It listens from some moment after it was started.
            self.marks += 1;
            let mark = format!("{prefix}{}", self.marks);
            self.namespace.sh(&format!("nft add table ip {mark}; nft delete table ip {mark}")).unwrap();
            let listen_until = Instant::now() + Duration::from_secs(1);
            while Instant::now() < listen_until {
                let text = fs::read_to_string(self.directory.path().join("monitor")).unwrap();
                let lines: Vec<_> = text.lines().collect();
                let at_mark =
                    lines.iter().skip(self.seen).any(|line| line.contains("delete table") && line.ends_with(&mark));
                if at_mark {
                    let new = lines[self.seen..].iter().filter(|line| !line.contains(prefix) && !line.starts_with('#'));
                    let new = new.map(|line| (*line).to_owned()).collect();
                    self.seen = lines.len();
                    return new;
                }
                thread::sleep(Duration::from_millis(5));
            }
            assert!(Instant::now() < deadline, "nft monitor does not see our own commits");
        }
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

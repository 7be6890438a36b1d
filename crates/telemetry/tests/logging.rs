//! What a process leaves in its log when it comes to a bad end.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio, abort};
use std::thread;

use telemetry::logging::{self, Format};
use tracing::info;

/// More than a pipe holds, and less than is kept.
const LINES: usize = 4000;
/// What is printed when all of them were logged.
const NOW: &str = "now it panics";

#[test]
fn a_panic_is_the_last_line_of_a_log_and_none_is_missing() {
    for backtrace in ["0", "1"] {
        let log = log_of_a_panic(backtrace);
        let lines: Vec<_> = log.lines().filter(|line| line.contains(" logging.rs:")).collect();
        assert_eq!(lines.len(), LINES + 1, "{log}");
        let last = lines[LINES];
        assert!(last.starts_with('E') && last.contains("panicked at crates/telemetry/tests/logging.rs:"), "{last}");
        assert!(last.contains("in the middle of its work; this is a defect"), "{last}");
        assert_eq!(last.contains(" trace="), backtrace == "1", "{last}");
    }
}

/// Runs the next test, with this in `RUST_BACKTRACE`.
fn log_of_a_panic(backtrace: &str) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "panics"]).env("RUST_BACKTRACE", backtrace);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Nobody reads before it is about to panic, so that lines wait.
    let said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line == NOW), "it ended before");
    String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap()
}

#[test]
#[ignore = "the test above runs it, as a process of its own"]
fn panics() {
    logging::init(Format::Text, 0).unwrap();
    (0..LINES).for_each(|number| info!(target: "proxy", number, "a line"));
    io::stdout().write_all(format!("\n{NOW}\n").as_bytes()).unwrap();
    let panicked = thread::spawn(|| panic!("in the middle of its work")).join();
    panicked.unwrap_err();
    // Nothing is written any more.
    abort();
}

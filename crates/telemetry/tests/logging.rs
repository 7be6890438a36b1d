//! What a process leaves in its log when it comes to a bad end.

use std::env;
use std::process::{Command, abort};
use std::thread;

use telemetry::logging::{self, Format};
use tracing::info;

const LINES: usize = 1000;

#[test]
fn a_panic_is_the_last_line_of_a_log_and_none_is_missing() {
    let child = Command::new(env::current_exe().unwrap()).args(["--ignored", "--exact", "panics"]).output().unwrap();
    let log = String::from_utf8(child.stderr).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(" logging.rs:")).collect();
    assert_eq!(lines.len(), LINES + 1, "{log}");
    let last = lines[LINES];
    assert!(last.starts_with('E') && last.contains("panicked at crates/telemetry/tests/logging.rs:"), "{last}");
    assert!(last.contains("in the middle of its work; this is a defect"), "{last}");
}

#[test]
#[ignore = "the test above runs it, as a process of its own"]
fn panics() {
    logging::init(Format::Text, 0).unwrap();
    (0..LINES).for_each(|number| info!(target: "proxy", number, "a line"));
    let panicked = thread::spawn(|| panic!("in the middle of its work")).join();
    panicked.unwrap_err();
    // Nothing is written any more.
    abort();
}

//! Keeps processes that are being started from holding sockets open that this process closes.
//!
//! A child has a copy of every descriptor until its exec has closed them, which is a moment after the parent goes on. A
//! listener that another thread closes in that moment still takes connections, and its port is not free: tests that run
//! side by side would fail now and then. Once a child has ended, it certainly holds nothing.

use std::io;
use std::process::{Child, Command, Output};
use std::sync::{PoisonError, RwLock};

/// Read by threads with a child, written by threads that close sockets.
static CHILDREN: RwLock<()> = RwLock::new(());

/// Runs a process to its end; no [`close`] happens meanwhile.
pub(crate) fn run(command: &mut Command) -> io::Result<Output> {
    let _running = CHILDREN.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn().and_then(Child::wait_with_output)
}

/// Drops what owns sockets, after which no child has them either.
pub(crate) fn close<T>(sockets: T) {
    let _none_running = CHILDREN.write().unwrap_or_else(PoisonError::into_inner);
    drop(sockets);
}

//! System calls that signals interrupt.

#![expect(unsafe_code, reason = "to handle a signal, and to send one to a thread")]
#![allow(clippy::unwrap_used, reason = "the values are constants of the test")]

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use common::{add, endpoint, endpoints, name, nft, table, transaction};
use netlink::{ForeignEdit, Monitor, NfTables};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use ruleset::{Family, Kernel as _, Op};
use testing::netns::Namespace;

const COMMITS: u32 = 100;

static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handle(_signal: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// The threads of this process that have one of these names.
fn threads(names: &[&str]) -> Vec<libc::pid_t> {
    let all = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let named = all.filter(|path| names.contains(&fs::read_to_string(path.join("comm")).unwrap().trim()));
    named.map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// The monitor waits in a system call that fails with EINTR then. Others do not wait, and must not fail either.
#[test]
fn signals_cost_no_commit_no_reading_and_no_foreign_edit() -> Result<()> {
    // Without SA_RESTART, which would have the kernel begin a call anew.
    let action = SigAction::new(SigHandler::Handler(handle), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing but add to an atomic number.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    let namespace = Namespace::new("signals")?;
    let (report, noticed) = mpsc::channel();
    let monitor = namespace.run(|| Monitor::spawn(name("t"), move |edit| drop(report.send(edit))))?;
    let mut kernel = namespace.run(NfTables::open)?.known_to(&monitor)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let committing = thread::Builder::new().name("commits".to_owned()).spawn_scoped(scope, || -> Result<()> {
            kernel.commit(&transaction(Family::Ip, vec![table(), Op::AddSet(endpoints())]))?;
            for number in 0..COMMITS {
                let elements = (1000 * number..1000 * (number + 1)).map(endpoint).collect();
                kernel.commit(&transaction(Family::Ip, vec![add(&endpoints(), elements)]))?;
                kernel.read(Family::Ip, &name("t"))?;
                kernel.commit(&transaction(Family::Ip, vec![Op::FlushSet(endpoints())]))?;
            }
            Ok(())
        })?;
        scope.spawn(|| {
            let threads = threads(&["monitor", "commits"]);
            while !over.load(Ordering::Relaxed) {
                for thread in &threads {
                    // SAFETY: it sends a signal, for which there is a handler. It fails if the thread has ended.
                    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), *thread, libc::SIGUSR1) };
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        let ended = committing.join();
        let edited = nft(&namespace, "add chain ip t c", "");
        let heard = noticed.recv_timeout(Duration::from_secs(10));
        over.store(true, Ordering::Relaxed);
        ended.unwrap()?;
        edited?;
        assert!(matches!(heard?, ForeignEdit::Seen { family: Family::Ip, .. }));
        Ok(())
    })?;
    let handled = HANDLED.load(Ordering::Relaxed);
    assert!(handled > 1000, "{handled} signals are too few to tell");
    Ok(())
}

//! Commits that fail, in each way that a kernel has.

use std::cell::RefCell;
use std::io;
use std::sync::Once;
use std::time::{SystemTime, UNIX_EPOCH};

use model::{PerFamily, ServiceName};
use nix::errno::Errno;
use ruleset::{CommitError, Fake, Kernel as _, Rejection, Transaction};

use super::harness::Shared;
use super::*;

/// How a commit fails.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The kernel refuses it as a whole.
    Refused(Errno),
    /// It refuses the first operation, or its first element.
    Rejected(Errno),
    /// The table has gone since it was read.
    Gone,
    /// It commits it, or does not, and the answer is lost.
    Lost {
        /// Why it is lost.
        errno: Errno,
        /// Whether it was committed.
        committed: bool,
    },
}

impl Fault {
    /// Has the commit of a transaction fail.
    pub(super) fn befall(self, kernel: &mut Fake, transaction: &Transaction) -> CommitError {
        let table = format!("{} {}", transaction.family, transaction.table);
        match self {
            Self::Refused(errno) => CommitError::Refused { table, advice: "do something", source: errno.into() },
            Self::Rejected(errno) => {
                let is_of_elements = matches!(transaction.ops[0], Op::AddElements { .. } | Op::DeleteElements { .. });
                let rejection = Rejection::new(transaction, 0, is_of_elements.then_some(0), errno.into());
                CommitError::Rejected { rejections: vec![rejection] }
            }
            Self::Gone => {
                let is_of_elements = |op: &Op| matches!(op, Op::AddElements { .. } | Op::DeleteElements { .. });
                let gone = |(index, op)| {
                    Rejection::new(transaction, index, is_of_elements(op).then_some(0), Errno::ENOENT.into())
                };
                CommitError::Rejected { rejections: transaction.ops.iter().enumerate().map(gone).collect() }
            }
            Self::Lost { errno, committed } => {
                if committed {
                    kernel.commit(transaction).unwrap();
                }
                CommitError::Unknown { table, source: errno.into() }
            }
        }
    }
}

/// How a transaction can fail that there is nothing wrong with. `ERESTART` is what the kernel says of a stale generation.
const FAULTS: [Fault; 11] = [
    Fault::Refused(Errno::ENOMEM),
    Fault::Refused(Errno::ENOBUFS),
    Fault::Refused(Errno::ERESTART),
    Fault::Refused(Errno::EINTR),
    Fault::Rejected(Errno::EBUSY),
    Fault::Rejected(Errno::EEXIST),
    Fault::Rejected(Errno::ENOENT),
    Fault::Lost { errno: Errno::ENOBUFS, committed: true },
    Fault::Lost { errno: Errno::ENOBUFS, committed: false },
    Fault::Lost { errno: Errno::EINTR, committed: true },
    Fault::Lost { errno: Errno::EINTR, committed: false },
];

thread_local! {
    /// What was logged on this thread: a test, and all that it runs, has one of its own.
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Log;

impl Log {
    /// Has all threads log; what they log begins anew on this one.
    fn start() {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| tracing_subscriber::fmt().with_writer(|| Self).with_ansi(false).init());
        LOG.take();
    }

    fn text() -> String {
        LOG.with_borrow(|log| String::from_utf8(log.clone()).unwrap())
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How many elements all sets have: the same for any two tables that do the same.
fn elements(kernels: &PerFamily<Shared>) -> [usize; 2] {
    Family::ALL.map(|family| kernels.get(family).elements(family))
}

#[tokio::test(start_paused = true)]
async fn each_way_a_commit_fails_is_told_and_made_good_at_once() {
    for fault in FAULTS {
        Log::start();
        let mut harness = Harness::synced(&["web"]).await;
        sleep(HOUR).await;
        harness.kernels.v4.fail_with([fault]);
        let (began, before) = (Instant::now(), elements(&harness.kernels));
        harness.updates.send(vec![service("new"), slice("new", 2)]).await.unwrap();
        // What was committed, although the answer was lost, is not committed again.
        assert!(!harness.commit_of(Family::V4).await.accepted);
        if !matches!(fault, Fault::Lost { committed: true, .. }) {
            assert!(harness.commit_of(Family::V4).await.accepted);
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "{fault:?}");
        sleep(HOUR).await;
        assert!(elements(&harness.kernels)[0] > before[0], "{fault:?}");
        let failures = r#"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 1"#;
        assert!(harness.metric(failures), "{fault:?}");
        assert!(harness.telemetry.health.is_healthy(Moment::now()));
        let (Fault::Refused(errno) | Fault::Rejected(errno) | Fault::Lost { errno, .. }) = fault else {
            unreachable!()
        };
        let (text, reason) = (Log::text(), io::Error::from(errno).to_string());
        let told = text.lines().find(|line| line.contains("nftables sync failed, the rules in place stay"));
        let told = told.unwrap_or_else(|| panic!("{fault:?}: {text}"));
        assert!(told.contains("ip kube-proxy") && told.contains(&reason), "{fault:?}: {told}");
        assert!(text.contains("nftables sync works again, all changes are in place"), "{fault:?}: {text}");
    }
}

/// As it does when the process ends that owns it (`flags owner`).
#[tokio::test(start_paused = true)]
async fn a_table_that_goes_before_it_is_written_is_no_fault_of_services() {
    Log::start();
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    harness.kernels.v4.fail_with([Fault::Rejected(Errno::EPERM), Fault::Gone]);
    // Two endpoints take a chain that is not there yet.
    harness.updates.send(vec![service("new"), slice("new", 2)]).await.unwrap();
    while !harness.commit_of(Family::V4).await.accepted {}
    assert_eq!(harness.elements_of("cluster-ips"), 2);
    assert!(!Log::text().contains("this Service is not served"), "{}", Log::text());
}

/// Numbers that depend on the seed alone (xorshift64; Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Every third commit fails, somehow, while Services and endpoints change.
#[tokio::test(start_paused = true)]
async fn commits_that_fail_at_random_leave_no_trace() {
    const NAMES: [&str; 6] = ["a", "c", "e", "g", "i", "k"];
    let chosen = std::env::var("SLIPSTREAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = chosen.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64) | 1;
    println!("SLIPSTREAM_SEED={seed}");
    let mut dice = Dice(seed);
    let harness = Harness::synced(&["web"]).await;
    let mut now = std::collections::BTreeMap::from([("web", 1)]);
    for _ in 0..300 {
        for family in Family::ALL {
            if dice.below(3) == 0 {
                harness.kernels.get(family).fail_with([FAULTS[dice.below(FAULTS.len())]]);
            }
        }
        let name = NAMES[dice.below(NAMES.len())];
        if dice.below(3) == 0 {
            now.remove(name);
            harness.send(Update::ServiceGone(ServiceName::new("test", name))).await;
            harness.send(Update::SliceGone(ServiceName::new("test", format!("{name}-1")))).await;
        } else {
            let endpoints = dice.below(12) as u8;
            now.insert(name, endpoints);
            harness.send(service(name)).await;
            harness.send(slice(name, endpoints)).await;
        }
        sleep(Duration::from_millis(dice.below(3000) as u64)).await;
    }
    sleep(HOUR).await;
    // One that knows nothing of the past has as many elements, and, with the table that this one leaves, none to write. It may find
    // other numbers of endpoints common.
    let objects = |harness: &Harness| {
        let updates: Vec<_> = now.iter().flat_map(|(name, count)| [service(name), slice(name, *count)]).collect();
        let lists = [Update::ListStarted(Kind::Service), Update::ListStarted(Kind::EndpointSlice)];
        let ends = [Update::ListComplete(Kind::Service), Update::ListComplete(Kind::EndpointSlice)];
        let sender = harness.updates.clone();
        async move { sender.send(lists.into_iter().chain(updates).chain(ends).collect()).await.unwrap() }
    };
    let fresh = Harness::start();
    objects(&fresh).await;
    sleep(HOUR).await;
    assert_eq!(elements(&harness.kernels), elements(&fresh.kernels), "{now:?}");
    let left = harness.kernels.clone();
    drop(harness);
    let mut again = Harness::start_on(left);
    objects(&again).await;
    sleep(HOUR).await;
    let commits = std::iter::from_fn(|| again.commits.try_recv().ok());
    let is_of_elements = |op: &Op| matches!(op, Op::AddElements { .. } | Op::DeleteElements { .. } | Op::DeleteTable);
    let written: Vec<_> = commits.flat_map(|commit| commit.transaction.ops).filter(is_of_elements).collect();
    assert_eq!(written, [], "{now:?}");
}

//! A UDP flow that never pauses.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use testing::netns::Namespace;
use testing::traffic::{Flow, Refusal};

/// Between two datagrams.
const PAUSE: Duration = Duration::from_millis(5);

/// How long an answer is waited for. It takes less than a millisecond, but tests share two CPUs.
const ANSWERED: Duration = Duration::from_millis(50);

/// How many datagrams without an answer are silence.
const SILENCE: usize = 5;

/// Sends datagrams from one socket, one every few milliseconds, until it is dropped: one flow for conntrack, which does not
/// forget it while datagrams come.
#[derive(Debug)]
pub struct Sender {
    name: String,
    log: Arc<Log>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Log {
    over: AtomicBool,
    heard: Mutex<Heard>,
}

/// What a sender has heard.
#[derive(Debug, Default)]
struct Heard {
    /// Who answered, or what came in place of an answer, and since when; those that were the same as before are left out.
    changes: Vec<(String, Instant)>,
    /// How many datagrams there were since the last one that anything came back for.
    unanswered: usize,
}

impl Sender {
    /// Its word for a refusal.
    pub const REFUSED: &str = "refused";

    /// Begins to send from `client`. The name is for messages.
    ///
    /// # Panics
    /// There is no route.
    pub fn start(name: &str, client: &Namespace, destination: SocketAddr) -> Self {
        let flow = Flow::open(client, None, destination).unwrap_or_else(|error| panic!("{name}: {error}"));
        let log = Arc::<Log>::default();
        let theirs = Arc::clone(&log);
        let thread = thread::spawn(move || {
            while !theirs.over.load(Ordering::Relaxed) {
                theirs.note(flow.ask_within(ANSWERED).map(|reply| reply.endpoint));
                thread::sleep(PAUSE);
            }
        });
        Self { name: format!("{name} → {destination}"), log, thread: Some(thread) }
    }

    /// Its name and destination.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has heard so far, in order: who answered, or [`Self::REFUSED`], once for as long as it stayed the same.
    pub fn heard(&self) -> Vec<String> {
        self.log.lock().changes.iter().map(|(heard, _)| heard.clone()).collect()
    }

    /// Waits until it has heard exactly this, in this order, and until datagrams after that have changed nothing.
    ///
    /// # Panics
    /// It hears something else, or the last of it only after `deadline`.
    pub fn expect(&self, expected: &[&str], deadline: Instant) {
        let called = Instant::now();
        loop {
            let heard = self.log.lock().changes.clone();
            let words: Vec<_> = heard.iter().map(|(heard, _)| heard.as_str()).collect();
            assert!(expected.starts_with(&words), "{}: heard {words:?}, not {expected:?}", self.name);
            if let Some((_, since)) = heard.last().filter(|_| words.len() == expected.len()) {
                let late = since.saturating_duration_since(deadline);
                assert!(late.is_zero(), "{}: heard {words:?}, but {late:?} too late", self.name);
                if called.max(*since).elapsed() > SILENCE as u32 * PAUSE {
                    return;
                }
            }
            assert!(Instant::now() < deadline + ANSWERED * 2, "{}: heard only {words:?} of {expected:?}", self.name);
            thread::sleep(PAUSE);
        }
    }

    /// Waits until this is the last that it has heard, whatever came before.
    ///
    /// # Panics
    /// It is not at `deadline`.
    pub fn expect_last(&self, expected: &str, deadline: Instant) {
        while self.heard().last().is_none_or(|last| last != expected) {
            assert!(Instant::now() < deadline, "{}: heard {:?}, {expected} not last", self.name, self.heard());
            thread::sleep(PAUSE);
        }
    }

    /// Waits until nothing comes back for several datagrams in a row.
    ///
    /// # Panics
    /// It still hears something at `deadline`.
    pub fn expect_silence(&self, deadline: Instant) {
        while self.log.lock().unanswered < SILENCE {
            assert!(
                Instant::now() < deadline + SILENCE as u32 * ANSWERED,
                "{}: still hears {:?}",
                self.name,
                self.heard()
            );
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.log.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic has printed its message.
            thread.join().ok();
        }
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, answer: Result<String, Refusal>) {
        let mut heard = self.lock();
        let word = match answer {
            Ok(endpoint) => endpoint,
            // The latter is what a process on the node hears whose own datagram is rejected on its way out.
            Err(Refusal::Refused | Refusal::Unreachable(Errno::EPERM)) => Sender::REFUSED.to_owned(),
            Err(Refusal::TimedOut) => {
                heard.unanswered += 1;
                return;
            }
            Err(other) => other.to_string(),
        };
        heard.unanswered = 0;
        if heard.changes.last().is_none_or(|(last, _)| *last != word) {
            heard.changes.push((word, Instant::now()));
        }
    }
}

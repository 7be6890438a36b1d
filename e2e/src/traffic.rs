//! A steady stream of connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use testing::netns::Namespace;
use testing::traffic::{Refusal, ask_tcp};

/// Between two connections.
const PAUSE: Duration = Duration::from_millis(1);

/// A connection: when it began, and which endpoint answered.
type Connection = (SystemTime, Result<String, Refusal>);

/// New connections one after another, for as long as something else goes on.
#[derive(Debug)]
pub struct Traffic(Vec<Connection>);

/// Sets a flag when it is dropped, however that comes about: somebody waits for it.
#[derive(Debug)]
pub struct SetWhenDropped<'a>(pub &'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Traffic {
    /// Connects from `client` to `destination` again and again while `doing` runs. Returns what that returned as well.
    pub fn during<T>(client: &Namespace, destination: SocketAddr, doing: impl FnOnce() -> T) -> (Self, T) {
        let (over, connections) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let done = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let began = SystemTime::now();
                    let answer = ask_tcp(client, None, destination).map(|reply| reply.endpoint);
                    connections.lock().unwrap_or_else(PoisonError::into_inner).push((began, answer));
                    thread::sleep(PAUSE);
                }
            });
            let _over = SetWhenDropped(&over);
            doing()
        });
        (Self(connections.into_inner().unwrap_or_else(PoisonError::into_inner)), done)
    }

    /// How many there were.
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// How many began before this time.
    pub fn before(&self, time: SystemTime) -> usize {
        self.0.iter().filter(|(began, _)| *began < time).count()
    }

    /// How often each endpoint answered connections that began at this time or later.
    pub fn endpoints_after(&self, time: SystemTime) -> BTreeMap<&str, usize> {
        let mut endpoints = BTreeMap::new();
        for endpoint in self.0.iter().filter(|(began, _)| *began >= time).filter_map(|(_, answer)| answer.as_ref().ok())
        {
            *endpoints.entry(endpoint.as_str()).or_default() += 1;
        }
        endpoints
    }

    /// The first that failed, and how many did.
    pub fn failures(&self) -> Option<(usize, Refusal)> {
        let mut failures = self.0.iter().filter_map(|(_, answer)| answer.as_ref().err());
        let first = failures.next()?;
        Some((1 + failures.count(), *first))
    }
}

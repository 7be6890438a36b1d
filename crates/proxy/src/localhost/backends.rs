//! Which endpoint a connection goes to.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use compiler::ServedPort;
use tokio::time::Instant;

/// The endpoints of a port, which take turns.
///
/// With session affinity, all connections go to one endpoint, for they all come from one client, this node, as long as there is not too
/// long a pause between them. So says KEP-6032, too.
#[derive(Debug)]
pub(super) struct Backends {
    endpoints: Vec<SocketAddr>,
    affinity: Option<Duration>,
    /// Whose turn it is, modulo their number.
    turn: usize,
    /// Where the last connection was sent, and when.
    last: Option<(SocketAddr, Instant)>,
}

impl Backends {
    pub(super) fn new(served: &ServedPort) -> Self {
        // The nodes of a cluster should not all begin with the same one.
        let turn = RandomState::new().build_hasher().finish() as usize;
        let mut new = Self { endpoints: Vec::new(), affinity: None, turn, last: None };
        new.set(served);
        new
    }

    /// From now on, connections go to other endpoints.
    pub(super) fn set(&mut self, served: &ServedPort) {
        self.endpoints.clone_from(&served.endpoints);
        self.affinity = served.affinity.map(|seconds| Duration::from_secs(seconds.get().into()));
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Where a new connection is to go that could not be made to those that it has `tried`; `None` if there is no other.
    pub(super) fn next(&mut self, tried: &[SocketAddr], now: Instant) -> Option<SocketAddr> {
        let is_left = |endpoint: &SocketAddr| !tried.contains(endpoint);
        let is_recent = |at: Instant| self.affinity.is_some_and(|affinity| now < at + affinity);
        let remembered = self.last.filter(|(_, at)| is_recent(*at)).map(|(endpoint, _)| endpoint);
        let remembered = remembered.filter(|endpoint| self.endpoints.contains(endpoint)).filter(is_left);
        let chosen = remembered.or_else(|| {
            let start = self.turn.checked_rem(self.endpoints.len())?;
            self.turn = self.turn.wrapping_add(1);
            self.endpoints[start..].iter().chain(&self.endpoints[..start]).copied().find(is_left)
        })?;
        self.last = Some((chosen, now));
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    use model::{Protocol, ServiceName, ServicePortName};

    use super::*;

    fn endpoint(number: u8) -> SocketAddr {
        ([10, 0, 0, number], 80).into()
    }

    fn served(endpoints: &[u8], affinity: Option<u32>) -> ServedPort {
        let service = ServiceName::new("ns", "web");
        ServedPort {
            owner: ServicePortName { service, port: "".into(), protocol: Protocol::Tcp },
            endpoints: endpoints.iter().copied().map(endpoint).collect(),
            affinity: affinity.and_then(NonZeroU32::new),
        }
    }

    #[test]
    fn endpoints_take_turns() {
        let mut backends = Backends::new(&served(&[1, 2, 3], None));
        let mut counts = BTreeMap::new();
        for _ in 0..9 {
            *counts.entry(backends.next(&[], Instant::now()).unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts, [1, 2, 3].map(|number| (endpoint(number), 3)).into());
        backends.set(&served(&[3], None));
        assert_eq!(backends.next(&[], Instant::now()), Some(endpoint(3)));
        backends.set(&served(&[], None));
        assert_eq!(backends.next(&[], Instant::now()), None);
    }

    #[test]
    fn each_is_tried_once() {
        let mut backends = Backends::new(&served(&[1, 2, 3], Some(10)));
        let mut tried = Vec::new();
        while let Some(endpoint) = backends.next(&tried, Instant::now()) {
            tried.push(endpoint);
        }
        let last = tried.last().copied();
        assert_eq!(backends.next(&[], Instant::now()), last, "the one that was tried last is remembered");
        tried.sort_unstable();
        assert_eq!(tried, [1, 2, 3].map(endpoint));
    }

    #[test]
    fn with_affinity_one_has_them_all_until_a_pause() {
        let mut backends = Backends::new(&served(&[1, 2, 3], Some(10)));
        let mut now = Instant::now();
        let first = backends.next(&[], now).unwrap();
        for _ in 0..5 {
            now += Duration::from_secs(9);
            assert_eq!(backends.next(&[], now), Some(first));
        }
        now += Duration::from_secs(10);
        let second = backends.next(&[], now).unwrap();
        assert_ne!(second, first, "it is another's turn");
        let others: Vec<u8> = (1..=3).filter(|number| endpoint(*number) != second).collect();
        backends.set(&served(&others, Some(10)));
        assert_ne!(backends.next(&[], now), Some(second), "it has left");
    }
}

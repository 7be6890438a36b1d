//! Telling which Services are in each other's way.

use std::collections::BTreeMap;

use compiler::{Conflict, Frontend};
use model::ServicePortName;
use tracing::{info, warn};

/// How many new conflicts of one sync are logged by name; the metric has the number of all.
const LOGGED: usize = 20;

/// The conflicts that have been logged already.
#[derive(Debug, Default)]
pub(crate) struct Conflicts(BTreeMap<(Frontend, ServicePortName), ServicePortName>);

impl Conflicts {
    /// Logs the conflicts that are new, and the end of the last one. Returns how many frontends are in conflict now.
    pub(crate) fn update(&mut self, conflicts: impl Iterator<Item = Conflict>) -> usize {
        let mut now = BTreeMap::new();
        let (mut frontends, mut last) = (0, None);
        let mut new = 0;
        for conflict in conflicts {
            frontends += usize::from(last.replace(conflict.frontend) != Some(conflict.frontend));
            let key = (conflict.frontend, conflict.loser.clone());
            if self.0.get(&key) != Some(&conflict.owner) {
                new += 1;
                if new <= LOGGED {
                    warn!("{conflict}; give one of them another address or port");
                }
            }
            now.insert(key, conflict.owner);
        }
        if new > LOGGED {
            warn!(more = new - LOGGED, "more frontends are claimed by several Services than are logged");
        }
        if now.is_empty() && !self.0.is_empty() {
            info!("no frontend is claimed by several Services any more");
        }
        self.0 = now;
        frontends
    }
}

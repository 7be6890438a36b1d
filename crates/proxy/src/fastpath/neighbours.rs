//! What other programs have that gets in the way of the fast path, or that it gets in the way of.

use std::collections::BTreeSet;

use compiler::FastPath;
use model::Family;
use netlink::{NfTables, Place};
use ruleset::ReadError;
use tracing::{info, warn};

use super::part::is_ours;

/// Other flowtables, and chains that are asked after ours: each is told of once, for as long as it is there.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    flowtables: BTreeSet<Place>,
    later_chains: BTreeSet<Place>,
}

impl Neighbours {
    /// Looks who is there.
    pub(super) fn look(&mut self, kernel: &mut NfTables) {
        match (flowtables(kernel), later_chains(kernel)) {
            (Ok(flowtables), Ok(later_chains)) => {
                for place in flowtables.difference(&self.flowtables) {
                    info!("there is another flowtable, {place}: the first to take a connection has it");
                }
                for place in later_chains.difference(&self.later_chains) {
                    warn!(
                        "the forward chain {place} is asked after the fast path has taken a connection: what it drops is not \
                         dropped any more from the next packet on"
                    );
                }
                (self.flowtables, self.later_chains) = (flowtables, later_chains);
            }
            (Err(error), _) | (_, Err(error)) => warn!("cannot look for other flowtables and forward chains: {error}"),
        }
    }
}

fn is_part(place: &Place) -> bool {
    Family::ALL.iter().any(|family| is_ours(place, *family))
}

fn flowtables(kernel: &mut NfTables) -> Result<BTreeSet<Place>, ReadError> {
    Ok(kernel.flowtables()?.into_iter().map(|found| found.place).filter(|place| !is_part(place)).collect())
}

/// None can have a higher priority than ours. Those with the same are asked in the order in which they were made, which the kernel
/// does not tell.
fn later_chains(kernel: &mut NfTables) -> Result<BTreeSet<Place>, ReadError> {
    let chains = kernel.forward_chains()?;
    let foreign = chains.into_iter().filter(|chain| !is_part(&chain.place));
    Ok(foreign.filter(|chain| chain.priority == FastPath::PRIORITY).map(|chain| chain.place).collect())
}

//! Which of the node's links take part in the fast path.
//!
//! The kernel looks a packet up in a flowtable on the device that it comes in by, so that a connection takes the fast path in both
//! directions only if the devices at both ends of its way through the node are in it. [`Links`] lists the links of the node and tells
//! when they change, [`Policy`] decides on each and says why, and [`Members`] tells what has to change in the kernel.

mod links;
mod members;
mod policy;

pub use links::{Link, Links, LinksError};
pub use members::Members;
pub use policy::{Pattern, PatternError, Policy, Reason};

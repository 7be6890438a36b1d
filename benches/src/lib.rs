//! What the benches share: plots, and what is required of the product next to what was seen.

mod plot;
mod requirement;

pub use plot::{Legend, Line, Plot};
pub use requirement::{Bound, Requirement};

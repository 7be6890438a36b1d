//! What is required, and whether it holds.

use std::fmt;

use serde::Serialize;

/// A figure, and what it may be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Requirement {
    /// What was measured, with its unit.
    pub what: String,
    /// What was seen; NaN, for which nothing holds, if it was not.
    pub measured: f64,
    /// What it may be.
    pub bound: Bound,
}

/// What a figure may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, measured, bound } = self;
        let (relation, limit, holds) = match *bound {
            Bound::AtMost(limit) => ("at most", limit, *measured <= limit),
            Bound::AtLeast(limit) => ("at least", limit, *measured >= limit),
        };
        write!(f, "{what:<76} {measured:>9.3}  {relation:<8} {limit:>6.2}  {}", if holds { "met" } else { "MISSED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_missed() {
        let verdict = |measured, bound| Requirement { what: "speed".into(), measured, bound }.to_string();
        assert!(verdict(2.0, Bound::AtLeast(2.0)).ends_with(" met"));
        assert!(verdict(2.1, Bound::AtMost(2.0)).ends_with(" MISSED"));
        for bound in [Bound::AtLeast(2.0), Bound::AtMost(2.0)] {
            assert!(verdict(f64::NAN, bound).ends_with(" MISSED"));
        }
    }
}

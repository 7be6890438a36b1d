//! The links that take part, and what has to change in the kernel for that.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use ruleset::{DeviceChanges, Interface};

use crate::{Link, Policy, Reason};

/// The links that take part, and the reasons of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that take part, by their numbers.
    pub devices: BTreeMap<NonZeroU32, Interface>,
    /// Those that do not, by their names.
    pub others: BTreeMap<String, Reason>,
}

impl Members {
    /// Decides on all links of the node.
    pub fn of(links: &[Link], policy: &Policy) -> Self {
        let mut members = Self::default();
        for link in links {
            // Numbers start at one.
            let Some(index) = NonZeroU32::new(link.index) else { continue };
            match policy.judge(link) {
                Ok(device) => drop(members.devices.insert(index, device)),
                Err(reason) => drop(members.others.insert(link.name.clone(), reason)),
            }
        }
        members
    }

    /// The way from the names that the flowtable has and the numbers that the set has to these members. The names are to be what the
    /// flowtable says: nothing is assumed of what the kernel does with them when devices go or change.
    pub fn changes(&self, names: &BTreeSet<String>, numbers: &BTreeSet<NonZeroU32>) -> DeviceChanges {
        let wanted: BTreeSet<_> = self.devices.values().map(Interface::name).collect();
        let stale = names.iter().filter(|name| !wanted.contains(name.as_str()));
        DeviceChanges {
            attach: self.devices.values().filter(|device| !names.contains(device.name())).cloned().collect(),
            // A name that we could not have written was not written by us.
            detach: stale.filter_map(|name| Interface::named(name).ok()).collect(),
            admit: self.devices.keys().filter(|index| !numbers.contains(index)).copied().collect(),
            dismiss: numbers.iter().filter(|index| !self.devices.contains_key(index)).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(devices: &[(u32, &str)]) -> Members {
        let device = |(index, name): &(u32, &str)| (NonZeroU32::new(*index).unwrap(), Interface::named(name).unwrap());
        Members { devices: devices.iter().map(device).collect(), others: BTreeMap::new() }
    }

    fn plan(names: &[&str], numbers: &[u32], wanted: &[(u32, &str)]) -> DeviceChanges {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let numbers = numbers.iter().map(|number| NonZeroU32::new(*number).unwrap()).collect();
        members(wanted).changes(&names, &numbers)
    }

    fn told(plan: &DeviceChanges) -> String {
        let names =
            |sign, names: &[Interface]| names.iter().map(|n| format!("{sign}{} ", n.name())).collect::<String>();
        let numbers = |sign, all: &[NonZeroU32]| all.iter().map(|n| format!("{sign}{n} ")).collect::<String>();
        [names('+', &plan.attach), names('-', &plan.detach), numbers('+', &plan.admit), numbers('-', &plan.dismiss)]
            .concat()
    }

    #[test]
    fn only_what_changed() {
        for (names, numbers, wanted, expected) in [
            (&["a", "b"][..], &[1, 2][..], &[(1, "a"), (2, "b")][..], ""),
            (&[], &[], &[(1, "a"), (2, "b")], "+a +b +1 +2 "),
            (&["a", "b"], &[1, 2], &[], "-a -b -1 -2 "),
            // Gone, before 6.16 and since.
            (&["a"], &[1, 2], &[(1, "a")], "-2 "),
            (&["a", "b"], &[1, 2], &[(1, "a")], "-b -2 "),
            // Renamed.
            (&["a", "c"], &[1, 2], &[(1, "a"), (2, "c")], ""),
            (&["a", "b"], &[1, 2], &[(1, "a"), (2, "c")], "+c -b "),
            // Another device with the same name.
            (&["a"], &[1, 2], &[(1, "a"), (3, "b")], "+b +3 -2 "),
            (&["a", "b"], &[1, 2], &[(1, "a"), (3, "b")], "+3 -2 "),
        ] {
            assert_eq!(told(&plan(names, numbers, wanted)), expected, "{names:?} {numbers:?} {wanted:?}");
        }
        assert!(plan(&["a"], &[1], &[(1, "a")]).is_empty());
    }
}

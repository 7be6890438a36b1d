//! Feature gates (contract §2.5).

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Warning;

/// The gates of Kubernetes 1.36, one a line: its name, stage and default, and `locked` if it cannot be set to anything else.
const GATES: &str = include_str!("features/gates.txt");

/// Which features are on. Few of the gates have to do with this program: operators share one list among all components.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    /// What was set, `AllAlpha` and `AllBeta` included.
    set: BTreeMap<String, bool>,
}

/// How ready a feature is, which `AllAlpha` and `AllBeta` go by. Prints as the metric `kubernetes_feature_enabled` labels it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// May change or go.
    Alpha,
    /// To stay, in some form.
    Beta,
    /// To stay as it is.
    Ga,
    /// To go.
    Deprecated,
}

/// A gate there is.
struct Gate {
    name: &'static str,
    stage: Stage,
    default: bool,
    locked: bool,
}

impl FeatureGates {
    /// Takes what was set. A gate that nobody knows is a warning, as others know more.
    ///
    /// # Errors
    /// A gate is set that cannot be: all of them.
    pub(crate) fn new(set: &BTreeMap<String, bool>, warnings: &mut Vec<Warning>) -> Result<Self, LockedGates> {
        let mut locked = Vec::new();
        for (name, value) in set {
            match gate(name) {
                Some(Gate { default, locked: true, .. }) if default != *value => {
                    locked.push(format!("cannot set feature gate {name} to {value}, feature is locked to {default}"));
                }
                None if !matches!(&name[..], "AllAlpha" | "AllBeta") => {
                    warnings.push(Warning::UnknownGate(name.clone()));
                }
                _ => {}
            }
        }
        if locked.is_empty() { Ok(Self { set: set.clone() }) } else { Err(LockedGates(locked)) }
    }

    /// Whether `spec.externalIPs` of Services are served.
    pub fn allow_service_external_ips(&self) -> bool {
        self.is_enabled("AllowServiceExternalIPs")
    }

    /// Whether `/flagz` is served.
    pub fn component_flagz(&self) -> bool {
        self.is_enabled("ComponentFlagz")
    }

    /// Whether `/statusz` is served.
    pub fn component_statusz(&self) -> bool {
        self.is_enabled("ComponentStatusz")
    }

    /// Whether `logging.options` may be set.
    pub fn logging_alpha_options(&self) -> bool {
        self.is_enabled("LoggingAlphaOptions")
    }

    /// All gates there are, by name: how ready they are, and whether they are on.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Stage, bool)> {
        gates().map(|gate| (gate.name, gate.stage, self.value(&gate)))
    }

    fn is_enabled(&self, name: &str) -> bool {
        gate(name).is_some_and(|gate| self.value(&gate))
    }

    fn value(&self, gate: &Gate) -> bool {
        let all = match gate.stage {
            Stage::Alpha => self.set.get("AllAlpha"),
            Stage::Beta => self.set.get("AllBeta"),
            Stage::Ga | Stage::Deprecated => None,
        };
        // What is locked was set to its default, if at all.
        *self.set.get(gate.name).or(all.filter(|_| !gate.locked)).unwrap_or(&gate.default)
    }
}

fn gates() -> impl Iterator<Item = Gate> {
    GATES.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (name, stage, default) = (words.next()?, words.next()?, words.next()?);
        let stage = match stage {
            "alpha" => Stage::Alpha,
            "beta" => Stage::Beta,
            "ga" => Stage::Ga,
            _ => Stage::Deprecated,
        };
        Some(Gate { name, stage, default: default == "true", locked: words.next().is_some() })
    })
}

fn gate(name: &str) -> Option<Gate> {
    gates().find(|gate| gate.name == name)
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::Ga => "",
            Self::Deprecated => "DEPRECATED",
        })
    }
}

/// Gates that were set to what they cannot be, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedGates(Vec<String>);

impl std::error::Error for LockedGates {}

impl fmt::Display for LockedGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::error::write_list(f, &self.0)
    }
}

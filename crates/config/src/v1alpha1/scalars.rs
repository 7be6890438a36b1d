//! Single values, and how they are read and written.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::GoDuration;

/// A duration that may also be a bare number, then of nanoseconds: `logging.flushFrequency` alone (contract §2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DurationOrNanos(pub GoDuration);

impl<'de> Deserialize<'de> for DurationOrNanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = DurationOrNanos;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 5s, or a number of nanoseconds")
            }

            fn visit_i64<E: Error>(self, nanos: i64) -> Result<Self::Value, E> {
                Ok(DurationOrNanos(GoDuration::from_nanos(nanos)))
            }

            fn visit_u64<E: Error>(self, nanos: u64) -> Result<Self::Value, E> {
                self.visit_i64(i64::try_from(nanos).map_err(E::custom)?)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(DurationOrNanos).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A Kubernetes quantity such as `64Ki`: what was written, of which no more is known than whether it is zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quantity(String);

impl Quantity {
    /// Whether it is nothing, in whatever unit.
    pub fn is_zero(&self) -> bool {
        number(&self.0).chars().all(|c| !c.is_ascii_digit() || c == '0')
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self("0".to_owned())
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = number(text);
        let unit = &text[number.len()..];
        let units = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let exponent = unit.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i32>().is_ok());
        if number.parse::<f64>().is_ok() && (units.contains(&unit) || exponent) {
            return Ok(Self(text.to_owned()));
        }
        Err(ParseQuantityError(text.to_owned()))
    }
}

/// The digits that a quantity begins with, their sign and point included.
fn number(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c)).unwrap_or(text.len())]
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A string that is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity: write a number, with a unit if need be, such as 64Ki or 1M")]
pub struct ParseQuantityError(String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 64Ki")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

pub(super) fn null_as_zero<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Whether it is what a missing field is read as.
pub(super) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// With as few digits as tell it from its neighbours, and no point if it is whole.
pub(super) fn short_float<S: Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    let text = number.to_string();
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(whole), _) => serializer.serialize_i64(whole),
        (_, Ok(fraction)) => serializer.serialize_f64(fraction),
        _ => number.serialize(serializer),
    }
}

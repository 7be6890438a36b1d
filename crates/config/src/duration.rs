//! Durations as Go writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// A signed number of nanoseconds, written as Go's `time.Duration`: `1h30m`, `250ms`, `-1.5s`.
///
/// kube has such a type as well, but it panics on a value that is too large, and does not print as Go does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

impl GoDuration {
    /// From a number of nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From a number of seconds, which are not more than 292 years.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * SECOND.cast_signed())
    }

    /// Whether it is `0s`, which most fields of the configuration read as "not set".
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The same length as std's unsigned type; `None` if it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl FromStr for GoDuration {
    type Err = ParseGoDurationError;

    fn from_str(input: &str) -> Result<Self, Self::Err> {
        let (negative, unsigned) = match input.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, input.strip_prefix('+').unwrap_or(input)),
        };
        let nanos = parse_unsigned(unsigned).ok_or_else(|| ParseGoDurationError(input.to_owned()))?;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

/// Parses one or more numbers, each with a unit; a lone `0` needs none.
fn parse_unsigned(input: &str) -> Option<i64> {
    if input == "0" {
        return Some(0);
    }
    let mut total = 0_i64;
    let mut rest = input;
    loop {
        let (number, tail) = rest.split_at(rest.find(|c| !is_numeric(c))?);
        let (unit, tail) = tail.split_at(tail.find(is_numeric).unwrap_or(tail.len()));
        total = total.checked_add(parse_term(number, unit)?)?;
        if tail.is_empty() {
            return Some(total);
        }
        rest = tail;
    }
}

const fn is_numeric(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

fn parse_term(number: &str, unit: &str) -> Option<i64> {
    let unit = u128::from(match unit {
        "ns" => 1,
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    });
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // More digits are below a nanosecond even for hours.
    let significant = &fraction[..fraction.len().min(15)];
    let scale = significant.chars().fold(1, |scale, _| scale * 10);
    let nanos = u128::from(parse_digits(whole)?) * unit + u128::from(parse_digits(significant)?) * unit / scale;
    // A second dot is the only thing that could be left in the digits cut off.
    (!fraction.contains('.')).then(|| i64::try_from(nanos).ok())?
}

fn parse_digits(digits: &str) -> Option<u64> {
    if digits.is_empty() { Some(0) } else { digits.parse().ok() }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let (unit, name) = match nanos {
            0 => return f.write_str("0s"),
            1..MICROSECOND => (1, "ns"),
            MICROSECOND..MILLISECOND => (MICROSECOND, "\u{b5}s"),
            MILLISECOND..SECOND => (MILLISECOND, "ms"),
            _ => (SECOND, "s"),
        };
        if nanos >= HOUR {
            write!(f, "{}h", nanos / HOUR)?;
        }
        if nanos >= MINUTE {
            write!(f, "{}m", nanos % HOUR / MINUTE)?;
        }
        let below_minute = nanos % MINUTE;
        write!(f, "{}", below_minute / unit)?;
        let remainder = below_minute % unit;
        if remainder > 0 {
            let width = unit.ilog10() as usize;
            let digits = format!("{remainder:0width$}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str(name)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with a unit, such as 30s")
            }

            // A bare number, zero included, has no unit.
            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Err(E::custom(ParseGoDurationError(number.to_string())))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Err(E::custom(ParseGoDurationError(number.to_string())))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        // By its own type, so that a bare number is told apart from a string of digits.
        deserializer.deserialize_any(Text)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A string that is not a Go duration, or one of more than 292 years.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write numbers with units (h, m, s, ms, us, ns), such as 1h30m or 500ms")]
pub struct ParseGoDurationError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads_and_prints_what_go_prints() {
        let cases = [
            ("0", "0s"),
            ("0s", "0s"),
            ("-0h", "0s"),
            ("30s", "30s"),
            ("+90s", "1m30s"),
            ("24h", "24h0m0s"),
            ("15m", "15m0s"),
            ("1h0.5m", "1h0m30s"),
            ("1.5s", "1.5s"),
            (".5s", "500ms"),
            ("1.s", "1s"),
            ("-1m1ms", "-1m0.001s"),
            ("1500us", "1.5ms"),
            ("1500\u{b5}s", "1.5ms"),
            ("1500\u{3bc}s", "1.5ms"),
            ("999ns", "999ns"),
            ("0.000000000000000000000001h", "0s"),
            ("9223372036854775807ns", "2562047h47m16.854775807s"),
        ];
        for (input, printed) in cases {
            let duration: GoDuration = input.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(duration.to_string(), printed, "{input}");
            assert_eq!(printed.parse(), Ok(duration), "{printed}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        let inputs = [
            "",
            "-",
            "30",
            "s",
            ".s",
            "1..s",
            "1.2.3s",
            "1.0000000000000000.5s",
            "1d",
            "1 s",
            " 1s",
            "1s ",
            "--1s",
            "+-1s",
            "1e3s",
            "3000000h",
            "99999999999999999999999h",
            "9223372036854775808ns",
            "infinite",
        ];
        for input in inputs {
            assert!(input.parse::<GoDuration>().is_err(), "{input:?}");
        }
    }

    #[test]
    fn negative_has_no_std_form() {
        assert_eq!(GoDuration::from_nanos(-1).to_std(), None);
        assert_eq!(GoDuration::from_nanos(1_500_000_000).to_std(), Some(Duration::from_millis(1_500)));
    }
}

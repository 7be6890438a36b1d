//! Address families, and the lenient address syntax that Kubernetes accepts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// An IP address family. Each has a table of its own in the kernel, and nothing ever mixes the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4: table `ip kube-proxy`.
    V4,
    /// IPv6: table `ip6 kube-proxy`.
    V6,
}

impl Family {
    /// Both families, in the order in which they are synced.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family of an address prefix.
    pub const fn of_prefix(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// How Kubernetes spells it, in API objects, metric labels and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One value for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    /// The IPv4 value.
    pub v4: T,
    /// The IPv6 value.
    pub v6: T,
}

impl<T> PerFamily<T> {
    /// The value for `family`.
    pub const fn get(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The value for `family`, to change it.
    pub const fn get_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// A string that is not an IP address or prefix, even leniently read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{input:?} is not {wanted}")]
pub struct ParseAddressError {
    input: String,
    wanted: &'static str,
}

/// Parses an address as Kubernetes does: leading zeros in an IPv4 octet are decimal (`172.30.0.041` is `172.30.0.41`),
/// as old objects may carry them (contract §4.1).
///
/// # Errors
/// The input is not an IPv4 or IPv6 address.
pub fn parse_address(input: &str) -> Result<IpAddr, ParseAddressError> {
    input
        .parse()
        .ok()
        .or_else(|| parse_padded_v4(input).map(IpAddr::V4))
        .ok_or_else(|| ParseAddressError { input: input.to_owned(), wanted: "an IP address" })
}

/// Parses an address prefix with the leniency of [`parse_address`]; host bits are cleared.
///
/// # Errors
/// The input is not of the form `address/length`.
pub fn parse_prefix(input: &str) -> Result<IpNet, ParseAddressError> {
    let parse = || {
        let (address, length) = input.split_once('/')?;
        let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length = plain.then(|| length.parse().ok())??;
        IpNet::new(parse_address(address).ok()?, length).ok()
    };
    parse()
        .map(|net| net.trunc())
        .ok_or_else(|| ParseAddressError { input: input.to_owned(), wanted: "an address prefix such as 10.0.0.0/8" })
}

fn parse_padded_v4(input: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = input.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        *octet = digits.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then(|| octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_padded_octets_are_decimal() {
        assert_eq!(parse_address("172.30.0.041").unwrap().to_string(), "172.30.0.41");
        assert_eq!(parse_prefix("203.000.113.007/025").unwrap().to_string(), "203.0.113.0/25");
        assert_eq!(parse_address("fd00::1").unwrap().to_string(), "fd00::1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for input in ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "+1.2.3.4", "1.2..4", "host", "fd00::g", " 1.2.3.4"] {
            assert!(parse_address(input).is_err(), "{input}");
        }
        for input in ["1.2.3.4", "1.2.3.4/33", "1.2.3.4/", "/8", "1.2.3.4/+8", "fd00::/129"] {
            assert!(parse_prefix(input).is_err(), "{input}");
        }
    }
}

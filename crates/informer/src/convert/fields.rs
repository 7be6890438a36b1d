//! Reading single fields, and collecting what is wrong with them.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{PortNumber, Protocol, parse_address, parse_prefix};

use super::Converted;
use crate::Problem;
use crate::lenient::Lenient;
use crate::slim::Text;

/// The object cannot be understood; why has been reported.
#[derive(Debug)]
pub(crate) struct Unreadable;

/// How many problems of one object are told one by one.
const MOST_PROBLEMS: usize = 20;

/// Collects what is wrong with one object.
#[derive(Debug)]
pub(crate) struct Findings {
    kind: &'static str,
    object: String,
    problems: Vec<Problem>,
    more: usize,
}

impl Findings {
    pub(crate) fn new(kind: &'static str, object: impl Into<String>) -> Self {
        Self { kind, object: object.into(), problems: Vec::new(), more: 0 }
    }

    pub(crate) fn name_object(&mut self, object: String) {
        self.object = object;
    }

    /// Notes a problem with `field`.
    pub(crate) fn report(&mut self, field: impl Display, message: impl Into<String>) {
        if self.problems.len() == MOST_PROBLEMS {
            self.more += 1;
            return;
        }
        self.problems.push(Problem::new(self.kind, &self.object, field, message));
    }

    /// A field that may be missing; a bad one is reported, with what is done about it, and read as missing.
    pub(crate) fn optional<'a, T>(&mut self, value: &'a Lenient<T>, field: impl Display, then: &str) -> Option<&'a T> {
        if let Some(oddity) = value.oddity() {
            self.report(field, format!("{oddity}: {then}"));
        }
        value.value()
    }

    /// A field that may be missing, but without which nothing can be said about the object if it is bad.
    pub(crate) fn shape<'a, T>(
        &mut self,
        value: &'a Lenient<T>,
        field: impl Display,
    ) -> Result<Option<&'a T>, Unreadable> {
        match value {
            Lenient::Absent => Ok(None),
            Lenient::Value(value) => Ok(Some(value)),
            Lenient::Odd(oddity) => {
                self.report(field, format!("{oddity}: the last version that could be read, if any, stays in use"));
                Err(Unreadable)
            }
        }
    }

    /// A field without which there is no object.
    pub(crate) fn required<'a, T>(&mut self, value: &'a Lenient<T>, field: &str) -> Result<&'a T, Unreadable> {
        if matches!(value, Lenient::Absent) {
            self.report(field, "is missing");
        }
        self.shape(value, field)?.ok_or(Unreadable)
    }

    /// The entries of a list.
    pub(crate) fn list<'a, T>(
        &mut self,
        value: &'a Lenient<Vec<T>>,
        field: impl Display,
    ) -> Result<&'a [T], Unreadable> {
        Ok(self.shape(value, field)?.map_or(&[], Vec::as_slice))
    }

    /// An IP address, leniently (contract §4.1). IPv4 addresses in IPv6 clothes count as IPv4, as they do in kube-proxy.
    pub(crate) fn address(&mut self, value: &str, field: impl Display, then: &str) -> Option<IpAddr> {
        parse_address(value)
            .map(|address| address.to_canonical())
            .inspect_err(|error| self.report(field, format!("{error}: {then}")))
            .ok()
    }

    /// The addresses of a list, each once and in order; blank entries mean nothing, bad ones are skipped.
    pub(crate) fn addresses(&mut self, list: &[Text], field: &str) -> Vec<IpAddr> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for (index, entry) in list.iter().enumerate() {
            let path = format_args!("{field}[{index}]");
            let text = self.optional(entry, path, SKIPPED).map_or("", |text| text.trim());
            if text.is_empty() {
                continue;
            }
            if let Some(address) = self.address(text, path, SKIPPED)
                && seen.insert(address)
            {
                found.push(address);
            }
        }
        found
    }

    /// The prefixes of a list, each once and sorted; blank entries mean nothing, bad ones are skipped.
    pub(crate) fn prefixes(&mut self, list: &[Text], field: &str) -> Vec<IpNet> {
        let mut found = BTreeSet::new();
        for (index, entry) in list.iter().enumerate() {
            let path = format_args!("{field}[{index}]");
            let text = self.optional(entry, path, SKIPPED).map_or("", |text| text.trim());
            if text.is_empty() {
                continue;
            }
            match parse_prefix(text) {
                Ok(prefix) => drop(found.insert(prefix)),
                Err(error) => self.report(path, format!("{error}: {SKIPPED}")),
            }
        }
        found.into_iter().collect()
    }

    /// The number of a port; `None` if it is missing or none, which is reported unless `zero` says that this is fine.
    pub(crate) fn port_number(
        &mut self,
        value: &Lenient<i64>,
        field: impl Display,
        zero: ZeroPort,
        then: &str,
    ) -> Option<PortNumber> {
        let number = match value {
            Lenient::Absent => 0,
            Lenient::Value(number) => *number,
            Lenient::Odd(oddity) => {
                self.report(field, format!("{oddity}: {then}"));
                return None;
            }
        };
        let port = u16::try_from(number).ok().and_then(PortNumber::new);
        if port.is_none() && !(number == 0 && matches!(zero, ZeroPort::MeansNone)) {
            let what = match value {
                Lenient::Absent => "is missing".to_owned(),
                _ => format!("{number} is not a port number (1 to 65535)"),
            };
            self.report(field, format!("{what}: {then}"));
        }
        port
    }

    /// Whether this is what the API calls a name, by the rules that matter here: it goes into log lines, and into comments that
    /// others read. 253 bytes is the longest that it takes (DNS subdomain names, RFC 1123).
    pub(crate) fn is_name(&mut self, name: &str, field: impl Display, then: &str) -> bool {
        let is_name = name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !is_name {
            self.report(
                field,
                format!("{name:?} is not a name, which has at most 253 letters, digits, dashes and dots: {then}"),
            );
        }
        is_name
    }

    /// A transport protocol; missing means TCP.
    pub(crate) fn protocol(&mut self, value: &Text, field: impl Display) -> Option<Protocol> {
        match value {
            Lenient::Absent => Some(Protocol::Tcp),
            Lenient::Odd(oddity) => {
                self.report(field, format!("{oddity}: the port is skipped"));
                None
            }
            Lenient::Value(name) => Protocol::parse(name).or_else(|| {
                self.report(field, format!("{name:?} is not TCP, UDP or SCTP: the port is skipped"));
                None
            }),
        }
    }

    pub(super) fn into_converted(self, update: Option<model::Update>) -> Converted {
        let object = self.object.clone();
        Converted { object, update, problems: self.into_problems() }
    }

    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        if self.more > 0 {
            let message = format!("{} more problems of this object are not shown", self.more);
            self.problems.push(Problem::new(self.kind, self.object, "", message));
        }
        self.problems
    }
}

/// What happens to most bad entries of lists.
pub(super) const SKIPPED: &str = "it is skipped";

/// Whether a port number of zero, or none at all, is a mistake.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ZeroPort {
    MeansNone,
    IsWrong,
}

//! Objects and operations in the syntax of `nft`: what an administrator would type, and what error messages say.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;

use crate::{
    Chain, ChainKind, Comment, Comparison, Data, DataType, Element, Family, Field, Flowtable, HookPoint, Interface, Op,
    Rule, Selector, Set, SetKind, Statement, Table, Transaction, Verdict,
};

impl Display for Transaction {
    /// One operation a line.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.ops.iter().try_for_each(|op| writeln!(f, "{}", self.display(op)))
    }
}

impl Transaction {
    /// One of its operations in the syntax of `nft`.
    pub fn display<'a>(&'a self, op: &'a Op) -> impl Display + 'a {
        Printed(move |f: &mut Formatter<'_>| self.print(op, f))
    }

    /// The part of an operation that concerns one element, by its index; the whole operation if it has no such element.
    pub fn display_element<'a>(&'a self, op: &'a Op, index: usize) -> impl Display + 'a {
        Printed(move |f: &mut Formatter<'_>| {
            let (verb, set, elements) = match op {
                Op::AddElements { set, elements } => ("add", set, elements),
                Op::DeleteElements { set, elements } => ("delete", set, elements),
                _ => return self.print(op, f),
            };
            match elements.get(index) {
                Some(element) => self.print_elements(verb, set, std::slice::from_ref(element), f),
                None => self.print(op, f),
            }
        })
    }

    fn print(&self, op: &Op, f: &mut Formatter<'_>) -> fmt::Result {
        let family = self.family;
        let table = format_args!("{family} {}", self.table);
        match op {
            Op::AddTable(Table { comment }) => write!(f, "add table {table}{}", in_braces(comment.as_ref())),
            Op::DeleteTable => write!(f, "delete table {table}"),
            Op::AddChain(chain) => write!(f, "add chain {table} {}{}", chain.name, chain_body(chain)),
            Op::DeleteChain(name) => write!(f, "delete chain {table} {name}"),
            Op::FlushChain(name) => write!(f, "flush chain {table} {name}"),
            Op::AddRule(rule) => write!(f, "add rule {table} {} {}", rule.chain, rule.display(family)),
            Op::DeleteRule { chain, handle } => write!(f, "delete rule {table} {chain} handle {handle}"),
            Op::AddSet(set) => write!(f, "add {} {table} {} {{ {} }}", set.noun(), set.name, set_body(set, family)),
            Op::DeleteSet(name) => write!(f, "delete set {table} {name}"),
            Op::FlushSet(set) => write!(f, "flush {} {table} {}", set.noun(), set.name),
            Op::AddElements { set, elements } => self.print_elements("add", set, elements, f),
            Op::DeleteElements { set, elements } => self.print_elements("delete", set, elements, f),
            Op::AddFlowtable { flowtable: Flowtable { name, priority }, devices } => {
                let devices = listed(devices);
                write!(
                    f,
                    "add flowtable {table} {name} {{ hook ingress priority {priority} ; devices = {{ {devices} }} ; counter ; }}"
                )
            }
            Op::DeleteDevices { flowtable: Flowtable { name, priority }, devices } => {
                let devices = listed(devices);
                write!(
                    f,
                    "delete flowtable {table} {name} {{ hook ingress priority {priority} ; devices = {{ {devices} }} ; }}"
                )
            }
            Op::DeleteFlowtable(name) => write!(f, "delete flowtable {table} {name}"),
            Op::AddCounter(name) => write!(f, "add counter {table} {name}"),
            Op::DeleteCounter(name) => write!(f, "delete counter {table} {name}"),
        }
    }

    fn print_elements(&self, verb: &str, set: &Set, elements: &[Element], f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{verb} element {} {} {} {{ ", self.family, self.table, set.name)?;
        separated(f, ", ", elements, |f, element| write!(f, "{}", set.display_element(element, self.family)))?;
        f.write_str(" }")
    }
}

impl Rule {
    /// Its statements and comment.
    pub fn display(&self, family: Family) -> impl Display + '_ {
        Printed(move |f: &mut Formatter<'_>| {
            separated(f, " ", &self.statements, |f, statement| write!(f, "{}", statement.display(family)))?;
            write!(f, "{}", commented(self.comment.as_ref()))
        })
    }
}

impl Set {
    /// What `nft` calls it: `set` or `map`.
    pub const fn noun(&self) -> &'static str {
        if self.data.is_some() { "map" } else { "set" }
    }

    /// One of its elements: key, comment and data.
    pub fn display_element<'a>(&'a self, element: &'a Element, family: Family) -> impl Display + 'a {
        Printed(move |f: &mut Formatter<'_>| {
            write!(f, "{}", Fields(&self.key, element.key.as_bytes(), family))?;
            write!(f, "{}", commented(element.comment.as_ref()))?;
            match (&element.data, &self.data) {
                (Data::Verdict(verdict), _) => write!(f, " : {verdict}"),
                (Data::Value(value), Some(DataType::Value(fields))) => {
                    write!(f, " : {}", Fields(fields, value.as_bytes(), family))
                }
                (Data::Value(value), _) => write!(f, " : {value:?}"),
                (Data::None, _) => Ok(()),
            }
        })
    }
}

impl Statement {
    /// It in the syntax of `nft`, for a table of this family.
    pub fn display(&self, family: Family) -> impl Display + '_ {
        let key = move |key: &[Selector]| key.iter().map(|s| s.text(family)).collect::<Vec<_>>().join(" . ");
        Printed(move |f: &mut Formatter<'_>| match self {
            Self::Prefix { selector, comparison, prefix } => {
                let not = if *comparison == Comparison::IsNot { "!= " } else { "" };
                write!(f, "{} {not}", selector.text(family))?;
                if prefix.prefix_len() == prefix.max_prefix_len() {
                    write!(f, "{}", prefix.addr())
                } else {
                    write!(f, "{prefix}")
                }
            }
            Self::InputInterface { comparison, interface } => {
                let not = if *comparison == Comparison::IsNot { "!= " } else { "" };
                write!(f, "iifname {not}\"{}{}\"", interface.name(), if interface.is_prefix() { "*" } else { "" })
            }
            Self::IsLocal(Selector::SourceAddress) => f.write_str("fib saddr type local"),
            Self::IsLocal(_) => f.write_str("fib daddr type local"),
            Self::NewConnection => f.write_str("ct state new"),
            Self::Established => f.write_str("ct state established"),
            Self::Translated => f.write_str("ct status dnat"),
            Self::Offloaded => f.write_str("ct status & 0x00004000 != 0x00000000"),
            Self::MorePackets(packets) => write!(f, "ct packets > {packets}"),
            Self::HasMark(bits) => write!(f, "meta mark & {bits:#010x} != 0x00000000"),
            Self::InSet { key: parts, set } => write!(f, "{} @{}", key(parts), set.name),
            Self::Update { key: parts, data, map, timeout } => {
                let timeout = Seconds(timeout.get());
                write!(f, "update @{} {{ {} timeout {timeout} : {} }}", map.name, key(parts), key(data))
            }
            Self::VerdictMap { key: parts, map } => write!(f, "{} vmap @{}", key(parts), map.name),
            Self::Dnat { key: parts, map } => write!(f, "dnat {family} to {} map @{}", key(parts), map.name),
            Self::SetMark(bits) => write!(f, "meta mark set meta mark | {bits:#010x}"),
            Self::FlipMark(bits) => write!(f, "meta mark set meta mark ^ {bits:#010x}"),
            Self::Masquerade => f.write_str("masquerade fully-random"),
            Self::Reject => f.write_str("reject"),
            Self::Offload(name) => write!(f, "flow add @{name}"),
            Self::Count(name) => write!(f, "counter name \"{name}\""),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
        })
    }
}

impl Selector {
    fn text(self, family: Family) -> String {
        match self {
            Self::SourceAddress => format!("{family} saddr"),
            Self::SourceNetwork(bits) => format!("{family} saddr & {}", mask(family, bits)),
            Self::DestinationAddress => format!("{family} daddr"),
            Self::Protocol => "meta l4proto".to_owned(),
            Self::DestinationPort => "th dport".to_owned(),
            Self::OriginalDestinationAddress => format!("ct original {family} daddr"),
            Self::OriginalDestinationPort => "ct original proto-dst".to_owned(),
            Self::Random(modulus) => format!("numgen random mod {modulus}"),
            Self::InputDevice => "meta iif".to_owned(),
            Self::OutputDevice => "meta oif".to_owned(),
        }
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}

/// The fields of a key or datum, joined as `nft` joins them.
struct Fields<'a>(&'a [Field], &'a [u8], Family);

impl Display for Fields<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(fields, mut rest, family) = *self;
        separated(f, " . ", fields, |f, field| {
            let (bytes, after) = rest.split_at_checked(field.padded_len(family)).ok_or(fmt::Error)?;
            rest = after;
            field.print(bytes, f)
        })
    }
}

/// A number of seconds, as days, hours, minutes and seconds.
struct Seconds(u32);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(all) = *self;
        let units = [(all / 86_400, "d"), (all / 3_600 % 24, "h"), (all / 60 % 60, "m"), (all % 60, "s")];
        units.iter().filter(|(number, _)| *number > 0).try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl Field {
    /// How many bytes it takes in [`Words`].
    pub const fn padded_len(self, family: Family) -> usize {
        match self {
            Self::Address => family.address_len(),
            Self::Protocol | Self::Port | Self::Index | Self::Device => 4,
        }
    }

    fn print(self, bytes: &[u8], f: &mut Formatter<'_>) -> fmt::Result {
        match (self, bytes) {
            (Self::Address, &[a, b, c, d]) => write!(f, "{}", IpAddr::from([a, b, c, d])),
            (Self::Address, _) => match <[u8; 16]>::try_from(bytes) {
                Ok(octets) => write!(f, "{}", Ipv6Addr::from(octets)),
                Err(_) => Err(fmt::Error),
            },
            (Self::Protocol, &[number, ..]) => match number {
                6 => f.write_str("tcp"),
                17 => f.write_str("udp"),
                132 => f.write_str("sctp"),
                other => write!(f, "{other}"),
            },
            (Self::Port, &[high, low, ..]) => write!(f, "{}", u16::from_be_bytes([high, low])),
            (Self::Index | Self::Device, &[a, b, c, d]) => write!(f, "{}", u32::from_ne_bytes([a, b, c, d])),
            _ => Err(fmt::Error),
        }
    }

    /// The name of its data type, where it has one.
    const fn type_name(self, family: Family) -> Option<&'static str> {
        match (self, family) {
            (Self::Address, Family::Ip) => Some("ipv4_addr"),
            (Self::Address, Family::Ip6) => Some("ipv6_addr"),
            (Self::Protocol, _) => Some("inet_proto"),
            (Self::Port, _) => Some("inet_service"),
            (Self::Device, _) => Some("iface_index"),
            (Self::Index, _) => None,
        }
    }

    /// An expression that has its type, for `typeof`.
    const fn example(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Address, Family::Ip) => "ip daddr",
            (Self::Address, Family::Ip6) => "ip6 daddr",
            (Self::Protocol, _) => "meta l4proto",
            (Self::Port, _) => "th dport",
            (Self::Index, _) => "numgen random mod 2",
            (Self::Device, _) => "meta iif",
        }
    }
}

fn set_body(set: &Set, family: Family) -> impl Display + '_ {
    let examples = |fields: &[Field]| fields.iter().map(|field| field.example(family)).collect::<Vec<_>>().join(" . ");
    let types = |fields: &[Field]| {
        let names: Option<Vec<_>> = fields.iter().map(|field| field.type_name(family)).collect();
        names.map(|names| names.join(" . "))
    };
    let key = types(&set.key).map_or_else(|| format!("typeof {}", examples(&set.key)), |key| format!("type {key}"));
    let data = match &set.data {
        None => String::new(),
        Some(DataType::Verdict) => " : verdict".to_owned(),
        Some(DataType::Value(fields)) if key.starts_with("typeof") => format!(" : {}", examples(fields)),
        Some(DataType::Value(fields)) => format!(" : {}", types(fields).unwrap_or_default()),
    };
    let kind = match set.kind {
        SetKind::Static => String::new(),
        SetKind::Dynamic { size } => format!(" size {size} ; flags dynamic,timeout ;"),
    };
    let comment =
        set.comment.as_ref().map(|comment| format!(" comment \"{}\" ;", comment.as_str())).unwrap_or_default();
    format!("{key}{data} ;{kind}{comment}")
}

fn chain_body(chain: &Chain) -> String {
    let hook = chain.hook.map(|hook| {
        let kind = match hook.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let point = match hook.point {
            HookPoint::Prerouting => "prerouting",
            HookPoint::Input => "input",
            HookPoint::Forward => "forward",
            HookPoint::Output => "output",
            HookPoint::Postrouting => "postrouting",
        };
        format!("type {kind} hook {point} priority {} ;", hook.priority)
    });
    let comment = chain.comment.as_ref().map(|comment| format!("comment \"{}\" ;", comment.as_str()));
    let parts: Vec<_> = hook.into_iter().chain(comment).collect();
    if parts.is_empty() { String::new() } else { format!(" {{ {} }}", parts.join(" ")) }
}

fn in_braces(comment: Option<&Comment>) -> String {
    comment.map(|comment| format!(" {{ comment \"{}\" ; }}", comment.as_str())).unwrap_or_default()
}

fn commented(comment: Option<&Comment>) -> String {
    comment.map(|comment| format!(" comment \"{}\"", comment.as_str())).unwrap_or_default()
}

fn listed(devices: &[Interface]) -> String {
    devices.iter().map(Interface::name).collect::<Vec<_>>().join(", ")
}

fn separated<T>(
    f: &mut Formatter<'_>,
    separator: &str,
    items: &[T],
    mut print: impl FnMut(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            f.write_str(separator)?;
        }
        print(f, item)?;
    }
    Ok(())
}

/// A closure that prints, as a value to be printed.
struct Printed<F>(F);

impl<F: Fn(&mut Formatter<'_>) -> fmt::Result> Display for Printed<F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}

/// An address whose first so many bits are ones.
fn mask(family: Family, bits: NonZeroU8) -> IpAddr {
    let shift = |width: u32| width.saturating_sub(u32::from(bits.get()));
    match family {
        Family::Ip => IpAddr::V4(Ipv4Addr::from_bits(u32::MAX.checked_shl(shift(32)).unwrap_or_default())),
        Family::Ip6 => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX.checked_shl(shift(128)).unwrap_or_default())),
    }
}

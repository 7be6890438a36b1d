//! Statements as expressions of the kernel's virtual machine, exactly as `nft` compiles them.

use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};

use ipnet::IpNet;
use nftnl::nftnl_sys::{self as sys, libc};
use ruleset::{Comparison, Family, Field, Interface, Name, Selector, Statement, Verdict};

use crate::expression::{Expr, Value};
use crate::uapi;

/// Why a statement has no meaning in a table of some family.
pub(crate) type Senseless = &'static str;

/// The expressions of a statement.
pub(crate) fn compile(statement: &Statement, family: Family) -> Result<Vec<Expr>, Senseless> {
    Ok(match statement {
        Statement::Prefix { selector, comparison, prefix } => compare_prefix(*selector, *comparison, *prefix, family)?,
        Statement::IsLocal(selector) => is_local(*selector)?,
        Statement::InputInterface { comparison, interface } => came_in_by(interface, *comparison),
        Statement::NewConnection => has_bits(load_ct(libc::NFT_CT_STATE), uapi::CT_STATE_NEW),
        Statement::Established => has_bits(load_ct(libc::NFT_CT_STATE), uapi::CT_STATE_ESTABLISHED),
        Statement::Offloaded => has_bits(load_ct(libc::NFT_CT_STATUS), uapi::IPS_OFFLOAD),
        Statement::MorePackets(packets) => more_packets(*packets),
        Statement::Translated => has_bits(load_ct(libc::NFT_CT_STATUS), uapi::IPS_DST_NAT),
        Statement::HasMark(bits) => has_bits(load_meta(libc::NFT_META_MARK, Register::FIRST), *bits),
        Statement::InSet { key, set } => look_up(key, &set.name, None, family)?,
        Statement::Update { key, data, map, timeout } => update(key, data, &map.name, *timeout, family)?,
        Statement::VerdictMap { key, map } => look_up(key, &map.name, Some(Register::VERDICT), family)?,
        Statement::Dnat { key, map } => {
            let mut expressions = look_up(key, &map.name, Some(Register::FIRST), family)?;
            expressions.push(dnat(family));
            expressions
        }
        Statement::SetMark(bits) => change_mark(!bits, *bits),
        Statement::FlipMark(bits) => change_mark(u32::MAX, *bits),
        Statement::Masquerade => {
            vec![Expr::new(c"masq").with(sys::NFTNL_EXPR_MASQ_FLAGS, uapi::NF_NAT_RANGE_PROTO_RANDOM_FULLY)]
        }
        Statement::Reject => vec![reject(family)],
        Statement::Offload(flowtable) => {
            vec![Expr::new(c"flow_offload").with(sys::NFTNL_EXPR_FLOW_TABLE_NAME, flowtable)]
        }
        Statement::Count(counter) => vec![
            Expr::new(c"objref")
                .with(sys::NFTNL_EXPR_OBJREF_IMM_TYPE, uapi::NFT_OBJECT_COUNTER)
                .with(sys::NFTNL_EXPR_OBJREF_IMM_NAME, counter),
        ],
        Statement::Verdict(verdict) => vec![decide(verdict)],
    })
}

/// A register as expressions name it.
///
/// The kernel's registers are 32 bits each, but the old names for four at once are still in use: `nft` writes 1 to 4 for
/// the first of each four (`NFT_REG_1`...), 8 and up for all others (`NFT_REG32_00`...).
#[derive(Clone, Copy)]
struct Register(u32);

impl Register {
    const VERDICT: Self = Self(libc::NFT_REG_VERDICT.cast_unsigned());
    const FIRST: Self = Self::at(0);

    /// How many there are, of 32 bits each (`NFT_REG32_COUNT`).
    const COUNT: u32 = 16;

    /// The one after `words` words of 32 bits.
    const fn at(words: u32) -> Self {
        if words.is_multiple_of(4) {
            Self(libc::NFT_REG_1.cast_unsigned() + words / 4)
        } else {
            Self(libc::NFT_REG32_00.cast_unsigned() + words)
        }
    }
}

impl From<Register> for Value {
    fn from(register: Register) -> Self {
        Self::U32(register.0)
    }
}

fn compare_prefix(
    selector: Selector,
    comparison: Comparison,
    prefix: IpNet,
    family: Family,
) -> Result<Vec<Expr>, Senseless> {
    if !matches!(selector, Selector::SourceAddress | Selector::DestinationAddress) {
        return Err("only an address can be compared with a prefix");
    }
    if usize::from(prefix.max_prefix_len()) != family.address_len() * 8 {
        return Err("the prefix is not of the table's address family");
    }
    let network = prefix.network();
    let length = usize::from(prefix.prefix_len());
    // A prefix of whole bytes needs no mask: only those bytes are loaded.
    if length > 0 && length.is_multiple_of(8) {
        let bytes = length / 8;
        return Ok(vec![load_address(selector, family, bytes), compare(comparison, Value::address(network, bytes))]);
    }
    let all = family.address_len();
    let none = match family {
        Family::Ip => IpAddr::from([0; 4]),
        Family::Ip6 => IpAddr::from([0; 16]),
    };
    Ok(vec![
        load_address(selector, family, all),
        combine(all, Value::address(prefix.netmask(), all), Value::address(none, all)),
        compare(comparison, Value::address(network, all)),
    ])
}

fn is_local(selector: Selector) -> Result<Vec<Expr>, Senseless> {
    let flags = match selector {
        Selector::SourceAddress => uapi::NFTA_FIB_F_SADDR,
        Selector::DestinationAddress => uapi::NFTA_FIB_F_DADDR,
        _ => return Err("only an address can be local"),
    };
    let address_type = Expr::new(c"fib")
        .with(sys::NFTNL_EXPR_FIB_FLAGS, flags)
        .with(sys::NFTNL_EXPR_FIB_RESULT, uapi::NFT_FIB_RESULT_ADDRTYPE)
        .with(sys::NFTNL_EXPR_FIB_DREG, Register::FIRST);
    Ok(vec![address_type, compare(Comparison::Is, Value::native(u32::from(libc::RTN_LOCAL)))])
}

/// The kernel pads a name with zeros (`nft_meta_store_ifname`, net/netfilter/nft_meta.c), so that a whole name is compared with
/// its padding, and the start of one without.
fn came_in_by(interface: &Interface, comparison: Comparison) -> Vec<Expr> {
    let name = interface.name().as_bytes();
    let length = if interface.is_prefix() { name.len() } else { libc::IFNAMSIZ };
    vec![load_meta(libc::NFT_META_IIFNAME, Register::FIRST), compare(comparison, Value::padded(name, length))]
}

/// Goes on if any of `bits` is set in what `load` puts into the first register.
fn has_bits(load: Expr, bits: u32) -> Vec<Expr> {
    vec![load, combine(4, Value::native(bits), Value::native(0)), compare(Comparison::IsNot, Value::native(0))]
}

/// Without a direction, the kernel adds both up (`nft_ct_get_eval_counter`, net/netfilter/nft_ct.c). Numbers are compared as the
/// network writes them.
fn more_packets(packets: u64) -> Vec<Expr> {
    const BYTES: u32 = 8;
    let to_network_order = Expr::new(c"byteorder")
        .with(sys::NFTNL_EXPR_BYTEORDER_DREG, Register::FIRST)
        .with(sys::NFTNL_EXPR_BYTEORDER_SREG, Register::FIRST)
        .with(sys::NFTNL_EXPR_BYTEORDER_OP, libc::NFT_BYTEORDER_HTON)
        .with(sys::NFTNL_EXPR_BYTEORDER_LEN, BYTES)
        .with(sys::NFTNL_EXPR_BYTEORDER_SIZE, BYTES);
    vec![
        load_ct(libc::NFT_CT_PKTS),
        to_network_order,
        compare_by(libc::NFT_CMP_GT, Value::padded(&packets.to_be_bytes(), BYTES as usize)),
    ]
}

fn change_mark(and: u32, xor: u32) -> Vec<Expr> {
    vec![
        load_meta(libc::NFT_META_MARK, Register::FIRST),
        combine(4, Value::native(and), Value::native(xor)),
        Expr::new(c"meta")
            .with(sys::NFTNL_EXPR_META_KEY, libc::NFT_META_MARK)
            .with(sys::NFTNL_EXPR_META_SREG, Register::FIRST),
    ]
}

/// Loads the key and looks it up.
fn look_up(key: &[Selector], set: &Name, result: Option<Register>, family: Family) -> Result<Vec<Expr>, Senseless> {
    let (mut expressions, _) = load_all(key, 0, family)?;
    let lookup =
        Expr::new(c"lookup").with(sys::NFTNL_EXPR_LOOKUP_SREG, Register::FIRST).with(sys::NFTNL_EXPR_LOOKUP_SET, set);
    expressions.push(match result {
        Some(register) => lookup.with(sys::NFTNL_EXPR_LOOKUP_DREG, register),
        None => lookup,
    });
    Ok(expressions)
}

/// Loads the key, and what it maps to after it, and adds or refreshes the element.
fn update(
    key: &[Selector],
    data: &[Selector],
    map: &Name,
    timeout: NonZeroU32,
    family: Family,
) -> Result<Vec<Expr>, Senseless> {
    let (mut expressions, words) = load_all(key, 0, family)?;
    let (values, _) = load_all(data, words, family)?;
    expressions.extend(values);
    let milliseconds = u64::from(timeout.get()) * 1000;
    expressions.push(
        Expr::new(c"dynset")
            .with(sys::NFTNL_EXPR_DYNSET_OP, libc::NFT_DYNSET_OP_UPDATE)
            .with(sys::NFTNL_EXPR_DYNSET_SREG_KEY, Register::FIRST)
            .with(sys::NFTNL_EXPR_DYNSET_SREG_DATA, Register::at(words))
            .with(sys::NFTNL_EXPR_DYNSET_SET_NAME, map)
            .with(sys::NFTNL_EXPR_DYNSET_TIMEOUT, milliseconds),
    );
    Ok(expressions)
}

/// Loads values into one register after the other, the first after `start` words. Also tells how many words are taken then.
fn load_all(selectors: &[Selector], start: u32, family: Family) -> Result<(Vec<Expr>, u32), Senseless> {
    let mut words = start;
    let mut expressions = Vec::new();
    for selector in selectors {
        expressions.push(load(*selector, Register::at(words), family));
        if let Selector::SourceNetwork(bits) = selector {
            expressions.push(keep_bits(*bits, Register::at(words), family)?);
        }
        words += (field(*selector).padded_len(family) / 4) as u32;
    }
    if words > Register::COUNT {
        return Err("its values are longer than the kernel's registers, which have 64 bytes");
    }
    Ok((expressions, words))
}

/// Keeps so many of the first bits of an address, and makes the others zeros.
fn keep_bits(bits: NonZeroU8, register: Register, family: Family) -> Result<Expr, Senseless> {
    let (any, all) = match family {
        Family::Ip => (IpAddr::from([0; 4]), 4),
        Family::Ip6 => (IpAddr::from([0; 16]), 16),
    };
    let prefix = IpNet::new(any, bits.get()).map_err(|_| "an address has fewer bits than are to be kept")?;
    Ok(combine_in(register, all, Value::address(prefix.netmask(), all), Value::address(any, all)))
}

/// The kind of value that a selector gives.
const fn field(selector: Selector) -> Field {
    match selector {
        Selector::SourceAddress
        | Selector::SourceNetwork(_)
        | Selector::DestinationAddress
        | Selector::OriginalDestinationAddress => Field::Address,
        Selector::Protocol => Field::Protocol,
        Selector::DestinationPort | Selector::OriginalDestinationPort => Field::Port,
        Selector::Random(_) => Field::Index,
        Selector::InputDevice | Selector::OutputDevice => Field::Device,
    }
}

fn load(selector: Selector, register: Register, family: Family) -> Expr {
    match selector {
        Selector::SourceAddress | Selector::SourceNetwork(_) | Selector::DestinationAddress => {
            let (base, offset) = (libc::NFT_PAYLOAD_NETWORK_HEADER, address_offset(selector, family));
            load_payload(base, offset, family.address_len(), register)
        }
        Selector::Protocol => load_meta(libc::NFT_META_L4PROTO, register),
        Selector::InputDevice => load_meta(libc::NFT_META_IIF, register),
        Selector::OutputDevice => load_meta(libc::NFT_META_OIF, register),
        Selector::OriginalDestinationAddress => {
            let key = if family == Family::Ip { libc::NFT_CT_DST_IP } else { libc::NFT_CT_DST_IP6 };
            load_original(key, register)
        }
        Selector::OriginalDestinationPort => load_original(libc::NFT_CT_PROTO_DST, register),
        // The destination port is the second 16-bit field of TCP, UDP and SCTP alike.
        Selector::DestinationPort => load_payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, register),
        Selector::Random(modulus) => Expr::new(c"numgen")
            .with(sys::NFTNL_EXPR_NG_DREG, register)
            .with(sys::NFTNL_EXPR_NG_MODULUS, modulus.get())
            .with(sys::NFTNL_EXPR_NG_TYPE, libc::NFT_NG_RANDOM)
            .with(sys::NFTNL_EXPR_NG_OFFSET, 0u32),
    }
}

fn load_address(selector: Selector, family: Family, bytes: usize) -> Expr {
    let offset = address_offset(selector, family);
    load_payload(libc::NFT_PAYLOAD_NETWORK_HEADER, offset, bytes, Register::FIRST)
}

/// Where an address is in the header of IPv4 (RFC 791, 3.1) or IPv6 (RFC 8200, 3): the destination after the source.
fn address_offset(selector: Selector, family: Family) -> u32 {
    let source = match family {
        Family::Ip => 12,
        Family::Ip6 => 8,
    };
    match selector {
        Selector::SourceAddress | Selector::SourceNetwork(_) => source,
        _ => source + family.address_len() as u32,
    }
}

fn load_payload(base: libc::c_int, offset: u32, bytes: usize, register: Register) -> Expr {
    Expr::new(c"payload")
        .with(sys::NFTNL_EXPR_PAYLOAD_DREG, register)
        .with(sys::NFTNL_EXPR_PAYLOAD_BASE, base)
        .with(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
        .with(sys::NFTNL_EXPR_PAYLOAD_LEN, bytes as u32)
}

fn load_meta(key: libc::c_int, register: Register) -> Expr {
    Expr::new(c"meta").with(sys::NFTNL_EXPR_META_KEY, key).with(sys::NFTNL_EXPR_META_DREG, register)
}

fn load_ct(key: libc::c_int) -> Expr {
    Expr::new(c"ct").with(sys::NFTNL_EXPR_CT_KEY, key).with(sys::NFTNL_EXPR_CT_DREG, Register::FIRST)
}

/// What a connection's first packet had, before translation.
fn load_original(key: libc::c_int, register: Register) -> Expr {
    Expr::new(c"ct")
        .with(sys::NFTNL_EXPR_CT_KEY, key)
        .with(sys::NFTNL_EXPR_CT_DIR, uapi::IP_CT_DIR_ORIGINAL)
        .with(sys::NFTNL_EXPR_CT_DREG, register)
}

fn compare(comparison: Comparison, with: Value) -> Expr {
    let operator = match comparison {
        Comparison::Is => libc::NFT_CMP_EQ,
        Comparison::IsNot => libc::NFT_CMP_NEQ,
    };
    compare_by(operator, with)
}

fn compare_by(operator: libc::c_int, with: Value) -> Expr {
    Expr::new(c"cmp")
        .with(sys::NFTNL_EXPR_CMP_SREG, Register::FIRST)
        .with(sys::NFTNL_EXPR_CMP_OP, operator)
        .with(sys::NFTNL_EXPR_CMP_DATA, with)
}

/// `register = (register & and) ^ xor`, of so many bytes of the first register.
fn combine(bytes: usize, and: Value, xor: Value) -> Expr {
    combine_in(Register::FIRST, bytes, and, xor)
}

fn combine_in(register: Register, bytes: usize, and: Value, xor: Value) -> Expr {
    Expr::new(c"bitwise")
        .with(sys::NFTNL_EXPR_BITWISE_SREG, register)
        .with(sys::NFTNL_EXPR_BITWISE_DREG, register)
        .with(sys::NFTNL_EXPR_BITWISE_LEN, bytes as u32)
        .with(sys::NFTNL_EXPR_BITWISE_MASK, and)
        .with(sys::NFTNL_EXPR_BITWISE_XOR, xor)
}

/// Translates to the address and port that a lookup left in the first registers.
fn dnat(family: Family) -> Expr {
    let port = Register::at((family.address_len() / 4) as u32);
    Expr::new(c"nat")
        .with(sys::NFTNL_EXPR_NAT_TYPE, libc::NFT_NAT_DNAT)
        .with(sys::NFTNL_EXPR_NAT_FAMILY, protocol_family(family) as u32)
        .with(sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, Register::FIRST)
        .with(sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, port)
}

fn reject(family: Family) -> Expr {
    let code = match family {
        Family::Ip => uapi::ICMP_PORT_UNREACH,
        Family::Ip6 => uapi::ICMPV6_PORT_UNREACH,
    };
    Expr::new(c"reject")
        .with(sys::NFTNL_EXPR_REJECT_TYPE, libc::NFT_REJECT_ICMP_UNREACH)
        .with(sys::NFTNL_EXPR_REJECT_CODE, code)
}

fn decide(verdict: &Verdict) -> Expr {
    let (code, chain) = verdict_code(verdict);
    let immediate = Expr::new(c"immediate")
        .with(sys::NFTNL_EXPR_IMM_DREG, Register::VERDICT)
        .with(sys::NFTNL_EXPR_IMM_VERDICT, code);
    match chain {
        Some(chain) => immediate.with(sys::NFTNL_EXPR_IMM_CHAIN, chain),
        None => immediate,
    }
}

/// The kernel's number for a verdict, and the chain that belongs to it.
pub(crate) const fn verdict_code(verdict: &Verdict) -> (i32, Option<&Name>) {
    match verdict {
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
        Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
    }
}

/// The kernel's number for a family.
pub(crate) const fn protocol_family(family: Family) -> nftnl::ProtoFamily {
    match family {
        Family::Ip => nftnl::ProtoFamily::Ipv4,
        Family::Ip6 => nftnl::ProtoFamily::Ipv6,
    }
}

//! How a set is declared: the kernel's part, which is lengths, and `nft`'s, which is data types.

use ruleset::{DataType, Family, Field, Set, SetKind, Transaction};

use crate::attributes::{Annotations, Attributes};
use crate::uapi;

/// Writes the attributes of a message that declares a set. `id` tells it from the others of the same batch.
pub(crate) fn declare(attributes: &mut Attributes, set: &Set, transaction: &Transaction, id: u32) {
    let family = transaction.family;
    attributes.put_name(uapi::NFTA_SET_TABLE, &transaction.table);
    attributes.put_name(uapi::NFTA_SET_NAME, &set.name);
    attributes.put_u32(uapi::NFTA_SET_FLAGS, flags(set));
    attributes.put_u32(uapi::NFTA_SET_KEY_TYPE, data_type(&set.key, family));
    attributes.put_u32(uapi::NFTA_SET_KEY_LEN, length(&set.key, family) as u32);
    match &set.data {
        None => {}
        Some(DataType::Verdict) => {
            attributes.put_u32(uapi::NFTA_SET_DATA_TYPE, uapi::NFT_DATA_VERDICT);
            attributes.put_u32(uapi::NFTA_SET_DATA_LEN, 0);
        }
        Some(DataType::Value(fields)) => {
            attributes.put_u32(uapi::NFTA_SET_DATA_TYPE, data_type(fields, family));
            attributes.put_u32(uapi::NFTA_SET_DATA_LEN, length(fields, family) as u32);
        }
    }
    attributes.put_u32(uapi::NFTA_SET_ID, id);
    if let SetKind::Dynamic { size } = set.kind {
        attributes.nest(uapi::NFTA_SET_DESC, |description| description.put_u32(uapi::NFTA_SET_DESC_SIZE, size.get()));
    }
    attributes.put(uapi::NFTA_SET_USERDATA, annotations(set, family).as_bytes());
}

fn flags(set: &Set) -> u32 {
    let map = if set.data.is_some() { libc::NFT_SET_MAP.cast_unsigned() } else { 0 };
    map | match set.kind {
        SetKind::Static => 0,
        SetKind::Dynamic { .. } => (libc::NFT_SET_EVAL | libc::NFT_SET_TIMEOUT).cast_unsigned(),
    }
}

/// How many bytes a key or datum has. Only in a concatenation are fields padded, see [`ruleset::Words`].
pub(crate) fn length(fields: &[Field], family: Family) -> usize {
    match fields {
        [Field::Protocol] => 1,
        [Field::Port] => 2,
        _ => fields.iter().map(|field| field.padded_len(family)).sum(),
    }
}

/// What `nft` calls the type: the numbers of its fields' types, six bits each (`TYPE_BITS` in nftables' datatype.h).
fn data_type(fields: &[Field], family: Family) -> u32 {
    fields.iter().fold(0, |sum, field| sum << 6 | type_number(*field, family))
}

/// `enum datatypes` in nftables' datatype.h.
const fn type_number(field: Field, family: Family) -> u32 {
    match (field, family) {
        (Field::Index, _) => 4,
        (Field::Address, Family::Ip) => 7,
        (Field::Address, Family::Ip6) => 8,
        (Field::Protocol, _) => 12,
        (Field::Port, _) => 13,
        (Field::Device, _) => 20,
    }
}

/// What `nft` needs to print the set as it was declared.
///
/// A type with an [`Field::Index`] has no name, so such a set is declared with `typeof`, by expressions that have the types.
fn annotations(set: &Set, family: Family) -> Annotations {
    let mut annotations = Annotations::default();
    annotations.put_u32(uapi::UDATA_SET_KEYBYTEORDER, byte_order(&set.key));
    if let Some(data) = &set.data {
        let order = match data {
            DataType::Verdict => 0,
            DataType::Value(fields) => byte_order(fields),
        };
        annotations.put_u32(uapi::UDATA_SET_DATABYTEORDER, order);
    }
    if is_typeof(set) {
        annotations.nest(uapi::UDATA_SET_KEY_TYPEOF, |a| put_typeof(a, &set.key, family));
        if let Some(DataType::Value(fields)) = &set.data {
            annotations.nest(uapi::UDATA_SET_DATA_TYPEOF, |a| put_typeof(a, fields, family));
        }
    }
    if set.data.is_some() {
        annotations.put_u32(uapi::UDATA_SET_DATA_INTERVAL, 0);
    }
    if let Some(comment) = &set.comment {
        annotations.put_comment(uapi::UDATA_SET_COMMENT, comment);
    }
    annotations
}

fn is_typeof(set: &Set) -> bool {
    let fields = match &set.data {
        Some(DataType::Value(fields)) => fields.as_slice(),
        _ => &[],
    };
    set.key.contains(&Field::Index) || fields.contains(&Field::Index)
}

/// `enum byteorder` in nftables' datatype.h: 0 is none, of a concatenation or a single byte; 1 the machine's; 2 the
/// network's.
const fn byte_order(fields: &[Field]) -> u32 {
    match fields {
        [Field::Index | Field::Device] => 1,
        [Field::Address | Field::Port] => 2,
        _ => 0,
    }
}

/// Expressions as `nft` describes them to itself: the number of the kind (`enum expr_types` in its expression.h), and what
/// that kind needs.
fn put_typeof(annotations: &mut Annotations, fields: &[Field], family: Family) {
    const CONCATENATION: u32 = 13;
    if let [field] = fields {
        return put_example(annotations, *field, family);
    }
    annotations.put_u32(EXPRESSION_KIND, CONCATENATION);
    annotations.nest(EXPRESSION_DATA, |a| {
        for (index, field) in fields.iter().enumerate() {
            a.nest(index as u8, |a| put_example(a, *field, family));
        }
    });
}

fn put_example(annotations: &mut Annotations, field: Field, family: Family) {
    const PAYLOAD: u32 = 7;
    const META: u32 = 9;
    const NUMGEN: u32 = 23;
    // Of a payload: `enum proto_desc_id` in nftables' proto.h, and the position in that protocol's templates.
    let (kind, data): (_, &[u32]) = match (field, family) {
        (Field::Address, Family::Ip) => (PAYLOAD, &[12, 12]),
        (Field::Address, Family::Ip6) => (PAYLOAD, &[13, 9]),
        (Field::Port, _) => (PAYLOAD, &[11, 2]),
        (Field::Protocol, _) => (META, &[libc::NFT_META_L4PROTO as u32]),
        (Field::Device, _) => (META, &[libc::NFT_META_IIF as u32]),
        // Random, modulus 2, offset 0.
        (Field::Index, _) => (NUMGEN, &[libc::NFT_NG_RANDOM as u32, 2, 0]),
    };
    annotations.put_u32(EXPRESSION_KIND, kind);
    annotations.nest(EXPRESSION_DATA, |a| {
        for (index, value) in data.iter().enumerate() {
            a.put_u32(index as u8, *value);
        }
    });
}

const EXPRESSION_KIND: u8 = 0;
const EXPRESSION_DATA: u8 = 1;

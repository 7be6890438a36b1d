//! Elements, written straight into messages: a tenth of the time and a fraction of the memory of libnftnl's objects.

use std::ops::Range;

use ruleset::{Data, DataType, Datum, Element, Family, Name, Set, Words};

use crate::attributes::{Attributes, HEADER, attribute_len, comment_len};
use crate::bytecode::verdict_code;
use crate::{sets, uapi};

/// How many bytes of elements go into one message: a list of attributes is itself one, whose length has 16 bits.
const LIMIT: usize = 60_000;

/// What happens to elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    /// Only keys are written.
    Delete,
}

/// Writes elements of one set.
#[derive(Clone, Copy)]
pub(crate) struct Elements<'a> {
    pub(crate) family: Family,
    pub(crate) table: &'a Name,
    pub(crate) set: &'a Set,
    pub(crate) change: Change,
    pub(crate) elements: &'a [Element],
}

impl<'a> Elements<'a> {
    /// Cuts the elements into parts that fit into a message each.
    pub(crate) fn parts(self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let mut size = 0;
            let rest = self.elements.get(start..).unwrap_or_default();
            let fitting = rest.iter().take_while(|element| {
                size += self.element_len(element);
                size <= LIMIT
            });
            // A single element always fits: key, data, names and comment are bounded far below the limit.
            let part = start..start + fitting.count();
            start = part.end;
            (!part.is_empty()).then_some(part)
        })
    }

    /// Writes the attributes of a message about all the elements.
    pub(crate) fn write(self, attributes: &mut Attributes) {
        put_set(attributes, self.table, self.set);
        attributes.nest(uapi::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
            for element in self.elements {
                list.nest(uapi::NFTA_LIST_ELEM, |a| self.write_element(a, element));
            }
        });
    }

    /// Which element is at this place of the attributes, if one is.
    pub(crate) fn at(self, offset: usize) -> Option<usize> {
        let mut head = Attributes::default();
        put_set(&mut head, self.table, self.set);
        let mut rest = offset.checked_sub(head.as_bytes().len() + HEADER)?;
        self.elements.iter().position(|element| match rest.checked_sub(self.element_len(element)) {
            Some(after) => {
                rest = after;
                false
            }
            None => true,
        })
    }

    fn write_element(self, attributes: &mut Attributes, element: &Element) {
        attributes.nest(uapi::NFTA_SET_ELEM_KEY, |key| {
            key.put(uapi::NFTA_DATA_VALUE, self.key(element));
        });
        if self.change == Change::Delete {
            return;
        }
        match &element.data {
            Data::None => {}
            Data::Value(value) => attributes.nest(uapi::NFTA_SET_ELEM_DATA, |data| {
                data.put(uapi::NFTA_DATA_VALUE, self.value(value));
            }),
            Data::Verdict(verdict) => attributes.nest(uapi::NFTA_SET_ELEM_DATA, |data| {
                data.nest(uapi::NFTA_DATA_VERDICT, |data| {
                    let (code, chain) = verdict_code(verdict);
                    data.put_u32(uapi::NFTA_VERDICT_CODE, code.cast_unsigned());
                    if let Some(chain) = chain {
                        data.put_name(uapi::NFTA_VERDICT_CHAIN, chain);
                    }
                });
            }),
        }
        if let Some(comment) = &element.comment {
            attributes.put_comment(uapi::NFTA_SET_ELEM_USERDATA, comment);
        }
    }

    /// The length of what [`Self::write`] writes for one element.
    fn element_len(self, element: &Element) -> usize {
        let key = HEADER + HEADER + attribute_len(self.key(element).len());
        if self.change == Change::Delete {
            return key;
        }
        let data = match &element.data {
            Data::None => 0,
            Data::Value(value) => HEADER + attribute_len(self.value(value).len()),
            Data::Verdict(verdict) => {
                let (_, chain) = verdict_code(verdict);
                let chain = chain.map_or(0, |name| attribute_len(name.as_str().len() + 1));
                HEADER + HEADER + attribute_len(4) + chain
            }
        };
        key + data + element.comment.as_ref().map_or(0, comment_len)
    }

    fn key(self, element: &Element) -> &[u8] {
        unpadded(&element.key, sets::length(&self.set.key, self.family))
    }

    fn value(self, value: &Datum) -> &[u8] {
        match &self.set.data {
            Some(DataType::Value(fields)) => unpadded(value, sets::length(fields, self.family)),
            _ => value.as_bytes(),
        }
    }
}

/// Writes the attributes of a message about a set as a whole, which without elements means all that there are.
pub(crate) fn put_set(attributes: &mut Attributes, table: &Name, set: &Set) {
    attributes.put_name(uapi::NFTA_SET_ELEM_LIST_TABLE, table);
    attributes.put_name(uapi::NFTA_SET_ELEM_LIST_SET, &set.name);
}

/// The value without the padding of a lone field. One that is too short is left to the kernel to refuse.
fn unpadded<const N: usize>(words: &Words<N>, length: usize) -> &[u8] {
    let bytes = words.as_bytes();
    let padding = bytes.len().saturating_sub(length);
    if padding < 4 { &bytes[..bytes.len() - padding] } else { bytes }
}

//! Netlink attributes, and the annotations that `nft` keeps in some of them.

use ruleset::{Comment, Name};

use crate::uapi;

/// Attributes of a message, one after the other: length, type and value, each padded to a multiple of four bytes.
///
/// A length has 16 bits. What goes in here is much shorter, except for lists of elements, which are cut to fit.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Appends an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        self.head(kind, HEADER + value.len());
        self.0.extend_from_slice(value);
        self.pad();
    }

    /// Appends a number, in network byte order.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Appends a name with the zero that ends it.
    pub(crate) fn put_name(&mut self, kind: u16, name: &Name) {
        self.put_string(kind, name.as_str());
    }

    /// Appends a text with the zero that ends it.
    pub(crate) fn put_string(&mut self, kind: u16, text: &str) {
        self.head(kind, HEADER + text.len() + 1);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self.pad();
    }

    /// Appends a comment the way `nft` keeps those of tables, chains, rules and elements.
    pub(crate) fn put_comment(&mut self, kind: u16, comment: &Comment) {
        let mut annotations = Annotations::default();
        annotations.put_comment(uapi::UDATA_COMMENT, comment);
        self.put(kind, annotations.as_bytes());
    }

    /// Appends an attribute that has attributes as its value: those that `fill` appends.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.head(kind | uapi::NLA_F_NESTED, HEADER);
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn head(&mut self, kind: u16, length: usize) {
        self.0.extend_from_slice(&(length as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The length of the head of an attribute.
pub(crate) const HEADER: usize = 4;

/// The length of an attribute with a value of `value` bytes, padding included.
pub(crate) const fn attribute_len(value: usize) -> usize {
    HEADER + value.next_multiple_of(4)
}

/// The length of the attribute that [`Attributes::put_comment`] appends.
pub(crate) fn comment_len(comment: &Comment) -> usize {
    attribute_len(2 + comment.as_str().len() + 1)
}

/// What `nft` notes on objects for itself; the kernel only keeps it. One byte of type, one of length, and the value; not
/// padded; numbers in the machine's byte order.
#[derive(Debug, Default)]
pub(crate) struct Annotations(Vec<u8>);

impl Annotations {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn put_u32(&mut self, kind: u8, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Appends an annotation. One that is longer than the format can tell is left out: nothing but what `nft` shows
    /// depends on it.
    pub(crate) fn put(&mut self, kind: u8, value: &[u8]) {
        if let Ok(length) = u8::try_from(value.len()) {
            self.0.extend_from_slice(&[kind, length]);
            self.0.extend_from_slice(value);
        }
    }

    /// Appends an annotation that has annotations as its value.
    pub(crate) fn nest(&mut self, kind: u8, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.put(kind, inner.as_bytes());
    }

    /// Appends a comment with the zero that ends it, cut to what the kernel still takes.
    pub(crate) fn put_comment(&mut self, kind: u8, comment: &Comment) {
        let room = uapi::NFT_USERDATA_MAXLEN.saturating_sub(self.0.len() + 3);
        let text = comment.as_str();
        let end = text.floor_char_boundary(room.min(text.len()));
        let mut value = text.as_bytes()[..end].to_vec();
        value.push(0);
        self.put(kind, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let mut attributes = Attributes::default();
        attributes.nest(3, |inner| {
            inner.put(1, b"abcde");
            inner.put_u32(2, 7);
        });
        let expected: [&[u8]; 6] = [
            &24u16.to_ne_bytes(),
            &(3 | uapi::NLA_F_NESTED).to_ne_bytes(),
            &9u16.to_ne_bytes(),
            &1u16.to_ne_bytes(),
            b"abcde\0\0\0",
            &[8u16.to_ne_bytes(), 2u16.to_ne_bytes(), [0, 0], [0, 7]].concat(),
        ];
        assert_eq!(attributes.as_bytes(), expected.concat());
    }

    #[test]
    fn a_comment_is_cut_to_the_room_there_is() {
        let mut annotations = Annotations::default();
        annotations.put(9, &[0; 200]);
        annotations.put_comment(uapi::UDATA_SET_COMMENT, &Comment::new(&"é".repeat(64)));
        assert!(annotations.as_bytes().len() <= uapi::NFT_USERDATA_MAXLEN);
        assert_eq!(annotations.as_bytes().last(), Some(&0));
        let text = &annotations.as_bytes()[204..annotations.as_bytes().len() - 1];
        assert_eq!(std::str::from_utf8(text), Ok("é".repeat(25).as_str()));
    }
}

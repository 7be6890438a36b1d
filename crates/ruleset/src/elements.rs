//! The elements of a set that a kernel holds, packed.

use crate::{Data, Datum, Element, Words};

/// The elements of a set, each key once.
///
/// A kernel may hold very many, and nearly all are alike: a key of so many bytes, and a value of so many or none. Of these, just the
/// bytes are kept, a quarter of what an [`Element`] takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    shape: Shape,
    /// Keys with their values, one after the other and in order.
    packed: Vec<u8>,
    /// Those of another shape, in order of keys.
    others: Vec<Element>,
}

/// What most elements of a set look like. Nothing has the default one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// How long the key is, in bytes.
    key: usize,
    /// How long the value is; none has no value at all, and is not a verdict.
    value: usize,
}

/// Collects [`Elements`], in any order.
#[derive(Debug, Default)]
pub struct ElementsBuilder(Elements);

impl Elements {
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.packed_len() + self.others.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the element with this key is.
    pub fn find(&self, key: &Words) -> Option<usize> {
        if key.as_bytes().len() == self.shape.key {
            let index = self.first_not_before(key.as_bytes());
            if index < self.packed_len() && self.key(index) == key.as_bytes() {
                return Some(index);
            }
        }
        let index = self.others.binary_search_by_key(key, |element| element.key).ok()?;
        Some(self.packed_len() + index)
    }

    /// The element at a place that [`Elements::find`] has given, or any that is less than [`Elements::len`].
    ///
    /// # Panics
    /// There is no such place.
    pub fn at(&self, index: usize) -> Element {
        match index.checked_sub(self.packed_len()) {
            Some(index) => self.others[index].clone(),
            None => self.shape.unpack(self.record(index)),
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Element> + '_ {
        (0..self.len()).map(|index| self.at(index))
    }

    /// Those whose keys begin with these bytes.
    pub fn starting_with(&self, prefix: &[u8]) -> impl Iterator<Item = Element> {
        let packed = self.first_not_before(prefix)..self.packed_len();
        let packed = packed.take_while(move |index| self.key(*index).starts_with(prefix));
        let others = self.others.iter().filter(move |element| element.key.as_bytes().starts_with(prefix));
        packed.map(|index| self.at(index)).chain(others.cloned())
    }

    const fn packed_len(&self) -> usize {
        match self.shape.record() {
            0 => 0,
            record => self.packed.len() / record,
        }
    }

    fn record(&self, index: usize) -> &[u8] {
        let length = self.shape.record();
        &self.packed[index * length..][..length]
    }

    fn key(&self, index: usize) -> &[u8] {
        &self.record(index)[..self.shape.key]
    }

    /// The first packed element whose key is not less than these bytes.
    fn first_not_before(&self, bytes: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.packed_len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.key(middle) < bytes {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl ElementsBuilder {
    /// Adds an element.
    pub fn push(&mut self, element: Element) {
        let Elements { shape, packed, others } = &mut self.0;
        let fits = Shape::of(&element).filter(|found| found == shape || shape.record() == 0);
        match fits {
            Some(fitting) => {
                *shape = fitting;
                packed.extend_from_slice(element.key.as_bytes());
                if let Data::Value(value) = &element.data {
                    packed.extend_from_slice(value.as_bytes());
                }
            }
            None => others.push(element),
        }
    }

    /// How many elements were added.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none were added.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The elements, of each key one, and whether no key was added twice.
    pub fn finish(self) -> (Elements, bool) {
        let added = self.len();
        let Elements { shape, packed, mut others } = self.0;
        let mut records: Vec<_> = packed.chunks_exact(shape.record().max(1)).collect();
        records.sort_unstable();
        records.dedup_by_key(|record| &record[..shape.key]);
        let packed = records.concat();
        others.sort_by_key(|element| element.key);
        others.dedup_by_key(|element| element.key);
        let mut elements = Elements { shape, packed, others: Vec::new() };
        others.retain(|other| elements.find(&other.key).is_none());
        elements.others = others;
        let is_whole = elements.len() == added;
        (elements, is_whole)
    }
}

impl FromIterator<Element> for Elements {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        let mut builder = ElementsBuilder::default();
        elements.into_iter().for_each(|element| builder.push(element));
        builder.finish().0
    }
}

impl Shape {
    /// That of an element, if it can be packed.
    fn of(element: &Element) -> Option<Self> {
        let key = element.key.as_bytes().len();
        let value = match &element.data {
            Data::None => 0,
            Data::Value(value) if !value.as_bytes().is_empty() => value.as_bytes().len(),
            Data::Value(_) | Data::Verdict(_) => return None,
        };
        (key > 0 && element.comment.is_none()).then_some(Self { key, value })
    }

    const fn record(self) -> usize {
        self.key + self.value
    }

    fn unpack(self, record: &[u8]) -> Element {
        let (key, value) = record.split_at(self.key);
        let value = Datum::from_bytes(value).filter(|_| !value.is_empty());
        // What was packed had the right length.
        let key = Words::from_bytes(key).unwrap_or(Words::build().finish());
        Element { key, data: value.map_or(Data::None, Data::Value), comment: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    fn element(key: &[u8], data: Data) -> Element {
        Element { key: Words::from_bytes(key).unwrap(), data, comment: None }
    }

    fn value(bytes: &[u8]) -> Data {
        Data::Value(Datum::from_bytes(bytes).unwrap())
    }

    #[test]
    fn each_key_is_found_whatever_its_shape() {
        let all = [
            element(&[0, 0, 2, 0, 1, 0, 0, 0], value(&[9, 9, 9, 9])),
            element(&[0, 0, 1, 0, 0, 0, 0, 0], value(&[7, 7, 7, 7])),
            element(&[0, 0, 1, 0], value(&[8, 8, 8, 8])),
            element(&[0, 0, 2, 0, 0, 1, 0, 0], value(&[1, 2, 3, 4])),
            element(&[0, 0, 2, 0, 0, 0, 0, 0], Data::Verdict(Verdict::Drop)),
            element(&[0, 0, 3, 0, 0, 0, 0, 0], value(&[1, 2, 3, 4, 5, 6, 7, 8])),
        ];
        let elements: Elements = all.iter().cloned().collect();
        assert_eq!((elements.len(), elements.iter().count()), (6, 6));
        for element in &all {
            assert_eq!(elements.find(&element.key).map(|index| elements.at(index)).as_ref(), Some(element));
        }
        assert_eq!(elements.find(&Words::from_bytes(&[0, 0, 9, 0, 0, 0, 0, 0]).unwrap()), None);
        let starting = |prefix: &[u8]| elements.starting_with(prefix).collect::<Vec<_>>();
        assert_eq!(starting(&[0, 0, 2, 0]), [all[3].clone(), all[0].clone(), all[4].clone()]);
        assert_eq!(starting(&[0, 0, 1, 0]), [all[1].clone(), all[2].clone()]);
        assert_eq!(starting(&[1]), []);
    }

    #[test]
    fn a_key_that_comes_twice_is_noticed() {
        let plain = || element(&[0, 0, 1, 0], Data::None);
        let drops = || element(&[0, 0, 1, 0], Data::Verdict(Verdict::Drop));
        for (added, is_whole) in [
            (vec![plain()], true),
            (vec![plain(), plain(), plain()], false),
            (vec![drops(), drops()], false),
            (vec![plain(), drops()], false),
            (vec![], true),
        ] {
            let (few, mut builder) = (added.len().min(1), ElementsBuilder::default());
            added.into_iter().for_each(|element| builder.push(element));
            let (elements, whole) = builder.finish();
            assert_eq!((elements.len(), whole), (few, is_whole));
        }
    }
}

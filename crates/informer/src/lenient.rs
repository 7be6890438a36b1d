//! Decoding that never fails on account of a value.
//!
//! A list, and one line of a watch, is decoded in one go: one value of the wrong type would lose the list, or lose the event
//! and leave stale state behind. [`Lenient`] takes any value of any type; the oddity is told later, by the
//! conversion, which knows the object and the field.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

/// A field whose value may be of the wrong type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lenient<T> {
    /// Not there, or `null`.
    #[default]
    Absent,
    /// As it should be.
    Value(T),
    /// Something else; says what was expected and found.
    Odd(Box<str>),
}

impl<T> Lenient<T> {
    /// The value, where there is a good one.
    pub(crate) const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Odd(_) => None,
        }
    }

    /// What is wrong with it, if anything.
    pub(crate) fn oddity(&self) -> Option<&str> {
        match self {
            Self::Odd(message) => Some(message),
            Self::Absent | Self::Value(_) => None,
        }
    }

    fn from_result<E: Error>(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(error) => Self::Odd(plain(&error.to_string()).into()),
        }
    }
}

/// Without the place in the input, which serde_json appends and which means nothing to someone who looks at an object, and
/// without Rust's names of types.
fn plain(message: &str) -> String {
    let message = message.rfind(" at line ").map_or(message, |end| &message[..end]);
    message
        .strip_suffix("expected i64")
        .map_or_else(|| message.to_owned(), |start| format!("{start}expected a whole number"))
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor(PhantomData))
    }
}

struct LenientVisitor<T>(PhantomData<T>);

/// Forwards scalars to `T`, which takes or refuses them.
macro_rules! scalars {
    ($($visit:ident($type:ty);)*) => {$(
        fn $visit<E: Error>(self, value: $type) -> Result<Lenient<T>, E> {
            Ok(Lenient::from_result(T::deserialize(IntoDeserializer::<E>::into_deserializer(value))))
        }
    )*};
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for LenientVisitor<T> {
    type Value = Lenient<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    scalars! {
        visit_bool(bool);
        visit_i64(i64);
        visit_u64(u64);
        visit_f64(f64);
        visit_str(&str);
        visit_string(String);
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Lenient::Absent)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Lenient::Absent)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Lenient::deserialize(deserializer)
    }

    /// What `T` refused is read to its end, so that the rest of the input stays readable. Where the input ends early, that
    /// fails as well.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let value = Lenient::from_result(T::deserialize(ListOnly(&mut seq)));
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(value)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut map = Entries { map, owes_value: false };
        let value = Lenient::from_result(T::deserialize(MapAccessDeserializer::new(&mut map)));
        if map.owes_value {
            map.next_value::<IgnoredAny>()?;
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(value)
    }
}

/// A map that knows whether it was left between a key and its value, as derived structs do where a field is repeated.
struct Entries<A> {
    map: A,
    owes_value: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let key = self.map.next_key_seed(seed);
        self.owes_value = matches!(key, Ok(Some(_)));
        key
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.owes_value = false;
        self.map.next_value_seed(seed)
    }
}

/// A list, for types that ask for one. Derived structs would otherwise take it as their fields in order.
struct ListOnly<A>(A);

impl<'de, A: SeqAccess<'de>> Deserializer<'de> for ListOnly<A> {
    type Error = A::Error;

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_seq(self.0)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Seq, &visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, expecting = "an object")]
    struct Inner {
        number: Lenient<i64>,
        list: Lenient<Vec<Lenient<String>>>,
    }

    fn parse(json: &str) -> Vec<Lenient<Inner>> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_value_of_the_wrong_type_costs_only_itself() {
        let read = parse(
            r#"[{"number": "x", "list": ["a", {"b": [1]}, "c"], "unknown": {}}, "text", [1, [2]], {"list": {"a": [1]}, "number": 7}, null]"#,
        );
        assert_eq!(read.len(), 5);
        let first = read[0].value().unwrap();
        assert_eq!(first.number.oddity(), Some("invalid type: string \"x\", expected a whole number"));
        let list = first.list.value().unwrap();
        assert_eq!(list[0].value().unwrap(), "a");
        assert!(list[1].oddity().unwrap().contains("expected a string"));
        assert_eq!(list[2].value().unwrap(), "c");
        assert!(read[1].oddity().unwrap().contains("expected an object"));
        assert_eq!(read[2].oddity(), Some("invalid type: sequence, expected an object"));
        assert_eq!(read[3].value().unwrap().number, Lenient::Value(7));
        assert!(read[3].value().unwrap().list.oddity().unwrap().contains("expected a sequence"));
        assert!(matches!(read[4], Lenient::Absent));
    }

    #[test]
    fn a_field_that_is_repeated_costs_only_its_object() {
        let read = parse(r#"[{"number": 1, "number": {"a": [2]}, "list": []}, {"number": 7}]"#);
        assert_eq!(read[0].oddity(), Some("duplicate field `number`"));
        assert_eq!(read[1].value().unwrap().number, Lenient::Value(7));
    }

    #[test]
    fn input_that_ends_early_is_an_error() {
        let whole = r#"[{"number": 1, "list": ["a", {"b": 1}]}]"#;
        assert_eq!(parse(whole).len(), 1);
        for end in 0..whole.len() {
            assert!(serde_json::from_str::<Vec<Lenient<Inner>>>(&whole[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_number_out_of_range_is_odd() {
        let read = parse(r#"[{"number": 99999999999999999999999}, {"number": 1.5}, {"number": true}]"#);
        assert!(read.iter().all(|inner| inner.value().unwrap().number.oddity().is_some()));
    }
}

//! A list as it arrives: one object after the other, so that it is never in memory as a whole.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::{AsyncBufRead, AsyncBufReadExt as _};
use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::failure::Failure;
use super::watch::{Seen, Sink, Unwanted};
use crate::lenient::Lenient;

/// How many objects wait between who decodes them and who takes them in, at most.
const QUEUE: usize = 64;
/// How many pieces of the answer wait to be decoded, at most; the connection waits meanwhile.
const PIECES: usize = 2;

/// What an answer says of itself, once all of it was read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Head {
    /// The version from which on it can be watched.
    pub(crate) resource_version: Option<String>,
    /// Where the list goes on, if the server does not give all of it at once.
    pub(crate) r#continue: Option<String>,
}

/// Hands over the objects of an answer, in order. Each part of it has to come within `patience`.
pub(super) async fn receive<T: DeserializeOwned + Send + 'static>(
    body: impl AsyncBufRead,
    patience: Duration,
    sink: &mut impl Sink<T>,
) -> Result<Result<Head, Failure>, Unwanted> {
    let (pieces, input) = mpsc::channel(PIECES);
    let (objects, mut decoded) = mpsc::channel(QUEUE);
    // Decoding may take long, and the decoder reads when it likes. Whichever end stops first, the other one does, too.
    let input = Input { pieces: input, piece: Bytes::new() };
    let decoding = spawn_blocking(move || decode(input, |object| objects.blocking_send(object).is_ok()));
    let taking = async move {
        while let Some(object) = decoded.recv().await {
            sink.take(Seen::Object(object)).await?;
        }
        Ok(())
    };
    let (fed, taken) = tokio::join!(feed(body, pieces, patience), taking);
    taken?;
    // What went wrong with the connection explains what the decoder says, not the other way round.
    let head = match (fed, decoding.await) {
        (Err(failure), _) => Err(failure),
        (Ok(()), Ok(Ok(head))) => Ok(head),
        (Ok(()), Ok(Err(error))) => Err(Failure::List(kube::Error::SerdeError(error))),
        (Ok(()), Err(stopped)) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The program is about to end.
            Err(_cancelled) => Err(Failure::Ended),
        },
    };
    Ok(head)
}

async fn feed(body: impl AsyncBufRead, pieces: mpsc::Sender<Bytes>, patience: Duration) -> Result<(), Failure> {
    let mut body = pin!(body);
    loop {
        let next = tokio::select! {
            next = timeout(patience, body.fill_buf()) => next,
            // The decoder has had enough, and says why.
            () = pieces.closed() => return Ok(()),
        };
        let piece = match next {
            Ok(Ok([])) => return Ok(()),
            Ok(Ok(piece)) => Bytes::copy_from_slice(piece),
            Ok(Err(error)) => return Err(Failure::List(kube::Error::ReadEvents(error))),
            Err(_elapsed) => return Err(Failure::Silent(patience)),
        };
        body.consume_unpin(piece.len());
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
}

/// The pieces of an answer, for a thread that reads them.
struct Input {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Decodes what the API server answers to the request for a list, and hands each object over, until that returns false.
///
/// # Errors
/// It cannot be read to its end, or is no list. Objects that came before have been handed over.
pub(crate) fn decode<T: DeserializeOwned>(
    input: impl Read,
    mut each: impl FnMut(Lenient<T>) -> bool,
) -> serde_json::Result<Head> {
    // It asks for one byte after the other, which the standard library's buffer gives fastest.
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(input));
    let head = json.deserialize_map(ListVisitor(Items { each: &mut each, object: PhantomData }))?;
    json.end()?;
    Ok(head)
}

struct ListVisitor<'a, T, F>(Items<'a, T, F>);

/// Hands over the objects of a list.
struct Items<'a, T, F> {
    each: &'a mut F,
    object: PhantomData<fn() -> T>,
}

impl<'de, T: DeserializeOwned, F: FnMut(Lenient<T>) -> bool> Visitor<'de> for ListVisitor<'_, T, F> {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let (mut head, mut items) = (None, Some(self.0));
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => head = Some(map.next_value()?),
                // Twice the same field is what no server sends.
                "items" => map.next_value_seed(items.take().ok_or_else(|| A::Error::duplicate_field("items"))?)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        // What has no items is something else, such as the greeting of a proxy, and must not pass for an empty list.
        let head = head.filter(|_| items.is_none());
        head.ok_or_else(|| A::Error::custom("not a list: `metadata` or `items` is missing"))
    }
}

impl<'de, T: DeserializeOwned, F: FnMut(Lenient<T>) -> bool> DeserializeSeed<'de> for Items<'_, T, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: DeserializeOwned, F: FnMut(Lenient<T>) -> bool> Visitor<'de> for Items<'_, T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence of objects")
    }

    /// Go's way to write an empty list.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(object) = seq.next_element()? {
            if !(self.each)(object) {
                return Err(A::Error::custom("nobody wants to know any more"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slim::Service;

    fn read(json: &str) -> Result<(Vec<String>, Head), String> {
        let mut names = Vec::new();
        let each = |object: Lenient<Service>| {
            let meta = object.value().and_then(|service| service.metadata.value());
            names.push(meta.and_then(|meta| meta.name.value()).cloned().unwrap_or_default());
            true
        };
        let head = decode(json.as_bytes(), each).map_err(|error| error.to_string())?;
        Ok((names, head))
    }

    #[test]
    fn fields_may_come_in_any_order_and_objects_may_be_odd() {
        let json = r#"{"kind": "ServiceList", "items": [{"metadata": {"name": "a"}}, 7, {"metadata": {"name": "b"}}],
                       "metadata": {"resourceVersion": "12", "continue": ""}}"#;
        let (names, head) = read(json).unwrap();
        assert_eq!(names, ["a", "", "b"]);
        assert_eq!(head.resource_version.as_deref(), Some("12"));
        assert_eq!(read(r#"{"metadata": {}, "items": null}"#).unwrap().0, [""; 0]);
    }

    #[test]
    fn what_is_no_whole_list_is_an_error() {
        let whole = r#"{"metadata": {"resourceVersion": "12"}, "items": [{"metadata": {"name": "a"}}]}"#;
        assert!(read(whole).is_ok());
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        for other in ["[]", "{}", r#"{"message": "sign in"}"#, r#"{"items": []}"#, r#"{"metadata": {}}"#, "<html>"] {
            assert!(read(other).is_err(), "{other}");
        }
        assert!(read(&format!("{whole}x")).is_err());
        assert!(read(r#"{"metadata": {}, "items": [], "items": []}"#).is_err());
    }
}

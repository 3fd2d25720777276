//! A model on its way: the bytes of its Keras file, in parts where it is large.

use std::collections::BTreeMap;

use jiff::Timestamp;
use thiserror::Error;

use super::{Header, Kind, Message, message_id, sha256};

/// The largest part, in bytes: RabbitMQ 4 takes messages of 16 MiB.
pub const PART_BYTES: usize = 8 << 20;

/// The largest model that is collected, in bytes. Ours have about 5.7 MB.
const MAX_MODEL_BYTES: u64 = 1 << 30;

/// The most parts of a model.
const MAX_PARTS: u32 = 10_000;

/// The longest name of a model, in bytes.
pub(super) const MAX_NAME: usize = 100;

/// The messages that carry a model, in order. The id of each follows from name, content and number
/// of the part.
///
/// `most` is the largest body that the broker takes, where it takes less than [`PART_BYTES`].
pub fn model_messages<'a>(
    correlation_id: &str,
    name: &str,
    at: Timestamp,
    file: &'a [u8],
    most: Option<usize>,
) -> Vec<Message<'a>> {
    let most = most.unwrap_or(PART_BYTES).clamp(1, PART_BYTES);
    let sum = sha256(file);
    // A file without a byte is one part too.
    let chunks: Vec<&[u8]> = if file.is_empty() { vec![file] } else { file.chunks(most).collect() };
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let parts = chunks.len();
    let message = |(index, chunk): (usize, &'a [u8])| {
        let part = format!("{}/{parts}", index + 1);
        Message {
            kind: Kind::Model,
            message_id: message_id(
                correlation_id,
                Kind::Model,
                &[name.as_bytes(), sum.as_bytes(), part.as_bytes()],
            ),
            at,
            content_type: "application/x-hdf5",
            headers: vec![
                ("name", name.into()),
                ("sha256", sum.as_str().into()),
                ("size", Header::Number(number(file.len()))),
                ("part", Header::Number(number(index + 1))),
                ("parts", Header::Number(number(parts))),
            ],
            body: chunk.into(),
        }
    };
    chunks.into_iter().enumerate().map(message).collect()
}

/// What the headers of a `job.model` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPart {
    /// The model's name, such as `Model 0`.
    pub name: String,
    /// SHA-256 of the whole file, hexadecimal.
    pub sha256: String,
    /// Size of the whole file, in bytes.
    pub size: u64,
    /// Number of this part, from 1.
    pub part: u32,
    /// Number of parts.
    pub parts: u32,
}

/// A part that can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PartError {
    /// A header is absent or can't be its value.
    #[error("the header \"{0}\" of a job.model is missing or wrong")]
    Header(&'static str),
    /// A part that does not belong to the others.
    #[error("part {part} of {parts} of \"{name}\" does not fit the parts before it")]
    Other {
        /// The model.
        name: String,
        /// The part.
        part: u32,
        /// The number of parts that it tells.
        parts: u32,
    },
    /// All parts are there and the file is another one.
    #[error("\"{name}\" has arrived with another SHA-256 or size than its headers say")]
    Content {
        /// The model.
        name: String,
    },
}

impl ModelPart {
    /// Reads the headers; `get` gives the value of the header of this name.
    ///
    /// # Errors
    /// When one is missing, or out of its range.
    pub fn read(get: impl Fn(&str) -> Option<Header>) -> Result<Self, PartError> {
        let text = |name: &'static str| match get(name) {
            Some(Header::Text(text)) => Ok(text),
            _ => Err(PartError::Header(name)),
        };
        let number = |name: &'static str, most: u64| match get(name) {
            Some(Header::Number(n)) => {
                u64::try_from(n).ok().filter(|n| *n <= most).ok_or(PartError::Header(name))
            }
            _ => Err(PartError::Header(name)),
        };
        let count = |name: &'static str| {
            let n = number(name, MAX_PARTS.into())?;
            u32::try_from(n).ok().filter(|n| *n > 0).ok_or(PartError::Header(name))
        };
        let (name, sha256) = (text("name")?, text("sha256")?);
        if !(1..=MAX_NAME).contains(&name.len()) || name.chars().any(char::is_control) {
            return Err(PartError::Header("name"));
        }
        if sha256.len() != 64 || !sha256.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(PartError::Header("sha256"));
        }
        let (size, part, parts) =
            (number("size", MAX_MODEL_BYTES)?, count("part")?, count("parts")?);
        if part > parts {
            return Err(PartError::Header("part"));
        }
        Ok(Self { name, sha256, size, part, parts })
    }
}

/// A model that has arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Its name.
    pub name: String,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Its file.
    pub file: Vec<u8>,
}

/// Puts models together from their parts, in whatever order these come and however often.
#[derive(Debug, Default)]
pub struct Collector {
    open: BTreeMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    sha256: String,
    size: u64,
    parts: u32,
    held: u64,
    bodies: BTreeMap<u32, Vec<u8>>,
}

impl Collector {
    /// Takes a part; gives the model when it is the last one that was missing.
    ///
    /// A model of the same name with other content replaces what had come of it: a job that was
    /// requeued trains its layer again.
    ///
    /// # Errors
    /// When the part does not fit. What had come before is forgotten: the sender sends all of it
    /// again, or nothing.
    pub fn take(&mut self, part: &ModelPart, body: &[u8]) -> Result<Option<Collected>, PartError> {
        let same = |open: &Open| {
            (&open.sha256, open.size, open.parts) == (&part.sha256, part.size, part.parts)
        };
        if self.open.get(&part.name).is_none_or(|open| !same(open)) {
            let open = Open {
                sha256: part.sha256.clone(),
                size: part.size,
                parts: part.parts,
                held: 0,
                bodies: BTreeMap::new(),
            };
            self.open.insert(part.name.clone(), open);
        }
        let Some(open) = self.open.get_mut(&part.name) else { return Ok(None) };
        if let Some(earlier) = open.bodies.get(&part.part) {
            if earlier == body {
                return Ok(None); // a copy
            }
        } else {
            open.held += body.len() as u64;
            open.bodies.insert(part.part, body.to_vec());
        }
        if open.bodies.get(&part.part).is_some_and(|held| held != body) || open.held > open.size {
            self.open.remove(&part.name);
            let (name, part, parts) = (part.name.clone(), part.part, part.parts);
            return Err(PartError::Other { name, part, parts });
        }
        if open.bodies.len() < open.parts as usize {
            return Ok(None);
        }
        let Some(open) = self.open.remove(&part.name) else { return Ok(None) };
        let mut file = Vec::with_capacity(usize::try_from(open.held).unwrap_or_default());
        open.bodies.into_values().for_each(|body| file.extend_from_slice(&body));
        if file.len() as u64 != open.size || sha256(&file) != open.sha256 {
            return Err(PartError::Content { name: part.name.clone() });
        }
        Ok(Some(Collected { name: part.name.clone(), sha256: open.sha256, file }))
    }

    /// The names of the models of which parts are missing.
    pub fn unfinished(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(message: &Message<'_>) -> Result<ModelPart, PartError> {
        ModelPart::read(|name| {
            message.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
        })
    }

    fn messages(file: &[u8], most: Option<usize>) -> Vec<Message<'_>> {
        model_messages("c", "Model 0", Timestamp::UNIX_EPOCH, file, most)
    }

    #[test]
    fn a_model_of_the_usual_size_is_one_message_and_a_large_one_has_parts_of_8_mib() {
        for (size, parts) in [
            (0, 1),
            (1, 1),
            (5_700_000, 1),
            (PART_BYTES, 1),
            (PART_BYTES + 1, 2),
            (2 * PART_BYTES, 2),
            (20_000_000, 3),
        ] {
            let file = vec![7; size];
            let messages = messages(&file, None);
            assert_eq!(messages.len(), parts, "{size}");
            assert!(messages.iter().all(|m| m.body.len() <= PART_BYTES));
            assert_eq!(messages.iter().map(|m| m.body.len()).sum::<usize>(), size);
            let mut ids: Vec<_> = messages.iter().map(|m| m.message_id.clone()).collect();
            ids.dedup();
            assert_eq!(ids.len(), parts);
        }
        assert_eq!(messages(&[7; 100], Some(30)).len(), 4);
        assert_eq!(
            messages(&[7; 100], Some(0)).len(),
            100,
            "a limit of nothing is no division by it"
        );
        assert_eq!(messages(&vec![7; PART_BYTES + 1], Some(usize::MAX)).len(), 2);
    }

    #[test]
    fn the_id_of_a_part_depends_on_name_content_number_and_division() {
        let id = |name: &str, file: &[u8], most| {
            model_messages("c", name, Timestamp::now(), file, most)[0].message_id.clone()
        };
        assert_eq!(id("Model 0", b"ab", None), id("Model 0", b"ab", None));
        assert_ne!(id("Model 0", b"ab", None), id("Model 1", b"ab", None));
        assert_ne!(id("Model 0", b"ab", None), id("Model 0", b"ac", None));
        assert_ne!(id("Model 0", b"ab", None), id("Model 0", b"ab", Some(1)));
    }

    #[test]
    fn headers_that_are_missing_or_wrong_are_named() {
        let file = [1, 2, 3];
        let good = messages(&file, None).remove(0);
        assert!(read(&good).is_ok());
        let text = |t: &str| Some(Header::Text(t.into()));
        let number = |n| Some(Header::Number(n));
        let cases = [
            ("name", None),
            ("name", number(1)),
            ("name", text("")),
            ("name", text("a\nb")),
            ("name", text(&"x".repeat(MAX_NAME + 1))),
            ("sha256", None),
            ("sha256", text("abc")),
            ("sha256", text(&"G".repeat(64))),
            ("sha256", text(&"A".repeat(64))),
            ("size", None),
            ("size", number(-1)),
            ("size", number(i64::MAX)),
            ("size", text("3")),
            ("part", number(0)),
            ("part", number(2)),
            ("part", number(i64::MIN)),
            ("parts", number(0)),
            ("parts", number(10_001)),
            ("parts", None),
        ];
        for (name, value) in cases {
            let mut bad = good.clone();
            bad.headers.retain(|(n, _)| *n != name);
            bad.headers.extend(value.clone().map(|value| (name, value)));
            assert_eq!(read(&bad), Err(PartError::Header(name)), "{name} {value:?}");
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let file = [1, 2, 3, 4];
        let all = messages(&file, Some(2));
        let first = read(&all[0]).unwrap();
        let mut collector = Collector::default();
        assert_eq!(collector.take(&first, &all[0].body).unwrap(), None);
        assert_eq!(collector.take(&first, &all[0].body).unwrap(), None, "a copy changes nothing");
        assert_eq!(collector.unfinished().collect::<Vec<_>>(), ["Model 0"]);
        assert!(matches!(collector.take(&first, &[9, 9]), Err(PartError::Other { .. })));
        assert_eq!(collector.unfinished().count(), 0);
        assert!(
            matches!(collector.take(&first, &[1; 5]), Err(PartError::Other { .. })),
            "more than the size"
        );
        collector.take(&first, &[9, 9]).unwrap();
        let second = read(&all[1]).unwrap();
        assert!(matches!(collector.take(&second, &all[1].body), Err(PartError::Content { .. })));
        // Another content under the same name starts anew.
        collector.take(&first, &all[0].body).unwrap();
        let other = [5];
        let message = messages(&other, None).remove(0);
        let whole = collector.take(&read(&message).unwrap(), &message.body).unwrap().unwrap();
        assert_eq!(whole.file, [5]);
        assert_eq!(collector.unfinished().count(), 0);
    }

    proptest! {
        /// In any order and with copies: a model comes out once for each time that all its parts
        /// have come, whole.
        #[test]
        fn parts_in_any_order_and_number_are_the_file_again(
            file in prop::collection::vec(any::<u8>(), 0..300),
            most in 1usize..64,
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let all = messages(&file, Some(most));
            let mut collector = Collector::default();
            let mut whole = 0;
            for message in order.iter().map(|at| at.get(&all)).chain(&all).chain(&all) {
                let taken = collector.take(&read(message).unwrap(), &message.body);
                if let Some(model) = taken.unwrap() {
                    prop_assert_eq!(&model.file, &file);
                    prop_assert_eq!(&model.sha256, &sha256(&file));
                    whole += 1;
                }
            }
            prop_assert!(whole >= 1);
        }

        #[test]
        fn hostile_parts_never_give_what_their_headers_do_not_say(
            parts in prop::collection::vec(
                (0u32..4, 0u32..4, 0u64..9, prop::collection::vec(any::<u8>(), 0..5)), 0..30),
        ) {
            let mut collector = Collector::default();
            for (part, parts, size, body) in parts {
                let part = ModelPart { name: "a".into(), sha256: sha256(&body), size, part, parts };
                if let Ok(Some(model)) = collector.take(&part, &body) {
                    prop_assert_eq!(sha256(&model.file), part.sha256);
                    prop_assert_eq!(model.file.len() as u64, size);
                }
            }
        }
    }
}

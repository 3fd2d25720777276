//! Where the bytes of an image come from.

use std::io::{BufReader, Read, Seek};

/// One type for all sources: decoders are generic, and one copy of them is enough.
pub(super) type Source<'a> = BufReader<Box<dyn ReadSeek + 'a>>;

pub(super) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// Reads from a file, or from bytes in memory.
pub(super) fn source<'a>(bytes: impl Read + Seek + 'a) -> Source<'a> {
    BufReader::new(Box::new(bytes))
}

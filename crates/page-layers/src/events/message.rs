//! The few protocol-buffer messages of an event file: TensorFlow's `Event` with a version, the
//! start of a session, or scalars.

/// The version that readers look for in a file's first event.
const VERSION: &str = "brain.Event:2";

/// Wire types of protocol buffers: a number of variable length, eight bytes, bytes after their
/// length, four bytes.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message as it grows.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3 | VARINT);
        self.varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.varint(field << 3 | FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

/// The first event of a file. Times are seconds since 1970.
pub(super) fn version(time: f64) -> Vec<u8> {
    Message::default().double(1, time).bytes(3, VERSION.as_bytes()).0
}

/// Says that a session starts at `step`: readers drop what an earlier session has written for this
/// step and later ones.
pub(super) fn start(time: f64, step: u64) -> Vec<u8> {
    let log = Message::default().number(1, 1);
    Message::default().double(1, time).number(2, step).bytes(7, &log.0).0
}

/// Values with their names at a step.
pub(super) fn scalars(time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for (name, value) in values {
        let value = Message::default().bytes(1, name.as_bytes()).float(2, *value as f32);
        summary = summary.bytes(1, &value.0);
    }
    Message::default().double(1, time).number(2, step).bytes(5, &summary.0).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_field_by_field() {
        // 0x09: field 1 as eight bytes, 1.5 is 0x3ff8…; 0x1a: field 3 with its length.
        let expected =
            [&[0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x1a, 13][..], b"brain.Event:2"].concat();
        assert_eq!(version(1.5), expected);
        let expected = [0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 0xac, 0x02, 0x3a, 2, 0x08, 1];
        assert_eq!(start(1.5, 300), expected);
        let head = [0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 2];
        let value = [0x0a, 8, 0x0a, 1, b'x', 0x15, 0, 0, 0, 0x3f];
        assert_eq!(
            scalars(1.5, 2, &[("x", 0.5), ("x", 0.5)]),
            [&head[..], &[0x2a, 20], &value, &value].concat()
        );
    }
}

//! The framing of an event file (TensorFlow's TFRecord). A record is: its length, a checksum of the
//! length, the data, a checksum of the data. All numbers are little-endian.

/// Added to a rotated checksum, so that data which contain their own checksum don't give a constant
/// one.
const MASK: u32 = 0xa282_ead8;

/// A record around `data`.
pub(super) fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked(data).to_le_bytes());
    record
}

/// CRC-32C, rotated right by 15 bits, plus the mask.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_rotated_and_masked() {
        // RFC 3720, B.4: that of 32 zeros is 0x8a9136aa, which rotated is 0x6d551522.
        assert_eq!(masked(&[0; 32]), 0x6d55_1522u32.wrapping_add(MASK));
    }

    #[test]
    fn a_record_is_framed_as_tensorflow_frames_it() {
        // What tf.io.TFRecordWriter 2.15.1 writes for b"hello".
        let expected = "0500000000000000eab2043e68656c6c6fbb1f1c19";
        let shown: String = frame(b"hello").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, expected);
    }
}

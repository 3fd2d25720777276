//! What a broker says about itself before the login.

use std::io::{self, Read, Write};

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, connection::AMQPMethod};
use amq_protocol::types::{AMQPValue, FieldTable};

use base::text::printable;

/// With these bytes a client opens an AMQP 0-9-1 connection.
const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// Bytes before a frame's payload: type, channel, size. One more follows it.
const FRAME_HEADER: usize = 7;
/// The largest first frame that is read; RabbitMQ's has about 500 bytes.
const MOST: u32 = 64 * 1024;

/// Product and version of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Such as `RabbitMQ`.
    pub product: String,
    /// Such as `4.1.2`.
    pub version: String,
}

impl Hello {
    /// The first two numbers of the version.
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// The largest message that the broker takes by default: 16 MiB from 4.0, 128 MiB from 3.8.
    /// `None` for older versions and other products.
    pub fn message_limit(&self) -> Option<u64> {
        match self.numbers().filter(|_| self.product == "RabbitMQ")? {
            (4.., _) => Some(16 << 20),
            (3, 8..) => Some(128 << 20),
            _ => None,
        }
    }
}

/// Asks for the first frame of a connection, `connection.start`.
///
/// # Errors
/// When the connection breaks, or what answers does not speak AMQP 0-9-1.
pub fn hello(stream: &mut (impl Read + Write)) -> io::Result<Hello> {
    stream.write_all(HEADER)?;
    stream.flush()?;
    let mut frame = vec![0; FRAME_HEADER];
    stream.read_exact(&mut frame)?;
    let no_amqp = || io::Error::other("what answers does not speak AMQP 0-9-1");
    let size = <[u8; 4]>::try_from(&frame[3..]).map(u32::from_be_bytes).unwrap_or(u32::MAX);
    if frame[..3] != [1, 0, 0] || size > MOST {
        return Err(no_amqp());
    }
    let mut rest = vec![0; size as usize + 1];
    stream.read_exact(&mut rest)?;
    frame.extend(rest);
    match parse_frame(&frame[..]) {
        Ok((_, AMQPFrame::Method(_, AMQPClass::Connection(AMQPMethod::Start(start))))) => {
            Ok(Hello {
                product: text(&start.server_properties, "product"),
                version: text(&start.server_properties, "version"),
            })
        }
        _ => Err(no_amqp()),
    }
}

fn text(table: &FieldTable, name: &str) -> String {
    match table.inner().get(name) {
        Some(AMQPValue::LongString(text)) => printable(&text.to_string(), 60),
        Some(AMQPValue::ShortString(text)) => printable(text.as_str(), 60),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(io::Cursor<Vec<u8>>);

    impl Read for Says {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Says {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_no_broker_is_told_from_one() {
        let says = |bytes: &[u8]| hello(&mut Says(io::Cursor::new(bytes.to_vec())));
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"AMQP\x00\x00\x09\x01",
            b"\x01\x00\x00\xff\xff\xff\xff",
        ] {
            assert!(
                says(other).unwrap_err().to_string().contains("does not speak AMQP"),
                "{other:?}"
            );
        }
        assert_eq!(says(b"\x01\x00").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(says(b"\x01\x00\x00\x00\x00\x00\x01\x00\xce").is_err());
    }

    #[test]
    fn the_limit_of_a_message_follows_from_the_version() {
        let limit = |product: &str, version: &str| {
            Hello { product: product.into(), version: version.into() }
                .message_limit()
                .map(|n| n >> 20)
        };
        assert_eq!(limit("RabbitMQ", "3.7.28"), None);
        assert_eq!(
            (limit("RabbitMQ", "3.8.0"), limit("RabbitMQ", "3.13.7")),
            (Some(128), Some(128))
        );
        assert_eq!(
            (limit("RabbitMQ", "4.0.5"), limit("RabbitMQ", "4.3.0-rc.1")),
            (Some(16), Some(16))
        );
        assert_eq!((limit("Other", "4.0"), limit("RabbitMQ", "")), (None, None));
    }
}

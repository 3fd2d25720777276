//! The addresses of the broker and of Rodan: a host name, or a URL.

use std::fmt;

use thiserror::Error;
use url::Url;

/// Where RabbitMQ listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// True for `amqps`.
    pub tls: bool,
    /// Virtual host; `/` unless the URL has a path.
    pub vhost: String,
}

/// Rodan's address: scheme, host and port, nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RodanAddress(Url);

/// An address that can't be used. The error never repeats the text, because somebody may have put a
/// password into it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not a host name and not a URL.
    #[error("is not a host name, host:port or URL")]
    Invalid,
    /// A scheme other than the ones that are understood.
    #[error("must begin with {0}, or be a bare host name")]
    Scheme(&'static str),
    /// User or password stand in the URL.
    #[error("must not hold a user name or a password: they have variables of their own")]
    UserInfo,
    /// A path, query or fragment that has no meaning here.
    #[error("must be a scheme, a host and a port only, without a path, a query or a fragment")]
    Path,
    /// A query or fragment behind a broker's vhost.
    #[error(
        "must end with the vhost: leave out what begins with ? or #, which has no meaning here"
    )]
    Query,
    /// No TLS, although the site requires it.
    #[error("has no TLS, which REQUIRE_TLS=1 asks for; write {0}")]
    Plain(String),
}

/// Whether a connection to this host stays on this machine.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Takes `host` or `host:port` as `scheme://host:port`, and a URL as it is.
fn parse(text: &str, bare_scheme: &str) -> Result<Url, AddressError> {
    let text = text.trim();
    let url = if text.contains("://") {
        Url::parse(text)
    } else {
        Url::parse(&format!("{bare_scheme}://{text}"))
    };
    let url = url.map_err(|_| AddressError::Invalid)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError::UserInfo);
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(AddressError::Invalid);
    }
    Ok(url)
}

impl BrokerAddress {
    /// Reads `host` (port 5672), `host:port`, `amqp://host[:port][/vhost]` or `amqps://…` (port
    /// 5671).
    ///
    /// # Errors
    /// When the text is none of these or holds credentials.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let url = parse(text, "amqp")?;
        let (tls, default_port) = match url.scheme() {
            "amqp" => (false, 5672),
            "amqps" => (true, 5671),
            _ => return Err(AddressError::Scheme("amqp:// or amqps://")),
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err(AddressError::Query);
        }
        let path = url.path().strip_prefix('/').unwrap_or(url.path());
        let vhost = match decode(path).ok_or(AddressError::Invalid)? {
            name if name.is_empty() => "/".to_owned(),
            name => name,
        };
        let host = url
            .host_str()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(Self { host, port: url.port().unwrap_or(default_port), tls, vhost })
    }

    /// Refuses an address without TLS, loopback or not.
    ///
    /// # Errors
    /// When the address has no TLS; the text says what to write instead.
    pub fn require_tls(self) -> Result<Self, AddressError> {
        if self.tls { Ok(self) } else { Err(AddressError::Plain(self.with_tls())) }
    }

    /// Whether passwords and jobs would cross a network unencrypted.
    pub fn is_exposed(&self) -> bool {
        !self.tls && !is_loopback(&self.host)
    }

    /// The same host with TLS, without the port, which would be that of plain AMQP.
    pub fn with_tls(&self) -> String {
        let host = &self.host;
        if host.contains(':') { format!("amqps://[{host}]") } else { format!("amqps://{host}") }
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({})", self.host, self.port, if self.tls { "TLS" } else { "no TLS" })
    }
}

/// Percent-decodes a URL path; `None` when the result is not UTF-8.
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

impl RodanAddress {
    /// Reads `host` (plain HTTP, port 80), `host:port`, `http://…` or `https://…`.
    ///
    /// # Errors
    /// When the text is none of these, holds credentials, or has a path.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let url = parse(text, "http")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressError::Scheme("http:// or https://"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(AddressError::Path);
        }
        Ok(Self(url))
    }

    /// Refuses plain HTTP, loopback or not.
    ///
    /// # Errors
    /// When the address has no TLS; the text says what to write instead.
    pub fn require_tls(self) -> Result<Self, AddressError> {
        if self.0.scheme() == "https" {
            Ok(self)
        } else {
            Err(AddressError::Plain(self.with_tls()))
        }
    }

    /// Whether the password and the token would cross a network unencrypted.
    pub fn is_exposed(&self) -> bool {
        self.0.scheme() != "https" && !is_loopback(self.0.host_str().unwrap_or_default())
    }

    /// The same host with TLS, without the port, which would be that of plain HTTP.
    pub fn with_tls(&self) -> String {
        format!("https://{}", self.0.host_str().unwrap_or_default())
    }

    /// The address as a URL that ends in `/`.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for RodanAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(text: &str) -> (String, u16, bool, String) {
        let a = BrokerAddress::parse(text).unwrap();
        (a.host, a.port, a.tls, a.vhost)
    }

    #[test]
    fn broker_addresses_in_all_their_forms() {
        let expect =
            |host: &str, port, tls, vhost: &str| (host.to_owned(), port, tls, vhost.to_owned());
        assert_eq!(broker("rabbit"), expect("rabbit", 5672, false, "/"));
        assert_eq!(broker(" rabbit:5673 "), expect("rabbit", 5673, false, "/"));
        assert_eq!(broker("[::1]:1"), expect("::1", 1, false, "/"));
        assert_eq!(broker("amqp://10.0.0.1"), expect("10.0.0.1", 5672, false, "/"));
        assert_eq!(broker("amqps://rabbit.example/"), expect("rabbit.example", 5671, true, "/"));
        assert_eq!(broker("amqps://rabbit:1/%2f"), expect("rabbit", 1, true, "/"));
        assert_eq!(broker("amqp://rabbit/rodan%20x"), expect("rabbit", 5672, false, "rodan x"));
    }

    #[test]
    fn broker_addresses_that_are_refused() {
        for (text, error) in [
            ("", AddressError::Invalid),
            ("amqp://", AddressError::Invalid),
            ("http://rabbit", AddressError::Scheme("amqp:// or amqps://")),
            ("amqp://u:p@rabbit", AddressError::UserInfo),
            ("u@rabbit", AddressError::UserInfo),
            ("amqp://rabbit/?heartbeat=3", AddressError::Query),
            ("amqp://rabbit/%2F?heartbeat=10", AddressError::Query),
            ("amqp://rabbit?heartbeat=10", AddressError::Query),
            ("amqps://rabbit/vhost#1", AddressError::Query),
            ("rabbit#1", AddressError::Query),
            ("rabbit:99999", AddressError::Invalid),
            ("amqp://rabbit/%zz", AddressError::Invalid),
        ] {
            assert_eq!(BrokerAddress::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn rodan_addresses() {
        let show = |text| RodanAddress::parse(text).map(|a| a.to_string());
        assert_eq!(show("rodan.example"), Ok("http://rodan.example/".into()));
        assert_eq!(show("rodan:8000"), Ok("http://rodan:8000/".into()));
        assert_eq!(show("https://Rodan.example"), Ok("https://rodan.example/".into()));
        assert_eq!(show("https://rodan.example/prefix"), Err(AddressError::Path));
        assert_eq!(show("ftp://rodan"), Err(AddressError::Scheme("http:// or https://")));
        assert_eq!(show("https://me:secret@rodan"), Err(AddressError::UserInfo));
    }

    #[test]
    fn only_plain_addresses_of_other_machines_are_exposed() {
        for (text, exposed) in [
            ("rabbit", true),
            ("10.0.0.1:5672", true),
            ("localhost.example", true),
            ("localhost", false),
            ("127.0.0.2", false),
            ("[::1]", false),
        ] {
            assert_eq!(BrokerAddress::parse(text).unwrap().is_exposed(), exposed, "{text}");
            assert_eq!(RodanAddress::parse(text).unwrap().is_exposed(), exposed, "{text}");
        }
        assert!(!BrokerAddress::parse("amqps://rabbit").unwrap().is_exposed());
        assert!(!RodanAddress::parse("https://rodan").unwrap().is_exposed());
    }

    #[test]
    fn what_to_write_instead_of_a_plain_address() {
        let broker = |text| BrokerAddress::parse(text).unwrap().require_tls().map(|a| a.host);
        assert_eq!(broker("[fd00::1]:5672"), Err(AddressError::Plain("amqps://[fd00::1]".into())));
        assert_eq!(broker("amqps://rabbit"), Ok("rabbit".into()));
        let rodan = |text| RodanAddress::parse(text).unwrap().require_tls().map(|a| a.to_string());
        assert_eq!(rodan("rodan:8000"), Err(AddressError::Plain("https://rodan".into())));
        assert_eq!(rodan("https://rodan"), Ok("https://rodan/".into()));
    }
}

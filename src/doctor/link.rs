//! The connection to a server: its name, its port, its certificate.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::row::{Rows, apart, within};
use base::tls::{self, Identity, Refusal};
use contract::broker::{Hello, hello};

/// How long a name server, a connection and each answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// A certificate that ends within this time should be renewed.
const DAYS_LEFT: i64 = 14;

/// One server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// The variable that names it.
    pub(super) variable: &'static str,
    /// Host name or address, without brackets.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
    /// Whether the connection uses TLS.
    pub(super) tls: bool,
    /// Whether passwords would cross a network in the clear.
    pub(super) is_exposed: bool,
    /// What to write instead of an address without TLS.
    pub(super) with_tls: String,
    /// Whether it is a broker, which names its product and version.
    pub(super) amqp: bool,
    /// The certificate for a server that asks for one.
    pub(super) identity: Option<Identity>,
}

/// Whether the server was reached, and what it said.
#[derive(Debug)]
pub(super) struct Reached {
    /// False if the connection fails, so that nothing else can work.
    pub(super) is_open: bool,
    /// What a broker said of itself.
    pub(super) hello: Option<Hello>,
}

/// A connection that can be read and written.
trait Stream: io::Read + io::Write {}
impl<T: io::Read + io::Write> Stream for T {}

/// The result of a TLS handshake.
struct Chain {
    version: String,
    /// When the first certificate of the chain expires.
    end: Option<Timestamp>,
}

/// The result of a conversation with the server.
struct Spoken {
    chain: Option<Result<Chain, Refusal>>,
    hello: Option<Result<Hello, String>>,
}

/// Whether the address keeps the password from others.
pub(super) fn address(rows: &mut Rows, server: &Server) {
    let (host, port) = (&server.host, server.port);
    if server.is_exposed {
        let advice = format!("set {} to {}: the server has to offer TLS", server.variable, server.with_tls);
        rows.fail(
            "address",
            format!("{host}:{port} without TLS: the password can be read on the way"),
            advice,
        );
    } else if !server.tls {
        let advice = format!(
            "where compute nodes are other machines, {} has to be a name that they can reach, with TLS",
            server.variable
        );
        rows.warn("address", format!("{host}:{port} is this machine itself, without TLS"), advice);
    } else {
        rows.pass("address", format!("{host}:{port}, with TLS"));
    }
}

/// The rows `DNS`, `TCP` and `TLS`.
pub(super) async fn reach(rows: &mut Rows, server: &Server) -> Reached {
    let closed = Reached { is_open: false, hello: None };
    let Some(addresses) = look_up(rows, server).await else {
        rows.skip_all(&["TCP", "TLS"], "without an address there is nothing to connect to");
        return closed;
    };
    let Some(stream) = connect(rows, server, &addresses).await else {
        rows.skip("TLS", "without a connection there is nothing to see");
        return closed;
    };
    if !server.tls {
        rows.skip("TLS", "the address asks for none");
        if !server.amqp {
            return Reached { is_open: true, hello: None };
        }
    }
    let wants = server.clone();
    let Some(spoken) = apart(DEADLINE * 3, move || speak(stream, &wants)).await else {
        rows.fail("TLS", "the server takes the connection and says nothing", "look at the server's own log");
        return closed;
    };
    let mut is_open = true;
    match spoken.chain {
        Some(Ok(chain)) => certificate(rows, server, &chain),
        Some(Err(error)) => {
            is_open = false;
            rows.fail("TLS", error.what, error.advice);
        }
        None => {}
    }
    let hello = match spoken.hello {
        Some(Ok(hello)) => Some(hello),
        Some(Err(error)) if is_open => {
            is_open = false;
            rows.fail("AMQP", error, format!("compare the port in {} with the broker's", server.variable));
            None
        }
        _ => None,
    };
    Reached { is_open, hello }
}

async fn look_up(rows: &mut Rows, server: &Server) -> Option<Vec<SocketAddr>> {
    let host = server.host.clone();
    if let Ok(address) = host.parse::<IpAddr>() {
        rows.pass("DNS", "an address: there is no name to look up");
        return Some(vec![SocketAddr::new(address, server.port)]);
    }
    let advice = format!("check the name in {}, and this machine's /etc/resolv.conf", server.variable);
    let looked_up = within(DEADLINE, tokio::net::lookup_host((host.as_str(), server.port))).await;
    let found: Vec<SocketAddr> = match looked_up {
        None => {
            rows.fail("DNS", format!("no answer about {host} within {} s", DEADLINE.as_secs()), advice);
            return None;
        }
        Some(Err(error)) => {
            rows.fail("DNS", format!("{host} has no address: {error}"), advice);
            return None;
        }
        Some(Ok(found)) => found.collect(),
    };
    let mut shown: Vec<String> = found.iter().take(3).map(|address| address.ip().to_string()).collect();
    if found.len() > shown.len() {
        shown.push("…".to_owned());
    }
    rows.pass("DNS", format!("{host} is {}", shown.join(", ")));
    Some(found)
}

async fn connect(rows: &mut Rows, server: &Server, addresses: &[SocketAddr]) -> Option<TcpStream> {
    let mut last = "no address".to_owned();
    for address in addresses {
        let begun = Instant::now();
        match within(DEADLINE, tokio::net::TcpStream::connect(address)).await {
            None => last = format!("no answer from {address} within {} s", DEADLINE.as_secs()),
            Some(Err(error)) => last = format!("{address}: {error}"),
            Some(Ok(stream)) => {
                rows.pass("TCP", format!("connected to {address} in {} ms", begun.elapsed().as_millis()));
                return stream.into_std().ok();
            }
        }
    }
    let advice = format!(
        "check the port in {}, whether the server runs, and the firewall between this machine and it",
        server.variable
    );
    rows.fail("TCP", last, advice);
    None
}

fn certificate(rows: &mut Rows, server: &Server, chain: &Chain) {
    let Some(end) = chain.end else {
        rows.pass("TLS", format!("{}, and its certificate is trusted", chain.version));
        return;
    };
    let days = end.duration_since(Timestamp::now()).as_hours() / 24;
    let seen = format!("{}, certificate good for {days} days, until {}", chain.version, end.strftime("%F"));
    if days < DAYS_LEFT {
        rows.warn("TLS", seen, format!("have the certificate of {} renewed", server.host));
    } else {
        rows.pass("TLS", seen);
    }
}

/// Speaks with the server until it is known to be of the right kind.
fn speak(stream: TcpStream, server: &Server) -> Spoken {
    let nothing = |refusal: Refusal| Spoken { chain: Some(Err(refusal)), hello: None };
    let prepared = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(DEADLINE)))
        .and_then(|()| stream.set_write_timeout(Some(DEADLINE)));
    if let Err(error) = prepared {
        return nothing(broken(&error));
    }
    if !server.tls {
        return Spoken { chain: None, hello: greet(server, stream) };
    }
    match shake_hands(stream, server) {
        Ok((chain, stream)) => Spoken { chain: Some(Ok(chain)), hello: greet(server, stream) },
        Err(error) => nothing(error),
    }
}

fn greet(server: &Server, mut stream: impl Stream) -> Option<Result<Hello, String>> {
    let says = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer within {} s", DEADLINE.as_secs())
        }
        io::ErrorKind::UnexpectedEof => "the server closes the connection".to_owned(),
        _ => error.to_string(),
    };
    server.amqp.then(|| hello(&mut stream).map_err(says))
}

fn shake_hands(
    mut stream: TcpStream,
    server: &Server,
) -> Result<(Chain, StreamOwned<ClientConnection, TcpStream>), Refusal> {
    let config = tls::client_config(server.identity.as_ref()).map_err(|error| error.refusal())?;
    let name = ServerName::try_from(server.host.clone()).map_err(|error| broken(&error))?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(|error| broken(&error))?;
    while connection.is_handshaking() {
        connection
            .complete_io(&mut stream)
            .map_err(|error| tls::explain(&error).unwrap_or_else(|| broken(&error)))?;
    }
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS 1.2",
    };
    let ends = connection.peer_certificates().unwrap_or_default().iter().filter_map(|der| end_of(der));
    // Servers may send certificates that nobody needs. The chain as a whole was found valid a
    // moment ago.
    let chain = Chain { version: version.to_owned(), end: ends.filter(|end| *end > Timestamp::now()).min() };
    Ok((chain, StreamOwned::new(connection, stream)))
}

/// A handshake that ends without a word about TLS.
fn broken(error: &dyn std::fmt::Display) -> Refusal {
    Refusal { what: error.to_string(), advice: "look at the server's own log".to_owned() }
}

/// When a certificate expires.
fn end_of(der: &[u8]) -> Option<Timestamp> {
    let end = Certificate::from_der(der).ok()?.tbs_certificate.validity.not_after.to_unix_duration();
    Timestamp::from_second(i64::try_from(end.as_secs()).ok()?).ok()
}

//! Why a TLS connection is refused, and what to do about it: a sentence for each error of rustls
//! and webpki.

use std::error::Error as StdError;
use std::fmt::Write as _;

use jiff::Timestamp;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription as Alert, CertificateError as C, PeerIncompatible as Incompatible};
use thiserror::Error;
use webpki::Error as W;

use crate::text::printable;

/// Why the other side is refused, or refuses us, for whoever has to set it right.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what}: {advice}")]
pub struct Refusal {
    /// What is wrong: a sentence about "it", the server.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// The advice if nothing better is known.
const SERVERS_LOG: &str = "look at the server's own log";

impl Refusal {
    pub(super) fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: advice.into() }
    }
}

/// What is wrong with the other side's TLS; `None` where something else failed.
pub fn explain(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    Some(refusal(tls_error(error)?))
}

/// The rustls error inside of another error. (`io::Error` gives its inner error by a method of its
/// own.)
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn refusal(error: &rustls::Error) -> Refusal {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(error) => certificate(error),
        E::AlertReceived(alert) => alerted(*alert),
        E::PeerIncompatible(why) => incompatible(why),
        E::NoCertificatesPresented => {
            Refusal::new("it shows no certificate", "give the server one in its TLS settings")
        }
        E::InvalidMessage(_) | E::PeerSentOversizedRecord => Refusal::new(
            "it does not speak TLS at this port",
            "write the server's TLS port, or the address without TLS",
        ),
        E::PeerMisbehaved(_)
        | E::InappropriateMessage { .. }
        | E::InappropriateHandshakeMessage { .. }
        | E::DecryptError => Refusal::new(
            format!("it breaks the rules of TLS ({})", short(error)),
            "look whether something between the two machines changes the traffic, and at the \
            server's own log",
        ),
        E::FailedToGetCurrentTime | E::FailedToGetRandomBytes => Refusal::new(
            format!("this machine does not give TLS what it needs ({})", short(error)),
            "look at this machine's clock and its /dev/urandom",
        ),
        E::UnsupportedNameType => Refusal::new(
            "no certificate can be for a name of this kind",
            "write the host name that stands in its certificate",
        ),
        // Of lists of revoked certificates, client certificates and settings that are not used
        // here.
        _ => Refusal::new(format!("TLS fails ({})", short(error)), SERVERS_LOG),
    }
}

fn short(error: &dyn std::fmt::Display) -> String {
    printable(&error.to_string(), 120)
}

fn incompatible(why: &Incompatible) -> Refusal {
    match why {
        Incompatible::ServerDoesNotSupportTls12Or13
        | Incompatible::ServerTlsVersionIsDisabledByOurConfig
        | Incompatible::SupportedVersionsExtensionRequired
        | Incompatible::Tls12NotOffered
        | Incompatible::Tls12NotOfferedOrEnabled
        | Incompatible::Tls13RequiredForQuic => too_old(),
        Incompatible::ExtendedMasterSecretExtensionRequired
        | Incompatible::EcPointsExtensionRequired
        | Incompatible::UncompressedEcPointsRequired
        | Incompatible::NullCompressionRequired => Refusal::new(
            format!("its TLS lacks what is needed ({why:?})"),
            "bring the server up to date",
        ),
        _ => no_cipher(&format!("{why:?}")),
    }
}

fn too_old() -> Refusal {
    Refusal::new("it speaks no TLS 1.2 or newer", "switch TLS 1.2 or 1.3 on at the server")
}

fn no_cipher(detail: &str) -> Refusal {
    Refusal::new(
        format!("it has no cipher, curve or signature in common with this program ({detail})"),
        "allow ECDHE with AES-GCM or ChaCha20 in the server's TLS settings",
    )
}

/// What the server says of us, or of the handshake.
fn alerted(alert: Alert) -> Refusal {
    let ours = |why: &str| {
        Refusal::new(
            format!("it does not accept the client certificate that it was shown{why}"),
            "see RABBITMQ_CLIENT_CERT and RODAN_CLIENT_CERT, and the server's own log",
        )
    };
    match alert {
        Alert::ProtocolVersion | Alert::InappropriateFallback => too_old(),
        Alert::CertificateRequired | Alert::NoCertificate => Refusal::new(
            "it asks for a client certificate, and there is none",
            "see RABBITMQ_CLIENT_CERT and RODAN_CLIENT_CERT",
        ),
        Alert::HandshakeFailure => Refusal::new(
            "it has no cipher in common with this program, or asks for a client certificate",
            "allow ECDHE with AES-GCM or ChaCha20 at the server, or see RABBITMQ_CLIENT_CERT and \
            RODAN_CLIENT_CERT",
        ),
        Alert::InsufficientSecurity | Alert::ExportRestriction => no_cipher("says the server"),
        Alert::CertificateExpired => ours(", because it has expired"),
        Alert::CertificateRevoked => ours(", because it is revoked"),
        Alert::UnknownCA => ours(", because it does not know its authority"),
        Alert::UnsupportedCertificate => ours(", because it is of a kind that it does not take"),
        Alert::BadCertificate
        | Alert::CertificateUnknown
        | Alert::CertificateUnobtainable
        | Alert::AccessDenied
        | Alert::BadCertificateHashValue => ours(""),
        Alert::UnrecognisedName => Refusal::new(
            "it has no certificate for the name that it was asked by",
            "write the host name that stands in its certificate",
        ),
        Alert::DecryptError => Refusal::new(
            "it finds a signature or a key wrong",
            "look whether the server's key belongs to its certificate, and at the server's own log",
        ),
        _ => {
            Refusal::new(format!("it breaks the TLS handshake off (alert {alert:?})"), SERVERS_LOG)
        }
    }
}

/// What is wrong with the server's certificate.
#[expect(deprecated, reason = "older verifiers say the same without details")]
fn certificate(error: &C) -> Refusal {
    match error {
        C::UnknownIssuer => Refusal::new(
            "its certificate comes from an authority that this machine does not know",
            trust("the authority's certificate"),
        ),
        C::BadSignature => Refusal::new(
            "a signature in its certificates is not that of the authority known by this name",
            trust("the authority's present certificate"),
        ),
        C::Expired => Refusal::new("its certificate has expired", "have it renewed"),
        C::ExpiredContext { not_after, .. } => Refusal::new(
            format!("its certificate has expired, on {}", day(*not_after)),
            "have it renewed",
        ),
        C::NotValidYet => {
            Refusal::new("its certificate is not valid yet", "compare the clocks of both machines")
        }
        C::NotValidYetContext { not_before, .. } => Refusal::new(
            format!("its certificate is not valid yet, but from {}", day(*not_before)),
            "compare the clocks of both machines",
        ),
        C::NotValidForName => {
            Refusal::new("its certificate is for another name", "write the name that stands in it")
        }
        C::NotValidForNameContext { expected, presented } => {
            other_name(&expected.to_str(), presented)
        }
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => Refusal::new(
            "its certificate is for another purpose: its extended key usage lacks serverAuth",
            "have one made for a server (extendedKeyUsage=serverAuth)",
        ),
        C::UnsupportedSignatureAlgorithm => weak_signature("in a way that is not taken here"),
        C::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            weak_signature(algorithm(signature_algorithm_id))
        }
        C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Refusal::new(
            "a certificate of its chain has a key of a kind that is not taken here",
            "make it with an RSA key of 2048 to 8192 bits, or an ECDSA key on P-256 or P-384",
        ),
        C::BadEncoding => Refusal::new("its certificate can't be read", "have it made anew"),
        C::Revoked => Refusal::new("its certificate is revoked", "have a new one made"),
        C::UnhandledCriticalExtension => Refusal::new(
            "its certificate has a critical extension that is not known here",
            "have one made without it",
        ),
        C::UnknownRevocationStatus
        | C::ExpiredRevocationList
        | C::ExpiredRevocationListContext { .. }
        | C::InvalidOcspResponse
        | C::ApplicationVerificationFailure => {
            Refusal::new(format!("its certificate is not accepted ({})", short(error)), SERVERS_LOG)
        }
        C::Other(other) => {
            if let Some(refusal) = other.0.downcast_ref::<Refusal>() {
                return refusal.clone();
            }
            match other.0.downcast_ref::<W>() {
                Some(error) => by_webpki(error, "HOST"),
                None => Refusal::new(
                    format!("its certificate is not accepted ({})", short(error)),
                    SERVERS_LOG,
                ),
            }
        }
        _ => {
            Refusal::new(format!("its certificate is not accepted ({})", short(error)), SERVERS_LOG)
        }
    }
}

/// Errors that rustls has no words for.
pub(super) fn by_webpki(error: &W, host: &str) -> Refusal {
    let (what, advice) = match error {
        W::CaUsedAsEndEntity => {
            let what = "its certificate is that of an authority (CA:TRUE), as openssl req -x509 \
                makes it, and not a server's own";
            return Refusal::new(what, own_certificate(host));
        }
        W::UnsupportedCertVersion => {
            let what = "a certificate of its chain is of version 1, which has no place for the \
                host's name";
            return Refusal::new(what, own_certificate(host));
        }
        W::EndEntityUsedAsCa => (
            "its certificate is signed by one that is no authority's (CA:FALSE)",
            "have it signed by an authority, whose certificate has CA:TRUE",
        ),
        W::PathLenConstraintViolated => (
            "its chain of certificates is longer than its authority allows (pathlen)",
            "have the certificate signed by an authority that may sign for servers",
        ),
        W::NameConstraintViolation => (
            "its authority may not sign for this host's name (name constraints)",
            "have the certificate signed by an authority that may",
        ),
        W::EmptyEkuExtension => (
            "its certificate has an extended key usage without a use",
            "have one made for a server (extendedKeyUsage=serverAuth)",
        ),
        W::SignatureAlgorithmMismatch => {
            ("its certificate names two different ways of signing", "have it made anew")
        }
        W::InvalidCertValidity => ("its certificate ends before it begins", "have it made anew"),
        W::InvalidSerialNumber => {
            ("its certificate has a serial number of 0 digits or too many", "have it made anew")
        }
        W::UnsupportedCriticalExtension => (
            "its certificate has a critical extension that is not known here",
            "have one made without it",
        ),
        W::MaximumPathDepthExceeded
        | W::MaximumPathBuildCallsExceeded
        | W::MaximumSignatureChecksExceeded
        | W::MaximumNameConstraintComparisonsExceeded => (
            "its chain of certificates is too long, or too tangled",
            "let the server send its own certificate and those between it and the authority only",
        ),
        W::MalformedDnsIdentifier
        | W::MalformedNameConstraint
        | W::InvalidNetworkMaskConstraint
        | W::MalformedExtensions
        | W::ExtensionValueInvalid
        | W::TrailingData(_)
        | W::BadDer
        | W::BadDerTime => ("its certificate has parts that can't be read", "have it made anew"),
        W::CertDistrusted => {
            ("its certificate's key is known to be unsafe", "have one made with a new key")
        }
        W::UnsupportedNameType => (
            "no certificate can be for a name of this kind",
            "write the host name that stands in its certificate",
        ),
        // Of lists of revoked certificates, which are not used here, and what rustls has words for.
        error => {
            let what = format!("its certificate is not accepted ({})", short(error));
            return Refusal::new(what, SERVERS_LOG);
        }
    };
    Refusal::new(what, advice)
}

/// How to make a certificate for a host.
fn own_certificate(host: &str) -> String {
    let kind = if host.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!(
        "make one for the server: openssl req -x509 -newkey rsa:3072 -nodes -days 365 -keyout \
         server.key -out server.pem -subj /CN={host} -addext subjectAltName={kind}:{host} -addext \
         basicConstraints=critical,CA:FALSE; then {}",
        trust("server.pem")
    )
}

/// How to make this machine trust a certificate.
pub(super) fn trust(certificate: &str) -> String {
    match std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty()) {
        Some(file) => {
            let file = printable(&file.to_string_lossy(), 200);
            format!("add {certificate} to {file}, which SSL_CERT_FILE names")
        }
        None => format!("set SSL_CERT_FILE to a file with {certificate}"),
    }
}

fn other_name(expected: &str, presented: &[String]) -> Refusal {
    let expected = printable(expected, 100);
    if presented.is_empty() {
        let what = format!(
            "its certificate names no host in subjectAltName, and CN does not count: {expected} is \
            needed"
        );
        return Refusal::new(what, own_certificate(&expected));
    }
    let mut names = String::new();
    for (n, name) in presented.iter().take(3).enumerate() {
        let separator = if n == 0 { "" } else { ", " };
        let _ = write!(names, "{separator}{}", plain_name(name)); // writing to a String can't fail
    }
    if presented.len() > 3 {
        names.push_str(", …");
    }
    Refusal::new(
        format!("its certificate is for another name ({names}) than {expected}"),
        "write a name that stands in it",
    )
}

/// `localhost` of `DnsName("localhost")`, and `10.0.0.1` of `IpAddress(10.0.0.1)`, as the library
/// shows names.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    printable(inner.unwrap_or(name).trim_matches('"'), 80)
}

fn weak_signature(how: &str) -> Refusal {
    Refusal::new(
        format!("a certificate of its chain is signed {how}"),
        "have it made anew, signed with SHA-256 or better",
    )
}

/// Words for the algorithm of a signature, by its object identifier.
fn algorithm(id: &[u8]) -> &'static str {
    const PKCS1: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let after = |prefix: &[u8]| {
        let at = id.windows(prefix.len()).position(|window| window == prefix)?;
        id.get(at + prefix.len()).copied()
    };
    match (after(&PKCS1), after(&ECDSA)) {
        (Some(2..=4), _) => "with MD5, which protects nobody any more",
        (Some(5), _) | (_, Some(1)) => "with SHA-1, which protects nobody any more",
        (Some(10), _) => "with a form of RSA-PSS that is not taken here",
        _ => "in a way that is not taken here",
    }
}

fn day(time: UnixTime) -> String {
    let seconds =
        i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.map_or_else(
        || "a day beyond all calendars".to_owned(),
        |time| time.strftime("%F").to_string(),
    )
}

/// The server's name as a certificate has it.
pub(super) fn host(name: &ServerName<'_>) -> String {
    printable(&name.to_str(), 100)
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;

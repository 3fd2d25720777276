//! The check of a server's certificate: rustls's own, with more to say about what it refuses.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode as _, Reader as _, SliceReader};

use super::refusal::{Refusal, by_webpki, host, trust};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// The RSA keys that ring checks signatures with, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Accepts just what [`WebPkiServerVerifier`] accepts. Where that refuses a chain for a reason that
/// its error does not tell (a key that is too short looks like a wrong signature), the error is
/// replaced by a [`Refusal`].
#[derive(Debug)]
pub(super) struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
}

impl Verifier {
    pub(super) fn new(roots: RootCertStore) -> Result<Self, rustls::client::VerifierBuilderError> {
        let roots = Arc::new(roots);
        Ok(Self { inner: WebPkiServerVerifier::builder(Arc::clone(&roots)).build()?, roots })
    }

    /// The error for a chain that is refused.
    fn better(
        &self,
        error: Error,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Error {
        let Error::InvalidCertificate(what) = &error else { return error };
        let refusal = match what {
            CertificateError::BadSignature => {
                let chain = [end_entity].into_iter().chain(intermediates);
                chain
                    .filter_map(|der| rsa_bits(der))
                    .chain(self.roots_named(end_entity, intermediates))
                    .find_map(odd_key)
            }
            CertificateError::UnknownIssuer if is_signed_by_itself(end_entity) => Some(Refusal::new(
                "its certificate is signed by itself, and this machine does not know it",
                trust("this certificate"),
            )),
            CertificateError::Other(OtherError(other)) => {
                other.downcast_ref().map(|error| by_webpki(error, &host(name)))
            }
            _ => None,
        };
        refusal.map_or(error, into_error)
    }

    /// The RSA keys, in bits, of the known authorities that this chain names as issuers.
    fn roots_named(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> impl Iterator<Item = usize> {
        let issuers: Vec<Vec<u8>> =
            [end_entity].into_iter().chain(intermediates).filter_map(|der| issuer(der)).collect();
        let named = self
            .roots
            .roots
            .iter()
            .filter(move |root| issuers.iter().any(|issuer| issuer.ends_with(root.subject.as_ref())));
        // The key without its outer sequence: algorithm, then the key itself.
        named
            .filter_map(|root| {
                let mut reader = SliceReader::new(root.subject_public_key_info.as_ref()).ok()?;
                let algorithm = x509_cert::spki::AlgorithmIdentifierRef::decode(&mut reader).ok()?;
                let key = x509_cert::der::asn1::BitStringRef::decode(&mut reader).ok()?;
                (algorithm.oid == RSA).then(|| modulus_bits(key.raw_bytes())).flatten()
            })
            .collect::<Vec<_>>()
            .into_iter()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| self.better(error, end_entity, intermediates, server_name))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss).map_err(|error| of_handshake(error, cert))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss).map_err(|error| of_handshake(error, cert))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The error for a handshake that is signed with a key that can't be checked, or with another one.
fn of_handshake(error: Error, certificate: &CertificateDer<'_>) -> Error {
    if error != Error::InvalidCertificate(CertificateError::BadSignature) {
        return error;
    }
    into_error(rsa_bits(certificate).and_then(odd_key).unwrap_or_else(|| {
        Refusal::new(
            "its key is not the one of its certificate",
            "let the server's TLS settings name a key and a certificate that belong together",
        )
    }))
}

fn into_error(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

/// A key whose signatures ring does not check.
fn odd_key(bits: usize) -> Option<Refusal> {
    let (low, high) = RSA_BITS.into_inner();
    let how = match bits {
        bits if bits < low => "too short",
        bits if bits > high => "longer than can be checked here",
        _ => return None,
    };
    Some(Refusal::new(
        format!("a certificate of its chain has an RSA key of {bits} bits, which is {how}"),
        format!("have it made anew with a key of {low} to {high} bits (openssl req -newkey rsa:3072)"),
    ))
}

/// How long a certificate's key is, where it is RSA's.
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let certificate = Certificate::from_der(der).ok()?;
    let key = certificate.tbs_certificate.subject_public_key_info;
    (key.algorithm.oid == RSA).then(|| modulus_bits(key.subject_public_key.raw_bytes())).flatten()
}

/// The bits of the modulus of an RSA key: `SEQUENCE { modulus, exponent }`.
fn modulus_bits(key: &[u8]) -> Option<usize> {
    let read = SliceReader::new(key).and_then(|mut reader| {
        reader.sequence(|reader| {
            let modulus = UintRef::decode(reader)?;
            let bytes = modulus.as_bytes();
            UintRef::decode(reader)?;
            let leading = bytes.first().map_or(0, |byte| byte.leading_zeros());
            Ok(bytes.len() * 8 - leading as usize)
        })
    });
    read.ok()
}

fn issuer(der: &[u8]) -> Option<Vec<u8>> {
    use x509_cert::der::Encode as _;
    Certificate::from_der(der).ok()?.tbs_certificate.issuer.to_der().ok()
}

fn is_signed_by_itself(der: &[u8]) -> bool {
    Certificate::from_der(der)
        .is_ok_and(|certificate| certificate.tbs_certificate.issuer == certificate.tbs_certificate.subject)
}

//! TLS for both connections: rustls with ring, the system's roots, and `SSL_CERT_FILE`.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::secret::Secret;

/// How we prove who we are to a server that asks: a certificate (with those of its authorities, if
/// they are needed) and its key, both as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    certificates: String,
    key: Secret,
}

/// A certificate and a key that can't be used together. The text never repeats the key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// No certificate in the first file.
    #[error("holds no certificate; it must be PEM (-----BEGIN CERTIFICATE-----)")]
    Certificate,
    /// No key in the second.
    #[error("holds no private key without a passphrase; it must be PEM (-----BEGIN PRIVATE KEY-----)")]
    Key,
    /// The key is another certificate's.
    #[error("holds the key of another certificate")]
    Mismatch,
}

impl Identity {
    /// Takes the texts of both files, and makes sure that they belong together.
    ///
    /// # Errors
    /// When one of them is not what it should be.
    pub fn new(certificates: String, key: Secret) -> Result<Self, IdentityError> {
        let identity = Self { certificates, key };
        let (chain, key) = identity.parts()?;
        let provider = rustls::crypto::ring::default_provider();
        match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
            Ok(_) => Ok(identity),
            Err(rustls::Error::InconsistentKeys(_)) => Err(IdentityError::Mismatch),
            Err(rustls::Error::InvalidCertificate(_)) => Err(IdentityError::Certificate),
            Err(_) => Err(IdentityError::Key),
        }
    }

    fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
        let chain =
            CertificateDer::pem_slice_iter(self.certificates.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes());
        Ok((chain, key.map_err(|_| IdentityError::Key)?))
    }

    /// The certificates, as PEM.
    pub fn certificates(&self) -> &str {
        &self.certificates
    }

    /// Their key, as PEM.
    pub fn key(&self) -> &Secret {
        &self.key
    }
}

/// TLS can't be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// There are no certificate authorities.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The client certificate can't be used.
    #[error("the client certificate {0}")]
    Identity(#[from] IdentityError),
    /// The library refuses the client certificate.
    #[error("the client certificate can't be used: {0}")]
    Library(#[from] rustls::Error),
}

/// The system's certificates can't be used.
#[derive(Debug, Error)]
#[error("no root certificate for TLS was found ({0}); install ca-certificates or set SSL_CERT_FILE")]
pub struct RootsError(String);

/// Makes ring the cryptography of every TLS connection of this process.
pub fn install_provider() {
    // An error means that a provider is installed already, which is just as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client configuration with the system's roots, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`,
/// for TLS 1.2 and newer. `identity` is shown to a server that asks who we are.
///
/// # Errors
///
/// When there is no usable root certificate, or the identity can't be used.
pub fn client_config(identity: Option<&Identity>) -> Result<rustls::ClientConfig, TlsError> {
    install_provider();
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string);
        return Err(RootsError(why).into());
    }
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    Ok(match identity {
        Some(identity) => {
            let (chain, key) = identity.parts()?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    })
}

/// What is wrong with the other side's TLS, for the person who has to mend it; `None` where
/// something else failed.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    use rustls::CertificateError as C;
    let what = match tls_error(error)? {
        rustls::Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "its certificate comes from an authority that this machine does not know: set SSL_CERT_FILE to a file with the authority's certificate"
        }
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "its certificate has expired: have it renewed"
        }
        rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            "its certificate is not valid yet: compare the clocks of both machines"
        }
        rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "its certificate is for another name: write the name that stands in it"
        }
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion) => {
            "it speaks no TLS 1.2 or newer"
        }
        rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
            "it asks for a client certificate, and there is none: see RABBITMQ_CLIENT_CERT and RODAN_CLIENT_CERT"
        }
        rustls::Error::AlertReceived(
            rustls::AlertDescription::BadCertificate
            | rustls::AlertDescription::UnknownCA
            | rustls::AlertDescription::CertificateUnknown
            | rustls::AlertDescription::CertificateExpired
            | rustls::AlertDescription::CertificateRevoked
            | rustls::AlertDescription::UnsupportedCertificate,
        ) => "it does not accept the client certificate that it was shown",
        rustls::Error::InvalidMessage(_) => "it does not speak TLS at this port",
        other => return Some(crate::text::printable(&format!("TLS: {other}"), 200)),
    };
    Some(what.to_owned())
}

/// The rustls error inside of another error. (`io::Error` gives its inner error by a method of its
/// own.)
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

//! TLS for both connections: rustls with ring, the system's roots, and `SSL_CERT_FILE`.

mod contents;
mod refusal;
mod verifier;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use contents::Contents;
pub use refusal::{Refusal, explain};

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

/// A certificate and a key that can't be used together. The text completes "FILE ..." and never
/// repeats the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// No certificate in the first file, but this.
    Certificate(Contents),
    /// No key in the second, but this.
    Key(Contents),
    /// A certificate that can't be understood.
    Unreadable,
    /// A key that can't be used to sign.
    Unusable,
    /// The key is another certificate's.
    Mismatch,
}

impl IdentityError {
    fn refusal(self) -> Refusal {
        match self {
            Self::Certificate(contents) => Refusal::new(contents.in_words(), contents.to_certificates()),
            Self::Key(contents) => Refusal::new(contents.in_words(), contents.to_key()),
            Self::Unreadable => Refusal::new("holds a certificate that can't be read", "have it made anew"),
            Self::Unusable => Refusal::new(
                "holds a key that can't be used",
                "make it with RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519",
            ),
            Self::Mismatch => {
                Refusal::new("holds the key of another certificate", "name the two files of one pair")
            }
        }
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { what, advice } = self.refusal();
        write!(f, "{what}; {advice}")
    }
}

impl std::error::Error for IdentityError {}

impl Identity {
    /// Takes what both files hold, and makes sure that it belongs together.
    ///
    /// # Errors
    /// When one of them is not what it should be.
    pub fn new(certificates: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let no_key = || IdentityError::Key(Contents::of(key));
        let identity = Self {
            certificates: String::from_utf8(certificates.to_vec())
                .map_err(|_| IdentityError::Certificate(Contents::of(certificates)))?,
            key: Secret::new(std::str::from_utf8(key).map_err(|_| no_key())?),
        };
        let (chain, key) = identity.parts()?;
        let provider = rustls::crypto::ring::default_provider();
        match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
            Ok(_) => Ok(identity),
            Err(rustls::Error::InconsistentKeys(_)) => Err(IdentityError::Mismatch),
            Err(rustls::Error::InvalidCertificate(_)) => Err(IdentityError::Unreadable),
            Err(_) => Err(IdentityError::Unusable),
        }
    }

    fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
        let (certificates, key) = (self.certificates.as_bytes(), self.key.expose().as_bytes());
        let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| IdentityError::Certificate(Contents::of(certificates)))?;
        let key = PrivateKeyDer::from_pem_slice(key);
        Ok((chain, key.map_err(|_| IdentityError::Key(Contents::of(self.key.expose().as_bytes())))?))
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

impl TlsError {
    /// What is wrong, and what to do.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Roots(error) => error.refusal(),
            Self::Identity(error) => {
                let Refusal { what, advice } = error.refusal();
                Refusal::new(format!("the file of the client certificate {what}"), advice)
            }
            Self::Library(error) => Refusal::new(
                format!("TLS can't be set up: {error}"),
                "look at RABBITMQ_CLIENT_CERT and RODAN_CLIENT_CERT",
            ),
        }
    }
}

/// There is nothing to know a server by.
#[derive(Debug)]
pub enum RootsError {
    /// No root certificate is installed.
    System(String),
    /// `SSL_CERT_FILE` is set to nothing.
    Unnamed,
    /// `SSL_CERT_FILE` can't be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// `SSL_CERT_FILE` holds something else.
    Contents {
        /// The file.
        path: PathBuf,
        /// What it holds.
        contents: Contents,
    },
    /// `SSL_CERT_FILE` holds certificates that can't be understood.
    Damaged(PathBuf),
}

impl RootsError {
    fn refusal(&self) -> Refusal {
        let named = |path: &Path| format!("{}, which SSL_CERT_FILE names,", path.display());
        let name_another = "name a file with certificates as PEM (-----BEGIN CERTIFICATE-----)";
        match self {
            Self::System(why) => Refusal::new(
                format!("no root certificate for TLS was found ({why})"),
                "install ca-certificates or set SSL_CERT_FILE",
            ),
            Self::Unnamed => Refusal::new("SSL_CERT_FILE is set to nothing", "unset it, or name a file"),
            Self::Unreadable { path, source } => {
                Refusal::new(format!("{} can't be read: {source}", named(path)), name_another)
            }
            Self::Contents { path, contents } => {
                Refusal::new(format!("{} {}", named(path), contents.in_words()), contents.to_certificates())
            }
            Self::Damaged(path) => {
                Refusal::new(format!("{} holds certificates that can't be read", named(path)), name_another)
            }
        }
    }
}

impl fmt::Display for RootsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { what, advice } = self.refusal();
        write!(f, "{what}; {advice}")
    }
}

impl std::error::Error for RootsError {}

/// Makes ring the cryptography of every TLS connection of this process.
pub fn install_provider() {
    // An error means that a provider is installed already, which is just as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The system's roots, or those of `SSL_CERT_FILE` / `SSL_CERT_DIR`.
fn roots() -> Result<rustls::RootCertStore, RootsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
        return Err(file_without_roots(&file));
    }
    let why = found.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string);
    Err(RootsError::System(why))
}

/// Why a file of certificates gave none.
fn file_without_roots(file: &OsStr) -> RootsError {
    let path = Path::new(file).to_path_buf();
    if file.is_empty() {
        return RootsError::Unnamed;
    }
    match std::fs::read(&path).map(|bytes| Contents::of(&bytes)) {
        Err(source) => RootsError::Unreadable { path, source },
        Ok(Contents::Certificates) => RootsError::Damaged(path),
        Ok(contents) => RootsError::Contents { path, contents },
    }
}

/// A client configuration with the system's roots, or those of `SSL_CERT_FILE` / `SSL_CERT_DIR`,
/// for TLS 1.2 and newer. `identity` is shown to a server that asks who we are.
///
/// # Errors
///
/// When there is no usable root certificate, or the identity can't be used.
pub fn client_config(identity: Option<&Identity>) -> Result<rustls::ClientConfig, TlsError> {
    install_provider();
    let verifier = verifier::Verifier::new(roots()?)
        .map_err(|error| TlsError::Library(rustls::Error::General(error.to_string())))?;
    // It accepts what rustls's own accepts, which is inside it; it only says more about what it
    // refuses.
    let builder =
        rustls::ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match identity {
        Some(identity) => {
            let (chain, key) = identity.parts()?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_certificates_that_holds_something_else_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.file");
        let says = || file_without_roots(path.as_os_str()).to_string();
        assert!(says().contains("can't be read: No such file"), "{}", says());
        let key = rcgen::KeyPair::generate().unwrap();
        let der = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
        for (bytes, words) in [
            (Vec::new(), "is empty; name a file with certificates"),
            (der, "in bytes (DER); convert it: openssl x509 -inform der"),
            (key.serialize_pem().into_bytes(), "holds a private key; name a file"),
            (key.serialize_der(), "a private key in bytes (DER); name a file"),
            (b"rabbit.example.org\n".to_vec(), "holds neither certificates nor a key;"),
            (
                b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec(),
                "holds certificates that can't be read;",
            ),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            let said = says();
            assert!(said.contains(words), "{words:?} is not in {said}");
            assert!(said.contains(&path.display().to_string()) && said.contains("SSL_CERT_FILE"), "{said}");
        }
        assert!(file_without_roots(OsStr::new("")).to_string().contains("unset it"));
    }

    #[test]
    fn an_identity_of_the_wrong_files_is_told_in_words() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let (pem, secret) = (certificate.pem(), key.serialize_pem());
        assert!(Identity::new(pem.as_bytes(), secret.as_bytes()).is_ok());
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let der = certificate.der().to_vec();
        for (certificates, key, words) in [
            (secret.as_bytes(), secret.as_bytes(), "holds a private key; name a file with certificates"),
            (&der[..], secret.as_bytes(), "holds a certificate in bytes (DER); convert it"),
            (b"", secret.as_bytes(), "is empty; name a file with certificates"),
            (pem.as_bytes(), pem.as_bytes(), "holds certificates; name a file with the key"),
            (pem.as_bytes(), &key.serialize_der(), "holds a private key in bytes (DER); convert it"),
            (pem.as_bytes(), b"\n", "is empty; name a file with the key"),
            (pem.as_bytes(), other.as_bytes(), "holds the key of another certificate"),
            (
                pem.as_bytes(),
                b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
                "with a passphrase; take the passphrase away",
            ),
        ] {
            let said = Identity::new(certificates, key).unwrap_err().to_string();
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
    }
}

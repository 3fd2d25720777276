//! TLS for both connections: rustls with ring, the system's roots, and `SSL_CERT_FILE`.

use thiserror::Error;

/// The system's certificates can't be used.
#[derive(Debug, Error)]
#[error("no root certificate for TLS was found ({0}); install ca-certificates or set SSL_CERT_FILE")]
pub struct RootsError(String);

/// Makes ring the cryptography of every TLS connection of this process.
pub fn install_provider() {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client configuration with the system's roots, or those of `SSL_CERT_FILE` / `SSL_CERT_DIR`.
///
/// # Errors
/// When there is no usable root certificate at all.
pub fn client_config() -> Result<rustls::ClientConfig, RootsError> {
    install_provider();
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string);
        return Err(RootsError(why));
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

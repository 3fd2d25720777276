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

/// What is wrong with the other side's TLS, for whoever has to set it right; `None` where something else failed.
pub(crate) fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
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
        rustls::Error::InvalidMessage(_) => "it does not speak TLS at this port",
        other => return Some(crate::text::printable(&format!("TLS: {other}"), 200)),
    };
    Some(what.to_owned())
}

/// The error of rustls below another; `io::Error` shows what it holds by a method of its own.
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

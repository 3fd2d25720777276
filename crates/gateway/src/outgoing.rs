//! What the gateway asks of other servers by HTTP.

use std::error::Error as _;
use std::time::Duration;

use base::tls;
use reqwest::redirect::Policy;
use thiserror::Error;

/// How long another server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(15);

/// How long it may say nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// The client can't be made.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There are no root certificates.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// A proxy setting of the environment that can't be read, or the like.
    #[error("the HTTP client can't be set up: {0}; check the proxy variables of the environment")]
    Build(#[from] reqwest::Error),
}

/// A client that follows no redirect.
///
/// # Errors
/// When the system has no root certificates, or a proxy variable can't be read.
pub(crate) fn client() -> Result<reqwest::Client, ClientError> {
    Ok(builder()?.build()?)
}

/// The same, to be completed.
///
/// # Errors
/// When the system has no root certificates.
pub(crate) fn builder() -> Result<reqwest::ClientBuilder, ClientError> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config(None)?)
        .redirect(Policy::none())
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .user_agent(concat!("hpc-trainer/", env!("CARGO_PKG_VERSION"))))
}

/// What went wrong with a request, without its address: the caller says what was asked.
pub(crate) fn in_words(error: &reqwest::Error) -> String {
    if let Some(refusal) = tls::explain(error) {
        return refusal.to_string();
    }
    let what = match () {
        () if error.is_timeout() => "it did not answer in time",
        () if error.is_connect() => "no connection",
        () => "the connection broke",
    };
    // The innermost cause has the system's words; reqwest's own texts repeat the address.
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|cause| cause.source()) {
        cause = Some(inner);
    }
    match cause {
        Some(cause) => format!("{what} ({})", base::text::printable(&cause.to_string(), 200)),
        None => what.to_owned(),
    }
}

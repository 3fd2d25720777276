//! The HTTP client that logging in and downloading share.

use std::borrow::Cow;
use std::time::Duration;

use reqwest::redirect::Policy;
use thiserror::Error;

use base::advice::Advice;
use base::tls;

/// An HTTP client that follows no redirect by itself: the caller looks at each one first.
#[derive(Clone, Debug)]
pub struct Client(pub(super) reqwest::Client);

/// The client can't be made.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There are no root certificates, or our client certificate can't be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// A proxy setting of the environment that can't be read, or the like.
    #[error("the HTTP client can't be set up: {0}; {advice}", advice = CHECK_PROXY)]
    Build(#[from] reqwest::Error),
}

/// What to do where the client can't be built.
const CHECK_PROXY: &str = "check the proxy variables of the environment";

impl Advice for ClientError {
    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Tls(error) => error.refusal().advice.into(),
            Self::Build(_) => CHECK_PROXY.into(),
        })
    }
}

impl Client {
    /// Makes a client, which shows `identity` to a server that asks for it.
    ///
    /// # Errors
    ///
    /// When the system has no root certificates, or the identity can't be used.
    pub fn new(identity: Option<&tls::Identity>) -> Result<Self, ClientError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(identity)?)
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(15))
            .read_timeout(Duration::from_secs(30))
            .user_agent(concat!("hpc-trainer/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self(client))
    }
}

/// What went wrong with a request. Without the URL: the caller says what was fetched.
pub(super) fn describe(error: &reqwest::Error) -> String {
    use std::error::Error as _;
    if let Some(refusal) = tls::explain(error) {
        return refusal.to_string();
    }
    let mut text = match () {
        () if error.is_timeout() => "it did not answer in time".to_owned(),
        () if error.is_connect() => "no connection".to_owned(),
        () => "the connection broke".to_owned(),
    };
    // The innermost cause has the system's words; reqwest's own texts repeat the URL.
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|c| c.source()) {
        cause = Some(inner);
    }
    if let Some(cause) = cause {
        text.push_str(&format!(" ({})", base::text::printable(&cause.to_string(), 200)));
    }
    text
}

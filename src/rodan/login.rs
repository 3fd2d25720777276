//! Logging in: user and password for a token.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

use super::client::{Client, describe};
use super::target::{Target, TargetError};
use crate::config::RodanConfig;
use base::crash;
use base::retry::{Attempt, Policy};
use base::secret::{MASK, Secret};
use base::text::printable;

const PATH: &str = "/api/auth/token/";
const RETRY: Policy = Policy {
    attempts: 3,
    first_wait: Duration::from_secs(1),
    longest_wait: Duration::from_secs(5),
};
const MOST_REDIRECTS: usize = 5;
/// The largest answer that is read, bytes: a token and some words.
const MOST_BYTES: usize = 64 << 10;

/// Why there is no token.
#[derive(Debug, Error)]
pub enum LoginError {
    /// Rodan can't be reached or fails; it may come back.
    #[error("can't log in to Rodan at {address}: {detail}")]
    Unavailable {
        /// Rodan's address.
        address: String,
        /// What happened.
        detail: String,
    },
    /// Rodan refuses user and password.
    #[error(
        "Rodan at {address} refuses the login (status {status}: {detail}); check RODAN_USER and \
        RODAN_PASSWORD"
    )]
    Refused {
        /// Rodan's address.
        address: String,
        /// HTTP status.
        status: u16,
        /// Rodan's own words.
        detail: String,
    },
    /// The answer does not come from Rodan.
    #[error("what answers at {address} is not Rodan ({detail}); check RODAN_HOST")]
    NotRodan {
        /// Rodan's address.
        address: String,
        /// What was wrong with the answer.
        detail: String,
    },
}

#[derive(Deserialize)]
struct Answer {
    token: Option<Secret>,
    detail: Option<String>,
}

/// Logs in and returns the token. Old Rodan reads `username`, current Rodan `email`: both are sent.
///
/// # Errors
/// When Rodan can't be reached (after three attempts), refuses, or is not Rodan.
pub async fn log_in(client: &Client, config: &RodanConfig) -> Result<Secret, LoginError> {
    crash::point("before the log-in");
    let token = RETRY.run("logging in to Rodan", async || attempt(client, config).await).await;
    crash::point("after the log-in");
    token
}

async fn attempt(client: &Client, config: &RodanConfig) -> Result<Secret, Attempt<LoginError>> {
    let address = || config.address.to_string();
    let not_rodan =
        |detail: String| Attempt::GiveUp(LoginError::NotRodan { address: address(), detail });
    let unavailable = |detail: String| {
        Attempt::Again(LoginError::Unavailable { address: address(), detail }, None)
    };
    let user = config.user.as_str();
    let form = [("username", user), ("email", user), ("password", config.password.expose())];
    let bad_target = |e: TargetError| not_rodan(format!("the login: {e}"));
    let mut target = Target::new(&config.address, PATH).map_err(bad_target)?;
    for _ in 0..=MOST_REDIRECTS {
        let request =
            client.0.post(target.url().clone()).form(&form).timeout(Duration::from_secs(30));
        let response = request.send().await.map_err(|e| unavailable(describe(&e)))?;
        let status = response.status();
        if status.is_redirection() {
            let location = response
                .headers()
                .get("location")
                .and_then(|l| l.to_str().ok())
                .unwrap_or_default();
            target = target.redirected(location).map_err(bad_target)?;
            if !target.may_have_secrets() {
                return Err(not_rodan("it redirects the login to another server".into()));
            }
            continue;
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(unavailable(format!("it answers with status {}", status.as_u16())));
        }
        let Some(body) = read(response).await.map_err(|e| unavailable(describe(&e)))? else {
            return Err(not_rodan(format!("an answer of more than {MOST_BYTES} bytes")));
        };
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        return match (status, answer) {
            (StatusCode::OK, Some(Answer { token: Some(token), .. }))
                if is_token(token.expose()) =>
            {
                Ok(token)
            }
            (
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
                answer,
            ) => {
                let detail =
                    answer.and_then(|a| a.detail).unwrap_or_else(|| "no reason given".into());
                // Whatever the server says, the password is masked in it: this text goes to the
                // log.
                let detail = printable(&detail.replace(config.password.expose(), MASK), 200);
                Err(Attempt::GiveUp(LoginError::Refused {
                    address: address(),
                    status: status.as_u16(),
                    detail,
                }))
            }
            _ => Err(not_rodan(format!("status {} without a token", status.as_u16()))),
        };
    }
    Err(not_rodan(format!("the login was redirected more than {MOST_REDIRECTS} times")))
}

/// The body; `None` if it is larger than any answer of Rodan's.
async fn read(mut response: reqwest::Response) -> reqwest::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST_BYTES {
            return Ok(None);
        }
    }
    Ok(Some(body))
}

/// Whether a token can be put into a header.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic())
}

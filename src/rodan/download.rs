//! Downloading the inputs of a job: all at once, with retries and a size limit.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use futures_util::future::try_join_all;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER};
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;

use super::client::{Client, describe};
use super::target::{Target, TargetError};
use base::address::RodanAddress;
use base::retry::{Attempt, Policy};
use base::secret::Secret;
use base::text::printable;
use domain::{Input, InputKind, Inputs};

const MOST_REDIRECTS: usize = 5;
/// All files together may have this many times the bytes that one file may have.
const MOST_TOGETHER: u64 = 4;

/// An input that could not be fetched.
#[derive(Debug, Error)]
pub enum DownloadError {
    /// The location can't be used.
    #[error("the input \"{input}\" can't be downloaded: {source}")]
    Target {
        /// Name of the input.
        input: String,
        /// What is wrong with the location.
        source: TargetError,
    },
    /// The server refuses: not found, no access …
    #[error(
        "the input \"{input}\" can't be downloaded from {host}: the server answers with status \
        {status}{hint}"
    )]
    Status {
        /// Name of the input.
        input: String,
        /// Host it was asked from.
        host: String,
        /// HTTP status.
        status: u16,
        /// What the status usually means.
        hint: &'static str,
    },
    /// No connection, or a broken one, even after several attempts.
    #[error("the input \"{input}\" can't be downloaded from {host}: {detail}")]
    Transfer {
        /// Name of the input.
        input: String,
        /// Host it was asked from.
        host: String,
        /// What happened.
        detail: String,
    },
    /// The file has more bytes than the limit.
    #[error(
        "the input \"{input}\" is larger than the {limit} bytes that are downloaded \
        (MAX_DOWNLOAD_BYTES)"
    )]
    TooLarge {
        /// Name of the input.
        input: String,
        /// The limit.
        limit: u64,
    },
    /// All files together have more bytes than the limit.
    #[error(
        "the inputs are together larger than the {limit} bytes that are downloaded for a job \
        (MAX_DOWNLOAD_BYTES allows {} for each)",
        limit / MOST_TOGETHER
    )]
    TooMuch {
        /// The limit.
        limit: u64,
    },
    /// A server that takes too long.
    #[error(
        "the inputs did not arrive within {} s (DOWNLOAD_SECONDS), although the server goes on \
        sending or failing",
        limit.as_secs()
    )]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// The local file can't be written.
    #[error("the input \"{input}\" can't be stored on the compute node: {detail}")]
    Store {
        /// Name of the input.
        input: String,
        /// What the system says.
        detail: String,
    },
}

/// Fetches the inputs of one job.
#[derive(Debug)]
pub struct Downloader {
    /// The HTTP client.
    pub client: Client,
    /// Rodan's address.
    pub rodan: RodanAddress,
    /// The token, sent to Rodan only.
    pub token: Secret,
    /// Most bytes of one file.
    pub limit: u64,
    /// How long all files may take together, however slowly a server sends and however often it is
    /// tried again.
    pub deadline: Duration,
    /// How often each file is tried.
    pub retry: Policy,
}

impl Downloader {
    /// The policy for downloads: five attempts over about half a minute.
    pub const RETRY: Policy = Policy {
        attempts: 5,
        first_wait: Duration::from_secs(2),
        longest_wait: Duration::from_secs(20),
    };

    /// Downloads every input into `directory`, under the fixed name of its kind.
    ///
    /// # Errors
    /// The first input that can't be fetched.
    pub async fn fetch(&self, inputs: &Inputs, directory: &Path) -> Result<(), DownloadError> {
        let together = &Cell::new(0);
        let all = try_join_all(inputs.iter().map(|input| {
            let path = directory.join(input.kind.file_stem());
            async move {
                let what = format!("downloading \"{}\"", input.kind);
                self.retry.run(&what, async || self.fetch_one(input, &path, together).await).await
            }
        }));
        match tokio::time::timeout(self.deadline, all).await {
            Ok(fetched) => fetched.map(|_| ()),
            Err(_) => Err(DownloadError::TooSlow { limit: self.deadline }),
        }
    }

    /// Downloads one file to `path`, with the rules for a page of a job.
    ///
    /// # Errors
    ///
    /// When it can't be fetched.
    pub async fn fetch_to(&self, location: &str, path: &Path) -> Result<(), DownloadError> {
        let input = Input { kind: InputKind::Image, location: location.to_owned() };
        self.retry
            .run("downloading a file", async || self.fetch_one(&input, path, &Cell::new(0)).await)
            .await
    }

    /// One attempt at one file; `together` counts the bytes of all files.
    async fn fetch_one(
        &self,
        input: &Input,
        path: &Path,
        together: &Cell<u64>,
    ) -> Result<(), Attempt<DownloadError>> {
        let name = || input.kind.to_string();
        let bad_target = |source| Attempt::GiveUp(DownloadError::Target { input: name(), source });
        let mut target = Target::new(&self.rodan, &input.location).map_err(bad_target)?;
        for _ in 0..=MOST_REDIRECTS {
            let host = printable(target.url().host_str().unwrap_or_default(), 100);
            let again = |detail: String, wait| {
                Attempt::Again(
                    DownloadError::Transfer { input: name(), host: host.clone(), detail },
                    wait,
                )
            };
            let mut request = self.client.0.get(target.url().clone());
            if target.may_have_secrets() {
                request = request.header(AUTHORIZATION, self.authorization());
            }
            let response = request.send().await.map_err(|e| again(describe(&e), None))?;
            let status = response.status();
            if status.is_redirection() {
                let location = response
                    .headers()
                    .get(LOCATION)
                    .and_then(|l| l.to_str().ok())
                    .unwrap_or_default();
                target = target.redirected(location).map_err(bad_target)?;
                continue;
            }
            if status.is_server_error()
                || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            {
                let wait =
                    response.headers().get(RETRY_AFTER).and_then(|w| w.to_str().ok()?.parse().ok());
                return Err(again(
                    format!("the server answers with status {}", status.as_u16()),
                    wait.map(Duration::from_secs),
                ));
            }
            if status != StatusCode::OK {
                let hint = match status.as_u16() {
                    401 | 403 => {
                        " (no access: the resource belongs to another user, or the token has \
                        expired)"
                    }
                    404 | 410 => {
                        " (not found: the resource was deleted or moved; run the workflow again)"
                    }
                    _ => "",
                };
                let error =
                    DownloadError::Status { input: name(), host, status: status.as_u16(), hint };
                return Err(Attempt::GiveUp(error));
            }
            let mut size = 0;
            let stored = self.store(input, response, path, (&mut size, together), again).await;
            if stored.is_err() {
                together.set(together.get().saturating_sub(size));
            }
            return stored;
        }
        let host = printable(target.url().host_str().unwrap_or_default(), 100);
        let detail = format!("it was redirected more than {MOST_REDIRECTS} times");
        Err(Attempt::GiveUp(DownloadError::Transfer { input: name(), host, detail }))
    }

    async fn store(
        &self,
        input: &Input,
        mut response: reqwest::Response,
        path: &Path,
        (size, together): (&mut u64, &Cell<u64>),
        again: impl Fn(String, Option<Duration>) -> Attempt<DownloadError>,
    ) -> Result<(), Attempt<DownloadError>> {
        let name = || input.kind.to_string();
        let too_large =
            || Attempt::GiveUp(DownloadError::TooLarge { input: name(), limit: self.limit });
        let store = |e: std::io::Error| {
            Attempt::GiveUp(DownloadError::Store { input: name(), detail: e.to_string() })
        };
        if response.content_length().is_some_and(|length| length > self.limit) {
            return Err(too_large());
        }
        let mut file = tokio::fs::File::create(path).await.map_err(store)?;
        while let Some(chunk) = response.chunk().await.map_err(|e| again(describe(&e), None))? {
            *size += chunk.len() as u64;
            together.set(together.get() + chunk.len() as u64);
            if *size > self.limit {
                return Err(too_large());
            }
            let limit = self.limit.saturating_mul(MOST_TOGETHER);
            if together.get() > limit {
                return Err(Attempt::GiveUp(DownloadError::TooMuch { limit }));
            }
            file.write_all(&chunk).await.map_err(store)?;
        }
        file.flush().await.map_err(store)
    }

    fn authorization(&self) -> HeaderValue {
        let text = base::secret::Secret::new(format!("Token {}", self.token.expose()));
        // A token that can't be put into a header is not one of Rodan's; without it the server
        // answers 401.
        let mut value =
            HeaderValue::from_str(text.expose()).unwrap_or_else(|_| HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

//! Fetches the image of a page from a IIIF server, if whoever runs the gateway allows the server.
//!
//! An address is a stranger's: only hosts that are named are asked, at addresses of the public
//! internet unless another is named, and a redirect is followed only to such a host. How much is
//! read, and for how long, is limited.

mod hosts;
mod image;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::LOCATION;
use reqwest::{Client, Response, Url};
use serde_json::Value;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;

pub use hosts::{IiifHosts, IiifHostsError};

use crate::outgoing::{self, ClientError, in_words};
use hosts::NotAsked;
use image::{Named, NoImage};

/// Most redirects that are followed.
const REDIRECTS: usize = 5;

/// Largest description of an image, in bytes.
const LARGEST_DESCRIPTION: u64 = 1 << 20;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why an image can't be had.
#[derive(Debug, Error)]
pub(crate) enum IiifError {
    /// The address itself is wrong.
    #[error("{0}")]
    Address(String),
    /// The image is larger than it may be.
    #[error("{0}")]
    TooLarge(String),
    /// The server does not give it.
    #[error("{0}")]
    Server(String),
    /// This gateway can't ask anybody.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It can't be written.
    #[error(transparent)]
    File(#[from] std::io::Error),
}

impl From<NotAsked> for IiifError {
    fn from(why: NotAsked) -> Self {
        Self::Address(why.to_string())
    }
}

impl From<NoImage> for IiifError {
    fn from(why: NoImage) -> Self {
        match why {
            NoImage::Description => Self::Server(why.to_string()),
            NoImage::TooLarge => Self::TooLarge(why.to_string()),
        }
    }
}

/// Fetches the image that an address names into a new file, at most `limit` bytes.
///
/// # Errors
/// [`IiifError`].
pub(crate) async fn fetch(
    hosts: &IiifHosts,
    address: &str,
    to: &Path,
    limit: u64,
) -> Result<(), IiifError> {
    let fetch = Fetch::new(hosts)?;
    let fetched = tokio::time::timeout(PATIENCE, fetch.image(address, to, limit));
    fetched.await.unwrap_or_else(|_| {
        let seconds = PATIENCE.as_secs();
        let what = format!("the image did not come from its IIIF server within {seconds} s");
        Err(IiifError::Server(what))
    })
}

struct Fetch<'a> {
    hosts: &'a IiifHosts,
    client: Client,
}

/// Looks names up, and leaves out the addresses that they must not lead to: the one that is asked
/// is one of those that were looked at.
struct Lookup(IiifHosts);

/// A name that leads nowhere, or only to addresses that it must not lead to.
#[derive(Debug, Error)]
enum LookupError {
    #[error("there is no host {0}")]
    Unknown(String),
    #[error(
        "{0} has an address of a private network; whoever runs this gateway can allow it by \
         ALLOWED_IIIF_HOSTS={0}=ADDRESS"
    )]
    Private(String),
}

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let hosts = self.0.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found: Vec<SocketAddr> =
                found.map_err(|_| LookupError::Unknown(name.clone()))?.collect();
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|found| hosts.may_lead_to(&name, found.ip())).collect();
            if allowed.is_empty() {
                return Err(LookupError::Private(name).into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(addresses)
        })
    }
}

impl<'a> Fetch<'a> {
    fn new(hosts: &'a IiifHosts) -> Result<Self, ClientError> {
        let lookup = Arc::new(Lookup(hosts.clone()));
        // A proxy would look the name up itself, and find what it finds.
        let client = outgoing::builder()?.dns_resolver(lookup).no_proxy().build()?;
        Ok(Self { hosts, client })
    }

    async fn image(&self, address: &str, to: &Path, limit: u64) -> Result<(), IiifError> {
        let url = Url::parse(address.trim())
            .map_err(|_| IiifError::Address("must be the address of a IIIF image".to_owned()))?;
        let requests = match image::named(&url) {
            Named::Request(request) => vec![request],
            Named::Service(service) => {
                let info = image::below(&service, &["info.json"]);
                let (at, description) = self.description(&info).await?;
                // Where a redirect has led, the image is, too.
                let service = match image::named(&at) {
                    Named::Service(service) => service,
                    Named::Request(_) => service,
                };
                image::whole(&service, &description)?
            }
        };
        let mut refused = None;
        for request in &requests {
            let response = self.ask(request).await?;
            if response.status().is_success() {
                return self.write(response, to, limit).await;
            }
            // Perhaps it knows the image by the words of another version.
            refused = Some(self.server(request, &format!("status {}", response.status())));
        }
        Err(refused
            .unwrap_or_else(|| IiifError::Server("the address names no IIIF image".to_owned())))
    }

    /// The description of an image, and where it was in the end.
    async fn description(&self, address: &Url) -> Result<(Url, Value), IiifError> {
        let mut response = self.ask(address).await?;
        if !response.status().is_success() {
            return Err(self.server(address, &format!("status {}", response.status())));
        }
        let mut text = Vec::new();
        while let Some(piece) = self.piece(address, &mut response).await? {
            text.extend_from_slice(&piece);
            if text.len() as u64 > LARGEST_DESCRIPTION {
                return Err(self.server(address, "its info.json is larger than 1 MiB"));
            }
        }
        let description = serde_json::from_slice(&text).map_err(|_| NoImage::Description)?;
        Ok((response.url().clone(), description))
    }

    /// Asks, and follows redirects as far as they lead to hosts that may be asked.
    async fn ask(&self, address: &Url) -> Result<Response, IiifError> {
        let mut next = address.clone();
        for _ in 0..=REDIRECTS {
            self.hosts.check(&next).map_err(|why| {
                let elsewhere = next != *address;
                let leads = || {
                    self.server(address, &format!("it leads elsewhere, to an address that {why}"))
                };
                if elsewhere { leads() } else { why.into() }
            })?;
            let sent = self.client.get(next.clone()).send().await;
            let response = sent.map_err(|error| self.server(&next, &reason(&error)))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            next = match to.map(|to| next.join(to)) {
                Some(Ok(to)) => to,
                _ => return Err(self.server(&next, "its redirect names no address")),
            };
        }
        let why = format!("it redirects more than {REDIRECTS} times, perhaps round and round");
        Err(self.server(address, &why))
    }

    async fn write(&self, mut from: Response, to: &Path, limit: u64) -> Result<(), IiifError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let too_large =
            || IiifError::TooLarge("the image is larger than this gateway takes".to_owned());
        if from.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let address = from.url().clone();
        let file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(to)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut left = limit;
        while let Some(piece) = self.piece(&address, &mut from).await? {
            left = left.checked_sub(piece.len() as u64).ok_or_else(too_large)?;
            file.write_all(&piece).await?;
        }
        Ok(file.flush().await?)
    }

    async fn piece(
        &self,
        address: &Url,
        from: &mut Response,
    ) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]>>, IiifError> {
        from.chunk().await.map_err(|error| self.server(address, &reason(&error)))
    }

    /// The server did not give it. Its answers are a stranger's words, and are not repeated.
    fn server(&self, address: &Url, why: &str) -> IiifError {
        let host = base::text::printable(address.host_str().unwrap_or_default(), 100);
        IiifError::Server(format!("the image can't be had from {host}: {why}"))
    }
}

/// What went wrong; a name that leads to a private address is told in its own words.
fn reason(error: &reqwest::Error) -> String {
    let mut next = Some(error as &(dyn std::error::Error + 'static));
    while let Some(inner) = next {
        if let Some(own) = inner.downcast_ref::<LookupError>() {
            return own.to_string();
        }
        next = inner.source();
    }
    in_words(error)
}

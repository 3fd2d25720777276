//! Objects in S3, or in what speaks its language.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use base::address::is_loopback;
use base::secret::Secret;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error as S3Error, ObjectStore as _, ObjectStoreExt as _, PutMode,
    PutOptions, RetryConfig, WriteMultipart,
};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use url::Url;

use crate::outgoing::{self, ClientError};

/// Where objects are kept.
const OBJECTS: &str = "GATEWAY_OBJECTS";
/// The server, where it is not Amazon's.
const ENDPOINT: &str = "AWS_ENDPOINT_URL";
/// The region.
const REGION: &str = "AWS_REGION";
/// The keys.
const KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION: &str = "AWS_SESSION_TOKEN";

/// What is sent in one piece; what is larger is sent in such pieces.
const PIECE: usize = 8 << 20;

/// How often a request that failed is sent again, and for how long: somebody waits.
const RETRIES: usize = 3;
const RETRY_TIME: Duration = Duration::from_secs(10);

/// The object that says whose objects lie beside it.
const OWNER: &str = "owner";

/// A bucket, and who may use it.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    bucket: String,
    /// The folder in it; empty for the whole of it.
    prefix: String,
    endpoint: Option<Url>,
    region: String,
    key: String,
    secret: Secret,
    session: Option<Secret>,
}

/// A variable that can't be used. The text never repeats its value.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{name} {what}")]
pub struct BucketVariableError {
    name: &'static str,
    what: &'static str,
}

impl BucketConfig {
    /// From the variables that `get` finds; `None` where objects lie in the data folder.
    ///
    /// # Errors
    /// When a variable is missing or can't be used.
    pub fn from_variables(
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, BucketVariableError> {
        let set = |name: &str| {
            get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let Some(place) = set(OBJECTS) else { return Ok(None) };
        let wrong = |name, what| BucketVariableError { name, what };
        let must =
            |name| set(name).ok_or(wrong(name, "must be set where GATEWAY_OBJECTS names a bucket"));
        let rest = place.strip_prefix("s3://").unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty()
            || !bucket.chars().all(fits)
            || !prefix.chars().all(|c| fits(c) || c == '/')
            || (!prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")))
        {
            return Err(wrong(
                OBJECTS,
                "must be s3://BUCKET or s3://BUCKET/FOLDER, of letters, digits and -._",
            ));
        }
        let endpoint = match set(ENDPOINT).map(|text| Url::parse(&text)) {
            None => None,
            Some(Ok(url))
                if matches!(url.scheme(), "http" | "https")
                    && url.has_host()
                    && url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none() =>
            {
                Some(url)
            }
            Some(_) => {
                let what = "must be the address of an S3 server, http:// or https://, without a \
                            user or a password";
                return Err(wrong(ENDPOINT, what));
            }
        };
        Ok(Some(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint,
            region: set(REGION).unwrap_or_else(|| "us-east-1".to_owned()),
            key: must(KEY)?,
            secret: Secret::new(must(SECRET)?),
            session: set(SESSION).map(Secret::new),
        }))
    }

    /// Whether pages and models would cross a network unencrypted.
    pub fn is_exposed(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| {
            endpoint.scheme() != "https" && !is_loopback(endpoint.host_str().unwrap_or_default())
        })
    }
}

/// The bucket can't be reached, or refuses. It may do later.
#[derive(Debug, Error)]
#[error("S3: {0}")]
pub(crate) struct BucketAway(String);

impl BucketAway {
    /// Whether this is why a file could not be had or kept.
    pub(crate) fn is_why(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// Objects in a bucket. All copies are one.
#[derive(Clone)]
pub(super) struct Bucket {
    s3: Arc<AmazonS3>,
    prefix: Path,
    /// Where its requests are worked at: those who ask may be in the midst of anything.
    handle: Handle,
    /// The thread ends when the last copy goes.
    _alive: Arc<watch::Sender<()>>,
    /// Since when it does not answer.
    away: Arc<Mutex<Option<Timestamp>>>,
}

impl fmt::Debug for Bucket {
    /// Without what may be known of the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.prefix).finish()
    }
}

/// Gives `object_store` the client that all of the gateway's requests are sent by.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl Bucket {
    /// As it is configured. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When there can be no HTTP client, or no thread.
    pub(super) fn new(config: &BucketConfig) -> Result<Self, BucketError> {
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..Default::default() },
            max_retries: RETRIES,
            retry_timeout: RETRY_TIME,
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_access_key_id(&config.key)
            .with_secret_access_key(config.secret.expose())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_http_connector(Connector(outgoing::client()?))
            .with_retry(retry);
        if let Some(session) = &config.session {
            builder = builder.with_token(session.expose());
        }
        if let Some(endpoint) = &config.endpoint {
            builder = builder
                .with_endpoint(endpoint.as_str().trim_end_matches('/'))
                .with_allow_http(endpoint.scheme() == "http");
        }
        let s3 = builder.build().map_err(|error| BucketError::Setup(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, mut gone) = watch::channel(());
        std::thread::Builder::new().name("objects".to_owned()).spawn(move || {
            // An error means that nobody can ask any more.
            let _ = runtime.block_on(gone.changed());
        })?;
        Ok(Self {
            s3: Arc::new(s3),
            prefix: Path::from(config.prefix.as_str()),
            handle,
            _alive: Arc::new(alive),
            away: Arc::default(),
        })
    }

    /// Since when it does not answer, where it doesn't.
    pub(super) fn away_since(&self) -> Option<Timestamp> {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the object is there.
    pub(super) fn has(&self, shelf: &str, name: &str) -> io::Result<bool> {
        let (s3, place) = (Arc::clone(&self.s3), self.place(shelf, name));
        match self.wait(async move { s3.head(&place).await }) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keeps the bytes of a file.
    pub(super) fn keep(&self, shelf: &str, name: &str, file: &FilePath) -> io::Result<()> {
        let (s3, place) = (Arc::clone(&self.s3), self.place(shelf, name));
        let mut file = File::open(file)?;
        let mut first = Vec::new();
        (&mut file).take(PIECE as u64).read_to_end(&mut first)?;
        if first.len() < PIECE {
            return self.wait(async move { s3.put(&place, first.into()).await }).map(drop);
        }
        // Piece by piece: a page of a hundred megapixels is never whole in memory.
        let upload = {
            let (s3, place) = (Arc::clone(&s3), place.clone());
            self.wait(async move { s3.put_multipart(&place).await })?
        };
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE);
        let mut piece = first;
        while !piece.is_empty() {
            let sent = std::mem::take(&mut piece);
            upload = self.wait(async move {
                upload.wait_for_capacity(1).await?;
                upload.put(sent.into());
                Ok(upload)
            })?;
            (&mut file).take(PIECE as u64).read_to_end(&mut piece)?;
        }
        self.wait(async move { upload.finish().await }).map(drop)
    }

    /// Writes the bytes of an object.
    pub(super) fn fetch(&self, shelf: &str, name: &str, to: &mut File) -> io::Result<()> {
        let (s3, place) = (Arc::clone(&self.s3), self.place(shelf, name));
        let mut pieces = self.wait(async move { Ok(s3.get(&place).await?.into_stream()) })?;
        loop {
            let (next, rest) = self.wait(async move {
                let next = pieces.next().await.transpose()?;
                Ok((next, pieces))
            })?;
            let Some(piece) = next else { return Ok(()) };
            to.write_all(&piece)?;
            pieces = rest;
        }
    }

    /// Removes an object.
    pub(super) fn remove(&self, shelf: &str, name: &str) -> io::Result<()> {
        let (s3, place) = (Arc::clone(&self.s3), self.place(shelf, name));
        self.wait(async move { s3.delete(&place).await })
    }

    /// The shelves and names of all that lies there.
    pub(super) fn list(&self) -> io::Result<Vec<(String, String)>> {
        let (s3, prefix) = (Arc::clone(&self.s3), self.prefix.clone());
        self.wait(async move {
            let mut listed = s3.list(Some(&prefix));
            let mut found = Vec::new();
            while let Some(object) = listed.next().await.transpose()? {
                let Some(rest) = object.location.prefix_match(&prefix) else { continue };
                let rest: Vec<_> = rest.map(|part| part.as_ref().to_owned()).collect();
                if let [shelf, name] = &rest[..] {
                    found.push((shelf.clone(), name.clone()));
                }
            }
            Ok(found)
        })
    }

    /// Notes whose objects lie here; another owner that is noted already.
    pub(super) fn claim(&self, own: &str) -> io::Result<Option<String>> {
        let place = self.prefix.clone().join(OWNER);
        let (s3, owner) = (Arc::clone(&self.s3), own.to_owned());
        let found = self.wait(async move {
            match read(&s3, &place).await {
                Err(S3Error::NotFound { .. }) => {}
                found => return found,
            }
            let mode = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match s3.put_opts(&place, owner.into_bytes().into(), mode).await {
                Ok(_) | Err(S3Error::AlreadyExists { .. } | S3Error::Precondition { .. }) => {}
                Err(error) => return Err(error),
            }
            read(&s3, &place).await
        })?;
        let found = String::from_utf8_lossy(&found).trim().to_owned();
        Ok(Some(found).filter(|found| found != own))
    }

    fn place(&self, shelf: &str, name: &str) -> Path {
        self.prefix.clone().join(shelf).join(name)
    }

    /// Waits for a request, wherever this is called from.
    fn wait<T: Send + 'static>(
        &self,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let (done, answer) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            // Nobody waits any more: nobody has to be told.
            let _ = done.send(request.await);
        });
        let answer = answer.recv().map_err(io::Error::other)?.map_err(in_words);
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        *away = match &answer {
            Err(error) if BucketAway::is_why(error) => Some(away.unwrap_or_else(Timestamp::now)),
            Ok(_) | Err(_) => None,
        };
        drop(away);
        answer
    }
}

/// The whole of a small object.
async fn read(s3: &AmazonS3, place: &Path) -> object_store::Result<Vec<u8>> {
    Ok(s3.get(place).await?.bytes().await?.to_vec())
}

/// What an error of S3 means: there is no such object, or the bucket is away.
fn in_words(error: S3Error) -> io::Error {
    io::Error::other(BucketAway(match error {
        S3Error::NotFound { .. } => {
            return io::Error::new(
                io::ErrorKind::NotFound,
                "there is no such object in the bucket",
            );
        }
        S3Error::PermissionDenied { .. } | S3Error::Unauthenticated { .. } => {
            "it refuses the keys; look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and at what \
             they may do in the bucket"
                .to_owned()
        }
        error => base::text::printable(&error.to_string(), 400),
    }))
}

/// The bucket can't be used.
#[derive(Debug, Error)]
pub enum BucketError {
    /// There can be no HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The configuration makes no sense to the library.
    #[error("the bucket can't be used: {0}")]
    Setup(String),
    /// The system gives no thread or no runtime, or the bucket is away.
    #[error("the objects of this gateway can't be reached: {0}")]
    System(#[from] io::Error),
    /// It holds the objects of another gateway.
    #[error(
        "{OBJECTS}: another gateway keeps its objects there, and would lose them; name another \
         folder of the bucket"
    )]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<BucketConfig>, String> {
        let keys = [(KEY, "hunter1"), (SECRET, "hunter2")];
        let find = |name: &str| {
            let all = set.iter().chain(&keys);
            all.into_iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        };
        BucketConfig::from_variables(find).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bucket_is_named_with_a_folder_in_it_and_a_server() {
        assert!(read(&[]).unwrap().is_none());
        for (text, bucket, prefix) in [
            ("s3://pages", "pages", ""),
            ("s3://pages/", "pages", ""),
            ("s3://pages.example.org/gate/way/", "pages.example.org", "gate/way"),
        ] {
            let config = read(&[(OBJECTS, text)]).unwrap().unwrap();
            assert_eq!((&*config.bucket, &*config.prefix), (bucket, prefix), "{text}");
            assert!(!config.is_exposed() && !format!("{config:?}").contains("hunter2"));
        }
        for text in
            ["/srv/objects", "s3:/a", "s3://", "s3:///a", "s3://a/../b", "s3://a//b", "s3://k:s@b"]
        {
            let said = read(&[(OBJECTS, text)]).unwrap_err();
            assert!(said.starts_with("GATEWAY_OBJECTS must be s3://"), "{text}: {said}");
        }
        let at = |endpoint| read(&[(OBJECTS, "s3://pages"), (ENDPOINT, endpoint)]);
        assert!(at("http://minio.example.org:9000").unwrap().unwrap().is_exposed());
        assert!(!at("http://127.0.0.1:9000").unwrap().unwrap().is_exposed());
        assert!(!at("https://minio.example.org").unwrap().unwrap().is_exposed());
        for wrong in ["minio:9000", "ftp://a", "http://u:hunter2@a", "http://a/?x"] {
            let said = at(wrong).unwrap_err();
            assert!(said.starts_with(ENDPOINT) && !said.contains("hunter"), "{wrong}: {said}");
        }
    }

    #[test]
    fn without_keys_it_is_said_which_are_missing() {
        let only = |name: &str| (name == OBJECTS).then(|| "s3://pages".to_owned());
        let said = BucketConfig::from_variables(only).unwrap_err().to_string();
        assert!(said.starts_with("AWS_ACCESS_KEY_ID must be set"), "{said}");
    }

    #[test]
    fn what_is_not_there_is_told_from_a_bucket_that_is_away() {
        let source = || "why".to_owned().into();
        let gone = in_words(S3Error::NotFound { path: "a".into(), source: source() });
        assert!(gone.kind() == io::ErrorKind::NotFound && !BucketAway::is_why(&gone));
        let refused = in_words(S3Error::PermissionDenied { path: "a".into(), source: source() });
        assert!(BucketAway::is_why(&refused) && refused.to_string().contains("refuses the keys"));
        assert!(BucketAway::is_why(&in_words(S3Error::Generic { store: "S3", source: source() })));
        assert!(!BucketAway::is_why(&io::Error::other("why")));
    }
}

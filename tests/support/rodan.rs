//! The stand-in for Rodan's HTTP side: logging in, and files below `/uploads/` for whoever has the
//! token.
//!
//! It is the only part of the tests that is not the real thing. So it is strict where Rodan is
//! strict, and it can be as slow and as broken as networks are. It keeps every request, so that a
//! test can check what was sent to it.
#![allow(dead_code, reason = "a build without the trainer or the gateway uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics, and says where"
)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use futures_util::stream;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Where a client logs in.
pub(crate) const LOGIN: &str = "/api/auth/token/";

/// Which version of Rodan it plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// Reads `username` and `password`.
    Old,
    /// Reads `email` and `password`, and asks for an email where there is none.
    Current,
}

/// The properties of a stand-in. `Setup::default()` is a current Rodan over plain HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) generation: Generation,
    /// Username of an old Rodan, email of a current one.
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) token: String,
    /// `false`: the account exists but was never activated.
    pub(crate) active: bool,
    /// Serves HTTPS, with a plain port beside it that redirects everything to it, as nginx does in
    /// front of Rodan.
    pub(crate) tls: bool,
    /// With `tls`: asks every client for a certificate, of its own authority ([`Rodan::client`]).
    pub(crate) client_certificates: bool,
    /// `false`: gives files to everyone, as a foreign server does.
    pub(crate) check_token: bool,
    /// Serves `DIRECTORY/a.png` as `/uploads/a.png`, beside what [`Rodan::put`] was given.
    pub(crate) directory: Option<PathBuf>,
    /// 0: any free port.
    pub(crate) port: u16,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            generation: Generation::Current,
            user: "hpc@rodan.example".into(),
            password: "correct horse".into(),
            token: "0123456789abcdef0123456789abcdef01234567".into(),
            active: true,
            tls: false,
            client_certificates: false,
            check_token: true,
            directory: None,
            port: 0,
        }
    }
}

/// What a path answers instead of the usual answer.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// This status, with a small body.
    Status(u16),
    /// This status and `Retry-After: SECONDS`.
    RetryAfter(u16, u64),
    /// 302 to another address.
    Redirect(String),
    /// The usual answer, after a pause.
    Late(Duration),
    /// The usual answer, in pieces of this many bytes, with a pause before each.
    Drip(usize, Duration),
    /// The usual headers, but the connection breaks after this many bytes of the body.
    BreakAfter(usize),
    /// This many zeros, with or without a `Content-Length`.
    Zeros { bytes: u64, declared: bool },
    /// This body instead, with status 200.
    Body(Vec<u8>),
    /// This status and this body.
    Says(u16, String),
    /// Takes the request and never answers.
    Never,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    /// With the query, if there was one.
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: String,
    /// It came to the plain port of a TLS stand-in, so everything in it could be read on the way.
    pub(crate) at_plain_door: bool,
}

/// A running stand-in; it stops when dropped.
pub(crate) struct Rodan {
    inner: Arc<Inner>,
    address: SocketAddr,
    plain_door: Option<SocketAddr>,
    ca_pem: Option<String>,
    client: Option<(String, String)>,
    /// Taken on drop.
    runtime: Option<tokio::runtime::Runtime>,
}

struct Inner {
    setup: Setup,
    state: Mutex<Answers>,
}

/// What makes a file.
type Make = Arc<dyn Fn() -> &'static [u8] + Send + Sync>;

#[derive(Default)]
struct Answers {
    files: HashMap<String, Bytes>,
    /// Files that are made when somebody asks for them.
    unmade: HashMap<String, Make>,
    /// Answers to give once each, in order.
    next: HashMap<String, Vec<Answer>>,
    /// Answers to give every time after those.
    always: HashMap<String, Answer>,
    requests: Vec<Recorded>,
}

impl Rodan {
    /// A current Rodan over plain HTTP.
    pub(crate) fn start() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("stand-in-rodan")
            .build()
            .expect("a runtime");
        let inner = Arc::new(Inner { setup, state: Mutex::default() });
        let listen = |port: u16| {
            let listener = runtime
                .block_on(TcpListener::bind(("127.0.0.1", port)))
                .expect("a port to listen on");
            let address = listener.local_addr().expect("the address it listens on");
            (listener, address)
        };
        let (listener, address) = listen(inner.setup.port);
        let app = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        if !inner.setup.tls {
            runtime.spawn(async move { axum::serve(listener, app).await });
            return Self {
                inner,
                address,
                plain_door: None,
                ca_pem: None,
                client: None,
                runtime: Some(runtime),
            };
        }
        let (config, ca_pem, client) = certificates(inner.setup.client_certificates);
        let tls = TlsListener::new(listener, config, &runtime);
        runtime.spawn(async move { axum::serve(tls, app).await });
        let (plain, plain_door) = listen(0);
        let door = Router::new()
            .fallback(redirect_to_tls)
            .with_state((Arc::clone(&inner), address.port()));
        runtime.spawn(async move { axum::serve(plain, door).await });
        Self {
            inner,
            address,
            plain_door: Some(plain_door),
            ca_pem: Some(ca_pem),
            client: Some(client),
            runtime: Some(runtime),
        }
    }

    /// `RODAN_HOST`, with its scheme. Over TLS the certificate is good for `localhost` and
    /// `127.0.0.1`.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.inner.setup.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The plain port of a TLS stand-in, which redirects to it.
    ///
    /// # Panics
    /// Without TLS, where there is no such door.
    pub(crate) fn plain_url(&self) -> String {
        format!("http://{}", self.plain_door.expect("only a stand-in with TLS has a plain door"))
    }

    /// The certificate authority, as PEM, for a file that `SSL_CERT_FILE` names.
    ///
    /// # Panics
    /// Without TLS.
    pub(crate) fn ca_pem(&self) -> &str {
        self.ca_pem.as_deref().expect("only a stand-in with TLS has a certificate authority")
    }

    /// A client certificate of its authority and the key, as PEM.
    ///
    /// # Panics
    /// Without TLS.
    pub(crate) fn client(&self) -> &(String, String) {
        self.client.as_ref().expect("only a stand-in with TLS has certificates")
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.inner.setup
    }

    /// Serves these bytes at a path such as `/uploads/a/page.png`.
    pub(crate) fn put(&self, path: &str, bytes: impl Into<Bytes>) -> &Self {
        self.inner.lock().files.insert(path.to_owned(), bytes.into());
        self
    }

    /// Serves what `make` makes once somebody asks for it, where nothing is put at the path.
    pub(crate) fn put_when_asked(
        &self,
        path: &str,
        make: impl Fn() -> &'static [u8] + Send + Sync + 'static,
    ) -> &Self {
        self.inner.lock().unmade.insert(path.to_owned(), Arc::new(make));
        self
    }

    /// Gives this answer to the next `times` requests for a path, then those of earlier calls, then
    /// the usual one.
    pub(crate) fn answer_next(&self, path: &str, times: usize, answer: &Answer) -> &Self {
        let mut state = self.inner.lock();
        let next = state.next.entry(path.to_owned()).or_default();
        next.extend(std::iter::repeat_n(answer.clone(), times));
        drop(state);
        self
    }

    /// Gives this answer to every request for a path.
    pub(crate) fn answer_always(&self, path: &str, answer: Answer) -> &Self {
        self.inner.lock().always.insert(path.to_owned(), answer);
        self
    }

    /// All requests so far, in order.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.inner.lock().requests.clone()
    }

    /// The requests for one path.
    pub(crate) fn requests_for(&self, path: &str) -> Vec<Recorded> {
        self.requests().into_iter().filter(|request| request.path == path).collect()
    }

    /// Whether the token or the password was sent here, anywhere in any request.
    pub(crate) fn was_told(&self, secret: &str) -> bool {
        self.requests().iter().any(|request| format!("{request:?}").contains(secret))
    }
}

impl Drop for Rodan {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn record(&self, request: Request, at_plain_door: bool) -> Recorded {
        let (head, body) = request.into_parts();
        let header = |name| {
            head.headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
        let recorded = Recorded {
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            authorization: header(AUTHORIZATION),
            content_type: header(CONTENT_TYPE),
            body: String::from_utf8_lossy(&body).into_owned(),
            at_plain_door,
        };
        self.lock().requests.push(recorded.clone());
        recorded
    }

    fn scripted(&self, path: &str) -> Option<Answer> {
        let mut state = self.lock();
        match state.next.get_mut(path) {
            Some(next) if !next.is_empty() => Some(next.remove(0)),
            _ => state.always.get(path).cloned(),
        }
    }

    /// What a Rodan that works answers.
    fn usual(&self, request: &Recorded) -> (StatusCode, &'static str, Bytes) {
        let path = request.path.as_str();
        if path == LOGIN {
            return if request.method == "POST" {
                self.log_in(request)
            } else {
                detail(405, "Method not allowed.")
            };
        }
        if !path.starts_with("/uploads/") {
            return detail(404, "Not found.");
        }
        if self.setup.check_token {
            match request.authorization.as_deref() {
                None => return detail(401, "Authentication credentials were not provided."),
                Some(value) if value != format!("Token {}", self.setup.token) => {
                    return detail(401, "Invalid token.");
                }
                Some(_) => {}
            }
        }
        match self.file(path) {
            Some(bytes) => (StatusCode::OK, content_type(path), bytes),
            None => detail(404, "Not found."),
        }
    }

    fn log_in(&self, request: &Recorded) -> (StatusCode, &'static str, Bytes) {
        let form: HashMap<String, String> =
            url::form_urlencoded::parse(request.body.as_bytes()).into_owned().collect();
        let given =
            |name: &str| form.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let user = match self.setup.generation {
            Generation::Old => given("username"),
            Generation::Current => given("email"),
        };
        match (user, given("password"), self.setup.generation) {
            (None, _, Generation::Current) => detail(401, "You must supply an email."),
            (None, _, Generation::Old) => detail(401, "You must supply a username."),
            (_, None, _) => detail(401, "You must supply a password."),
            (Some(user), Some(password), _)
                if user != self.setup.user || password != self.setup.password =>
            {
                detail(401, "Invalid email or password.")
            }
            _ if !self.setup.active => detail(403, "The user is not activated."),
            _ => (
                StatusCode::OK,
                "application/json",
                json!({ "token": self.setup.token }).to_string().into(),
            ),
        }
    }

    fn file(&self, path: &str) -> Option<Bytes> {
        if let Some(bytes) = self.lock().files.get(path) {
            return Some(bytes.clone());
        }
        let make = self.lock().unmade.get(path).cloned();
        if let Some(make) = make {
            return Some(Bytes::from_static(make()));
        }
        let relative = Path::new(path.strip_prefix("/uploads/")?);
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        let directory = self.setup.directory.as_ref().filter(|_| inside)?;
        std::fs::read(directory.join(relative)).ok().map(Bytes::from)
    }
}

fn detail(status: u16, text: &str) -> (StatusCode, &'static str, Bytes) {
    let status = StatusCode::from_u16(status).expect("a status that exists");
    (status, "application/json", json!({ "detail": text }).to_string().into())
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "png")) => "image/png",
        Some((_, "jpg" | "jpeg")) => "image/jpeg",
        _ => "application/octet-stream",
    }
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let request = inner.record(request, false).await;
    let scripted = inner.scripted(&request.path);
    match scripted {
        Some(Answer::Status(status)) => whole(detail(status, "As the test wants it.")),
        Some(Answer::RetryAfter(status, seconds)) => {
            let mut response = whole(detail(status, "As the test wants it."));
            response.headers_mut().insert("retry-after", seconds.into());
            response
        }
        Some(Answer::Redirect(target)) => redirect(StatusCode::FOUND, &target),
        Some(Answer::Never) => std::future::pending().await,
        Some(Answer::Zeros { bytes, declared }) => zeros(bytes, declared),
        Some(Answer::Says(status, body)) => {
            let status = StatusCode::from_u16(status).expect("a status");
            whole((status, content_type(&request.path), body.into()))
        }
        Some(Answer::Body(body)) => {
            whole((StatusCode::OK, content_type(&request.path), body.into()))
        }
        Some(Answer::Late(pause)) => {
            tokio::time::sleep(pause).await;
            whole(inner.usual(&request))
        }
        Some(Answer::Drip(piece, pause)) => {
            let (status, kind, bytes) = inner.usual(&request);
            let pieces: Vec<Bytes> =
                bytes.chunks(piece.max(1)).map(Bytes::copy_from_slice).collect();
            let body = stream::unfold(pieces.into_iter(), move |mut pieces| async move {
                let piece = pieces.next()?;
                tokio::time::sleep(pause).await;
                Some((Ok::<_, Infallible>(piece), pieces))
            });
            headed(status, kind, bytes.len() as u64, Body::from_stream(body))
        }
        Some(Answer::BreakAfter(kept)) => {
            let (status, kind, bytes) = inner.usual(&request);
            let start = bytes.slice(..kept.min(bytes.len()));
            let parts = vec![Ok(start), Err(io::Error::other("the connection breaks here"))];
            headed(status, kind, bytes.len() as u64, Body::from_stream(broken(parts)))
        }
        None => whole(inner.usual(&request)),
    }
}

/// The parts one by one, with time between them for the first to reach the client.
fn broken(
    parts: Vec<io::Result<Bytes>>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(parts.into_iter(), |mut parts| async move {
        let part = parts.next()?;
        if part.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some((part, parts))
    })
}

fn zeros(bytes: u64, declared: bool) -> Response {
    const PIECE: u64 = 1 << 16;
    let body = stream::unfold(bytes, |left| async move {
        let piece = left.min(PIECE);
        (piece > 0)
            .then(|| (Ok::<_, Infallible>(Bytes::from(vec![0; piece as usize])), left - piece))
    });
    let body = Body::from_stream(body);
    if declared { headed(StatusCode::OK, "image/png", bytes, body) } else { Response::new(body) }
}

fn whole((status, kind, bytes): (StatusCode, &'static str, Bytes)) -> Response {
    headed(status, kind, bytes.len() as u64, Body::from(bytes))
}

fn headed(status: StatusCode, kind: &str, length: u64, body: Body) -> Response {
    let builder = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .header(CONTENT_LENGTH, length);
    builder.body(body).expect("a response that can be built")
}

fn redirect(status: StatusCode, target: &str) -> Response {
    Response::builder()
        .status(status)
        .header(LOCATION, target)
        .body(Body::empty())
        .expect("a redirect")
}

/// nginx's `return 301 https://$host$request_uri`: a client that posts its password here has
/// revealed it.
async fn redirect_to_tls(
    State((inner, port)): State<(Arc<Inner>, u16)>,
    uri: Uri,
    request: Request,
) -> Response {
    inner.record(request, true).await;
    redirect(StatusCode::MOVED_PERMANENTLY, &format!("https://127.0.0.1:{port}{uri}"))
}

/// TLS below axum. Handshakes run in tasks of their own, so that a client that fails or is slow
/// does not hold up the others.
struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    fn new(listener: TcpListener, config: ServerConfig, runtime: &tokio::runtime::Runtime) -> Self {
        let address = listener.local_addr().expect("the address it listens on");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (sender, ready) = mpsc::channel(16);
        runtime.spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        drop(sender.send((stream, peer)).await);
                    }
                });
            }
        });
        Self { ready, address }
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// A certificate authority of this stand-in's own, a server certificate from it, and a client
/// certificate with its key.
fn certificates(ask_clients: bool) -> (ServerConfig, String, (String, String)) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "stand-in Rodan CA");
    let authority_key = KeyPair::generate().expect("a key");
    let authority_certificate = authority.self_signed(&authority_key).expect("a certificate");
    let issuer = Issuer::new(authority, authority_key);

    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(names)
        .expect("names")
        .signed_by(&key, &issuer)
        .expect("a certificate");

    let client_key = KeyPair::generate().expect("a key");
    let client = CertificateParams::new(vec!["client".to_owned()]).expect("a name");
    let client = client.signed_by(&client_key, &issuer).expect("a certificate");
    let client = (client.pem(), client_key.serialize_pem());

    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(authority_certificate.der().clone()).expect("a certificate of an authority");
    let asks = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions that exist");
    let config = match ask_clients {
        true => config.with_client_cert_verifier(asks.build().expect("an authority to trust")),
        false => config.with_no_client_auth(),
    };
    let config = config
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a key that fits its certificate");
    (config, authority_certificate.pem(), client)
}

//! Rodan's side for `check` and `run_trainer`: they log in and fetch the files of a run's job as
//! they do from Rodan, and know no difference.
//!
//! `check` logs in once a pass, before it knows how many jobs it will take, and writes the one
//! token into the files of all of them. So the log-in can't be for one run. What is a run's own is
//! the word in its addresses: it is drawn for the run, stands in its job's message and nowhere
//! else, and leads to this run's files alone. Only both together open anything: the token shows
//! that a bridge asks, the word says for which run. A job that has the token of its pass can't
//! fetch the files of another job, whose word it does not know; whoever reads a message in RabbitMQ
//! has no token. With the end of the run its word leads nowhere, and a token goes when all jobs are
//! over that it may have been for. The store has hashes of both; the word itself stands in it as a
//! part of the job's message, until the broker has confirmed that.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base::secret::Secret;
use serde_json::json;

use super::{archive, downloads};
use crate::app::App;
use crate::identity::new_token;
use crate::job_files::{self, JobFile};
use crate::problem::Problem;
use crate::rates::STRANGERS;

/// The longest name, password, token or word that is looked up.
const LONGEST: usize = 200;

/// Log in as a bridge
///
/// As Rodan does it: a token for the name (`username` or `email`) and the password of an account
/// with the role `bridge`. With it `check` and `run_trainer` fetch the files of jobs.
#[utoipa::path(
    post, path = "/api/auth/token/", operation_id = "bridge_log_in", tag = "bridges", security(()),
    request_body(
        content = ref("#/components/schemas/BridgeLogIn"),
        content_type = "application/x-www-form-urlencoded",
    ),
    responses(
        (status = 200, description = "The token",
            body = ref("#/components/schemas/BridgeToken")),
        (status = 401, description = "There is no such bridge, or its password is another",
            body = ref("#/components/schemas/BridgeRefusal")),
        (status = 413, description = "It is too large",
            body = ref("#/components/schemas/BridgeRefusal")),
        (status = 429, description = "Too many log-ins",
            body = ref("#/components/schemas/BridgeRefusal")),
    )
)]
pub(super) async fn log_in(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let Ok(body) = body else {
        let what = "This is too large for a log-in.";
        return turned_away(&app, StatusCode::PAYLOAD_TOO_LARGE, what);
    };
    let Some((name, password)) = who_logs_in(&body) else {
        let what = "You must supply a username and a password.";
        return turned_away(&app, StatusCode::UNAUTHORIZED, what);
    };
    let (token, password) = (new_token(), Secret::new(password));
    let given = Secret::new(token.expose());
    match app.ask(move |store| store.admit_bridge(&name, &password, &given)).await {
        Ok(true) => Json(json!({"token": token.expose()})).into_response(),
        Ok(false) => turned_away(
            &app,
            StatusCode::UNAUTHORIZED,
            "Invalid username or password. \"gateway account add NAME --role bridge\" makes them.",
        ),
        Err(problem) => problem.into_response(),
    }
}

/// Download a file of a run's job
///
/// The address stands in the job's message. It leads to the file until the run is over, for a
/// bridge alone.
#[utoipa::path(
    get, path = "/uploads/{key}/{name}", operation_id = "job_file", tag = "bridges",
    security(("bridge" = [])),
    params(
        ("key" = String, Path, description = "The run's own word"),
        ("name" = String, Path, example = "image.png", description = "The file"),
        ("Range" = Option<String>, Header, description = "bytes=FIRST-LAST"),
    ),
    responses(
        (status = 200, description = "The file", content(
            (Vec<u8> = "application/octet-stream"), (Vec<u8> = "application/zip"),
        )),
        (status = 206, description = "The part that was asked for",
            content_type = "application/octet-stream", body = Vec<u8>),
        (status = 401, description = "The token is unknown, or the run is over"),
        (status = 404, description = "The job has no such file"),
        (status = 416, description = "It has no such part"),
    )
)]
pub(super) async fn download(
    State(app): State<App>,
    Path((key, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let unknown = || {
        let what = "the token is unknown, or the run of this address is over";
        Problem::new(StatusCode::UNAUTHORIZED, what)
    };
    let token = token(&headers).filter(|token| token.expose().len() <= LONGEST);
    let Some(token) = token.filter(|_| key.len() <= LONGEST) else { return Err(unknown()) };
    let found = app.ask(move |store| store.run_of_upload(&key, &token)).await?;
    let run = found.ok_or_else(unknown)?;
    let files = app.ask(move |store| {
        let models = match store.any_run(run)? {
            Some(run) => store.models_for(&run)?,
            None => Vec::new(),
        };
        Ok((store.pages_of(run)?, models))
    });
    let (pages, models) = files.await?;
    match job_files::find(&pages, &models, &name) {
        None => Err(Problem::missing("such file of this run")),
        Some(JobFile::One(sha256)) => {
            downloads::send(&app, &sha256, "application/octet-stream", None, &headers).await
        }
        Some(JobFile::Zip(files)) => {
            let Ok(turn) = Arc::clone(&app.job_zips).acquire_owned().await else {
                let what = "the gateway is ending";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).again_in(10));
            };
            let kind = [(header::CONTENT_TYPE, "application/zip")];
            Ok((kind, archive::zipped(&app, files, turn).await?).into_response())
        }
    }
}

/// The answer to a log-in that is none. It counts as a stranger's, of which only so many are taken:
/// a bridge that knows its password gets in whatever others try.
fn turned_away(app: &App, status: StatusCode, detail: &str) -> Response {
    match app.rates.allow(STRANGERS, Instant::now()) {
        Ok(()) => told(status, detail),
        Err(wait) => {
            let what = "Too many log-ins; try again later.";
            let refused = told(StatusCode::TOO_MANY_REQUESTS, what);
            ([(header::RETRY_AFTER, wait.to_string())], refused).into_response()
        }
    }
}

/// An answer in Rodan's form.
fn told(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({"detail": detail}))).into_response()
}

/// The token in a request's `Authorization: Token …`.
fn token(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("token").then(|| Secret::new(token.trim()))
}

/// The name and the password in the body of a log-in.
pub(crate) fn who_logs_in(body: &[u8]) -> Option<(String, String)> {
    let form = Form::read(body);
    Some((form.get(&["username", "email"])?, form.get(&["password"])?))
}

/// A form as browsers send it: `name=value&name=value`, with `%41` and `+`.
struct Form(Vec<(String, String)>);

impl Form {
    fn read(body: &[u8]) -> Self {
        let pair = |pair: &[u8]| {
            let cut = pair.iter().position(|byte| *byte == b'=')?;
            Some((decoded(&pair[..cut])?, decoded(&pair[cut + 1..])?))
        };
        Self(body.split(|byte| *byte == b'&').filter_map(pair).collect())
    }

    /// The first of these fields that is there and not empty, where it is not too long.
    fn get(&self, names: &[&str]) -> Option<String> {
        let of = |name: &&str| {
            let found = self.0.iter().find(|(known, value)| known == name && !value.is_empty());
            found.map(|(_, value)| value.clone()).filter(|value| value.len() <= LONGEST)
        };
        names.iter().find_map(of)
    }
}

fn decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::app::Limits;
    use crate::store::Role;

    #[test]
    fn strangers_lock_no_bridge_out() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::in_folder(folder.path(), Limits { requests: 1, ..Limits::default() });
        app.store.add_account("cluster", Role::Bridge, &Secret::new("right")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let status = |password: &str| {
            let body = Bytes::from(format!("username=cluster&password={password}"));
            runtime.block_on(log_in(State(app.clone()), Ok(body))).status()
        };
        let refused: Vec<_> = (0..20).map(|_| status("wrong")).collect();
        assert_eq!(refused[0], StatusCode::UNAUTHORIZED);
        assert!(refused.contains(&StatusCode::TOO_MANY_REQUESTS), "{refused:?}");
        assert_eq!(status("right"), StatusCode::OK);
    }

    #[test]
    fn a_log_in_is_read_as_check_sends_it() {
        let form = Form::read(b"username=the+cluster&email=a%40b.org&password=p%26%C3%A4&x");
        assert_eq!(form.get(&["username", "email"]).as_deref(), Some("the cluster"));
        let who = who_logs_in(b"email=a%40b.org&password=x+y");
        assert_eq!(who, Some(("a@b.org".to_owned(), "x y".to_owned())));
        assert_eq!(who_logs_in(b"username=a"), None);
        assert_eq!(form.get(&["password"]).as_deref(), Some("p&\u{e4}"));
        assert_eq!(form.get(&["absent", "email"]).as_deref(), Some("a@b.org"));
        let long = format!("username={}", "x".repeat(LONGEST + 1));
        for body in ["", "username=", "username", "username=%4", "username=%ff", &long] {
            assert_eq!(Form::read(body.as_bytes()).get(&["username"]), None, "{body}");
        }
    }

    #[test]
    fn only_rodans_kind_of_token_is_one() {
        let mut headers = HeaderMap::new();
        assert!(token(&headers).is_none());
        for (value, expected) in
            [("Token abc", Some("abc")), ("token abc", Some("abc")), ("Bearer abc", None)]
        {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(token(&headers).as_ref().map(Secret::expose), expected);
        }
    }
}

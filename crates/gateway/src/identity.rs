//! Who asks: a bearer token, or the cookie that a browser was given for one.

use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use base::secret::Secret;
use domain::hex_sha256;

use crate::app::App;
use crate::problem::Problem;
use crate::rates::STRANGERS;
use crate::store::{Account, Group, Run};

/// The name of the cookie.
pub(crate) const COOKIE: &str = "gateway_token";

/// The longest token that is looked up.
const LONGEST: usize = 200;

/// A new token: 244 random bits.
pub fn new_token() -> Secret {
    let part = || uuid::Uuid::new_v4().simple().to_string();
    Secret::new(part() + &part())
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The account.
    pub account: Account,
    /// For a browser: what its forms have to send along, so that another site can't send them.
    pub form_key: Option<String>,
}

impl Identity {
    /// Whether it may upload and train.
    ///
    /// # Errors
    /// 403 for a viewer.
    pub(crate) fn may_submit(&self) -> Result<(), Problem> {
        if self.account.role.may_submit() {
            return Ok(());
        }
        let what = "a viewer's account can look, but not upload or train; ask the gateway's \
            administrator for a submitter's";
        Err(Problem::new(StatusCode::FORBIDDEN, what))
    }

    /// Whether a form comes from a page that this gateway has shown to this browser.
    ///
    /// # Errors
    /// 403, where it does not.
    pub(crate) fn sent_by(&self, form_key: &str) -> Result<(), Problem> {
        match &self.form_key {
            Some(own) if same(own, form_key) => Ok(()),
            _ => {
                let what = "the form does not come from a page of this gateway, or that page is \
                    old; open the page again";
                Err(Problem::new(StatusCode::FORBIDDEN, what))
            }
        }
    }
}

/// What the account may see.
impl Identity {
    /// The run of this number.
    ///
    /// # Errors
    /// 404, when there is none that the account may see.
    pub(crate) async fn run(&self, app: &App, id: &str) -> Result<Run, Problem> {
        let missing = || Problem::missing("such run");
        let number = id.parse::<i64>().map_err(|_| missing())?;
        let account = self.account.clone();
        app.ask(move |store| store.run(number, &account)).await?.ok_or_else(missing)
    }

    /// The group of this number.
    ///
    /// # Errors
    /// 404, when there is none that the account may see.
    pub(crate) async fn group(&self, app: &App, id: &str) -> Result<Group, Problem> {
        let missing = || Problem::missing("such group");
        let number = id.parse::<i64>().map_err(|_| missing())?;
        let account = self.account.clone();
        app.ask(move |store| store.group(number, &account)).await?.ok_or_else(missing)
    }
}

/// Compares without telling by the time it takes how much is equal.
fn same(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left.bytes().zip(right.bytes()).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}

/// What a browser's forms send along: it follows from the token, which no other site knows.
fn form_key(token: &Secret) -> String {
    hex_sha256(format!("form {}", token.expose()).as_bytes())
}

/// The account of a token and, as a browser has it, the identity.
///
/// # Errors
/// 401, when no account has it; 429, when it is used too often.
pub(crate) async fn of_token(app: &App, token: Secret, browser: bool) -> Result<Identity, Problem> {
    let form_key = browser.then(|| form_key(&token));
    if token.expose().len() > LONGEST {
        return Err(unknown());
    }
    let account = app.ask(move |store| store.account_of(&token)).await?;
    let asks = account.as_ref().map_or(STRANGERS, |account| account.id);
    if let Err(wait) = app.rates.allow(asks, Instant::now()) {
        let what = format!(
            "this gateway takes {} requests a second of an account; ask again in a second",
            app.limits.requests
        );
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, what).again_in(wait));
    }
    account.map(|account| Identity { account, form_key }).ok_or_else(unknown)
}

fn absent() -> Problem {
    let what = "no token has come; send \"Authorization: Bearer TOKEN\" with the token of an \
        account, or open the link that the gateway printed when it started";
    Problem::new(StatusCode::UNAUTHORIZED, what)
}

fn unknown() -> Problem {
    let what = "the token is unknown; open the link that the gateway printed when it started, or \
        send \"Authorization: Bearer TOKEN\" with the token of an account";
    Problem::new(StatusCode::UNAUTHORIZED, what)
}

/// The token in a request's `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim()))
}

/// The token in a request's cookies.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<Secret> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, token)| Secret::new(token))
}

/// The header that gives a browser its cookie.
pub(crate) fn set_cookie(app: &App, token: &Secret) -> String {
    let secure = if app.behind_proxy { "; Secure" } else { "" };
    let token = token.expose();
    format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000{secure}")
}

impl FromRequestParts<App> for Identity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if let Some(token) = bearer(&parts.headers) {
            return of_token(app, token, false).await;
        }
        let Some(token) = cookie(&parts.headers) else { return Err(absent()) };
        // What a browser sends by itself never changes anything in the programs' interface; its
        // own forms prove where they come from.
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if !reads && parts.uri.path().starts_with("/v1/") {
            let what = "send \"Authorization: Bearer TOKEN\": a cookie does not do for this";
            return Err(Problem::new(StatusCode::FORBIDDEN, what));
        }
        of_token(app, token, true).await
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request};

    use super::*;
    use crate::app::Limits;

    #[test]
    fn whoever_sends_no_token_is_told_what_to_send() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::in_folder(folder.path(), Limits::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let refused = |authorization: Option<&str>| {
            let mut request = Request::get("/v1/runs");
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let asked = Identity::from_request_parts(&mut parts, &app);
            runtime.block_on(asked).unwrap_err()
        };
        for (sent, said) in [
            (None, "No token has come; send \"Authorization: Bearer TOKEN\""),
            (Some("Basic abc"), "No token has come; send \"Authorization: Bearer TOKEN\""),
            (Some("Bearer abc"), "The token is unknown;"),
        ] {
            let problem = refused(sent);
            assert_eq!(problem.status, 401);
            assert!(problem.detail.starts_with(said), "{}", problem.detail);
        }
    }

    #[test]
    fn tokens_are_found_in_headers() {
        let mut headers = HeaderMap::new();
        assert!(bearer(&headers).is_none() && cookie(&headers).is_none());
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer abc"));
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b; gateway_token=xyz; c"));
        assert_eq!(bearer(&headers).unwrap().expose(), "abc");
        assert_eq!(cookie(&headers).unwrap().expose(), "xyz");
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert!(bearer(&headers).is_none());
    }

    #[test]
    fn a_form_proves_where_it_comes_from() {
        let token = new_token();
        assert_eq!(token.expose().len(), 64);
        let account = Account {
            id: 1,
            name: "a".into(),
            role: crate::store::Role::Viewer,
            created_at: String::new(),
        };
        let identity = Identity { account, form_key: Some(form_key(&token)) };
        assert!(identity.sent_by(&form_key(&token)).is_ok());
        assert!(identity.sent_by(&form_key(&new_token())).is_err());
        assert!(identity.sent_by("").is_err());
        assert!(identity.may_submit().is_err());
        assert!(Identity { form_key: None, ..identity }.sent_by("").is_err());
    }
}

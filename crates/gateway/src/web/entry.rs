//! The page that asks for a token.

use axum::extract::{Form, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use base::secret::Secret;
use maud::html;
use serde::Deserialize;

use super::layout::{Frame, notice, page as whole};
use crate::app::App;
use crate::identity::{of_token, set_cookie};
use crate::problem::Problem;

/// The form of the page.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    token: Secret,
}

/// Asks for the token.
pub(super) async fn page() -> Response {
    show(StatusCode::OK, None)
}

fn show(status: StatusCode, problem: Option<&Problem>) -> Response {
    let content = html! {
        h1 { "Who are you?" }
        @if let Some(problem) = problem { (notice(problem)) }
        p {
            "Open the link that the gateway printed when it started, or enter the token of your "
            "account."
        }
        form.line method="post" action="/login" {
            label {
                "Token "
                input type="password" name="token" autocomplete="current-password" required;
            }
            button { "Enter" }
        }
    };
    whole(status, &Frame { title: "Who are you?", identity: None, changes: false }, &content)
}

/// Gives the browser a cookie for the token.
pub(super) async fn enter(State(app): State<App>, Form(entry): Form<Entry>) -> Response {
    with_token(&app, Secret::new(entry.token.expose().trim())).await
}

/// Gives the browser a cookie for the token, and shows the runs.
pub(super) async fn with_token(app: &App, token: Secret) -> Response {
    match of_token(app, token.clone(), true).await {
        Ok(_) => {
            let cookie = [(header::SET_COOKIE, set_cookie(app, &token))];
            (cookie, Redirect::to("/")).into_response()
        }
        Err(problem) => show(problem.status(), Some(&problem)),
    }
}

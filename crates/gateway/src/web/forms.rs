//! What browsers send: who they are, and the fields of their forms.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::layout;
use crate::app::App;
use crate::identity::Identity;
use crate::problem::Problem;

/// The field of a form that shows which page it comes from.
pub(super) const KEY: &str = "form_key";

/// Who uses the browser; whoever is not known is asked.
#[derive(Debug)]
pub(super) struct Browser(pub(super) Identity);

impl FromRequestParts<App> for Browser {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        match Identity::from_request_parts(parts, app).await {
            Ok(identity) => Ok(Self(identity)),
            Err(problem) if problem.status() != StatusCode::UNAUTHORIZED => {
                Err(layout::problem(None, &problem))
            }
            Err(_) if parts.method == Method::GET => Err(Redirect::to("/login").into_response()),
            Err(problem) => Err(layout::problem(None, &problem)),
        }
    }
}

impl Browser {
    /// The hidden field of each form.
    pub(super) fn key(&self) -> Markup {
        let key = self.0.form_key.as_deref().unwrap_or_default();
        html! { input type="hidden" name=(KEY) value=(key); }
    }

    /// A problem as a page.
    pub(super) fn problem(&self, problem: &Problem) -> Response {
        layout::problem(Some(&self.0), problem)
    }
}

/// The fields of a form, in order.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// What was sent, from a page that this browser was shown.
    pub(super) fn of(
        browser: &Browser,
        form: Result<Form<Vec<(String, String)>>, FormRejection>,
    ) -> Result<Self, Problem> {
        let Form(fields) = form.map_err(|error| {
            Problem::new(error.status(), format!("the form can't be read: {error}"))
        })?;
        let fields = Self(fields);
        browser.0.sent_by(fields.first(KEY).unwrap_or_default())?;
        Ok(fields)
    }

    /// Without a look at where they come from.
    pub(super) fn of_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The first field of this name.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// All of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

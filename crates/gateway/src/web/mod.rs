//! The pages for browsers: made on the server, complete without scripts.

mod compare;
mod entry;
mod forms;
mod layout;
mod new;
mod run;
mod runs;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use crate::app::App;
use crate::upload_form;

pub(crate) use new::request_of;

/// All routes for browsers.
pub(crate) fn routes(app: &App) -> Router<App> {
    let upload = upload_form::limit(app.limits.upload_bytes);
    Router::new()
        .route("/", get(runs::page))
        .route("/login", get(entry::page).post(entry::enter))
        .route("/new", get(new::page).post(new::place))
        .route("/new/page", post(new::upload).layer(upload))
        .route("/runs/{id}", get(run::page))
        .route("/runs/{id}/cancel", post(run::cancel))
        .route("/runs/{id}/apply", post(run::apply).layer(upload))
        .route("/groups/{id}/cancel", post(compare::cancel))
        .route("/compare", get(compare::page))
        .route("/compare.csv", get(compare::csv))
        .route("/static/style.css", get(layout::style))
        .route("/static/live.js", get(layout::script))
        .layer(DefaultBodyLimit::max(app.limits.body_bytes))
}

//! The interface for programs.

mod apply;
mod archive;
mod description;
mod downloads;
mod events;
mod groups;
mod pages;
mod rodan;
mod runs;
mod schemas;
mod status;
mod views;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{get, post};

use crate::app::App;
use crate::problem::Problem;
use crate::upload_form;

pub use description::openapi;
pub(crate) use rodan::who_logs_in;

/// All routes for programs.
pub(crate) fn routes(app: &App) -> Router<App> {
    let upload = upload_form::limit(app.limits.upload_bytes);
    Router::new()
        .route("/v1/pages", post(pages::upload).layer(upload).get(pages::list))
        .route("/v1/pages/{id}", get(pages::one))
        .route("/v1/pages/{id}/thumbnail", get(pages::thumbnail))
        .route("/v1/runs", post(runs::place).get(runs::list))
        .route("/v1/runs/{id}", get(runs::one))
        .route("/v1/runs/{id}/apply", post(apply::apply).layer(upload))
        .route("/v1/runs/{id}/cancel", post(runs::cancel))
        .route("/v1/runs/{id}/retry", post(runs::retry))
        .route("/v1/runs/{id}/events", get(events::events))
        .route("/v1/runs/{id}/models.zip", get(archive::models))
        .route("/v1/runs/{id}/layers.zip", get(archive::layers))
        .route("/v1/runs/{id}/models/{name}", get(downloads::model))
        .route("/v1/runs/{id}/files/{name}", get(downloads::file))
        .route("/v1/runs/{id}/report", get(downloads::report))
        .route("/v1/runs/{id}/log", get(downloads::log))
        .route("/v1/groups/{id}", get(groups::one))
        .route("/v1/groups/{id}/cancel", post(groups::cancel))
        .route("/", post(runs::place_short).put(runs::place_short))
        .route("/request", post(runs::place_short).put(runs::place_short))
        .route("/status", get(status::status))
        .route("/api/auth/token/", post(rodan::log_in))
        .route("/uploads/{key}/{name}", get(rodan::download))
        .route("/healthz", get(status::health))
        .route("/readyz", get(status::ready))
        .route("/metrics", get(status::metrics))
        .route("/openapi.json", get(description::description))
        .layer(DefaultBodyLimit::max(app.limits.body_bytes))
}

/// What there is no route for.
pub(crate) async fn no_route() -> Problem {
    Problem::missing("such address; /openapi.json lists them")
}

/// A route that has no such method.
pub(crate) async fn no_method() -> Problem {
    let what = "this address takes no such method; /openapi.json lists what it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, what)
}

/// Headers of every answer: a browser shall not guess its type, pass its address on, show it in a
/// frame or let others keep it.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

//! How the gateway itself is.

use std::fmt::Write as _;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::views::StatusView;
use crate::app::App;
use crate::identity::Identity;
use crate::problem::Problem;
use crate::state::State as RunState;

/// How many runs wait and are trained
#[utoipa::path(
    get, path = "/status", tag = "gateway",
    responses(
        (status = 200, description = "The queue", body = StatusView),
    )
)]
pub(super) async fn status(
    State(app): State<App>,
    _identity: Identity,
) -> Result<Json<StatusView>, Problem> {
    let counts = app.ask(|store| store.counts()).await?;
    let of = |wanted: fn(RunState) -> bool| {
        counts.iter().filter(|(state, _)| wanted(*state)).map(|(_, count)| count).sum()
    };
    Ok(Json(StatusView {
        queued_tasks: of(|state| state == RunState::Queued),
        active_tasks: of(RunState::is_active),
        scheduled_tasks: 0,
        registered_workers: app.store.reach().is_none().then_some(1),
        trouble: app.store.trouble(),
    }))
}

/// Whether the program runs
#[utoipa::path(
    get, path = "/healthz", tag = "gateway", security(()),
    responses((status = 200, description = "It does"))
)]
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Whether requests can be served
#[utoipa::path(
    get, path = "/readyz", tag = "gateway", security(()),
    responses(
        (status = 200, description = "They can"),
    )
)]
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Value>, Problem> {
    app.ask(|store| store.is_readable()).await?;
    Ok(Json(json!({"status": "ok"})))
}

/// Figures for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "gateway",
    responses(
        (status = 200, description = "The figures", content_type = "text/plain", body = String),
    )
)]
pub(super) async fn metrics(
    State(app): State<App>,
    _identity: Identity,
) -> Result<Response, Problem> {
    let counts = app.ask(|store| store.counts()).await?;
    let mut text = String::from(
        "# HELP gateway_runs Runs in the store, by state.\n# TYPE gateway_runs gauge\n",
    );
    for (state, count) in counts {
        // Writing to a String can't fail.
        let _ = writeln!(text, "gateway_runs{{state=\"{state}\"}} {count}");
    }
    if let Some(reach) = app.store.reach() {
        let there = u8::from(reach.is_there());
        let _ = writeln!(
            text,
            "# HELP gateway_broker_up Whether RabbitMQ answered when it was asked last.\n\
             # TYPE gateway_broker_up gauge\ngateway_broker_up {there}"
        );
    }
    let busy = |all: usize, semaphore: &tokio::sync::Semaphore| {
        all.saturating_sub(semaphore.available_permits())
    };
    for (name, help, value) in [
        ("uploads", "Uploads that come in now.", busy(app.limits.uploads, &app.uploads)),
        ("watchers", "Clients that watch runs now.", busy(app.limits.watchers, &app.watchers)),
    ] {
        let _ = writeln!(
            text,
            "# HELP gateway_{name} {help}\n# TYPE gateway_{name} gauge\ngateway_{name} {value}"
        );
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

//! Runs: ask for one, list, look, cancel, retry.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::hex_sha256;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::views::{DryRunView, GroupView, RunList, RunView, StateView};
use crate::app::App;
use crate::identity::Identity;
use crate::order::{self, FieldProblem, own_name};
use crate::placing;
use crate::problem::Problem;
use crate::run_configuration::translated;
use crate::state::State as RunState;
use crate::store::{Filter, Run};

/// Runs of a list, unless fewer are asked for.
const USUAL: u32 = 50;
/// Most runs of a list.
const MOST: u32 = 200;
/// The longest that an answer is waited with.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The longest Idempotency-Key.
const LONGEST_KEY: usize = 200;

/// Ask for a run
///
/// Everything is checked at once; "errors" points at each field that is wrong. With an
/// `Idempotency-Key`, the same request again is the same run. A setting with a list of values makes
/// a grid, whose runs are a group.
#[utoipa::path(
    post, path = "/v1/runs", operation_id = "place_run", tag = "runs",
    params(("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,200}$",
        description = "A key of the client's own for this request")),
    request_body(content = ref("#/components/schemas/RunRequest")),
    responses(
        (status = 202, description = "The run is queued, or the runs of the grid are",
            body = RunOrGroup, headers(("Location" = String))),
        (status = 200, description = "With dry_run: the request is right", body = DryRunView),
        (status = 400, description = "The body is no JSON"),
        (status = 422, description = "Fields are wrong, or the key was used for another request"),
        (status = 429, description = "Too many runs of this account wait"),
    )
)]
pub(super) async fn place(
    State(app): State<App>,
    identity: Identity,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    identity.may_submit()?;
    let body = bytes_of(body)?;
    let value = json_of(&headers, &body)?;
    ask_for(&app, identity, &headers, value, &body).await
}

/// The same at the addresses where other training services take it, also in their words.
pub(super) async fn place_short(
    State(app): State<App>,
    identity: Identity,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    if identity.form_key.is_some() {
        let what = "send \"Authorization: Bearer TOKEN\": a cookie does not do for this";
        return Err(Problem::new(StatusCode::FORBIDDEN, what));
    }
    identity.may_submit()?;
    let body = bytes_of(body)?;
    let value = translated(json_of(&headers, &body)?);
    ask_for(&app, identity, &headers, value, &body).await
}

/// What was queued.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum RunOrGroup {
    /// One run.
    Run(Box<RunView>),
    /// The runs of a grid.
    Group(GroupView),
}

async fn ask_for(
    app: &App,
    identity: Identity,
    headers: &HeaderMap,
    value: Value,
    body: &[u8],
) -> Result<Response, Problem> {
    let order = order::read(&value).map_err(Problem::fields)?;
    let key = key_of(headers)?.map(|key| (key, hex_sha256(body)));
    let account = identity.account.clone();
    if order.dry_run {
        let (runs, settings) = (order.count(), order.variations());
        placing::place(app, account, order, key).await?;
        return Ok(Json(DryRunView { dry_run: true, runs, settings }).into_response());
    }
    let run = placing::place(app, account, order, key).await?;
    let run = run.ok_or_else(|| Problem::missing("such run"))?;
    if let Some(group) = run.group {
        let group = identity.group(app, &group.to_string()).await?;
        let location = [(header::LOCATION, format!("/v1/groups/{}", group.id))];
        let view = Json(RunOrGroup::Group(GroupView::from(&group)));
        return Ok((StatusCode::ACCEPTED, location, view).into_response());
    }
    let location = [(header::LOCATION, format!("/v1/runs/{}", run.id))];
    let view = Json(RunOrGroup::Run(Box::new(RunView::from(&run))));
    Ok((StatusCode::ACCEPTED, location, view).into_response())
}

fn bytes_of(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|error| Problem::new(error.status(), format!("the body can't be read: {error}")))
}

fn json_of(headers: &HeaderMap, body: &[u8]) -> Result<Value, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    if kind.is_some_and(|kind| kind != "application/json" && !kind.ends_with("+json")) {
        let what = "send JSON, with \"Content-Type: application/json\"";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
    }
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}"))
    })
}

pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key)
            if (1..=LONGEST_KEY).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(Some(key.to_owned()))
        }
        _ => {
            let what = format!(
                "Idempotency-Key must have 1 to {LONGEST_KEY} visible characters, without spaces"
            );
            Err(Problem::new(StatusCode::BAD_REQUEST, what))
        }
    }
}

/// List the runs, the newest first
#[utoipa::path(
    get, path = "/v1/runs", operation_id = "list_runs", tag = "runs",
    params(
        ("state" = Option<StateView>, Query, description = "Only those in this state"),
        ("name" = Option<String>, Query, description = "Only those whose name holds this"),
        ("group" = Option<i64>, Query, description = "Only those of this group"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 200,
            description = "At most so many"),
        ("page_token" = Option<String>, Query, pattern = "^before-[0-9]{1,18}$",
            description = "next_page_token of the list before"),
    ),
    responses(
        (status = 200, description = "The runs", body = RunList),
        (status = 400, description = "A parameter is wrong"),
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<RunList>, Problem> {
    let filter = filter(&query).map_err(|what| Problem::new(StatusCode::BAD_REQUEST, what))?;
    let most = filter.most;
    // One more shows whether there are more.
    let filter = Filter { most: most + 1, ..filter };
    let mut runs = app.ask(move |store| store.runs(&filter, &identity.account)).await?;
    let more = runs.len() > most as usize;
    runs.truncate(most as usize);
    let next_page_token = runs.last().filter(|_| more).map(|last| format!("before-{}", last.id));
    Ok(Json(RunList { runs: runs.iter().map(RunView::from).collect(), next_page_token }))
}

fn filter(query: &HashMap<String, String>) -> Result<Filter, String> {
    let mut filter = Filter { most: USUAL, ..Filter::default() };
    for (name, value) in query {
        match name.as_str() {
            "state" => {
                let states = RunState::ALL.map(RunState::name).join(", ");
                let state = RunState::from_name(value)
                    .ok_or_else(|| format!("state must be one of {states}"))?;
                filter.state = Some(state);
            }
            "name" => filter.name = Some(value.clone()).filter(|name| !name.is_empty()),
            "group" => {
                let what = "group must be the number of a group";
                filter.group = Some(value.parse().map_err(|_| what)?);
            }
            "page_size" => {
                let size = value.parse().ok().filter(|size| (1..=MOST).contains(size));
                filter.most =
                    size.ok_or_else(|| format!("page_size must be a number from 1 to {MOST}"))?;
            }
            "page_token" => {
                let id = value.strip_prefix("before-").and_then(|id| id.parse().ok());
                let what = "page_token must be the next_page_token of a list";
                filter.before = Some(id.ok_or(what)?);
            }
            other => {
                let other = base::text::printable(other, 40);
                return Err(format!(
                    "there is no parameter {other}; known are state, name, group, page_size and \
                     page_token"
                ));
            }
        }
    }
    Ok(filter)
}

/// Look at a run
#[utoipa::path(
    get, path = "/v1/runs/{id}", operation_id = "run", tag = "runs",
    params(
        ("id" = i64, Path, description = "The run's number"),
        ("wait" = Option<String>, Query, example = "30s", pattern = "^[0-9]{1,9}s?$",
            description = "Wait for its end, at most so many seconds (60)"),
    ),
    responses(
        (status = 200, description = "The run", body = RunView),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn one(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<RunView>, Problem> {
    let wait = match query.get("wait") {
        None => Duration::ZERO,
        Some(text) => seconds(text).ok_or_else(|| {
            Problem::new(StatusCode::BAD_REQUEST, "wait must be seconds, such as 30s")
        })?,
    };
    let end = tokio::time::Instant::now() + wait.min(LONGEST_WAIT);
    let mut changes = app.store.watch();
    loop {
        changes.mark_unchanged();
        let run = identity.run(&app, &id).await?;
        let more = !run.status.state.is_end()
            && matches!(tokio::time::timeout_at(end, changes.changed()).await, Ok(Ok(())));
        if !more {
            return Ok(Json(RunView::from(&run)));
        }
    }
}

fn seconds(text: &str) -> Option<Duration> {
    text.strip_suffix('s').unwrap_or(text).parse().ok().map(Duration::from_secs)
}

/// Cancel a run
///
/// A run that waits is cancelled at once; one that is trained, as soon as its training has ended.
#[utoipa::path(
    post, path = "/v1/runs/{id}/cancel", operation_id = "cancel_run", tag = "runs",
    params(("id" = i64, Path, description = "The run's number")),
    responses(
        (status = 202, description = "It is cancelled, or will be in a moment", body = RunView),
        (status = 404, description = "There is none"),
        (status = 409, description = "It is over"),
    )
)]
pub(super) async fn cancel(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    identity.may_submit()?;
    let run = identity.run(&app, &id).await?;
    placing::cancel(&app, run.id).await?;
    let run = identity.run(&app, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(RunView::from(&run))).into_response())
}

/// Ask for a run again
///
/// With the same pages and settings; the body, if there is one, holds what changes:
/// `{"settings": {…}}`.
#[utoipa::path(
    post, path = "/v1/runs/{id}/retry", operation_id = "retry_run", tag = "runs",
    params(("id" = i64, Path, description = "The run's number")),
    request_body(content = ref("#/components/schemas/RunChanges")),
    responses(
        (status = 202, description = "The new run is queued, or the runs of the grid are",
            body = RunOrGroup, headers(("Location" = String))),
        (status = 200, description = "With dry_run: the request is right", body = DryRunView),
        (status = 404, description = "There is none"),
        (status = 409, description = "It has applied models, and was no training"),
        (status = 422, description = "Fields are wrong"),
    )
)]
pub(super) async fn retry(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    identity.may_submit()?;
    let body = bytes_of(body)?;
    let changes = if body.is_empty() { json!({}) } else { json_of(&headers, &body)? };
    let run = identity.run(&app, &id).await?;
    if run.image.is_some() {
        let what = "the run has applied models, which is asked for by \"apply\" again";
        return Err(Problem::new(StatusCode::CONFLICT, what));
    }
    let value = again(&run, &changes).map_err(|problem| Problem::fields(vec![problem]))?;
    ask_for(&app, identity, &headers, value, &[run.id.to_string().as_bytes(), &body].concat()).await
}

/// The request for the same run with these changes.
fn again(run: &Run, changes: &Value) -> Result<Value, FieldProblem> {
    let same = json!({
        "name": run.name, "pages": run.pages, "settings": run.settings, "labels": run.labels,
        "models_from": run.models_from,
    });
    changed(same, changes)
}

/// A request with changes: of settings one by one, of all else as a whole.
fn changed(mut request: Value, changes: &Value) -> Result<Value, FieldProblem> {
    let Some(changes) = changes.as_object() else {
        return Err(FieldProblem::new("", "must be an object such as {\"settings\": {…}}"));
    };
    // A list of values takes the place of the value that the run had.
    let lists = changes.get("grid").and_then(Value::as_object);
    if let (Some(lists), Some(settings)) = (lists, request["settings"].as_object_mut()) {
        settings.retain(|name, _| !lists.keys().any(|list| own_name(list) == name));
    }
    for (field, change) in changes {
        match (field.as_str(), change.as_object()) {
            // A null takes a setting back to its default.
            ("settings", Some(map)) => {
                for (name, setting) in map {
                    request["settings"][own_name(name)] = setting.clone();
                }
            }
            _ => request[field] = change.clone(),
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_keeps_what_it_does_not_name() {
        let run = json!({"pages": ["a"], "settings": {"Seed": 7, "Patience": 3}});
        for (changes, settings, grid) in [
            (json!({}), json!({"Seed": 7, "Patience": 3}), json!(null)),
            (json!({"settings": {"Seed": 8}}), json!({"Seed": 8, "Patience": 3}), json!(null)),
            (
                json!({"settings": {"Seed": null}}),
                json!({"Seed": null, "Patience": 3}),
                json!(null),
            ),
            // The run's own value gives way to a list; one that is named beside it is refused.
            (json!({"grid": {"Seed": [1, 2]}}), json!({"Patience": 3}), json!({"Seed": [1, 2]})),
            (
                json!({"settings": {"PARALLEL_INSTANCES": 2}}),
                json!({"Seed": 7, "Patience": 3, "Parallel instances": 2}),
                json!(null),
            ),
            (
                json!({"grid": {"Seed": [1, 2]}, "settings": {"Seed": 9}}),
                json!({"Seed": 9, "Patience": 3}),
                json!({"Seed": [1, 2]}),
            ),
        ] {
            let request = changed(run.clone(), &changes).unwrap();
            assert_eq!((&request["settings"], &request["grid"]), (&settings, &grid), "{changes}");
            assert_eq!(request["pages"], json!(["a"]));
        }
        assert!(changed(run, &json!([])).is_err());
    }

    #[test]
    fn lists_are_asked_for_in_words_that_are_known() {
        let ask = |pairs: &[(&str, &str)]| {
            filter(&pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
        };
        let found = ask(&[("state", "running"), ("page_size", "7"), ("page_token", "before-12")]);
        let found = found.unwrap();
        assert_eq!((found.state, found.most, found.before), (Some(RunState::Running), 7, Some(12)));
        for (pairs, part) in [
            ([("state", "runing")], "queued, launch"),
            ([("page_size", "0")], "1 to 200"),
            ([("page_size", "201")], "1 to 200"),
            ([("page_token", "12")], "next_page_token"),
            ([("order", "name")], "no parameter order"),
        ] {
            let error = ask(&pairs).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(seconds("30s"), Some(Duration::from_secs(30)));
        assert_eq!(
            (seconds("5"), seconds("-1"), seconds("s")),
            (Some(Duration::from_secs(5)), None, None)
        );
    }
}

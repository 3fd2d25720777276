//! Groups: the runs of a grid, beside each other.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::views::GroupView;
use crate::app::App;
use crate::identity::Identity;
use crate::placing;
use crate::problem::Problem;
use crate::store::Group;

/// Look at a group of runs, with what differs between them and what came of each
#[utoipa::path(
    get, path = "/v1/groups/{id}", tag = "runs",
    params(("id" = i64, Path, description = "The group's number")),
    responses(
        (status = 200, description = "The group", body = GroupView),
        (status = 404, description = "There is none", body = Problem,
            content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn one(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Json<GroupView>, Problem> {
    Ok(Json(GroupView::from(&visible(&app, &identity, &id).await?)))
}

/// Cancel all runs of a group that are not over
#[utoipa::path(
    post, path = "/v1/groups/{id}/cancel", tag = "runs",
    params(("id" = i64, Path, description = "The group's number")),
    responses(
        (status = 202, description = "They are cancelled, or will be in a moment",
            body = GroupView),
        (status = 404, description = "There is none", body = Problem,
            content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    identity.may_submit()?;
    let group = visible(&app, &identity, &id).await?;
    placing::cancel_all(&app, &group.runs).await?;
    let group = visible(&app, &identity, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(GroupView::from(&group))).into_response())
}

/// The group of this number, if the account may see it.
pub(super) async fn visible(app: &App, identity: &Identity, id: &str) -> Result<Group, Problem> {
    let missing = || Problem::missing("such group");
    let number = id.parse::<i64>().map_err(|_| missing())?;
    let account = identity.account.clone();
    app.ask(move |store| store.group(number, &account)).await?.ok_or_else(missing)
}

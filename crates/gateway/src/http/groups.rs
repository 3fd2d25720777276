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

/// Look at a group of runs, with what differs between them and what came of each
#[utoipa::path(
    get, path = "/v1/groups/{id}", operation_id = "group", tag = "runs",
    params(("id" = i64, Path, description = "The group's number")),
    responses(
        (status = 200, description = "The group", body = GroupView),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn one(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Json<GroupView>, Problem> {
    Ok(Json(GroupView::from(&identity.group(&app, &id).await?)))
}

/// Cancel all runs of a group that are not over
#[utoipa::path(
    post, path = "/v1/groups/{id}/cancel", operation_id = "cancel_group", tag = "runs",
    params(("id" = i64, Path, description = "The group's number")),
    responses(
        (status = 202, description = "They are cancelled, or will be in a moment",
            body = GroupView),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn cancel(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    identity.may_submit()?;
    let group = identity.group(&app, &id).await?;
    placing::cancel_all(&app, &group.runs).await?;
    let group = identity.group(&app, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(GroupView::from(&group))).into_response())
}

//! The models of a run are applied to another page.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::runs::key_of;
use super::views::RunView;
use crate::app::App;
use crate::identity::Identity;
use crate::intake::{self, IMAGE_URL};
use crate::order::FieldProblem;
use crate::placing::{self, Subject};
use crate::problem::Problem;
use crate::upload_form::UploadForm;

/// Apply a run's models to another page
///
/// The page is one that is there, `{"page": "ID"}`, or an image that is sent as the part `image` of
/// a form, or named there by its address in IIIF (`image_url`). It is a run of its own, which comes
/// before trainings that wait. Its files are the layers
/// that the models have found, as RGBA PNGs, and a picture of all of them. Where they can be
/// trained with, they are a page as well (`made_page`).
#[utoipa::path(
    post, path = "/v1/runs/{id}/apply", operation_id = "apply_models", tag = "runs",
    params(
        ("id" = i64, Path, description = "The number of the run whose models are applied"),
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,200}$",
            description = "A key of the client's own for this request"),
    ),
    request_body(content(
        (ref("#/components/schemas/ApplyRequest") = "application/json"),
        (ref("#/components/schemas/ImageForm") = "multipart/form-data"),
    )),
    responses(
        (status = 202, description = "The new run is queued", body = RunView,
            headers(("Location" = String))),
        (status = 404, description = "There is no such run"),
        (status = 409, description = "The run has no models"),
        (status = 422, description = "It is no page"),
        (status = 429, description = "Too many runs of this account wait"),
        (status = 502, description = "The image can't be had from its IIIF server"),
    )
)]
pub(super) async fn apply(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    identity.may_submit()?;
    let from = identity.run(&app, &id).await?;
    let key = key_of(request.headers())?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let subject = if kind.is_some_and(|kind| kind.starts_with("multipart/form-data")) {
        let form = UploadForm::from_request(request, &app).await;
        sent(&app, form.map_err(|error| unread(error.status(), &error))?).await?
    } else {
        // The route takes uploads, so its limit is not that of JSON.
        let body = to_bytes(request.into_body(), app.limits.body_bytes).await;
        let body = body.map_err(|error| unread(StatusCode::PAYLOAD_TOO_LARGE, &error))?;
        named(&body).map_err(|problem| Problem::fields(vec![problem]))?
    };
    let run = placing::apply(&app, identity.account, &from, subject, key).await?;
    let location = [(header::LOCATION, format!("/v1/runs/{}", run.id))];
    Ok((StatusCode::ACCEPTED, location, Json(RunView::from(&run))).into_response())
}

fn unread(status: StatusCode, error: &dyn std::fmt::Display) -> Problem {
    Problem::new(status, format!("the request can't be read: {error}"))
}

/// The image in a form.
async fn sent(app: &App, form: UploadForm) -> Result<Subject, Problem> {
    let _place = intake::place(app)?;
    let upload = intake::receive(app, form, &[IMAGE_URL]).await?;
    Ok(Subject::Sent(intake::take_image(app, upload).await?))
}

/// The page that JSON names.
fn named(body: &[u8]) -> Result<Subject, FieldProblem> {
    let example = "send {\"page\": \"ID\"}, or the image as the part \"image\" of a form";
    let body: Value = serde_json::from_slice(body).map_err(|_| FieldProblem::new("", example))?;
    let fields = body.as_object().ok_or_else(|| FieldProblem::new("", example))?;
    if let Some(other) = fields.keys().find(|field| *field != "page") {
        let pointer = format!("/{}", crate::order::pointer_part(other));
        return Err(FieldProblem::new(pointer, "there is no such field; only \"page\" is known"));
    }
    match fields.get("page").and_then(Value::as_str) {
        Some(id) => Ok(Subject::Page(id.to_owned())),
        None => Err(FieldProblem::new("/page", "must be the id of a page")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_named_or_the_problem_points_at_it() {
        assert!(matches!(named(br#"{"page": "a"}"#), Ok(Subject::Page(id)) if id == "a"));
        for (body, pointer) in [
            (&b"{"[..], ""),
            (b"[]", ""),
            (b"{}", "/page"),
            (br#"{"page": 1}"#, "/page"),
            (br#"{"page": "a", "run/2": 1}"#, "/run~12"),
        ] {
            assert_eq!(named(body).unwrap_err().pointer, pointer, "{body:?}");
        }
    }
}

//! Pages: upload, list, look.

use axum::Json;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::downloads::send;
use super::views::{PageList, PageView};
use crate::app::App;
use crate::identity::Identity;
use crate::intake::{self, IMAGE_URL};
use crate::problem::Problem;
use crate::upload_form::UploadForm;

/// Most pages of a list.
const MOST: u32 = 500;

/// Upload a page
///
/// A form with the files of a page, under the names that `run_trainer --local` knows: image.png (or
/// .jpg), background.png, regions.png (where only a part of the page counts), layer_0.png to
/// layer_9.png; or one zip as Pixel makes it. Instead of the image, `image_url` may be the address
/// of a IIIF image, where the gateway's administrator allows its host. The page is decoded as
/// the trainer does it: what is
/// accepted can be trained.
#[utoipa::path(
    post, path = "/v1/pages", operation_id = "upload_page", tag = "pages",
    request_body(
        content = ref("#/components/schemas/PageForm"), content_type = "multipart/form-data",
    ),
    responses(
        (status = 201, description = "The page is new", body = PageView,
            headers(("Location" = String))),
        (status = 200, description = "The page was there", body = PageView),
        (status = 400, description = "The form is broken"),
        (status = 413, description = "It is too large"),
        (status = 422, description = "It is no page that can be trained"),
        (status = 502, description = "The image can't be had from its IIIF server"),
    )
)]
pub(super) async fn upload(
    State(app): State<App>,
    identity: Identity,
    form: Result<UploadForm, MultipartRejection>,
) -> Result<Response, Problem> {
    identity.may_submit()?;
    let _place = intake::place(&app)?;
    let form = form.map_err(|error| {
        let what = "send the page as multipart/form-data, a part for each file";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("{what} ({error})"))
    })?;
    let upload = intake::receive(&app, form, &["name", IMAGE_URL]).await?;
    let (page, new) = intake::take(&app, upload, identity.account).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(header::LOCATION, format!("/v1/pages/{}", page.id))];
    Ok((status, location, Json(PageView::from(&page))).into_response())
}

/// List the pages, the newest first
#[utoipa::path(
    get, path = "/v1/pages", operation_id = "list_pages", tag = "pages",
    responses(
        (status = 200, description = "The newest pages", body = PageList),
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    identity: Identity,
) -> Result<Json<PageList>, Problem> {
    let pages = app.ask(move |store| store.pages(&identity.account, MOST)).await?;
    Ok(Json(PageList { pages: pages.iter().map(PageView::from).collect() }))
}

/// Look at a page
#[utoipa::path(
    get, path = "/v1/pages/{id}", operation_id = "page", tag = "pages",
    params(("id" = String, Path, description = "The page's id")),
    responses(
        (status = 200, description = "The page", body = PageView),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn one(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Json<PageView>, Problem> {
    let page = app.ask(move |store| store.page(&id, &identity.account)).await?;
    page.map(|page| Json(PageView::from(&page))).ok_or_else(|| Problem::missing("such page"))
}

/// A small JPEG of a page
#[utoipa::path(
    get, path = "/v1/pages/{id}/thumbnail", operation_id = "thumbnail", tag = "pages",
    params(("id" = String, Path, description = "The page's id")),
    responses(
        (status = 200, description = "The picture", content_type = "image/jpeg",
            body = Vec<u8>),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn thumbnail(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let page = app.ask(move |store| store.page(&id, &identity.account)).await?;
    let page = page.ok_or_else(|| Problem::missing("such page"))?;
    send(&app, &page.thumbnail, "image/jpeg", None, &headers).await
}

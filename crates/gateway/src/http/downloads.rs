//! Files of runs: whole, in part, or not again.

use std::io::SeekFrom;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::app::{App, blocking};
use crate::identity::Identity;
use crate::problem::Problem;
use crate::runner::LOG;
use crate::store::{FileKind, Run, StoreError};

/// Bytes that are sent at a time.
const PIECE: usize = 64 << 10;

/// A report runs nothing and loads nothing, whatever it may contain.
const REPORT_POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox";

/// Download a model
#[utoipa::path(
    get, path = "/v1/runs/{id}/models/{name}", tag = "runs",
    params(
        ("id" = i64, Path, description = "The run's number"),
        ("name" = String, Path, example = "Model 0.hdf5", description = "The model's file"),
        ("Range" = Option<String>, Header, description = "bytes=FIRST-LAST"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag that is known"),
    ),
    responses(
        (status = 200, description = "The model", content_type = "application/x-hdf5",
            body = Vec<u8>, headers(("ETag" = String))),
        (status = 206, description = "The part that was asked for",
            content_type = "application/x-hdf5", body = Vec<u8>),
        (status = 304, description = "It is the one that is known"),
        (status = 404, description = "There is none"),
        (status = 416, description = "It has no such part"),
    )
)]
pub(super) async fn model(
    State(app): State<App>,
    identity: Identity,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = identity.run(&app, &id).await?;
    send_result(&app, &run, &name, Some(FileKind::Model), &headers).await
}

/// Download any file of a run
#[utoipa::path(
    get, path = "/v1/runs/{id}/files/{name}", tag = "runs",
    params(
        ("id" = i64, Path, description = "The run's number"),
        ("name" = String, Path, example = "preview.png", description = "The file"),
    ),
    responses(
        (status = 200, description = "The file", content(
            (Vec<u8> = "application/x-hdf5"), (Vec<u8> = "image/png"),
            (String = "text/html"), (String = "text/plain"), (Object = "application/json"),
        )),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn file(
    State(app): State<App>,
    identity: Identity,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = identity.run(&app, &id).await?;
    send_result(&app, &run, &name, None, &headers).await
}

/// The report of a run, a web page
#[utoipa::path(
    get, path = "/v1/runs/{id}/report", tag = "runs",
    params(("id" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The report", content_type = "text/html", body = String),
        (status = 404, description = "There is none (yet)"),
    )
)]
pub(super) async fn report(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = identity.run(&app, &id).await?;
    send_result(&app, &run, "report.html", None, &headers).await
}

/// What the training of a run has logged
#[utoipa::path(
    get, path = "/v1/runs/{id}/log", tag = "runs",
    params(("id" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The log", content_type = "text/plain", body = String),
        (status = 404, description = "There is none (yet)"),
    )
)]
pub(super) async fn log(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = identity.run(&app, &id).await?;
    send_result(&app, &run, LOG, None, &headers).await
}

async fn send_result(
    app: &App,
    run: &Run,
    name: &str,
    kind: Option<FileKind>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let fits = |found: FileKind| kind.is_none_or(|kind| kind == found);
    let result = run.results.iter().find(|result| result.name == name && fits(result.kind));
    let Some(result) = result else {
        let when = if run.status.state.is_end() { "" } else { " yet: the run is not over" };
        return Err(Problem::missing(format!("such file of run {}{when}", run.id)));
    };
    let (media, shown) = match result.kind {
        FileKind::Model => ("application/x-hdf5", false),
        FileKind::Report => ("text/html; charset=utf-8", true),
        FileKind::Record => ("application/json", true),
        FileKind::Preview => ("image/png", true),
        FileKind::Layer => ("image/png", false),
        FileKind::Log => ("text/plain; charset=utf-8", true),
    };
    let name = (!shown).then_some(&*result.name);
    send(app, &result.object.sha256, media, name, headers).await
}

/// Sends an object; with a name, to be saved.
pub(super) async fn send(
    app: &App,
    sha256: &str,
    media: &'static str,
    save_as: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let tag = format!("\"{sha256}\"");
    if let Some(unchanged) = unchanged(headers, &tag) {
        return Ok(unchanged);
    }
    let asked = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let unread = |source| {
        Problem::from(StoreError::File { path: sha256.into(), what: "can't be read", source })
    };
    let (objects, name) = (app.store.objects().clone(), sha256.to_owned());
    let file = blocking(move || objects.open(&name)).await?.map_err(unread)?;
    let mut file = tokio::fs::File::from_std(file);
    let size = file.metadata().await.map_err(unread)?.len();
    // If-Range: where the file is not the one that the client has begun, it gets the whole.
    let same = asked(header::IF_RANGE).is_none_or(|known| known == tag);
    let part = match asked(header::RANGE).filter(|_| same).map(|range| range_of(range, size)) {
        None | Some(Range::Whole) => None,
        Some(Range::Bytes { first, last }) => Some((first, last)),
        Some(Range::Outside) => {
            let what = format!("the file has {size} bytes");
            let mut refused = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, what).into_response();
            if let Ok(value) = format!("bytes */{size}").parse() {
                refused.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            return Ok(refused);
        }
    };
    let (first, last) = part.unwrap_or((0, size.saturating_sub(1)));
    let length = if size == 0 { 0 } else { last - first + 1 };
    if first > 0 {
        file.seek(SeekFrom::Start(first)).await.map_err(unread)?;
    }
    let pieces = stream::try_unfold((file, length), |(mut file, left)| async move {
        let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
        if piece.is_empty() {
            return Ok::<_, std::io::Error>(None);
        }
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        Ok(Some((Bytes::from(piece), (file, left - read as u64))))
    });
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, media)
        .header(header::CONTENT_LENGTH, length)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, tag);
    if part.is_some() {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
    }
    if media.starts_with("text/html") {
        response = response.header(header::CONTENT_SECURITY_POLICY, REPORT_POLICY);
    }
    if let Some(name) = save_as {
        let name = name.replace(['"', '\\'], "_");
        response = response
            .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""));
    }
    response
        .body(Body::from_stream(pieces))
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// The answer to a client that has what this tag names.
pub(super) fn unchanged(headers: &HeaderMap, tag: &str) -> Option<Response> {
    let known = headers.get(header::IF_NONE_MATCH)?.to_str().ok()?;
    let answer = || (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    matches(known, tag).then(answer)
}

/// Whether a list of tags has this one.
fn matches(known: &str, tag: &str) -> bool {
    known.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// The part of a file that is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Bytes { first: u64, last: u64 },
    Outside,
}

/// Reads a `Range`. Anything but one range of bytes gets the whole, as RFC 9110 allows.
fn range_of(range: &str, size: u64) -> Range {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Range::Whole;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        // The last so many bytes.
        (Err(_), Ok(0)) if first.is_empty() => return Range::Outside,
        (Err(_), Ok(count)) if first.is_empty() => {
            (size.saturating_sub(count), size.saturating_sub(1))
        }
        _ => return Range::Whole,
    };
    if first >= size { Range::Outside } else { Range::Bytes { first, last } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_inside_the_file() {
        let bytes = |first, last| Range::Bytes { first, last };
        for (range, expected) in [
            ("bytes=0-0", bytes(0, 0)),
            ("bytes=2-4", bytes(2, 4)),
            ("bytes=2-99", bytes(2, 9)),
            ("bytes=7-", bytes(7, 9)),
            ("bytes=-3", bytes(7, 9)),
            ("bytes=-99", bytes(0, 9)),
            ("bytes=-0", Range::Outside),
            ("bytes=10-", Range::Outside),
            ("bytes=10-12", Range::Outside),
            ("bytes=4-2", Range::Whole),
            ("bytes=1-2,4-5", Range::Whole),
            ("lines=1-2", Range::Whole),
            ("bytes=x-y", Range::Whole),
        ] {
            assert_eq!(range_of(range, 10), expected, "{range}");
        }
        assert_eq!(range_of("bytes=0-", 0), Range::Outside);
    }

    #[test]
    fn a_known_tag_is_found_in_a_list() {
        assert!(matches("\"a\", W/\"b\"", "\"b\"") && matches("*", "\"b\""));
        assert!(!matches("\"a\", \"bb\"", "\"b\""));
    }
}

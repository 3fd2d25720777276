//! A form with files, while it comes in: only little of it is in memory, whatever it is made of.
//!
//! What stands before the first part, and the headers of a part, are gathered until they are whole,
//! without a limit of their own. So the bytes are counted that have come since the form has given
//! something out, and it is read in small pieces, each of which is looked at before the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::StatusCode;
use futures_util::{Stream, StreamExt as _, stream};
use thiserror::Error;

use crate::problem::Problem;

/// Why an upload is refused that is too large.
pub(crate) const TOO_LARGE: &str = "the upload is larger than this gateway takes";

/// Most bytes that are held while the form gives nothing out.
const MOST_HELD: usize = 64 << 10;

/// Most bytes of a piece.
const PIECE: usize = 32 << 10;

/// Bytes that a form may have beside its files.
const BESIDE: u64 = 1 << 20;

/// The limit of a route that takes such a form. The bytes of the files themselves are counted where
/// they are written.
pub(crate) fn limit(upload_bytes: u64) -> DefaultBodyLimit {
    let most = upload_bytes.saturating_add(BESIDE);
    DefaultBodyLimit::max(usize::try_from(most).unwrap_or(usize::MAX))
}

/// A form whose parts come one after the other.
#[derive(Debug)]
pub(crate) struct UploadForm {
    form: Multipart,
    /// Bytes that have come since it has given something out.
    held: Arc<AtomicUsize>,
}

impl<S: Send + Sync> FromRequest<S> for UploadForm {
    type Rejection = MultipartRejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, MultipartRejection> {
        let held = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&held);
        let request = request.map(|body| Body::from_stream(pieces(body, counted)));
        Ok(Self { form: Multipart::from_request(request, state).await?, held })
    }
}

impl UploadForm {
    /// The next part; `None` after the last one.
    ///
    /// # Errors
    /// When the form is broken or too large.
    pub(crate) async fn next(&mut self) -> Result<Option<UploadField<'_>>, Problem> {
        let Self { form, held } = self;
        let held: &AtomicUsize = held;
        let field = form.next_field().await.map_err(|error| refusal(&error, held))?;
        held.store(0, Ordering::Relaxed);
        Ok(field.map(|field| UploadField { field, held }))
    }
}

/// A part of a form.
#[derive(Debug)]
pub(crate) struct UploadField<'a> {
    field: Field<'a>,
    held: &'a AtomicUsize,
}

impl UploadField<'_> {
    /// Its name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.field.name()
    }

    /// The name of its file.
    pub(crate) fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// More of its content; `None` at its end.
    ///
    /// # Errors
    /// When the form is broken or too large.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        let chunk = self.field.chunk().await.map_err(|error| refusal(&error, self.held))?;
        self.held.store(0, Ordering::Relaxed);
        Ok(chunk)
    }
}

/// More has come than is held.
#[derive(Debug, Error)]
#[error("too much of a form is no content of its parts")]
struct TooMuch;

/// The body of a form in small pieces.
fn pieces(
    body: Body,
    held: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static {
    let begin = (body.into_data_stream(), Bytes::new(), held);
    stream::try_unfold(begin, |(mut body, mut rest, held)| async move {
        // Who reads it would go on as long as there is something.
        tokio::task::yield_now().await;
        while rest.is_empty() {
            match body.next().await {
                Some(come) => rest = come?,
                None => return Ok::<_, axum::Error>(None),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        if held.fetch_add(piece.len(), Ordering::Relaxed) + piece.len() > MOST_HELD {
            return Err(axum::Error::new(TooMuch));
        }
        Ok(Some((piece, (body, rest, held))))
    })
}

/// Why a form is refused.
fn refusal(error: &MultipartError, held: &AtomicUsize) -> Problem {
    if held.load(Ordering::Relaxed) > MOST_HELD {
        let what = format!(
            "over {} KiB of the form came that are no content of a part; send nothing before its \
             first part, and short headers",
            MOST_HELD >> 10
        );
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what);
    }
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    }
    Problem::new(
        StatusCode::BAD_REQUEST,
        format!(
            "the form ended early or is no multipart/form-data ({}); send it again",
            error.body_text()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "--edge\r\nContent-Disposition: form-data; name=\"a\"";

    /// The bytes that the parts of a form give out.
    async fn count(body: Vec<u8>) -> Result<usize, Problem> {
        let request = Request::post("/")
            .header("content-type", "multipart/form-data; boundary=edge")
            .body(Body::from(body))
            .unwrap();
        let mut form = UploadForm::from_request(request, &()).await.unwrap();
        let mut given = 0;
        while let Some(mut field) = form.next().await? {
            assert_eq!((field.name(), field.file_name()), (Some("a"), None));
            while let Some(chunk) = field.chunk().await? {
                given += chunk.len();
            }
        }
        Ok(given)
    }

    fn sent(body: &[&[u8]]) -> Result<usize, Problem> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(count(body.concat()))
    }

    #[test]
    fn content_may_be_long_and_what_is_none_may_not() {
        let huge = vec![b'x'; 3 << 20];
        let (long, head, end) = (&huge[..1 << 20], HEAD.as_bytes(), &b"\r\n--edge--\r\n"[..]);
        assert_eq!(sent(&[head, b"\r\n\r\n", long, end]).unwrap(), 1 << 20);
        let short = &long[..MOST_HELD - PIECE];
        assert_eq!(sent(&[short, b"\r\n", head, b"\r\n\r\nabc", end]).unwrap(), 3);
        // Before the first part; in the headers of a part.
        for body in [
            &[long, b"\r\n", head, b"\r\n\r\nabc", end][..],
            &[head, b"\r\nX-Long: ", long, b"\r\n\r\nabc", end],
            &[head, b"\r\n\r\nabc\r\n", head, b"\r\nX-Long: ", long, b"\r\n\r\nabc", end],
        ] {
            let refused = sent(body).unwrap_err();
            assert_eq!(refused.status, 413);
            assert!(refused.detail.starts_with("Over 64 KiB of the form"), "{}", refused.detail);
        }
        // Axum's own limit, where a route has no other, in the words of ours.
        let refused = sent(&[head, b"\r\n\r\n", &huge, end]).unwrap_err();
        assert_eq!((refused.status, &*refused.detail), (413, &*base::text::sentence(TOO_LARGE)));
        assert_eq!(sent(&[b"nothing"]).unwrap_err().status, 400);
    }
}

//! Why a request is refused: problem documents as RFC 9457 has them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::order::FieldProblem;
use crate::store::StoreError;

/// The media type of a problem document.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// A problem document (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The kind of problem; `about:blank` where the status says it all.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened, and what to change.
    pub detail: String,
    /// The fields of the request that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// In how many seconds it may be asked for again, where that is known.
    #[serde(skip)]
    again_in: Option<u32>,
}

/// A field that is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// The field, as a JSON Pointer (RFC 6901) into the request's body.
    #[schema(example = "/settings/Patch height")]
    pub pointer: String,
    /// What is wrong, and what to change.
    pub detail: String,
}

impl Problem {
    /// A problem with this status.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Problem").into(),
            status: status.as_u16(),
            detail: base::text::sentence(&detail.into()),
            errors: Vec::new(),
            again_in: None,
        }
    }

    /// The same, with the seconds after which it may be asked for again (`Retry-After`).
    pub(crate) fn again_in(self, seconds: u32) -> Self {
        Self { again_in: Some(seconds), ..self }
    }

    /// Fields that are wrong.
    pub(crate) fn fields(problems: Vec<FieldProblem>) -> Self {
        let detail = match &problems[..] {
            [one] if one.pointer.is_empty() => one.detail.clone(),
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} fields are wrong; \"errors\" says which", many.len()),
        };
        let field = |problem: FieldProblem| FieldError {
            pointer: problem.pointer,
            detail: base::text::sentence(&problem.detail),
        };
        Self {
            errors: problems.into_iter().map(field).collect(),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
    }

    /// There is nothing of this name, or nothing that the account may see.
    pub(crate) fn missing(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<StoreError> for Problem {
    fn from(problem: StoreError) -> Self {
        let status = match &problem {
            StoreError::Missing(_) => StatusCode::NOT_FOUND,
            StoreError::Transition(_) | StoreError::Taken(_) => StatusCode::CONFLICT,
            StoreError::OtherRequest => StatusCode::UNPROCESSABLE_ENTITY,
            StoreError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ if problem.is_away() => {
                error!("{problem}");
                let what = "the place where this gateway keeps its files can't be reached; nothing \
                    was kept of the request. Send it again later";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, what).again_in(30);
            }
            _ if problem.is_full() => {
                error!("{problem}");
                let what = "the gateway's disk is full; nothing was kept of the request. Make \
                    room, then send it again";
                return Self::new(StatusCode::INSUFFICIENT_STORAGE, what);
            }
            _ => {
                // Its words name files of the server: they are for its operator.
                error!("{problem}");
                let what = "the gateway's store can't be used; its log says why";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, what);
            }
        };
        Self::new(status, problem.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = HeaderValue::from_static(MEDIA_TYPE);
        let mut response = (self.status(), body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.again_in {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            let challenge = HeaderValue::from_static("Bearer realm=\"gateway\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_when_to_ask_again_where_that_is_known() {
        let after =
            |problem: Problem| problem.into_response().headers().get("retry-after").cloned();
        let busy = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy");
        assert_eq!(after(busy().again_in(60)), Some(HeaderValue::from_static("60")));
        // Runs that wait make room when others end: nobody knows when.
        assert_eq!(after(Problem::from(StoreError::TooMany { waiting: 3, most: 2 })), None);
        let text = serde_json::to_string(&busy().again_in(60)).unwrap();
        assert!(!text.contains("60"), "{text}");
    }

    #[test]
    fn fields_are_pointed_at_and_server_faults_name_no_file() {
        let problem = Problem::fields(vec![FieldProblem::new("/pages/0", "is no page")]);
        assert_eq!(problem.status, 422);
        assert_eq!(problem.detail, "/pages/0: is no page.");
        assert_eq!(problem.errors[0].pointer, "/pages/0");
        let path = std::path::PathBuf::from("/secret/place");
        let source = std::io::Error::other("broken");
        let problem = Problem::from(StoreError::File { path, what: "can't be read", source });
        assert_eq!(problem.status, 500);
        assert!(!problem.detail.contains("secret"), "{}", problem.detail);
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let path = std::path::PathBuf::from("/place");
        let problem = Problem::from(StoreError::File { path, what: "can't be read", source });
        assert_eq!(problem.status, 507);
    }
}

//! The description of the interface, made from the code.

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{apply, archive, downloads, events, groups, pages, runs, status};

/// All that is described.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "gateway",
        description = "Uploads pages, trains their layers, shows how far the runs are, and hands \
            their models out. Errors are problem documents (RFC 9457).",
        license(name = "MIT", identifier = "MIT"),
    ),
    paths(
        pages::upload, pages::list, pages::one, pages::thumbnail,
        runs::place, runs::list, runs::one, runs::cancel, runs::retry,
        apply::apply, groups::one, groups::cancel, archive::models, archive::layers,
        events::events,
        downloads::model, downloads::file, downloads::report, downloads::log,
        status::status, status::health, status::ready, status::metrics, description,
    ),
    tags(
        (name = "pages", description = "Pages and their layers"),
        (name = "runs", description = "Trainings and what came of them"),
        (name = "gateway", description = "The gateway itself"),
    ),
    security(("token" = [])),
    modifiers(&Token),
)]
struct Description;

/// How clients show who they are.
struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", bearer);
    }
}

/// The description as JSON, OpenAPI 3.1.
pub fn openapi() -> String {
    Description::openapi().to_pretty_json().unwrap_or_default() + "\n"
}

/// This description
#[utoipa::path(
    get, path = "/openapi.json", tag = "gateway", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(super) async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_to_a_wrong_request_is_a_problem_document() {
        let document: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut operations = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                operations += 1;
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    if status.starts_with(['4', '5']) || status == "default" {
                        let content = answer["content"].as_object().unwrap();
                        assert!(
                            content.contains_key(crate::problem::MEDIA_TYPE),
                            "{method} {path} {status}"
                        );
                    }
                }
            }
        }
        assert_eq!(operations, 24);
    }
}

//! The description of the interface, made from the code.

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tracing::error;
use utoipa::openapi::encoding::EncodingBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder,
    Schema, SchemaFormat, Type,
};
use utoipa::{Modify, OpenApi};

use super::{apply, archive, downloads, events, groups, pages, rodan, runs, schemas, status};
use crate::problem::{FieldError, MEDIA_TYPE, Problem};

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
        rodan::log_in, rodan::download,
    ),
    components(schemas(Problem, FieldError)),
    tags(
        (name = "pages", description = "Pages and their layers"),
        (name = "runs", description = "Trainings and what came of them"),
        (name = "gateway", description = "The gateway itself"),
        (name = "bridges", description = "Rodan's side, for a cluster's check and run_trainer"),
    ),
    security(("token" = [])),
    modifiers(&Token, &Requests, &Problems),
)]
struct Description;

/// How clients show who they are.
struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", bearer);
        let what = "`Token TOKEN`, of a bridge's log-in, as Rodan wants it";
        let header = ApiKeyValue::with_description("Authorization", what);
        components.add_security_scheme("bridge", SecurityScheme::ApiKey(ApiKey::Header(header)));
    }
}

/// What requests hold.
struct Requests;

impl Modify for Requests {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let components = description.components.get_or_insert_default();
        for (name, schema) in schemas::all() {
            add_schema(components, name, schema);
        }
        for operation in operations(description) {
            // It changes nothing without a body; the others need theirs.
            let needed = operation.operation_id.as_deref() != Some("retry_run");
            if let Some(body) = &mut operation.request_body {
                body.required = Some(if needed { Required::True } else { Required::False });
            }
            for parameter in operation.parameters.iter_mut().flatten() {
                parameter.schema = parameter.schema.take().map(not_null);
            }
        }
        for form in ["PageForm", "ImageForm"] {
            let own = format!("#/components/schemas/{form}");
            let bodies = operations(description).filter_map(|each| each.request_body.as_mut());
            for body in bodies {
                let contents = body.content.values_mut();
                for content in contents.filter(|content| refers_to(content.schema.as_ref(), &own)) {
                    for (part, kind) in schemas::encoding(form) {
                        let kind = EncodingBuilder::new().content_type(Some(kind)).build();
                        content.encoding.insert(part, kind);
                    }
                }
            }
        }
    }
}

/// A parameter is left out, or has a value: there is no null in an address or a header.
fn not_null(mut schema: RefOr<Schema>) -> RefOr<Schema> {
    match &mut schema {
        RefOr::T(Schema::Object(object)) => {
            if let SchemaType::Array(kinds) = &mut object.schema_type {
                kinds.retain(|kind| *kind != Type::Null);
                if let [one] = &kinds[..] {
                    object.schema_type = SchemaType::Type(one.clone());
                }
            }
            schema
        }
        RefOr::T(Schema::OneOf(either)) => {
            let named = either.items.iter().find(|item| matches!(item, RefOr::Ref(_))).cloned();
            named.unwrap_or(schema)
        }
        _ => schema,
    }
}

fn add_schema(components: &mut Components, name: &str, schema: Value) {
    match serde_json::from_value::<RefOr<Schema>>(schema) {
        Ok(schema) => drop(components.schemas.insert(name.to_owned(), schema)),
        Err(fault) => error!("the description has no {name}: {fault}"),
    }
}

fn refers_to(schema: Option<&RefOr<Schema>>, address: &str) -> bool {
    matches!(schema, Some(RefOr::Ref(found)) if found.ref_location == address)
}

/// Every answer to a wrong request is a problem document, and any request can be wrong in a way
/// that is not listed. A file is bytes, which Rust calls a list of numbers.
struct Problems;

impl Modify for Problems {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let problem =
            || ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        for operation in operations(description) {
            let responses = &mut operation.responses.responses;
            let any = ResponseBuilder::new().description("Any other problem").build();
            responses.entry("default".to_owned()).or_insert_with(|| any.into());
            for (status, response) in responses {
                let wrong = status.starts_with(['4', '5']) || status == "default";
                let RefOr::T(response) = response else { continue };
                // Rodan's own answers have a form of their own.
                if wrong && response.content.is_empty() {
                    response.content.insert(MEDIA_TYPE.to_owned(), problem());
                }
                for content in response.content.values_mut() {
                    if matches!(content.schema, Some(RefOr::T(Schema::Array(_)))) {
                        content.schema = Some(bytes());
                    }
                }
            }
        }
    }
}

/// The bytes of a file, as generators of clients know them.
fn bytes() -> RefOr<Schema> {
    let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
    ObjectBuilder::new().schema_type(Type::String).format(Some(binary)).build().into()
}

fn operations(description: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = &mut Operation> {
    description.paths.paths.values_mut().flat_map(of_item)
}

fn of_item(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, post, put, delete, .. } = item;
    [get, post, put, delete].into_iter().flatten()
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
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// The library leaves out in silence what it can't express.
    #[test]
    fn every_schema_arrives_whole() {
        let document: Value = serde_json::from_str(&openapi()).unwrap();
        for (name, schema) in schemas::all() {
            let told = &document["components"]["schemas"][name];
            let [told, wanted] = [told, &schema].map(|schema| schema["properties"].as_object());
            let names = |found: &serde_json::Map<String, Value>| -> Vec<String> {
                found.keys().cloned().collect()
            };
            assert_eq!(told.map(names), wanted.map(names), "{name}");
            for (property, schema) in told.into_iter().flatten() {
                let listed = schema["type"] != "array" || !schema["items"].is_null();
                assert!(listed, "{name}: {property} is a list of nothing");
            }
        }
    }

    #[test]
    fn every_answer_to_a_wrong_request_is_a_problem_document() {
        let document: Value = serde_json::from_str(&openapi()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut operations = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(operations.insert(id.to_owned()), "two are called {id}");
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    if status.starts_with(['4', '5']) || status == "default" {
                        let content = answer["content"].as_object().unwrap();
                        if path == "/api/auth/token/" && status != "default" {
                            assert!(content.contains_key("application/json"), "{status}");
                            continue;
                        }
                        assert!(content.contains_key(MEDIA_TYPE), "{method} {path} {status}");
                    }
                }
                assert!(operation["responses"]["default"].is_object(), "{method} {path}");
            }
        }
        assert_eq!(operations.len(), 26);
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let text = openapi();
        let document: Value = serde_json::from_str(&text).unwrap();
        let named = text.split("\"#/components/schemas/").skip(1);
        for name in named.filter_map(|rest| rest.split('"').next()) {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        let upload = &document["paths"]["/v1/pages"]["post"]["requestBody"]["content"];
        let form = &upload["multipart/form-data"];
        let model = &document["paths"]["/v1/runs/{id}/models/{name}"]["get"]["responses"]["200"];
        let model = &model["content"]["application/x-hdf5"]["schema"];
        assert_eq!(model, &json!({"type": "string", "format": "binary"}));
        assert_eq!(form["encoding"]["layer_0"], json!({"contentType": "image/png"}));
    }
}

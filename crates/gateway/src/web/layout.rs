//! What all pages have in common.

use std::fmt::Write as _;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::{Layer, layer_colour};
use maud::{DOCTYPE, Markup, html};

use crate::identity::Identity;
use crate::intake::IMAGE_URL;
use crate::problem::Problem;
use crate::state::State as RunState;

/// What a page may load and send: its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' \
    data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The scripts and what is added to the report's style.
const SCRIPT: &str = include_str!("live.js");
const STYLE: &str = include_str!("style.css");

/// How a page is to be shown.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    pub(super) identity: Option<&'a Identity>,
    /// Whether its content changes: it is loaded again where no script runs.
    pub(super) changes: bool,
}

/// A whole page.
pub(super) fn page(status: StatusCode, frame: &Frame<'_>, content: &Markup) -> Response {
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (frame.title) " · " (base::PRODUCT) }
                link rel="stylesheet" href="/static/style.css";
                link rel="icon" href="data:,";
                @if frame.changes {
                    script src="/static/live.js" defer {}
                    noscript { meta http-equiv="refresh" content="10"; }
                }
            }
            body {
                a.skip href="#content" { "To the content" }
                header.top {
                    strong { (base::PRODUCT) }
                    @if let Some(identity) = frame.identity {
                        nav aria-label="Pages" {
                            a href="/" { "Runs" } " · " a href="/new" { "New run" }
                        }
                        span.dim { (identity.account.name) " (" (identity.account.role.name()) ")" }
                    }
                }
                main #content { (content) }
            }
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "private, no-store"),
    ];
    (status, headers, text.into_string()).into_response()
}

/// A problem as a page.
pub(super) fn problem(identity: Option<&Identity>, problem: &Problem) -> Response {
    let content = html! {
        h1 { (problem.title) }
        (notice(problem))
        p { a href="/" { "To the runs" } }
    };
    let frame = Frame { title: &problem.title, identity, changes: false };
    page(problem.status(), &frame, &content)
}

/// What is wrong, for the top of a page.
pub(super) fn notice(problem: &Problem) -> Markup {
    html! {
        div.notice role="alert" {
            @if problem.errors.is_empty() {
                p { (problem.detail) }
            } @else {
                ul { @for error in &problem.errors {
                    li {
                        @if !error.pointer.is_empty() { (field_name(&error.pointer)) ": " }
                        (error.detail)
                    }
                } }
            }
        }
    }
}

/// A field's name as a person reads it.
fn field_name(pointer: &str) -> String {
    let name = pointer.strip_prefix("/settings/").unwrap_or(pointer.trim_start_matches('/'));
    name.replace("~1", "/").replace("~0", "~")
}

/// The word for a state, in its colour.
pub(super) fn state(state: RunState) -> Markup {
    let class = match state {
        RunState::Queued | RunState::Cancelled => "dim",
        RunState::Launch | RunState::Running => "active",
        RunState::Succeeded => "good",
        RunState::Failed => "bad",
    };
    html! { span class=(class) { (state) } }
}

/// A time as the store has it, for people: to the minute.
pub(super) fn time(text: &str) -> Markup {
    let shown = text.get(..16).unwrap_or(text).replace('T', " ");
    html! { time datetime=(text) { (shown) " UTC" } }
}

/// The field for the address of a IIIF image.
pub(super) fn image_url(what: &str) -> Markup {
    html! {
        label {
            (what)
            input type="url" name=(IMAGE_URL) maxlength="1000" placeholder="https://…/info.json";
        }
    }
}

/// The colour of a layer.
pub(super) fn swatch(layer: Layer) -> Markup {
    let class = match layer {
        Layer::Numbered(number) => format!("swatch layer-{number}"),
        _ => return html! {},
    };
    html! { span class=(class) {} }
}

/// The style of the report, and what these pages need besides.
pub(super) async fn style() -> Response {
    let mut text = format!("{}{STYLE}", report::STYLE);
    for number in 0..=9 {
        if let Some((_, [r, g, b])) = layer_colour(Layer::Numbered(number)) {
            // Writing to a String can't fail.
            let _ = writeln!(text, ".layer-{number}{{background:rgb({r},{g},{b})}}");
        }
    }
    cached("text/css; charset=utf-8", text)
}

/// The script.
pub(super) async fn script() -> Response {
    cached("text/javascript; charset=utf-8", SCRIPT.to_owned())
}

fn cached(kind: &'static str, text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::FieldProblem;

    #[test]
    fn a_person_reads_the_names_of_fields_and_no_pointers() {
        let height = || FieldProblem::new("/settings/Patch height", "must be a multiple of 4");
        let pages = || FieldProblem::new("/pages", "is missing");
        let whole = || FieldProblem::new("", "must be an object");
        for (wrong, shown) in [
            (vec![height()], "<ul><li>Patch height: Must be a multiple of 4.</li></ul>"),
            (vec![whole()], "<ul><li>Must be an object.</li></ul>"),
            (
                vec![height(), pages()],
                "<ul><li>Patch height: Must be a multiple of 4.</li><li>pages: Is missing.</li>\
                 </ul>",
            ),
        ] {
            let text = notice(&Problem::fields(wrong)).into_string();
            assert_eq!(text, format!("<div class=\"notice\" role=\"alert\">{shown}</div>"));
        }
        let text = notice(&Problem::missing("such run")).into_string();
        assert!(text.contains("<p>There is no such run.</p>"), "{text}");
    }
}

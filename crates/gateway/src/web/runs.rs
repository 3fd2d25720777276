//! The page of all runs.

use std::collections::HashMap;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use base::secret::Secret;
use maud::{Markup, html};

use super::entry;
use super::forms::Browser;
use super::layout::{Frame, page as whole, state, time};
use crate::address::percent;
use crate::app::App;
use crate::comparison::mean_f1;
use crate::state::State as RunState;
use crate::store::{Filter, Run};

/// Runs of a page.
const MOST: u32 = 50;

/// Shows the runs; with the token of the printed link, lets the browser in.
pub(super) async fn page(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
    browser: Result<Browser, Response>,
) -> Response {
    if let Some(token) = query.get("token") {
        return entry::with_token(&app, Secret::new(token.as_str())).await;
    }
    let browser = match browser {
        Ok(browser) => browser,
        Err(response) => return response,
    };
    let wanted = query.get("state").and_then(|state| RunState::from_name(state));
    let name = query.get("name").filter(|name| !name.is_empty()).cloned();
    let before = query.get("before").and_then(|before| before.parse().ok());
    let (name_holds, most) = (name.clone(), MOST + 1);
    let filter = Filter { state: wanted, name: name_holds, before, most, group: None };
    let account = browser.0.account.clone();
    let mut runs = match app.ask(move |store| store.runs(&filter, &account)).await {
        Ok(runs) => runs,
        Err(problem) => return browser.problem(&problem),
    };
    let more = runs.len() > MOST as usize;
    runs.truncate(MOST as usize);
    let content = html! {
        h1 { "Runs" }
        @if let Some(trouble) = app.store.trouble() {
            div.notice role="status" { p { (trouble) } }
        }
        form.line method="get" action="/" role="search" {
            label { "Name " input type="search" name="name" value=[name.as_deref()]; }
            label { "State "
                select name="state" {
                    option value="" { "all" }
                    @for state in RunState::ALL {
                        option value=(state) selected[wanted == Some(state)] { (state) }
                    }
                }
            }
            button.plain { "Show" }
        }
        div data-live {
            @if runs.is_empty() {
                p {
                    "There is no such run. " a href="/new" { "Start one" }
                    ": upload a page with its layers, choose the settings, and watch it learn."
                }
            } @else {
                (table(&runs, &browser))
            }
            @if more {
                @if let Some(last) = runs.last() {
                    p { a href=(next(last.id, wanted, name.as_deref())) { "Older runs" } }
                }
            }
        }
    };
    let changes = runs.iter().any(|run| !run.status.state.is_end());
    whole(StatusCode::OK, &Frame { title: "Runs", identity: Some(&browser.0), changes }, &content)
}

fn next(before: i64, wanted: Option<RunState>, name: Option<&str>) -> String {
    let mut address = format!("/?before={before}");
    if let Some(state) = wanted {
        address = format!("{address}&state={state}");
    }
    if let Some(name) = name {
        address = format!("{address}&name={}", percent(name));
    }
    address
}

fn table(runs: &[Run], browser: &Browser) -> Markup {
    let all = browser.0.account.role.sees_all();
    html! {
        form method="get" action="/compare" {
            div.wide tabindex="0" role="region" aria-label="Table of the runs" { table {
                thead { tr {
                    th.text scope="col" { "Compare" } th scope="col" { "Run" }
                    th.text scope="col" { "Name" } th.text scope="col" { "State" }
                    th.text scope="col" { "Progress" } th scope="col" { "Mean F1" }
                    @if all { th.text scope="col" { "Account" } }
                    th scope="col" { "Asked for" }
                } }
                tbody { @for run in runs { tr {
                    td.text {
                        input type="checkbox" name="run" value=(run.id)
                            aria-label={"Compare run " (run.id)};
                    }
                    th scope="row" { a href={"/runs/" (run.id)} { (run.id) } }
                    td.text.wrap { (run.name)
                        @if let Some(group) = run.group {
                            " " a href={"/compare?group=" (group)} { "(group " (group) ")" }
                        } }
                    td.text { (state(run.status.state))
                        @if run.status.cancel_asked && !run.status.state.is_end() {
                            " (to be cancelled)"
                        } }
                    td.text { (how_far(run)) }
                    td {
                        @match mean_f1(run) {
                            Some(f1) => { (format!("{f1:.4}")) }
                            None => { "–" }
                        }
                    }
                    @if all { td.text { (run.account_name) } }
                    td { (time(&run.created_at)) }
                } } }
            } }
            p { button.plain { "Compare the chosen runs" } }
        }
    }
}

fn how_far(run: &Run) -> Markup {
    html! {
        @match (run.status.state, run.place()) {
            (RunState::Queued, Some(0)) => { "next" }
            (RunState::Queued, Some(position)) => { (position) " before it" }
            (RunState::Launch | RunState::Running, _) => {
                progress max="100" value=(run.percent()) aria-label={"Progress of run " (run.id)} {}
                " " (run.percent()) " %"
            }
            _ => { "" }
        }
    }
}

//! Runs beside each other: the settings that differ, and what came of them.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;

use super::forms::{Browser, Fields};
use super::layout::{Frame, page as whole, state};
use crate::address::percent;
use crate::app::App;
use crate::comparison::{Comparison, Row, compare};
use crate::placing;
use crate::problem::Problem;
use crate::store::Run;

/// Most runs of a comparison.
const MOST: usize = 100;

/// A table: its head, and a row for each run.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Shows the runs of `?run=1&run=2`, or of `?group=1`, sorted by `sort`, a column's name.
pub(super) async fn page(
    State(app): State<App>,
    browser: Browser,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let runs = match chosen(&app, &browser, &query).await {
        Ok(runs) => runs,
        Err(problem) => return browser.problem(&problem),
    };
    let mut table = table(&runs);
    let sort = query.iter().find(|(name, _)| name == "sort").map(|(_, value)| value.as_str());
    sort_by(&mut table, sort.unwrap_or_default());
    let changes = runs.iter().any(|run| !run.status.state.is_end());
    let may_cancel = changes && browser.0.account.role.may_submit();
    let group = query.iter().find(|(name, _)| name == "group").and_then(|(_, id)| id.parse().ok());
    let ids: Vec<String> = runs.iter().map(|run| format!("run={}", run.id)).collect();
    let ids = group.map_or_else(|| ids.join("&"), |group: i64| format!("group={group}"));
    let content = html! {
        h1 { "Compare runs" }
        @if runs.is_empty() {
            p { "No run is chosen. Mark some of them in the table of " a href="/" { "runs" } "." }
        } @else {
            div data-live {
                div.wide tabindex="0" role="region" aria-label="The runs" { table.compared {
                    thead { tr { @for name in &table.head { th scope="col" {
                        a href={"/compare?" (ids) "&sort=" (percent(name))} { (name) }
                    } } } }
                    tbody { @for row in &table.rows { tr {
                        @for (index, cell) in row.iter().enumerate() {
                            @if index == 0 {
                                th scope="row" { a href={"/runs/" (cell)} { (cell) } }
                            }
                            @else if table.head[index] == "state" {
                                td {
                                    @if let Some(known) = crate::state::State::from_name(cell) {
                                        (state(known))
                                    }
                                }
                            }
                            @else { td { (cell) } }
                        }
                    } } }
                } }
                p.dim {
                    "Settings that are the same in all runs are left out. F1 of a run on this "
                    "machine is that on the whole of the pages, inside the regions; of a run on "
                    "a cluster, that on the validation samples of the kept epoch."
                }
                p { a href={"/compare.csv?" (ids)} { "As CSV" } }
                @if let Some(group) = group.filter(|_| may_cancel) {
                    form.line method="post" action={"/groups/" (group) "/cancel"} {
                        (browser.key())
                        button.danger { "Cancel all runs of the group" }
                    }
                }
            }
        }
    };
    let frame = Frame { title: "Compare runs", identity: Some(&browser.0), changes };
    whole(StatusCode::OK, &frame, &content)
}

/// The same for a spreadsheet.
pub(super) async fn csv(
    State(app): State<App>,
    browser: Browser,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let runs = match chosen(&app, &browser, &query).await {
        Ok(runs) => runs,
        Err(problem) => return browser.problem(&problem),
    };
    let table = table(&runs);
    let mut text = String::new();
    for row in std::iter::once(&table.head).chain(&table.rows) {
        let cells: Vec<String> = row.iter().map(|cell| csv_cell(cell)).collect();
        text += &(cells.join(",") + "\r\n");
    }
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"runs.csv\""),
    ];
    (headers, text).into_response()
}

/// Asks for the end of all runs of a group.
pub(super) async fn cancel(
    State(app): State<App>,
    browser: Browser,
    Path(id): Path<String>,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let cancelled = async {
        Fields::of(&browser, form)?;
        browser.0.may_submit()?;
        let runs = chosen(&app, &browser, &[("group".to_owned(), id.clone())]).await?;
        placing::cancel_all(&app, &runs).await
    };
    match cancelled.await {
        Ok(()) => Redirect::to(&format!("/compare?group={}", percent(&id))).into_response(),
        Err(problem) => browser.problem(&problem),
    }
}

async fn chosen(
    app: &App,
    browser: &Browser,
    query: &[(String, String)],
) -> Result<Vec<Run>, Problem> {
    let ids: BTreeSet<i64> = query
        .iter()
        .filter(|(name, _)| name == "run")
        .filter_map(|(_, value)| value.parse().ok())
        .take(MOST)
        .collect();
    if let Some((_, group)) = query.iter().find(|(name, _)| name == "group") {
        return Ok(browser.0.group(app, group).await?.runs);
    }
    let account = browser.0.account.clone();
    app.ask(move |store| {
        let found = ids.into_iter().map(|id| store.run(id, &account));
        Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })
    .await
}

fn table(runs: &[Run]) -> Table {
    let Comparison { settings, models, rows } = compare(runs);
    let mut head: Vec<String> = ["run", "name", "state"].map(str::to_owned).into();
    head.extend(settings);
    head.extend(models.iter().map(|model| format!("F1 {model}")));
    head.extend(["mean F1", "seconds"].map(str::to_owned));
    let number = |value: Option<f64>, decimals: usize| {
        value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
    };
    let cells = |row: Row| {
        let mut cells = vec![row.run.to_string(), row.name, row.state.to_string()];
        let value = |value: Option<String>| value.unwrap_or_else(|| "default".to_owned());
        cells.extend(row.settings.into_iter().map(value));
        cells.extend(row.f1.into_iter().map(|f1| number(f1, 4)));
        cells.extend([number(row.mean_f1, 4), number(row.seconds, 0)]);
        cells
    };
    Table { rows: rows.into_iter().map(cells).collect(), head }
}

/// Sorts the rows by a column: numbers by their size, the largest first, then texts.
fn sort_by(table: &mut Table, column: &str) {
    let Some(index) = table.head.iter().position(|name| name == column) else { return };
    table.rows.sort_by(|left, right| {
        let (left, right) = (&left[index], &right[index]);
        match (left.parse::<f64>(), right.parse::<f64>()) {
            (Ok(left), Ok(right)) => right.total_cmp(&left),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => left.cmp(right),
        }
    });
}

/// A cell that a spreadsheet takes for nothing but a text or a number.
fn csv_cell(text: &str) -> String {
    let formula =
        text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_no_formula_and_no_two_cells() {
        for (text, cell) in [
            ("plain", "plain"),
            ("-1.5", "-1.5"),
            ("=1+1", "'=1+1"),
            ("@x", "'@x"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(csv_cell(text), cell);
        }
    }

    #[test]
    fn rows_are_sorted_by_size_or_name() {
        let row = |id: &str, f1: &str| vec![id.to_owned(), f1.to_owned()];
        let head = vec!["run".to_owned(), "mean F1".to_owned()];
        let mut table = Table { head, rows: vec![row("1", "0.5"), row("2", "0.9"), row("3", "")] };
        sort_by(&mut table, "mean F1");
        assert_eq!(table.rows.iter().map(|row| &*row[0]).collect::<Vec<_>>(), ["2", "1", "3"]);
        sort_by(&mut table, "run");
        assert_eq!(table.rows[2][0], "1");
    }
}

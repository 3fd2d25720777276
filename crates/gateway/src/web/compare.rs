//! Runs beside each other: the settings that differ, and what came of them.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::html;

use super::forms::Browser;
use super::layout::{Frame, page as whole, state};
use super::runs::mean_f1;
use crate::app::App;
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

/// Shows the runs of `?run=1&run=2`, sorted by `sort`, a column's name.
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
    let ids: Vec<String> = runs.iter().map(|run| format!("run={}", run.id)).collect();
    let ids = ids.join("&");
    let content = html! {
        h1 { "Compare runs" }
        @if runs.is_empty() {
            p { "No run is chosen. Mark some of them in the table of " a href="/" { "runs" } "." }
        } @else {
            div.wide { table.compared {
                thead { tr { @for name in &table.head { th scope="col" {
                    a href={"/compare?" (ids) "&sort=" (percent(name))} { (name) }
                } } } }
                tbody { @for row in &table.rows { tr {
                    @for (index, cell) in row.iter().enumerate() {
                        @if index == 0 { th scope="row" { a href={"/runs/" (cell)} { (cell) } } }
                        @else if table.head[index] == "state" {
                            td { @if let Some(known) = crate::state::State::from_name(cell) { (state(known)) } }
                        }
                        @else { td { (cell) } }
                    }
                } } }
            } }
            p.dim { "Settings that are the same in all runs are left out. F1 on the whole of the pages, inside the regions." }
            p { a href={"/compare.csv?" (ids)} { "As CSV" } }
        }
    };
    let frame = Frame { title: "Compare runs", identity: Some(&browser.0), changes: false };
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
    let account = browser.0.account.clone();
    app.ask(move |store| {
        let found = ids.into_iter().map(|id| store.run(id, &account));
        Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })
    .await
}

fn table(runs: &[Run]) -> Table {
    let mut settings: BTreeSet<&str> = BTreeSet::new();
    let mut models: Vec<&str> = Vec::new();
    for run in runs {
        settings.extend(run.settings.keys().map(String::as_str));
        for model in layers(run).filter_map(|layer| layer["model"].as_str()) {
            if !models.contains(&model) {
                models.push(model);
            }
        }
    }
    let value = |run: &Run, name: &str| match run.settings.get(name) {
        None => "default".to_owned(),
        Some(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    };
    settings
        .retain(|name| runs.iter().map(|run| value(run, name)).collect::<BTreeSet<_>>().len() > 1);
    let mut head: Vec<String> = ["run", "name", "state"].map(str::to_owned).into();
    head.extend(settings.iter().map(|name| (*name).to_owned()));
    head.extend(models.iter().map(|model| format!("F1 {model}")));
    head.extend(["mean F1", "seconds"].map(str::to_owned));
    let number = |value: Option<f64>, decimals: usize| {
        value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
    };
    let row = |run: &Run| {
        let mut row = vec![run.id.to_string(), run.name.clone(), run.life.state.to_string()];
        row.extend(settings.iter().map(|name| value(run, name)));
        row.extend(models.iter().map(|model| {
            let layer = layers(run).find(|layer| layer["model"] == **model);
            number(layer.and_then(|layer| layer["f1"].as_f64()), 4)
        }));
        row.push(number(mean_f1(run), 4));
        let seconds = run.figures.as_ref().and_then(|figures| figures["seconds"].as_f64());
        row.push(number(seconds, 0));
        row
    };
    Table { rows: runs.iter().map(row).collect(), head }
}

fn layers(run: &Run) -> impl Iterator<Item = &serde_json::Value> {
    let layers = run.figures.as_ref().and_then(|figures| figures["layers"].as_array());
    layers.into_iter().flatten()
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

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
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

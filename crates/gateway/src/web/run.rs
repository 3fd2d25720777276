//! The page of a run.

use axum::extract::multipart::MultipartRejection;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use domain::EpochReport;
use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::forms::{Browser, Fields, KEY};
use super::layout::{Frame, image_url, page as whole, state, time};
use crate::address::percent;
use crate::app::App;
use crate::courses::Courses;
use crate::figures::VALIDATION;
use crate::intake::{self, IMAGE_URL};
use crate::placing::{self, Subject};
use crate::problem::Problem;
use crate::state::State as RunState;
use crate::store::{FileKind, Page, Run};
use crate::upload_form::UploadForm;

/// Pages to apply models to that are listed.
const MOST_PAGES: u32 = 60;

/// Shows a run.
pub(super) async fn page(
    State(app): State<App>,
    browser: Browser,
    Path(id): Path<String>,
) -> Response {
    let found = async {
        let run = browser.0.run(&app, &id).await?;
        let (number, account) = (run.id, browser.0.account.clone());
        let epochs = app.ask(move |store| store.events_of(number, "epoch")).await?;
        let pages = app.ask(move |store| store.pages(&account, MOST_PAGES)).await?;
        Ok::<_, Problem>((run, epochs, pages))
    };
    let (run, epochs, pages) = match found.await {
        Ok(found) => found,
        Err(problem) => return browser.problem(&problem),
    };
    let title = format!("Run {}", run.id);
    let content = html! {
        div data-live data-events={"/v1/runs/" (run.id) "/events"} {
            h1 { (title) @if !run.name.is_empty() { ": " (run.name) } }
            (summary(&run, &browser))
            (figures(&run))
            (layers_found(&run))
            (files(&run))
            (curves(&Courses::of(&epochs).into_histories()))
            (asked(&run))
            // Nothing is loaded again once the run is over, so nothing that is typed here is lost.
            @if run.status.state == RunState::Succeeded && run.image.is_none()
                && browser.0.account.role.may_submit()
            {
                (apply_form(&run, &browser, &pages, !app.iiif.is_empty()))
            }
        }
    };
    let changes = !run.status.state.is_end();
    let frame = Frame { title: &title, identity: Some(&browser.0), changes };
    whole(StatusCode::OK, &frame, &content)
}

fn summary(run: &Run, browser: &Browser) -> Markup {
    let progress = &run.progress;
    html! {
        p { (state(run.status.state))
            @match (run.status.state, run.place()) {
                (RunState::Queued, Some(0)) => { ": it is next" }
                (RunState::Queued, Some(position)) => { ": " (position) " are trained before it" }
                (RunState::Launch, _) => { ": the pages are read and checked" }
                (RunState::Running, _) if run.image.is_some() => {
                    ": the models look for their layers on the page"
                }
                _ => {}
            }
            @if run.status.cancel_asked && !run.status.state.is_end() { ", to be cancelled" }
        }
        @if run.status.state.is_active() && run.image.is_none() {
            p {
                progress.long max="100" value=(run.percent()) aria-label="Progress" {}
                " " (run.percent()) " %"
            }
            @if progress.predicting {
                p { "All layers are trained; the pages are cut with their models." }
            } @else if progress.layer_number > 0 {
                p { (progress.layer) " (" (progress.layer_number) " of " (progress.layers)
                    "), epoch "
                    (progress.epoch.max(1)) " of at most " (progress.epochs)
                    @if let Some(loss) = progress.loss { ", loss " (format!("{loss:.4}")) } }
            }
        }
        @if let Some(detail) = &run.detail { p { (detail) } }
        @if let Some(error) = &run.error { p.bad { (error) } }
        p.dim { "Asked for by " (run.account_name) ", " (time(&run.created_at))
            @if let Some(at) = &run.started_at { " · begun " (time(at)) }
            @if let Some(at) = &run.finished_at { " · over " (time(at)) }
            @if run.attempts > 1 { " · started " (run.attempts) " times" } }
        @if !run.status.state.is_end()
            && !run.status.cancel_asked
            && browser.0.account.role.may_submit()
        {
            form.line method="post" action={"/runs/" (run.id) "/cancel"} {
                (browser.key())
                button.danger { "Cancel the run" }
            }
        }
    }
}

fn figures(run: &Run) -> Markup {
    let empty = Vec::new();
    let layers = run.figures.as_ref().and_then(|figures| figures["layers"].as_array());
    let layers = layers.unwrap_or(&empty);
    let on_samples =
        run.figures.as_ref().is_some_and(|figures| figures["measured_on"] == VALIDATION);
    let number = |layer: &Value, name: &str| {
        layer[name].as_f64().map_or("–".to_owned(), |value| format!("{value:.4}"))
    };
    let count = |layer: &Value, name: &str| {
        layer[name].as_u64().map_or("–".to_owned(), |value| value.to_string())
    };
    html! {
        @if !layers.is_empty() {
            h2 { "Layers" }
            div.wide tabindex="0" role="region" aria-label="Figures of the layers" { table {
                thead { tr {
                    th.text scope="col" { "layer" } th scope="col" { "kept epoch" }
                    th scope="col" { "epochs" } th scope="col" { "precision" }
                    th scope="col" { "recall" } th scope="col" { "F1" }
                    th scope="col" { "learned" }
                } }
                tbody { @for layer in layers { tr {
                    th.text scope="row" { (layer["model"].as_str().unwrap_or_default()) }
                    td { (count(layer, "best_epoch")) } td { (count(layer, "epochs")) }
                    td { (number(layer, "precision")) } td { (number(layer, "recall")) }
                    td { (number(layer, "f1")) }
                    td { @if layer["learned"] == true { "yes" } @else { span.bad { "no" } } }
                } } }
            } }
            @if on_samples {
                p.dim {
                    "Precision, recall and F1 on the validation samples of the kept epoch. The "
                    "report has those on the whole of the pages."
                }
            } @else {
                p.dim { "Precision, recall and F1 on the whole of the pages, inside the regions." }
            }
        }
    }
}

fn files(run: &Run) -> Markup {
    let own = format!("/v1/runs/{}", run.id);
    let of = |kind: FileKind| run.results.iter().filter(move |result| result.kind == kind);
    html! {
        @if !run.results.is_empty() {
            h2 { "Files" }
            ul {
                @for model in of(FileKind::Model) {
                    li { a href={(own) "/models/" (percent(&model.name))} { (model.name) }
                        " " span.dim { (base::text::file_size(model.object.size)) } }
                }
                @if of(FileKind::Model).count() > 1 {
                    li { a href={(own) "/models.zip"} { "All models in one zip" } }
                }
                @for layer in of(FileKind::Layer) {
                    li { a href={(own) "/files/" (percent(&layer.name))} { (layer.name) }
                        " " span.dim { (base::text::file_size(layer.object.size)) } }
                }
                @if of(FileKind::Layer).count() > 1 {
                    li { a href={(own) "/layers.zip"} { "The image and all layers in one zip" } }
                }
                @for _ in of(FileKind::Report) {
                    li { a href={(own) "/report"} { "The report" } }
                }
                @for _ in of(FileKind::Record) {
                    li { a href={(own) "/files/training.json"} { "training.json" } }
                }
                @for _ in of(FileKind::Log) { li { a href={(own) "/log"} { "The log" } } }
            }
            @for preview in of(FileKind::Preview) {
                figure {
                    img src={(own) "/files/" (percent(&preview.name))}
                        alt="The page as the models see it" loading="lazy";
                    figcaption { "The page as the models see it." } }
            }
        }
    }
}

/// What comes of layers that models have found.
fn layers_found(run: &Run) -> Markup {
    html! {
        @if let Some(page) = &run.made_page {
            p { "The layers that were found are a page now. Correct them if you like (the files "
                "below, then "
                a href="/new" { "upload them" } "), or train with them as they are." }
            p { a.button href={"/new?page=" (page)} { "Train with this page" } }
        } @else if run.image.is_some() && run.status.state == RunState::Succeeded {
            p { "The models have found too little on this image to train with." }
        }
    }
}

/// Asks for another page that the models are applied to.
fn apply_form(run: &Run, browser: &Browser, pages: &[Page], iiif: bool) -> Markup {
    html! {
        form method="post" action={"/runs/" (run.id) "/apply"} enctype="multipart/form-data" {
            (browser.key())
            fieldset {
                legend { "Apply the models to another page" }
                p.dim {
                    "Its layers come back as PNGs of the page's size, ready to be corrected and "
                    "trained with."
                }
                div.fields {
                    label {
                        "An image, PNG or JPEG"
                        input type="file" name="image" accept="image/png,image/jpeg";
                    }
                    @if iiif { (image_url("or the address of its IIIF image")) }
                    label { "or a page that is here"
                        select name="page" {
                            option value="" { "–" }
                            @for page in pages { option value=(page.id) { (page.title()) } }
                        }
                    }
                }
                p { button { "Find the layers" } }
            }
        }
    }
}

/// Takes the page that the models are applied to.
pub(super) async fn apply(
    State(app): State<App>,
    browser: Browser,
    Path(id): Path<String>,
    form: Result<UploadForm, MultipartRejection>,
) -> Response {
    let placed = async {
        browser.0.may_submit()?;
        let from = browser.0.run(&app, &id).await?;
        let _place = intake::place(&app)?;
        let form =
            form.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        let upload = intake::receive(&app, form, &[KEY, "page", IMAGE_URL]).await?;
        browser.0.sent_by(upload.texts.get(KEY).map_or("", String::as_str))?;
        let page = upload.texts.get("page").filter(|page| !page.is_empty()).cloned();
        let subject = match page {
            Some(page) if upload.is_empty() => Subject::Page(page),
            Some(_) => {
                let what = "choose an image, its address or a page that is here, one of them";
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what));
            }
            None => Subject::Sent(intake::take_image(&app, upload).await?),
        };
        placing::apply(&app, browser.0.account.clone(), &from, subject, None).await
    };
    match placed.await {
        Ok(run) => Redirect::to(&format!("/runs/{}", run.id)).into_response(),
        Err(problem) => browser.problem(&problem),
    }
}

fn curves(layers: &[(String, Vec<EpochReport>)]) -> Markup {
    html! {
        @if !layers.is_empty() {
            h2 { "Epoch by epoch" }
            @for (name, history) in layers {
                h3 { (name) }
                // Made by the report, which escapes the name.
                div.charts { (PreEscaped(report::charts(name, history, kept(history)))) }
            }
        }
    }
}

/// The best epoch so far.
fn kept(history: &[EpochReport]) -> usize {
    history.iter().rev().find(|report| report.best).map_or(1, |report| report.epoch)
}

fn asked(run: &Run) -> Markup {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        h2 { "What was asked for" }
        table.facts {
            @for (name, value) in &run.settings {
                tr { th.text scope="row" { (name) } td { (text(value)) } }
            }
            @for (name, value) in &run.labels {
                tr { th.text scope="row" { (name) } td { (value) } }
            }
            @if let Some(group) = run.group {
                tr {
                    th.text scope="row" { "group" }
                    td { a href={"/compare?group=" (group)} { (group) } }
                }
            }
            @if let Some(page) = &run.tracked {
                tr {
                    th.text scope="row" { "logged in" }
                    td { a href=(page) { "MLflow" } }
                }
            }
            @if let Some(from) = run.models_from {
                tr {
                    th.text scope="row" {
                        @if run.image.is_some() { "models of run" } @else { "goes on from run" }
                    }
                    td { a href={"/runs/" (from)} { (from) } }
                }
            }
            @for (index, page) in run.pages.iter().enumerate() {
                tr {
                    th.text scope="row" { "page " (index + 1) }
                    td {
                        img src={"/v1/pages/" (page) "/thumbnail"}
                            alt={"Page " (index + 1) " with its layers"} loading="lazy";
                    }
                }
            }
        }
        @if run.status.state == RunState::Succeeded && run.image.is_none() {
            p { a.button href={"/new?models_from=" (run.id)} { "Go on from these models" } }
        }
    }
}

/// Asks for a run's end.
pub(super) async fn cancel(
    State(app): State<App>,
    browser: Browser,
    Path(id): Path<String>,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let cancelled = async {
        Fields::of(&browser, form)?;
        browser.0.may_submit()?;
        let run = browser.0.run(&app, &id).await?;
        placing::cancel(&app, run.id).await?;
        Ok::<_, Problem>(run.id)
    };
    match cancelled.await {
        Ok(id) => Redirect::to(&format!("/runs/{id}")).into_response(),
        Err(problem) => browser.problem(&problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_the_best_is_marked() {
        let report = |(epoch, best)| EpochReport {
            epoch,
            training_loss: 0.5,
            validation: None,
            best,
            seconds: 1.0,
        };
        let history = [(1, true), (2, true), (3, false)].map(report);
        assert_eq!((kept(&history), kept(&history[..1]), kept(&[])), (2, 1, 1));
    }
}

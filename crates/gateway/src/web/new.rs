//! The page on which a run is asked for.

use axum::extract::multipart::MultipartRejection;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use domain::{Allowed, Setting, TRAINING_SETTINGS};
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::forms::{Browser, Fields, KEY};
use super::layout::{Frame, image_url, notice, page as whole, swatch};
use crate::app::App;
use crate::intake::{self, IMAGE_URL};
use crate::problem::Problem;
use crate::store::{Account, Page, Run, Store, StoreError};
use crate::upload_form::UploadForm;
use crate::{order, placing};

/// Pages to choose from.
const MOST: u32 = 60;

/// What the forms hold.
#[derive(Debug, Default)]
struct Filled {
    name: String,
    pages: Vec<String>,
    settings: Map<String, Value>,
    models_from: String,
    /// How many runs it makes, where that was asked for.
    counted: Option<u64>,
}

/// Shows the forms; `?page=ID` chooses a page.
pub(super) async fn page(
    State(app): State<App>,
    browser: Browser,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let all = |name: &str| -> Vec<String> {
        query.iter().filter(|(field, _)| field == name).map(|(_, value)| value.clone()).collect()
    };
    let pages = all("page");
    let models_from = all("models_from").into_iter().next().unwrap_or_default();
    let filled = Filled { pages, models_from, ..Filled::default() };
    show(&app, &browser, &filled, None).await
}

async fn show(app: &App, browser: &Browser, filled: &Filled, wrong: Option<&Problem>) -> Response {
    let account = browser.0.account.clone();
    let chosen = filled.pages.clone();
    let pages = match app.ask(move |store| choices(store, &account, &chosen)).await {
        Ok(pages) => pages,
        Err(problem) => return browser.problem(&problem),
    };
    let content = html! {
        h1 { "New run" }
        @if let Some(problem) = wrong { (notice(problem)) }
        @if let Some(count) = filled.counted {
            div.said role="status" {
                p {
                    "All is right: this makes " (count)
                    @if count == 1 { " run." } @else { " runs." }
                    " Nothing is started yet."
                }
            }
        }
        (upload_form(browser, !app.iiif.is_empty()))
        @if !pages.is_empty() { (run_form(browser, &pages, filled)) }
    };
    let frame = Frame { title: "New run", identity: Some(&browser.0), changes: false };
    whole(wrong.map_or(StatusCode::OK, Problem::status), &frame, &content)
}

/// The pages to choose from: the newest, and before them what is chosen and older.
fn choices(store: &Store, account: &Account, chosen: &[String]) -> Result<Vec<Page>, StoreError> {
    let mut pages = store.pages(account, MOST)?;
    for id in chosen.iter().take(order::MOST_PAGES).rev() {
        if !pages.iter().any(|page| page.id == *id)
            && let Some(page) = store.page(id, account)?
        {
            pages.insert(0, page);
        }
    }
    Ok(pages)
}

fn upload_form(browser: &Browser, iiif: bool) -> Markup {
    html! {
        form method="post" action="/new/page" enctype="multipart/form-data" {
            (browser.key())
            fieldset {
                legend { "1. Upload a page" }
                p { "Choose the files of one page together: " code { "image.png" } " (or .jpg), "
                    code { "background.png" } ", "
                    code { "layer_0.png" } " to " code { "layer_9.png" }
                    ", and " code { "regions.png" }
                    " if only a part of the page is drawn. Or the zip that Pixel makes." }
                div.fields {
                    label { "Name of the page" input type="text" name="name" maxlength="200"; }
                    label { "Files" input type="file" name="files" multiple required; }
                    @if iiif {
                        (image_url("Instead of image.png: the address of the page's IIIF image"))
                    }
                }
                p { button { "Upload" } }
            }
        }
    }
}

fn run_form(browser: &Browser, pages: &[Page], filled: &Filled) -> Markup {
    html! {
        form method="post" action="/new" {
            (browser.key())
            fieldset {
                legend { "2. Choose the pages to learn from" }
                div.pages { @for page in pages { (choice(page, filled)) } }
            }
            fieldset {
                legend { "3. Choose the settings" }
                p.dim {
                    "What is left empty has its default. Several numbers with commas between "
                    "them, such as 64, 128, make a run for each, and for every combination with "
                    "other lists."
                }
                div.fields {
                    label {
                        "Name of the run"
                        input type="text" name="name" maxlength="200" value=(filled.name);
                    }
                    label { "Go on from the models of run"
                        input type="number" name="models_from" min="1" value=(filled.models_from);
                        small { "Leave it empty to begin with new networks." }
                    }
                    @for setting in TRAINING_SETTINGS { (field(setting, filled)) }
                }
            }
            p {
                button { "Start" } " "
                button.plain name="dry_run" value="1" { "Only check and count the runs" }
            }
        }
    }
}

fn choice(page: &Page, filled: &Filled) -> Markup {
    let name = page.title();
    html! {
        label {
            input type="checkbox" name="pages" value=(page.id)
                checked[filled.pages.contains(&page.id)];
            " " (name)
            img src={"/v1/pages/" (page.id) "/thumbnail"}
                alt={"The page " (name) " with its layers"} loading="lazy";
            small.dim { (page.width) " × " (page.height) " pixels (width × height)" }
            table { @for file in &page.files {
                @if let (Some(layer), Some(pixels)) = (file.part.layer(), file.pixels) {
                    tr { th.text scope="row" { (swatch(layer)) (report::layer_name(layer)) }
                        td { (pixels) " pixels" } }
                }
            } }
            @for warning in page.warnings() { p.bad { (warning) } }
        }
    }
}

fn field(setting: &Setting, filled: &Filled) -> Markup {
    let name = setting.name;
    let given = filled.settings.get(name).and_then(Value::as_str).unwrap_or_default();
    let default = setting.local_default.or(setting.default).unwrap_or("drawn");
    html! {
        label {
            (name)
            @match setting.allowed {
                Allowed::Number { .. } => {
                    input type="text" inputmode="numeric" pattern="[0-9, ]*" name={"set:" (name)}
                        placeholder=(default) value=(given);
                }
                Allowed::Words(words) => {
                    select name={"set:" (name)} {
                        option value="" { "default (" (default) ")" }
                        @for word in words() {
                            option value=(word) selected[word == given] { (word) }
                        }
                    }
                }
                Allowed::Walltime | Allowed::Email | Allowed::Instances => {
                    input type="text" name={"set:" (name)} placeholder=(default) value=(given);
                }
            }
            small { (setting.meaning) " (" (setting.in_words()) ")" }
        }
    }
}

/// Takes a page.
pub(super) async fn upload(
    State(app): State<App>,
    browser: Browser,
    form: Result<UploadForm, MultipartRejection>,
) -> Response {
    let taken = async {
        browser.0.may_submit()?;
        let _place = intake::place(&app)?;
        let form =
            form.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        let upload = intake::receive(&app, form, &[KEY, "name", IMAGE_URL]).await?;
        browser.0.sent_by(upload.texts.get(KEY).map_or("", String::as_str))?;
        intake::take(&app, upload, browser.0.account.clone()).await
    };
    match taken.await {
        Ok((page, _)) => Redirect::to(&format!("/new?page={}", page.id)).into_response(),
        Err(problem) => show(&app, &browser, &Filled::default(), Some(&problem)).await,
    }
}

/// Takes a run.
pub(super) async fn place(
    State(app): State<App>,
    browser: Browser,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let fields = match Fields::of(&browser, form) {
        Ok(fields) => fields,
        Err(problem) => return browser.problem(&problem),
    };
    let (mut filled, request) = asked(&fields);
    let placed = async {
        browser.0.may_submit()?;
        let order = order::read(&request).map_err(Problem::fields)?;
        let count = order.count();
        let placed = placing::place(&app, browser.0.account.clone(), order, None).await?;
        Ok::<_, Problem>((placed, count))
    };
    match placed.await {
        Ok((Some(Run { group: Some(group), .. }), _)) => {
            Redirect::to(&format!("/compare?group={group}")).into_response()
        }
        Ok((Some(run), _)) => Redirect::to(&format!("/runs/{}", run.id)).into_response(),
        Ok((None, count)) => {
            filled.counted = Some(count);
            show(&app, &browser, &filled, None).await
        }
        Err(problem) => show(&app, &browser, &filled, Some(&problem)).await,
    }
}

/// What the form holds, and the request that it makes.
fn asked(fields: &Fields) -> (Filled, Value) {
    let given = |setting: &&Setting| {
        let value = fields.first(&format!("set:{}", setting.name))?.trim();
        (!value.is_empty()).then(|| (setting.name.to_owned(), Value::from(value)))
    };
    let filled = Filled {
        name: fields.first("name").unwrap_or_default().to_owned(),
        pages: fields.all("pages").map(str::to_owned).collect(),
        settings: TRAINING_SETTINGS.iter().filter_map(|setting| given(&setting)).collect(),
        models_from: fields.first("models_from").unwrap_or_default().trim().to_owned(),
        counted: None,
    };
    let dry_run = fields.first("dry_run").is_some();
    let settings: Map<String, Value> =
        filled.settings.iter().map(|(name, value)| (name.clone(), listed(value))).collect();
    let from = match filled.models_from.parse::<i64>() {
        _ if filled.models_from.is_empty() => Value::Null,
        Ok(number) => number.into(),
        Err(_) => filled.models_from.as_str().into(),
    };
    let request = json!({
        "name": filled.name, "pages": filled.pages, "settings": settings,
        "models_from": from, "dry_run": dry_run,
    });
    (filled, request)
}

/// The request that the fields of a form make.
pub(crate) fn request_of(fields: Vec<(String, String)>) -> Value {
    asked(&Fields::of_pairs(fields)).1
}

/// A text with commas is a list of values.
fn listed(value: &Value) -> Value {
    match value.as_str() {
        Some(text) if text.contains(',') => {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use base::secret::Secret;

    use super::*;
    use crate::app::Limits;
    use crate::store::{NewPage, Object, PageFile, Part, Role};

    #[test]
    fn commas_make_a_list() {
        for (text, value) in [
            ("64", json!("64")),
            ("64, 128,", json!(["64", "128"])),
            (",", json!([])),
            ("1,1", json!(["1", "1"])),
        ] {
            assert_eq!(listed(&json!(text)), value, "{text}");
        }
    }

    #[test]
    fn a_chosen_page_that_is_not_among_the_newest_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::in_folder(folder.path(), Limits::default());
        let account = |name: &str| {
            app.store.add_account(name, Role::Submitter, &Secret::new(name)).unwrap();
            app.store.account_of(&Secret::new(name)).unwrap().unwrap()
        };
        let (mine, other) = (account("mine"), account("other"));
        let upload = |text: &str, by: &Account| {
            let object = Object { sha256: domain::hex_sha256(text.as_bytes()), size: 1 };
            let file = "image.png".to_owned();
            let (part, pixels) = (Part::Image, None);
            let page = NewPage {
                name: String::new(),
                width: 1,
                height: 1,
                thumbnail: object.clone(),
                files: vec![PageFile { part, file, object, pixels }],
            };
            app.store.add_page(&page, by.id).unwrap().0
        };
        let ids: Vec<String> = (0..=MOST).map(|id| upload(&id.to_string(), &mine)).collect();
        let strange = upload("strange", &other);
        let newest = choices(&app.store, &mine, &[]).unwrap();
        assert_eq!(newest.len(), MOST as usize);
        let old = ids.iter().find(|id| newest.iter().all(|page| page.id != **id)).unwrap();
        // What is there already, is nobody's or is another's adds nothing.
        let chosen = [newest[1].id.clone(), "none".into(), old.clone(), old.clone(), strange];
        let pages = choices(&app.store, &mine, &chosen).unwrap();
        assert_eq!((&pages[0].id, &pages[1..]), (old, &newest[..]));
    }
}

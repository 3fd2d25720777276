//! Runs are asked for and cancelled, by programs and by browsers alike.

use axum::http::StatusCode;
use domain::hex_sha256;

use crate::app::App;
use crate::order::{FieldProblem, Order};
use crate::problem::Problem;
use crate::state::{State, Transition, TransitionError};
use crate::store::{Account, Change, FileKind, Image, NewRun, Part, Run, StoreError};

/// Queues a run and returns it, of a grid the first; `None` where it was only to be checked.
///
/// # Errors
/// When fields are wrong, or too many runs wait.
pub(crate) async fn place(
    app: &App,
    account: Account,
    order: Order,
    key: Option<(String, String)>,
) -> Result<Option<Run>, Problem> {
    let most_waiting = app.limits.waiting_runs;
    let checked = {
        let (account, order) = (account.clone(), order.clone());
        app.ask(move |store| {
            let mut problems = Vec::new();
            for (index, id) in order.pages.iter().enumerate() {
                let pointer = format!("/pages/{index}");
                match store.page(id, &account)? {
                    None => problems.push(FieldProblem::new(pointer, "there is no such page")),
                    Some(page) => problems.extend(
                        page.warnings().into_iter().map(|what| FieldProblem::new(&pointer, what)),
                    ),
                }
            }
            let from = order.models_from.map(|id| store.run(id, &account)).transpose()?;
            if let Some(from) = from
                && !from.is_some_and(|run| has_models(&run))
            {
                let what = "there is no such run whose models are there";
                problems.push(FieldProblem::new("/models_from", what));
            }
            Ok(problems)
        })
        .await?
    };
    if !checked.is_empty() {
        return Err(Problem::fields(checked));
    }
    if order.dry_run {
        return Ok(None);
    }
    app.ask(move |store| {
        let key = key.as_ref().map(|(key, body)| (key.as_str(), body.as_str()));
        let wanted = NewRun { account: &account, order: &order, image: None, key, most_waiting };
        let placed = store.place_run(wanted)?;
        store.run(placed, &account)
    })
    .await
}

/// What the models of a run are applied to.
#[derive(Debug)]
pub(crate) enum Subject {
    /// A page that is there.
    Page(String),
    /// An image that was sent.
    Sent(Image),
}

/// Queues the application of a run's models, and returns it.
///
/// # Errors
/// When the run has no models, or the page is not there.
pub(crate) async fn apply(
    app: &App,
    account: Account,
    from: &Run,
    subject: Subject,
    key: Option<String>,
) -> Result<Run, Problem> {
    if !has_models(from) {
        let what = "there are no models of this run to be applied";
        return Err(Problem::new(StatusCode::CONFLICT, what));
    }
    let (pages, image) = match subject {
        Subject::Sent(image) => (Vec::new(), image),
        Subject::Page(id) => {
            let (asked, by) = (id.clone(), account.clone());
            let page = app.ask(move |store| store.page(&asked, &by)).await?;
            let wrong = FieldProblem::new("/page", "there is no such page");
            let page = page.ok_or_else(|| Problem::fields(vec![wrong]))?;
            let file = page.files.into_iter().find(|file| file.part == Part::Image);
            let file = file.ok_or_else(|| Problem::missing("image of this page"))?;
            (vec![id], Image { object: file.object, file: file.file })
        }
    };
    let name = format!("The models of run {}", from.id);
    let asked = format!("apply {} {pages:?} {}", from.id, image.object.sha256);
    let order = Order { name, pages, models_from: Some(from.id), ..Order::default() };
    let most_waiting = app.limits.waiting_runs;
    let run = app.ask(move |store| {
        let (image, hash) = (Some(&image), hex_sha256(asked.as_bytes()));
        let key = key.as_deref().map(|key| (key, hash.as_str()));
        let wanted = NewRun { account: &account, order: &order, image, key, most_waiting };
        let placed = store.place_run(wanted)?;
        store.run(placed, &account)
    });
    run.await?.ok_or_else(|| Problem::missing("such run"))
}

fn has_models(run: &Run) -> bool {
    run.status.state == State::Succeeded
        && run.results.iter().any(|result| result.kind == FileKind::Model)
}

/// Asks for the end of all runs that are not over.
///
/// # Errors
/// When the store can't be written.
pub(crate) async fn cancel_all(app: &App, runs: &[Run]) -> Result<(), Problem> {
    // Those that wait first: else each would begin when the one before it ends.
    for run in runs.iter().rev().filter(|run| !run.status.state.is_end()) {
        match cancel(app, run.id).await {
            Err(problem) if problem.status() != StatusCode::CONFLICT => return Err(problem),
            _ => {}
        }
    }
    Ok(())
}

/// Asks for a run's end.
///
/// # Errors
/// 409, when it is over.
pub(crate) async fn cancel(app: &App, run: i64) -> Result<(), Problem> {
    let asked = app
        .ask(move |store| match store.happen(run, Transition::CancelAsked, &Change::default()) {
            Err(StoreError::Transition(not_now)) => Ok(Err(not_now)),
            other => other.map(Ok),
        })
        .await?;
    asked.map(drop).map_err(|TransitionError(state)| {
        let what = format!("the run is over ({state}); there is nothing to cancel");
        Problem::new(StatusCode::CONFLICT, what)
    })
}

//! Runs are asked for and cancelled, by programs and by browsers alike.

use axum::http::StatusCode;

use crate::app::App;
use crate::order::{FieldProblem, Order};
use crate::problem::Problem;
use crate::state::{Happening, State};
use crate::store::{Account, Change, NewRun, ResultKind, Run, StoreError};

/// Queues a run and returns it; `None` where it was only to be checked.
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
        let wanted = NewRun { account: &account, order: &order, key, most_waiting };
        let placed = store.place_run(wanted)?;
        store.run(placed.run, &account)
    })
    .await
}

fn has_models(run: &Run) -> bool {
    run.life.state == State::Succeeded
        && run.results.iter().any(|result| result.kind == ResultKind::Model)
}

/// Asks for a run's end.
///
/// # Errors
/// 409, when it is over.
pub(crate) async fn cancel(app: &App, run: i64) -> Result<(), Problem> {
    let asked = app
        .ask(move |store| match store.happen(run, Happening::CancelAsked, &Change::default()) {
            Err(StoreError::NotNow(not_now)) => Ok(Err(not_now)),
            other => other.map(Ok),
        })
        .await?;
    asked.map(drop).map_err(|not_now| {
        let what = format!("{not_now}: there is nothing to cancel");
        Problem::new(StatusCode::CONFLICT, what)
    })
}

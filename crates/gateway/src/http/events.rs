//! What happens to a run, as it happens (server-sent events).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::views::progress;
use crate::app::App;
use crate::identity::Identity;
use crate::problem::Problem;

/// How often a silent stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

/// Events that are read at a time.
const MOST: u32 = 200;

/// Watch a run
///
/// `state`, `layer` and `epoch` events have ids, and `Last-Event-ID` goes on after one of them;
/// `progress` events say how far it is and have none. The stream ends with the run.
#[utoipa::path(
    get, path = "/v1/runs/{id}/events", tag = "runs",
    params(
        ("id" = i64, Path, description = "The run's number"),
        ("Last-Event-ID" = Option<i64>, Header, minimum = 0,
            description = "Go on after this event"),
    ),
    responses(
        (status = 200, description = "The events", content_type = "text/event-stream",
            body = ref("#/components/schemas/RunEvent")),
        (status = 400, description = "Last-Event-ID is no number of an event"),
        (status = 404, description = "There is no such run"),
    )
)]
pub(super) async fn events(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = identity.run(&app, &id).await?;
    let after = after(&headers)?;
    let permit = std::sync::Arc::clone(&app.watchers).try_acquire_owned().map_err(|_| {
        let what = "too many watch at the moment; ask for the run itself";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).again_in(30)
    })?;
    let watcher = Watcher {
        changes: app.store.watch(),
        app,
        run: run.id,
        after,
        told: Value::Null,
        pending: VecDeque::new(),
        over: false,
        _permit: permit,
    };
    let events = stream::unfold(watcher, |mut watcher| async {
        watcher.next().await.map(|event| (Ok::<_, Infallible>(event), watcher))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE));
    Ok(events.into_response())
}

/// The last event that the client has seen; 0 for none.
fn after(headers: &HeaderMap) -> Result<i64, Problem> {
    let Some(last) = headers.get("last-event-id") else { return Ok(0) };
    let number = last.to_str().ok().and_then(|id| id.parse().ok()).filter(|id| *id >= 0);
    number.ok_or_else(|| {
        let what = "Last-Event-ID must be the id of an event of this run";
        Problem::new(StatusCode::BAD_REQUEST, what)
    })
}

struct Watcher {
    app: App,
    run: i64,
    /// The last event that was read.
    after: i64,
    /// The progress that was told last.
    told: Value,
    pending: VecDeque<Event>,
    over: bool,
    changes: watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            self.changes.mark_unchanged();
            // An error of the store is in the gateway's log; the stream ends, and the client comes
            // again.
            self.look().await?;
            if self.pending.is_empty() && !self.over {
                self.changes.changed().await.ok()?;
            }
        }
    }

    async fn look(&mut self) -> Option<()> {
        let (run, after) = (self.run, self.after);
        let looked = self.app.ask(move |store| {
            // The run first: an end that is seen here has its event in what is read next.
            let found = store.any_run(run)?;
            Ok((found, store.events(run, after, MOST)?))
        });
        let (run, events) = looked.await.ok()?;
        let run = run?;
        self.over = run.status.state.is_end() && events.len() < MOST as usize;
        for event in events {
            self.after = event.id;
            let mut data = event.data;
            data["at"] = event.at.into();
            let text = Event::default().id(event.id.to_string()).event(event.kind);
            self.pending.push_back(text.data(data.to_string()));
        }
        let now = serde_json::to_value(progress(run.percent(), &run.progress)).ok()?;
        if now != self.told {
            let event = Event::default().event("progress").data(now.to_string());
            // Before the events: the last of them may be the end.
            self.pending.push_front(event);
            self.told = now;
        }
        Some(())
    }
}

//! Logs the trainings at a tracking server (MLflow), beside all else: a server that is away delays
//! nothing, and hears everything when it is back.
//!
//! What is logged of a run is noted in the store after it is logged. So a gateway that is killed
//! between the two logs it once more, and MLflow knows it: the run by its word, a metric by its
//! time and its step, a parameter and a file by its name.

mod config;
mod content;
mod server;

use std::io::{self, Read as _};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base::retry::Policy;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{error, info, warn};

pub use config::{TrackingConfig, TrackingError};

use crate::outgoing::ClientError;
use crate::state::State;
use crate::store::{Run, Store, StoreError, There, Tracked, TrackedEnd};
use content::{Batch, milliseconds};
use server::{Server, Trouble};

/// Events that are logged together: each has seven metrics at most, and a request a thousand.
const EVENTS: u32 = 100;

/// How long is waited at least between two looks at the store.
const REST: Duration = Duration::from_secs(1);

/// How long is waited after something could not be logged.
const WAITS: Policy = Policy {
    attempts: u32::MAX,
    first_wait: Duration::from_secs(1),
    longest_wait: Duration::from_secs(60),
};

/// Why a run is not logged now.
#[derive(Debug, Error)]
enum Delay {
    #[error(transparent)]
    Server(#[from] Trouble),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a file of the run can't be read: {0}")]
    File(#[from] io::Error),
}

/// The thread that logs.
#[derive(Debug)]
pub struct Tracker {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Tracker {
    /// Starts it.
    ///
    /// # Errors
    /// When there can be no HTTP client, or the system gives no thread or no runtime.
    pub fn start(store: Arc<Store>, config: TrackingConfig) -> Result<Self, TrackerError> {
        let address = config.address().to_string();
        let server = Server::new(config)?;
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = Work { store, server, address };
        let thread = std::thread::Builder::new()
            .name("tracker".to_owned())
            .spawn(move || runtime.block_on(work.until(stopped)))?;
        Ok(Self { stop, thread })
    }

    /// Ends it at once. What is not logged yet is logged by the next gateway.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            error!("what logs runs in MLflow ended by a fault of the program");
        }
    }
}

/// The tracker can't be started.
#[derive(Debug, Error)]
pub enum TrackerError {
    /// There can be no HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The system gives no thread or no runtime.
    #[error(transparent)]
    System(#[from] io::Error),
}

struct Work {
    store: Arc<Store>,
    server: Server,
    address: String,
}

impl Work {
    async fn until(&self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            // An error means that nobody can say so any more: that is the end as well.
            _ = stopped.wait_for(|stop| *stop) => {}
            () = self.for_ever() => {}
        }
    }

    async fn for_ever(&self) {
        let mut changes = self.store.watch();
        let (mut failures, mut told) = (0, String::new());
        loop {
            changes.mark_unchanged();
            match self.round().await {
                Ok(()) => {
                    if failures > 0 {
                        info!("MLflow at {} has all that waited for it", self.address);
                    }
                    (failures, told) = (0, String::new());
                    tokio::time::sleep(REST).await;
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
                Err(delay) => {
                    let text = delay.to_string();
                    if text != told {
                        warn!("MLflow at {}: {text}; runs are logged there later", self.address);
                    }
                    told = text;
                    tokio::time::sleep(WAITS.wait(failures, None)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// Logs what is new of all runs. One that the server can't take now does not keep the others
    /// waiting.
    async fn round(&self) -> Result<(), Delay> {
        let mut late = None;
        for tracked in self.store.to_be_tracked()? {
            match self.one(&tracked).await {
                Ok(()) => {}
                Err(Delay::Server(Trouble::Never(why))) => {
                    warn!("run {}: MLflow does not take it: {why}", tracked.run);
                    self.store.end_tracking(tracked.run, TrackedEnd::Refused)?;
                }
                Err(delay @ (Delay::Server(Trouble::Later(_)) | Delay::File(_))) => {
                    late.get_or_insert(delay);
                }
                Err(delay) => return Err(delay),
            }
        }
        late.map_or(Ok(()), Err)
    }

    /// Logs what is new of a run.
    async fn one(&self, tracked: &Tracked) -> Result<(), Delay> {
        // Removed meanwhile.
        let Some(run) = self.store.any_run(tracked.run)? else { return Ok(()) };
        let state = run.status.state;
        if tracked.there.is_none() && run.started_at.is_none() {
            if state == State::Cancelled {
                self.store.end_tracking(run.id, TrackedEnd::Nothing)?;
            }
            if state == State::Queued || state == State::Cancelled {
                return Ok(());
            }
        }
        let there = match &tracked.there {
            Some(there) => there.clone(),
            None => self.begin(&run, tracked).await?,
        };
        // What the run was when it was looked at is all in the store: its events, then its end.
        self.epochs(&run, &there, tracked.event).await?;
        if state.is_end() {
            self.end(&run, &there).await?;
        }
        Ok(())
    }

    /// Makes the run at the server, or finds it where an earlier attempt has made it.
    async fn begin(&self, run: &Run, tracked: &Tracked) -> Result<There, Delay> {
        // Asked for each run: somebody may delete it while the gateway is at work, and a server
        // refuses what is sent to a deleted one.
        let experiment = self.server.experiment().await?;
        let there = match self.server.find(&experiment, &tracked.word).await? {
            Some(there) => there,
            None => {
                let started = run.started_at.as_deref().unwrap_or(&run.created_at);
                let tags = content::first_tags(run, tracked);
                let title = content::title(run);
                self.server.create(&experiment, &title, milliseconds(started), &tags).await?
            }
        };
        base::crash::point("after making a run in MLflow");
        let params = content::asked(run);
        self.server.log(&there.id, &Batch { params, ..Batch::default() }).await?;
        self.store.note_tracked(run.id, &there)?;
        Ok(there)
    }

    /// Logs the epochs after the event of this number.
    async fn epochs(&self, run: &Run, there: &There, mut after: i64) -> Result<(), Delay> {
        loop {
            let events = self.store.events(run.id, after, EVENTS)?;
            let Some(last) = events.last() else { return Ok(()) };
            after = last.id;
            let metrics = content::of_events(&events);
            if !metrics.is_empty() {
                self.server.log(&there.id, &Batch { metrics, ..Batch::default() }).await?;
                base::crash::point("after logging epochs in MLflow");
            }
            self.store.note_tracked_to(run.id, after)?;
        }
    }

    /// Logs what came of a run, and that it is over.
    async fn end(&self, run: &Run, there: &There) -> Result<(), Delay> {
        self.server.log(&there.id, &content::at_the_end(run)).await?;
        match content::proxied(&there.artifacts) {
            Some(place) => {
                for result in &run.results {
                    let mut bytes = Vec::new();
                    self.store.objects().open(&result.object.sha256)?.read_to_end(&mut bytes)?;
                    let path = format!("{place}/{}", content::artifact(result));
                    match self.server.send(&path, bytes).await {
                        Err(Trouble::Never(why)) => {
                            warn!("run {}: MLflow does not take {}: {why}", run.id, result.name);
                        }
                        sent => sent?,
                    }
                }
            }
            None => warn!(
                "run {}: its files are not in MLflow, which takes none itself: start it with \
                 --serve-artifacts",
                run.id
            ),
        }
        base::crash::point("after sending the files of a run to MLflow");
        let finished = milliseconds(run.finished_at.as_deref().unwrap_or_default());
        let status = content::status(run.status.state);
        self.server.end(&there.id, status, finished).await?;
        self.store.end_tracking(run.id, TrackedEnd::Whole)?;
        info!("run {}: it is in MLflow", run.id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::extract::Request;
    use axum::{Json, Router};
    use base::secret::Secret;
    use serde_json::json;

    use super::*;
    use crate::order::Order;
    use crate::state::Transition;
    use crate::store::{Change, DataFolder, NewRun, Role};

    #[test]
    fn an_experiment_that_is_deleted_meanwhile_only_delays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&DataFolder::at(&folder.path().join("data")).unwrap()).unwrap();
        let store = Arc::new(store.with_tracking("http://tracking/"));
        store.add_account("me", Role::Submitter, &Secret::new("token of mine")).unwrap();
        let account = store.account_of(&Secret::new("token of mine")).unwrap().unwrap();
        let begun = || {
            let order = Order::default();
            let wanted = NewRun {
                account: &account,
                order: &order,
                image: None,
                key: None,
                most_waiting: 9,
            };
            let run = store.place_run(wanted).unwrap();
            store.happen(run, Transition::Turn, &Change::default()).unwrap();
            run
        };
        let stage = Arc::new(Mutex::new("active"));
        let told = Arc::clone(&stage);
        let answer = move |request: Request| {
            std::future::ready(Json(
                match request.uri().path().rsplit('/').next().unwrap_or_default() {
                    "get-by-name" => {
                        let stage = *told.lock().unwrap();
                        json!({"experiment": {"experiment_id": "7", "lifecycle_stage": stage}})
                    }
                    "create" => json!({"run": {"info": {"run_id": "r", "artifact_uri": "a"}}}),
                    _ => json!({}),
                },
            ))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}/", listener.local_addr().unwrap());
            tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
            let variables = |name: &str| (name == "MLFLOW_TRACKING_URI").then(|| address.clone());
            let config = TrackingConfig::from_variables(variables).unwrap().unwrap();
            let server = Server::new(config).unwrap();
            let work = Work { store: Arc::clone(&store), server, address: address.clone() };
            let known = |run: i64| {
                let open = store.to_be_tracked().unwrap();
                open.into_iter().find(|tracked| tracked.run == run).unwrap().there.is_some()
            };

            let first = begun();
            work.round().await.unwrap();
            assert!(known(first));
            *stage.lock().unwrap() = "deleted";
            let second = begun();
            let delay = work.round().await.unwrap_err();
            assert!(matches!(delay, Delay::Server(Trouble::Away(_))), "{delay}");
            assert!(!known(second));
            *stage.lock().unwrap() = "active";
            work.round().await.unwrap();
            assert!(known(second));
        });
    }
}

//! Trains the queued runs one after the other, or applies their models, and takes up what a gateway
//! that ended has left.

mod child;
mod folder;
mod lines;
mod told;
mod trainer;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{error, info, warn};

pub use child::LocalTrainer;
pub use folder::RunFolder;
pub use trainer::{Ended, StartError, Trainer, Training};

use crate::courses::Courses;
use crate::figures;
use crate::page_files::{self, Files, KeepError};
use crate::state::{State, Transition};
use crate::store::{BucketAway, Change, FileKind, Object, Part, Run, RunFile, Store, StoreError};
use lines::Lines;
use told::Told;

/// How often a training is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a training that is to end has for its checkpoint.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the runner rests after the store could not be used.
const REST: Duration = Duration::from_secs(5);

/// The name of what a training has logged, among a run's files.
pub(crate) const LOG: &str = "log.txt";

/// Why a run's training can't be prepared or its files can't be kept.
#[derive(Debug, Error)]
enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}: {source}", path.display())]
    File { path: std::path::PathBuf, source: std::io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the run has gone from the store")]
    Gone,
}

/// Whether the folder of a run has been made.
enum Filled {
    /// All of it.
    Whole,
    /// This gateway is to stop before.
    Stopping,
    /// The run was cancelled before.
    Cancelled,
}

/// Errors of the store that follow each other, of which the log gets the first.
#[derive(Default)]
struct Trouble {
    is_told: bool,
}

impl Trouble {
    fn note(&mut self, id: i64, error: &StoreError) {
        if !self.is_told {
            error!("run {id}: its training goes on, and what it tells is noted later: {error}");
            self.is_told = true;
        }
    }
}

/// The thread that trains.
#[derive(Debug)]
pub struct Runner {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Runner {
    /// Starts it. Where a cluster trains (the store knows), this machine only applies models, and
    /// goes on with trainings that it has begun before.
    pub fn start(store: Arc<Store>, trainer: Box<dyn Trainer>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let trains = store.reach().is_none();
        let work = Work { store, trainer, trains, stop: Arc::clone(&stop) };
        let thread = std::thread::spawn(move || work.until_stopped());
        Self { stop, thread }
    }

    /// Lets the training write its checkpoint and end; the run is taken up when a gateway starts
    /// again.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // It looks every now and then.
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            error!("the runner ended by a fault of the program");
        }
    }
}

struct Work {
    store: Arc<Store>,
    trainer: Box<dyn Trainer>,
    /// Whether it takes trainings out of the queue.
    trains: bool,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn rest(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.stopping() && Instant::now() < end {
            std::thread::park_timeout(LOOK);
        }
    }

    fn until_stopped(&self) {
        let mut found = loop {
            match self.store.active_runs() {
                Ok(found) => break VecDeque::from(found),
                Err(error) => {
                    error!("{error}");
                    self.rest(REST);
                }
            }
            if self.stopping() {
                return;
            }
        };
        while !self.stopping() {
            match self.take_up(&mut found) {
                Ok(true) => {}
                Ok(false) => self.rest(LOOK),
                Err(error) => {
                    error!("{error}");
                    self.rest(REST);
                }
            }
        }
    }

    /// Takes up the next run: one of those that an earlier gateway has left, then one of the queue.
    /// False when there is none.
    ///
    /// # Errors
    /// When the store can't be used. The run is then still in `found`, or in the queue.
    fn take_up(&self, found: &mut VecDeque<i64>) -> Result<bool, StoreError> {
        if let Some(id) = found.pop_front() {
            let taken = self.one(id, Transition::Found);
            if taken.is_err() {
                found.push_back(id);
            }
            return taken.map(|()| true);
        }
        match self.store.next_in_queue(self.trains)? {
            Some(id) => self.one(id, Transition::Turn).map(|()| true),
            None => Ok(false),
        }
    }

    /// Trains a run, and notes what came of it.
    ///
    /// # Errors
    /// When the store can't be used before the run begins.
    fn one(&self, id: i64, transition: Transition) -> Result<(), StoreError> {
        let folder = RunFolder::new(&self.store.folder().run(id));
        if transition == Transition::Found && !self.alone_with(id, &folder) {
            return Ok(());
        }
        match self.store.happen(id, transition, &Change::default()) {
            Ok(status) if status.state == State::Launch => {}
            Ok(_) => {
                folder.remove();
                return Ok(());
            }
            // Cancelled between the look and now, or gone.
            Err(StoreError::Transition(_) | StoreError::Missing(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        info!("run {id} begins");
        let ended = match self.train(id, &folder) {
            Ok(Some(ended)) => ended,
            Ok(None) => return Ok(()),
            Err(RunError::Start(error)) => Ended::Failed(error.to_string()),
            Err(error) => {
                error!("run {id}: {error}");
                let what = "the gateway could not go on with the run; its log says why";
                Ended::Failed(what.to_owned())
            }
        };
        self.note_end(id, &folder, ended);
        Ok(())
    }

    /// Waits until the training that an earlier gateway has started is over: it ends by itself
    /// when its gateway does, and writes its checkpoint before. False when this gateway is to
    /// stop meanwhile.
    fn alone_with(&self, id: i64, folder: &RunFolder) -> bool {
        let mut told = false;
        while !self.stopping() {
            match folder.is_in_use() {
                Ok(false) => return true,
                Ok(true) if !told => {
                    info!("run {id}: waiting for the end of the training of an earlier gateway");
                    told = true;
                }
                Ok(true) => {}
                Err(error) => {
                    warn!("{}: {error}", folder.log().display());
                    return true;
                }
            }
            std::thread::park_timeout(LOOK);
        }
        false
    }

    /// Trains a run to its end; `None` when this gateway is to stop.
    fn train(&self, id: i64, folder: &RunFolder) -> Result<Option<Ended>, RunError> {
        let run = self.store.any_run(id)?.ok_or(RunError::Gone)?;
        let models = self.store.models_for(&run)?;
        match self.fill(&run, folder, &models)? {
            Filled::Whole => {}
            Filled::Stopping => return Ok(None),
            Filled::Cancelled => return Ok(Some(Ended::Stopped)),
        }
        let (layers, epochs) =
            (self.store.events_of(id, "layer")?, self.store.events_of(id, "epoch")?);
        base::crash::point("before starting a training");
        let mut training = self.trainer.start(folder)?;
        base::crash::point("after starting a training");
        if run.image.is_some() {
            // It tells no progress.
            self.store.happen(id, Transition::Began, &Change::default())?;
        }
        let mut told = Told::by(Lines::of(&folder.progress()), &layers, &epochs);
        let mut asked: Option<Instant> = None;
        let mut killed = false;
        // A store that can't be used for a while, such as on a full disk, is no reason to end a
        // training: what it tells is noted later.
        let mut trouble = Trouble::default();
        loop {
            let ended = training.ended();
            let mut passed_on = self.pass_on(id, &mut told);
            if let Some(ended) = ended {
                while let Err(error) = passed_on {
                    trouble.note(id, &error);
                    self.rest(REST);
                    if self.stopping() {
                        return Ok(None);
                    }
                    passed_on = self.pass_on(id, &mut told);
                }
                let ended = if killed { Ended::Stopped } else { ended };
                if self.stopping() && ended == Ended::Stopped {
                    info!("run {id}: its training has ended with this gateway");
                    return Ok(None);
                }
                return Ok(Some(ended));
            }
            match passed_on {
                Ok(()) => trouble = Trouble::default(),
                Err(error) => trouble.note(id, &error),
            }
            let cancelled = match self.store.any_run(id) {
                Ok(run) => run.ok_or(RunError::Gone)?.status.cancel_asked,
                Err(error) => {
                    trouble.note(id, &error);
                    false
                }
            };
            match asked {
                None if cancelled || self.stopping() => {
                    training.stop();
                    asked = Some(Instant::now());
                }
                Some(since) if since.elapsed() > PATIENCE && !killed => {
                    training.kill();
                    killed = true;
                }
                _ => {}
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Makes the folder of a run; waits while its files can't be had.
    fn fill(&self, run: &Run, folder: &RunFolder, models: &[RunFile]) -> Result<Filled, RunError> {
        let pages = self.store.pages_of(run.id)?;
        let mut told = false;
        loop {
            let objects = self.store.objects();
            let filled = folder.fill(objects, &pages, models, &run.settings, run.image.as_ref());
            match filled {
                Ok(()) => return Ok(Filled::Whole),
                Err(source) if BucketAway::is_why(&source) => {
                    if !told {
                        warn!("run {}: it waits for its files: {source}", run.id);
                        told = true;
                        // Whoever looks at the run learns why.
                        self.store.wake();
                    }
                }
                Err(source) => {
                    return Err(RunError::File { path: folder.path().to_owned(), source });
                }
            }
            self.rest(REST);
            if self.stopping() {
                return Ok(Filled::Stopping);
            }
            if self.store.any_run(run.id)?.ok_or(RunError::Gone)?.status.cancel_asked {
                return Ok(Filled::Cancelled);
            }
        }
    }

    /// Notes what the training has told and is not noted yet.
    fn pass_on(&self, id: i64, told: &mut Told) -> Result<(), StoreError> {
        for event in told.lines.read() {
            told.take(&event);
        }
        told.changed |= told.lines.have_come();
        if told.began {
            self.store.happen(id, Transition::Began, &Change::default())?;
            told.began = false;
        }
        if told.changed {
            self.store.note(id, &told.progress, &told.happened)?;
            told.changed = false;
            told.happened.clear();
        }
        Ok(())
    }

    /// Keeps what the training has left and notes its end; tries again while that fails.
    fn note_end(&self, id: i64, folder: &RunFolder, ended: Ended) {
        loop {
            let noted = self.end(id, folder, &ended);
            match noted {
                Ok(state) => {
                    info!("run {id} is {state}");
                    return folder.remove();
                }
                Err(error) => error!("run {id}: what came of it can't be kept: {error}"),
            }
            // Everything is still in its folder.
            self.rest(REST);
            if self.stopping() {
                return;
            }
        }
    }

    /// Notes the epochs of a training's record that have no event: those that ended while no
    /// gateway listened.
    fn tell_the_rest(&self, id: i64, record: &[u8]) -> Result<(), RunError> {
        let courses = Courses::of(&self.store.events_of(id, "epoch")?);
        let epochs = figures::epochs_of_record(record);
        let events = courses.new_events(epochs.iter().map(|(model, epoch)| (&**model, epoch)));
        if !events.is_empty() {
            let progress = self.store.any_run(id)?.ok_or(RunError::Gone)?.progress;
            self.store.note(id, &progress, &events)?;
        }
        Ok(())
    }

    fn end(&self, id: i64, folder: &RunFolder, ended: &Ended) -> Result<State, RunError> {
        let keep = |path: &Path| -> Result<Object, RunError> {
            let failed = |source| RunError::File { path: path.to_owned(), source };
            self.store.objects().keep(path).map_err(failed)
        };
        let mut change = Change::default();
        if folder.log().exists() {
            let (name, kind) = (LOG.to_owned(), FileKind::Log);
            change.results.push(RunFile { name, kind, object: keep(&folder.log())? });
        }
        let transition = match ended {
            Ended::Done => {
                if let Some(image) = folder.image() {
                    change.made_page = self.made_page(id, folder, &image)?;
                }
                for (name, path) in folder.outputs() {
                    let Some(kind) = kind_of(&name) else { continue };
                    let name = page_file(&name).unwrap_or(name);
                    change.results.push(RunFile { name, kind, object: keep(&path)? });
                }
                let record = fs::read(folder.out().join("training.json")).unwrap_or_default();
                change.figures = figures::of_record(&record);
                self.tell_the_rest(id, &record)?;
                Transition::Trained
            }
            Ended::Failed(why) => {
                change.error = Some(base::text::sentence(&folder.without_paths(why)));
                Transition::Broke
            }
            Ended::Stopped => {
                let what = "the training was stopped by somebody else before it had models";
                change.error = Some(base::text::sentence(what));
                Transition::Broke
            }
        };
        match self.store.happen(id, transition, &change) {
            Ok(status) => Ok(status.state),
            Err(StoreError::Transition(not_now)) => Ok(not_now.0),
            Err(error) => Err(error.into()),
        }
    }
}

impl Work {
    /// Makes a page of an image and the layers that were found on it, so that they can be
    /// corrected and trained with; `None` where they are no page: nothing but background, perhaps.
    fn made_page(
        &self,
        id: i64,
        folder: &RunFolder,
        image: &Path,
    ) -> Result<Option<String>, RunError> {
        let run = self.store.any_run(id)?.ok_or(RunError::Gone)?;
        let part = |(name, path): (String, PathBuf)| {
            let file = page_file(&name)?;
            Some((Part::from_name(file.trim_end_matches(".png"))?, path))
        };
        let mut files: Files = folder.outputs().into_iter().filter_map(part).collect();
        files.insert(Part::Image, image.to_owned());
        let Some(inputs) = page_files::inputs(&files) else { return Ok(None) };
        let name = format!("Layers found by run {id}");
        let objects = self.store.objects();
        let mut page = match page_files::keep(objects, &inputs, &files, &name, folder.path()) {
            Ok(page) => page,
            Err(KeepError::File { path, source }) => return Err(RunError::File { path, source }),
            Err(KeepError::Page(error)) => {
                warn!("run {id}: the layers that were found are no page: {error}");
                return Ok(None);
            }
        };
        // A layer without pixels can't be trained.
        page.files.retain(|file| file.pixels != Some(0));
        let has = |wanted: fn(Part) -> bool| page.files.iter().any(|file| wanted(file.part));
        if !has(|part| part == Part::Background) || !has(|part| matches!(part, Part::Layer(_))) {
            return Ok(None);
        }
        Ok(Some(self.store.add_page(&page, run.account)?.0))
    }
}

/// What a file of a layer is called in the folder of a page: `Layer 3.png` is `layer_3.png`.
fn page_file(name: &str) -> Option<String> {
    match name.strip_suffix(".png")? {
        "Background" => Some("background.png".into()),
        layer => {
            let number = layer.strip_prefix("Layer ")?.parse().ok().filter(|number| *number < 10);
            number.map(|number: u8| format!("layer_{number}.png"))
        }
    }
}

/// What a file is that the training has written; `None` for one that is not kept.
fn kind_of(name: &str) -> Option<FileKind> {
    if name.ends_with(".hdf5") {
        Some(FileKind::Model)
    } else if name == "report.html" {
        Some(FileKind::Report)
    } else if name == "training.json" {
        Some(FileKind::Record)
    } else if page_file(name).is_some() {
        Some(FileKind::Layer)
    } else if name == "overlay.png" || (name.starts_with("preview") && name.ends_with(".png")) {
        Some(FileKind::Preview)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use base::secret::Secret;

    use super::*;
    use crate::order::Order;
    use crate::store::{DataFolder, NewRun, Role};

    /// Starts nothing.
    struct Broken;

    impl Trainer for Broken {
        fn start(&self, _: &RunFolder) -> Result<Box<dyn Training>, StartError> {
            Err(StartError("there is no such program".to_owned()))
        }
    }

    #[test]
    fn a_run_that_is_found_is_taken_up_when_the_store_can_be_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::at(&folder.path().join("data")).unwrap();
        let store = Store::open(&data).unwrap();
        let token = Secret::new("token of mine");
        store.add_account("me", Role::Submitter, &token).unwrap();
        let (account, order) = (store.account_of(&token).unwrap().unwrap(), Order::default());
        let wanted =
            NewRun { account: &account, order: &order, image: None, key: None, most_waiting: 9 };
        let run = store.place_run(wanted).unwrap();
        store.happen(run, Transition::Turn, &Change::default()).unwrap();
        let (trainer, stop) = (Box::new(Broken), Arc::default());
        let work = Work { store: Arc::new(store), trainer, trains: true, stop };
        let mut found = VecDeque::from(work.store.active_runs().unwrap());

        let other = rusqlite::Connection::open(data.database()).unwrap();
        let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON runs
            BEGIN SELECT RAISE(ABORT, 'not now'); END";
        other.execute_batch(refuse).unwrap();
        assert!(matches!(work.take_up(&mut found), Err(StoreError::Database(_))));
        assert_eq!(found, [run]);
        other.execute_batch("DROP TRIGGER refuse").unwrap();
        assert!(work.take_up(&mut found).unwrap());
        assert!(found.is_empty());
        let after = work.store.any_run(run).unwrap().unwrap();
        assert_eq!((after.status.state, after.attempts), (State::Failed, 2));
        assert!(!work.take_up(&mut found).unwrap());
    }

    #[test]
    fn files_are_known_by_their_names() {
        for (name, kind, renamed) in [
            ("Model 0.hdf5", Some(FileKind::Model), None),
            ("report.html", Some(FileKind::Report), None),
            ("training.json", Some(FileKind::Record), None),
            ("preview_2.png", Some(FileKind::Preview), None),
            ("overlay.png", Some(FileKind::Preview), None),
            ("Background.png", Some(FileKind::Layer), Some("background.png")),
            ("Layer 9.png", Some(FileKind::Layer), Some("layer_9.png")),
            ("Layer 10.png", None, None),
            ("Layer x.png", None, None),
            ("events.out", None, None),
        ] {
            assert_eq!(kind_of(name), kind, "{name}");
            assert_eq!(page_file(name).as_deref(), renamed, "{name}");
        }
    }
}

//! Totals over all jobs, including those that `purge` has removed: the counters of the metrics.
//!
//! A job is counted when it is found in `done/` and is not yet among the counted ones. Totals and
//! counted ids are in one file, so a run that is killed has counted a job or not, but never half
//! and never twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::progress::Progress;
use super::record::Outcome;
use super::store::{Store, StoreError};
use super::view::Seen;
use base::files::read_own;
use base::files::write_atomic;
use contract::wire::conversation::Asked;
use domain::JobId;

/// Form of the file. A file of another form is not read; counting then starts anew, which
/// Prometheus takes for a restart.
const VERSION: u32 = 1;

/// The upper bounds of the classes, in seconds: from a minute to a day.
const BOUNDS: [u64; 9] = [60, 300, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400];

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Number of times in each class; the last class has those longer than all bounds.
    counts: [u64; BOUNDS.len() + 1],
    /// The sum of all times, in seconds.
    seconds: u64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let class = BOUNDS.iter().position(|bound| time <= Duration::from_secs(*bound));
        self.counts[class.unwrap_or(BOUNDS.len())] += 1;
        self.seconds = self.seconds.saturating_add(time.as_secs());
    }

    /// For each bound, how many times were at most as long.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        BOUNDS.into_iter().zip(sums)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, in seconds.
    pub fn sum_seconds(&self) -> u64 {
        self.seconds
    }
}

/// What was chosen for jobs that did not name it, beside what they used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Memory that Slurm was asked for, in its MB.
    pub memory_asked_mb: u64,
    /// The largest resident memory of the same jobs, in MB.
    pub memory_used_mb: u64,
    /// Time that Slurm was asked for, in seconds.
    pub seconds_asked: u64,
    /// How long the same jobs ran, in seconds.
    pub seconds_used: u64,
}

impl Chosen {
    /// Counts what is known on both sides only.
    fn add(&mut self, asked: &Asked, used_mb: Option<u64>, ran: Option<Duration>) {
        if let Some(used) = used_mb.filter(|_| asked.memory_from.is_chosen()) {
            self.memory_asked_mb = self.memory_asked_mb.saturating_add(asked.memory_mb);
            self.memory_used_mb = self.memory_used_mb.saturating_add(used);
        }
        if let Some(ran) = ran.filter(|_| asked.time_from.is_chosen()) {
            self.seconds_asked = self.seconds_asked.saturating_add(asked.time_seconds);
            self.seconds_used = self.seconds_used.saturating_add(ran.as_secs());
        }
    }
}

/// The counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    version: u32,
    /// Jobs answered with the models.
    pub models: u64,
    /// Jobs answered with an error, by cause.
    pub failures: BTreeMap<Cause, u64>,
    /// From the message to the start of the training, of the answered jobs that were started.
    pub waits: Histogram,
    /// From there to the answer, or to the end by Slurm.
    pub runs: Histogram,
    /// Of jobs answered with the models: what was chosen for them, and what they used.
    #[serde(default)]
    pub chosen: Chosen,
    /// The end of the latest pass of `check` without a trouble of its own.
    pub last_success: Option<Timestamp>,
    /// The counted jobs of `done/`. Ids that are no longer there are left out.
    counted: BTreeSet<JobId>,
}

impl Tally {
    /// Jobs answered with an error.
    pub fn errors(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Counts the jobs in `done/` that are not counted yet. The caller holds the lock, and calls
    /// [`Store::save_tally`] afterwards.
    ///
    /// # Errors
    ///
    /// When the directory can't be read.
    pub fn count(&mut self, store: &Store) -> Result<(), StoreError> {
        self.version = VERSION;
        let (_, done) = store.ids()?;
        let mut counted = BTreeSet::new();
        for id in done {
            if !self.counted.contains(&id) {
                // A record of a newer program is counted once this program can read it.
                let Ok(Some(seen)) = store.see(&id) else { continue };
                if !seen.answered {
                    continue;
                }
                self.add(&seen);
            }
            counted.insert(id);
        }
        self.counted = counted;
        Ok(())
    }

    fn add(&mut self, job: &Seen) {
        match job.record.outcome {
            Some(Outcome::Models) => self.models += 1,
            Some(Outcome::Error) | None => {
                let cause = job.record.cause.or_else(|| job.files.noted_failure());
                *self.failures.entry(cause.unwrap_or(Cause::Unknown)).or_default() += 1;
            }
        }
        // The trainer has written both files, so one clock tells both times.
        let at = |path: PathBuf| {
            Timestamp::try_from(fs::symlink_metadata(path).ok()?.modified().ok()?).ok()
        };
        let span =
            |from: Timestamp, to: Timestamp| Duration::try_from(to.duration_since(from)).ok();
        let Some(started) = at(job.files.started()) else { return };
        self.waits.add(span(job.record.received_at, started).unwrap_or_default());
        let of_slurm = job.record.ran_seconds.map(Duration::from_secs);
        let ran = of_slurm.or_else(|| span(started, at(job.files.delivered())?));
        ran.into_iter().for_each(|ran| self.runs.add(ran));
        if let (Some(asked), Some(Outcome::Models)) = (&job.record.asked, job.record.outcome) {
            let note = Progress::read(&job.files.progress());
            self.chosen.add(asked, note.and_then(|note| note.standing.peak_memory_mb), ran);
        }
    }
}

impl Store {
    fn tally_path(&self) -> PathBuf {
        self.root().join("metrics.json")
    }

    /// The counters as they were last written.
    pub fn tally(&self) -> Tally {
        let path = self.tally_path();
        let read = || -> io::Result<Tally> {
            let tally: Tally =
                serde_json::from_slice(&read_own(&path)?).map_err(io::Error::other)?;
            if tally.version != VERSION {
                return Err(io::Error::other(format!("its version is {}", tally.version)));
            }
            Ok(tally)
        };
        read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(
                    "{} can't be read ({error}); the metrics count anew",
                    path.display()
                );
            }
            Tally::default()
        })
    }

    /// Writes the counters, unless `before` shows that they are written already.
    ///
    /// # Errors
    ///
    /// When they can't be written.
    pub fn save_tally(&self, tally: &Tally, before: &Tally) -> Result<(), StoreError> {
        if tally == before {
            return Ok(());
        }
        let path = self.tally_path();
        let write = || write_atomic(&path, &serde_json::to_vec(tally).map_err(io::Error::other)?);
        write().map_err(|source| StoreError::new(&path, "can't be written", source))
    }
}

#[cfg(test)]
mod chosen_tests {
    use super::*;
    use contract::wire::conversation::Origin;

    #[test]
    fn only_what_was_chosen_and_is_known_is_counted() {
        let asked = |memory_from, time_from| Asked {
            cpus: 6,
            cpus_from: Origin::Site,
            memory_mb: 4400,
            memory_from,
            time_seconds: 21_600,
            time_from,
            instances: None,
        };
        let mut chosen = Chosen::default();
        let hour = Some(Duration::from_secs(3600));
        chosen.add(&asked(Origin::Job, Origin::Job), Some(2300), hour);
        chosen.add(&asked(Origin::Estimate, Origin::Site), None, None);
        assert_eq!(chosen, Chosen::default());
        chosen.add(&asked(Origin::Estimate, Origin::Job), Some(2300), hour);
        chosen.add(&asked(Origin::Job, Origin::Measured), Some(2300), hour);
        let both = Chosen {
            memory_asked_mb: 4400,
            memory_used_mb: 2300,
            seconds_asked: 21_600,
            seconds_used: 3600,
        };
        assert_eq!(chosen, both);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Event, Record};
    use super::*;
    use domain::CorrelationId;

    fn answered(store: &Store, id: &str, outcome: Outcome, cause: Option<Cause>) -> JobId {
        let id = CorrelationId(id.into());
        let taken = Timestamp::now() - Duration::from_secs(400);
        let mut job = Record::new(JobId::from_correlation_id(&id), id, "queue".into(), b"", taken);
        store.create(&job, b"").unwrap();
        job.cause = cause;
        for event in [Event::SubmitStarted, Event::ReplySpooled(outcome), Event::Delivered] {
            job.apply(event, taken).unwrap();
        }
        store.save(&job).unwrap();
        store.finish(&job.job_id).unwrap();
        job.job_id
    }

    fn done(store: &Store, id: &JobId) -> PathBuf {
        store.see(id).unwrap().unwrap().files.directory().to_path_buf()
    }

    #[test]
    fn every_job_is_counted_once_and_stays_counted_when_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("spool")).unwrap();
        let pass = || {
            let before = store.tally();
            let mut tally = before.clone();
            tally.count(&store).unwrap();
            store.save_tally(&tally, &before).unwrap();
            assert_eq!(store.tally(), tally);
            (tally.models, tally.errors())
        };
        assert_eq!(pass(), (0, 0));
        let first = answered(&store, "a", Outcome::Models, None);
        answered(&store, "b", Outcome::Error, Some(Cause::Time));
        let noted = answered(&store, "c", Outcome::Error, None);
        fs::write(done(&store, &noted).join("failure"), "input").unwrap();
        assert_eq!(pass(), (1, 2));
        assert_eq!(pass(), (1, 2), "none is counted twice");
        let failures = BTreeMap::from([(Cause::Time, 1), (Cause::Input, 1)]);
        assert_eq!(store.tally().failures, failures);
        fs::remove_dir_all(done(&store, &first)).unwrap();
        assert_eq!(pass(), (1, 2), "what is removed was there all the same");
        answered(&store, "a", Outcome::Models, None);
        assert_eq!(pass(), (2, 2), "an id that comes again is another answer");
    }

    #[test]
    fn waits_and_run_times_come_from_the_trainers_files_or_from_slurm() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("spool")).unwrap();
        let id = answered(&store, "a", Outcome::Models, None);
        let now = std::time::SystemTime::now();
        for (name, ago) in [("started", 100), ("delivered", 30)] {
            let file = fs::File::create(done(&store, &id).join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(ago)).unwrap();
        }
        answered(&store, "never-started", Outcome::Error, Some(Cause::Slurm));
        let mut tally = Tally::default();
        tally.count(&store).unwrap();
        assert_eq!((tally.runs.count(), tally.runs.sum_seconds()), (1, 70));
        assert_eq!((tally.waits.count(), tally.waits.sum_seconds()), (1, 300));
        let mut other = Tally::default();
        let mut seen = store.see(&id).unwrap().unwrap();
        seen.record.ran_seconds = Some(90_000);
        other.add(&seen);
        assert_eq!((other.runs.count(), other.runs.sum_seconds()), (1, 90_000));
        assert!(other.runs.cumulative().all(|(_, count)| count == 0), "longer than all bounds");
    }

    #[test]
    fn counters_that_can_not_be_read_begin_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("spool")).unwrap();
        for text in ["torn", "{}", &serde_json::to_string(&Tally::default()).unwrap()] {
            fs::write(store.tally_path(), text).unwrap();
            assert_eq!(store.tally(), Tally::default());
        }
        let mut histogram = Histogram::default();
        [60, 61, 300, 100_000].into_iter().for_each(|s| histogram.add(Duration::from_secs(s)));
        let cumulative: Vec<_> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!(cumulative, [1, 3, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!((histogram.count(), histogram.sum_seconds()), (4, 100_421));
    }
}

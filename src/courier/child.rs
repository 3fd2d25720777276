//! The process that publishes while the trainer trains: `run_trainer --courier`, started by the
//! trainer alone.
//!
//! It holds the password of the broker, and never looks at a page. It ends with its standard input.

use std::collections::VecDeque;
use std::io::{self, BufRead as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::{debug, info, warn};

use super::live::{Errand, Hello};
use super::rest::send_model;
use crate::config::{Sources, TrainerConfig};
use crate::ledger::{Claimed, JobFiles, Live, Outbox, Publisher, claim, claimed_by};
use base::exit_code::ExitCode;
use contract::broker::{Broker, TellError};
use contract::wire::conversation::{EndedEpochs, JobProgress};

/// How long a broker that could not be used is left alone.
const REST: Duration = Duration::from_secs(30);

/// At most so many errands wait for a broker that is away; the oldest states are dropped first.
const MOST_WAITING: usize = 64;

/// Publishes what comes in over standard input, until it ends.
pub fn run(env_file: Option<&Path>) -> ExitCode {
    // Slurm's signals go to all processes of a job. This process ignores them and ends when the
    // trainer ends.
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))) {
            debug!("signal {signal}: {error}");
        }
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        debug!("it may outlive the trainer for a moment: {error}");
    }
    let mut lines = io::stdin().lock().lines();
    let Some(hello) = lines
        .next()
        .and_then(Result::ok)
        .and_then(|line| serde_json::from_str::<Hello>(&line).ok())
    else {
        return ExitCode::Usage;
    };
    drop(lines);
    let config = match TrainerConfig::load(&Sources::of_process(env_file)) {
        Ok(config) => config,
        Err(error) => {
            warn!("nothing can be told before the end: {error}");
            return ExitCode::Config;
        }
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::Internal;
    };
    let (sender, errands) = unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str::<Errand>(&line) {
                Ok(errand) => {
                    if sender.send(errand).is_err() {
                        break;
                    }
                }
                Err(error) => debug!("no errand: {error}"),
            }
        }
    });
    runtime.block_on(Child::new(hello, config).serve(errands));
    ExitCode::Success
}

struct Child {
    hello: Hello,
    config: TrainerConfig,
    outbox: Outbox,
    files: Option<JobFiles>,
    broker: Option<Broker>,
    /// When the broker last could not be used.
    failed: Option<Instant>,
    waiting: VecDeque<Errand>,
    live: Live,
    /// True when nothing is sent any more.
    over: bool,
}

impl Child {
    fn new(hello: Hello, config: TrainerConfig) -> Self {
        let outbox = Outbox::new(&hello.outbox);
        let files = hello.job.as_deref().map(JobFiles::new);
        Self {
            hello,
            config,
            outbox,
            files,
            broker: None,
            failed: None,
            waiting: VecDeque::new(),
            live: Live::default(),
            over: false,
        }
    }

    async fn serve(mut self, mut errands: UnboundedReceiver<Errand>) {
        if let Some(files) = &self.files {
            match claim(files, Publisher::Trainer) {
                Ok(Claimed::First | Claimed::Again) => {}
                Ok(Claimed::TakenOver) => self.over = true,
                Err(error) => {
                    warn!("nothing can be told before the end: {error}");
                    self.over = true;
                }
            }
        }
        loop {
            let next = if self.waiting.is_empty() {
                Some(errands.recv().await)
            } else {
                // Errands that wait for the broker are tried again from time to time.
                tokio::time::timeout(REST, errands.recv()).await.ok()
            };
            match next {
                Some(Some(errand)) => {
                    self.put(errand);
                    while let Ok(errand) = errands.try_recv() {
                        self.put(errand);
                    }
                }
                Some(None) => break,
                None => {}
            }
            self.work(false).await;
        }
        // The trainer waits for this: one more attempt, at a broker that is known to be there.
        self.work(true).await;
        if let Some(broker) = self.broker.take() {
            broker.close().await;
        }
    }

    /// Queues an errand. Newer progress replaces older.
    fn put(&mut self, mut errand: Errand) {
        match &mut errand {
            Errand::Progress(progress) => replace_older(&mut self.waiting, progress),
            Errand::State(state) => {
                self.live.state = Some(state.clone());
                self.live.state_sent = false;
                self.outbox.note_live(&self.live);
            }
            Errand::Model { .. } => {}
        }
        self.waiting.push_back(errand);
        if self.waiting.len() > MOST_WAITING
            && let Some(at) =
                self.waiting.iter().position(|waiting| matches!(waiting, Errand::State(_)))
        {
            self.waiting.remove(at);
        }
    }

    async fn work(&mut self, last: bool) {
        let by_check = |files: &JobFiles| {
            claimed_by(files).is_some_and(|publisher| publisher == Publisher::Check)
        };
        if self.files.as_ref().is_some_and(by_check) && !self.over {
            info!("check has taken this job for dead; nothing more is told");
            self.over = true;
        }
        if self.over {
            self.waiting.clear();
            return;
        }
        let rests = self.failed.is_some_and(|failed| failed.elapsed() < REST);
        if self.waiting.is_empty()
            || (self.broker.is_none() && (rests || (last && self.failed.is_some())))
        {
            return;
        }
        while let Some(errand) = self.waiting.front().cloned() {
            match self.tell(&errand).await {
                Ok(()) => self.told(&errand),
                Err(TellError::Gone(queue)) => {
                    info!("the reply queue '{queue}' is gone: nothing more is told");
                    self.over = true;
                    self.waiting.clear();
                    return;
                }
                Err(error @ TellError::TooLarge { .. }) => warn!("{error}"),
                Err(error @ (TellError::Refused(_) | TellError::NoQueue(_))) => {
                    info!("{error}; trying again later");
                    self.failed = Some(Instant::now());
                    return;
                }
                Err(TellError::Broker(error)) => {
                    if self.live.reachable || self.failed.is_none() {
                        info!(
                            "{error}; check tells how far the training is, and the rest comes at \
                            its end"
                        );
                    }
                    self.broker = None;
                    self.failed = Some(Instant::now());
                    self.live.reachable = false;
                    self.outbox.note_live(&self.live);
                    return;
                }
            }
            self.waiting.pop_front();
        }
    }

    fn told(&mut self, errand: &Errand) {
        let before = self.live.clone();
        self.live.reachable = true;
        self.failed = None;
        match errand {
            Errand::State(state) if self.live.state.as_ref() == Some(state) => {
                self.live.state_sent = true
            }
            Errand::Progress(progress) => self.live.progress_at = Some(progress.at),
            Errand::State(_) | Errand::Model { .. } => {}
        }
        if self.live != before {
            self.outbox.note_live(&self.live);
        }
    }

    async fn tell(&mut self, errand: &Errand) -> Result<(), TellError> {
        let broker = match &mut self.broker {
            Some(broker) => broker,
            none => none.insert(Broker::connect(&self.config.broker).await?),
        };
        let (queue, id) = (&self.hello.reply_to, &self.hello.correlation_id);
        match errand {
            Errand::State(state) => broker.tell(queue, id, &state.message(id)).await,
            Errand::Progress(progress) => broker.tell(queue, id, &progress.message(id)).await,
            Errand::Model { name, at } => {
                let file = match self.outbox.model(name) {
                    Ok(file) => file,
                    Err(error) => {
                        warn!("{name} can't be read from the outbox: {error}");
                        return Ok(());
                    }
                };
                let model = (name.as_str(), *at, file.as_slice());
                send_model(broker, queue, id, &self.outbox, model, &mut || {}).await
            }
        }
    }
}

/// Removes the progress that waits, and gives the newer one the epochs that it was to tell.
fn replace_older(waiting: &mut VecDeque<Errand>, newer: &mut JobProgress) {
    let mut epochs = EndedEpochs::default();
    waiting.retain_mut(|errand| {
        let Errand::Progress(older) = errand else { return true };
        epochs.extend(std::mem::take(&mut older.ended_epochs));
        false
    });
    epochs.extend(std::mem::take(&mut newer.ended_epochs));
    newer.ended_epochs = epochs;
}

#[cfg(test)]
mod tests {
    use contract::wire::conversation::{JobState, Stage};
    use domain::{EpochReport, Standing};
    use jiff::Timestamp;

    use super::*;

    fn progress(step: usize, epochs: &[usize]) -> JobProgress {
        let mut ended_epochs = EndedEpochs::default();
        for epoch in epochs {
            let report = EpochReport {
                epoch: *epoch,
                training_loss: 0.5,
                validation: None,
                best: false,
                seconds: 1.0,
            };
            ended_epochs.add("Model 0", &report);
        }
        let standing = Standing { step, ..Standing::default() };
        JobProgress { at: Timestamp::UNIX_EPOCH, standing, ended_epochs }
    }

    #[test]
    fn newer_progress_takes_over_the_epochs_of_the_older_one() {
        let state = JobState::new(Stage::Running, Timestamp::UNIX_EPOCH, "it runs");
        let mut waiting: VecDeque<Errand> =
            [Errand::Progress(progress(1, &[1, 2])), Errand::State(state.clone())].into();
        let mut newer = progress(7, &[3]);
        replace_older(&mut waiting, &mut newer);
        assert_eq!(waiting, [Errand::State(state)]);
        assert_eq!(newer, progress(7, &[1, 2, 3]));
        replace_older(&mut waiting, &mut newer);
        assert_eq!(newer, progress(7, &[1, 2, 3]));
    }
}

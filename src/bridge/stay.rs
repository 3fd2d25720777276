//! `check --stay`: passes for as long as the process runs, one whenever a message comes and one
//! after each time without any.
//!
//! A pass is the same as cron's, with the lock held only while it lasts. In between, the broker
//! pushes the next message (`Broker::listen`), and nothing is asked. It pushes only while the last
//! pass would have taken one more message: otherwise the message would be given back at once, and
//! come again at once.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::context::{BridgeError, JobNews, PassEnd};
use super::pass::{Carried, Left, run_on};
use crate::config::Config;
use base::notify;
use contract::broker::{Broker, BrokerError, Wake};

/// The wait after a first failure; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest of these waits.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How `check --stay` goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Stay {
    /// The longest time without a pass.
    pub every: Duration,
    /// The most jobs that one pass takes.
    pub max_jobs: u32,
}

/// Whether SIGTERM or SIGINT has come.
struct Stop {
    raised: AtomicBool,
    wakes: Notify,
}

impl Stop {
    /// Begins to listen for the signals; the first one counts.
    fn watch() -> io::Result<Arc<Self>> {
        let stop = Arc::new(Self { raised: AtomicBool::new(false), wakes: Notify::new() });
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let raise = Arc::clone(&stop);
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            raise.raised.store(true, Ordering::Relaxed);
            raise.wakes.notify_one();
        });
        Ok(stop)
    }

    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

/// Passes until SIGTERM or SIGINT comes. Then the step that is being done is finished, and what
/// follows is left for the next start. Trouble with the broker, the scheduler or the spool is told
/// once and does not end this: the next pass tries again, after growing waits.
///
/// # Errors
/// When the signals can't be listened for.
pub async fn stay(config: &Config, stay: Stay, tell: &mut dyn FnMut(JobNews)) -> io::Result<()> {
    let stop = Stop::watch()?;
    notify::tell(notify::READY);
    let mut broker: Option<Broker> = None;
    let mut trouble = Trouble::default();
    while !stop.is_raised() {
        let carried = Carried { broker: broker.take(), stop: Some(&stop.raised) };
        let Left { result, broker: kept, open } =
            run_on(config, stay.max_jobs, &mut *tell, carried).await;
        broker = kept;
        notify::alive();
        let mut wait = stay.every;
        match result {
            Ok(PassEnd::Done(_)) => {
                // What went wrong with a job was told by the pass.
                let listening = listen(config, &mut broker, open && !stop.is_raised()).await;
                match listening {
                    Ok(()) => trouble.is_over(),
                    Err(error) => {
                        broker = None;
                        wait = trouble.wait(&BridgeError::from(error)).min(stay.every);
                    }
                }
            }
            // Another check is at work, and takes what there is.
            Ok(PassEnd::Busy(_)) => {
                stop_listening(&mut broker).await;
                wait = LONGEST_WAIT.min(stay.every);
            }
            Err(error) => {
                stop_listening(&mut broker).await;
                wait = trouble.wait(&error).min(stay.every);
            }
        }
        if let Err(error) = rest(wait, broker.as_mut(), &stop).await {
            // The next pass makes another connection. It has to wait here, too: a message that no
            // pass gets rid of would end each rest at once.
            broker = None;
            let wait = trouble.wait(&BridgeError::from(error)).min(stay.every);
            drop(rest(wait, None, &stop).await);
        }
    }
    notify::tell(notify::STOPPING);
    if let Some(mut broker) = broker {
        broker.stop_listening().await;
        broker.close().await;
    }
    Ok(())
}

/// Has the broker push messages, or push none.
async fn listen(
    config: &Config,
    broker: &mut Option<Broker>,
    wanted: bool,
) -> Result<(), BrokerError> {
    if !wanted {
        stop_listening(broker).await;
        return Ok(());
    }
    let broker = match broker {
        Some(broker) => broker,
        none => none.insert(Broker::connect(&config.broker).await?.impatient()),
    };
    // Without a queue of jobs there is nothing to wait for but the time: nobody has sent one yet,
    // and it is up to Rodan to declare the queue.
    broker.listen().await.map(drop)
}

async fn stop_listening(broker: &mut Option<Broker>) {
    if let Some(broker) = broker {
        broker.stop_listening().await;
    }
}

/// Waits for a message, a signal or the time, and tells systemd now and then that it is alive.
async fn rest(
    wait: Duration,
    mut broker: Option<&mut Broker>,
    stop: &Stop,
) -> Result<(), BrokerError> {
    let end = Instant::now() + wait;
    let beat = notify::watchdog_interval();
    loop {
        if stop.is_raised() {
            return Ok(());
        }
        let next = beat.map_or(end, |beat| end.min(Instant::now() + beat));
        let woken = async {
            match broker.as_deref_mut() {
                Some(broker) => broker.woken().await,
                None => pending().await,
            }
        };
        let woken = tokio::select! {
            biased;
            () = stop.wakes.notified() => return Ok(()),
            woken = woken => Some(woken),
            () = sleep_until(next) => None,
        };
        match (woken, broker.as_deref_mut()) {
            (Some(Ok(Wake::Request)), Some(broker)) => {
                broker.give_requests_back().await;
                return Ok(());
            }
            (Some(woken), _) => return woken.map(drop),
            (None, _) if Instant::now() >= end => return Ok(()),
            (None, _) => notify::alive(),
        }
    }
}

/// A row of failures, each told once.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    told: String,
}

impl Trouble {
    /// Tells what is wrong, unless it was told before, and how long to wait now.
    fn wait(&mut self, error: &BridgeError) -> Duration {
        let text = error.to_string();
        if text != self.told {
            tracing::error!("{text}");
            self.told = text;
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(16)).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    fn is_over(&mut self) {
        if self.failures > 0 {
            tracing::warn!("check works again: the last error is over");
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute_and_begin_anew_once_all_is_well() {
        let error = |detail: &str| {
            let address = "rabbit:5672".to_owned();
            BridgeError::from(BrokerError::Unreachable { address, detail: detail.to_owned() })
        };
        let mut trouble = Trouble::default();
        let waits: Vec<u64> = (0..8).map(|_| trouble.wait(&error("gone")).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(trouble.told.contains("gone"));
        trouble.is_over();
        assert_eq!(trouble.wait(&error("gone")).as_secs(), 1);
        trouble.failures = u32::MAX;
        assert_eq!(trouble.wait(&error("other")), LONGEST_WAIT);
        assert!(trouble.told.contains("other"));
    }
}

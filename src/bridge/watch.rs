//! The watcher's look at one job, inside a Slurm job of its own that starts when the other has
//! failed.

use std::time::{Duration, Instant};

use super::context::{BridgeError, JobNews, Pass, PassEnd, lock};
use super::decide::Part;
use crate::config::Config;
use crate::ledger::{LockError, Record, Role, Store};
use base::exit_code::ExitCode;
use domain::JobId;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the lock of the spool is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it goes on after the grace time; its Slurm job has more time (`kinds_of_job::watcher`).
const EXTRA: Duration = Duration::from_secs(300);

/// Looks at one job until it is answered, and tells `tell` what happens to it.
///
/// The job may still look alive: Slurm also starts a watcher whose job it does not know any more,
/// and says so only after a while. So it looks again, for as long as the grace time and some
/// minutes more; then the rest is left to `check`.
///
/// # Errors
/// When the spool can't be used. An unreachable broker is none: `check` delivers.
pub async fn watch(
    config: &Config,
    id: &JobId,
    tell: &mut dyn FnMut(JobNews),
) -> Result<PassEnd, BridgeError> {
    let end = Instant::now() + config.site.grace + EXTRA;
    loop {
        let store = Store::open(&config.site.spool)?;
        let code = match lock(&store, Role::Watcher, PATIENCE).await {
            Ok(lock) => match store.open_job(id) {
                Ok(Ok(job)) => {
                    let mut pass = Pass::new(config, store, lock, tell)?;
                    let result = pass.look_at(job).await;
                    // The lock goes here, so that a pass of `check` can get on between two looks.
                    match pass.end(result).await {
                        Ok(PassEnd::Done(code)) => code,
                        Ok(busy) => return Ok(busy),
                        Err(error @ (BridgeError::Broker(_) | BridgeError::Lock(_))) => {
                            tracing::warn!("{error}");
                            error.exit_code()
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(Err(_)) => return Ok(PassEnd::Done(ExitCode::Success)),
                // It may pass; the next look sees.
                Err(error) => {
                    tracing::warn!(job = %id, "{error}");
                    ExitCode::Spool
                }
            },
            Err(LockError::Held { who, .. }) => {
                tracing::info!("the spool is in use: {who}");
                ExitCode::Success
            }
            Err(error) => return Err(error.into()),
        };
        let store = Store::open(&config.site.spool)?;
        if matches!(store.open_job(id), Ok(Err(_))) || Instant::now() + PAUSE > end {
            return Ok(PassEnd::Done(code));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Pass<'_> {
    async fn look_at(&mut self, job: Record) -> Result<(), BridgeError> {
        let mut jobs = [job];
        self.follow_up(&mut jobs).await?;
        let [job] = &mut jobs;
        self.settle(job, &[Part::Delivery]).await
    }
}

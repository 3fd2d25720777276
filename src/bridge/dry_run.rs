//! `check --dry-run`: what would happen to the next job, without taking it.

use jiff::Timestamp;

use super::context::BridgeError;
use super::intake::read;
use crate::config::Config;
use crate::ledger::Store;
use base::text::{printable, printable_json, sentence};
use contract::broker::{Broker, BrokerError, DEFAULT_REPLY_QUEUE, JOBS_QUEUE, Looking};
use contract::wire::{Chosen, Envelope, JobFile};
use domain::{CorrelationId, JobId};
use scheduler::kinds_of_job;

/// What `check` would do with the next message.
#[derive(Debug)]
pub enum DryRun {
    /// There is no message.
    Nothing,
    /// The message is no job: the sentence would be the reply.
    Rejected {
        /// What the reply would say.
        sentence: String,
    },
    /// The message is a job.
    Job {
        /// Correlation id and reply queue.
        properties: String,
        /// The job file, with a mask in place of the token.
        job_file: String,
        /// The command.
        command: String,
    },
}

/// Looks at the next message and puts it back into its place.
///
/// # Errors
/// When the broker can't be used, or when a look at the message would be counted as a delivery.
pub async fn dry_run(config: &Config) -> Result<DryRun, BridgeError> {
    let mut broker = Broker::connect(&config.broker).await?;
    if broker.depth(JOBS_QUEUE).await?.is_none_or(|messages| messages == 0) {
        broker.close().await;
        return Ok(DryRun::Nothing);
    }
    let queue = JOBS_QUEUE.to_owned();
    match broker.looking(JOBS_QUEUE).await? {
        Looking::IsFree => {}
        Looking::IsCounted => return Err(BrokerError::Counted { queue }.into()),
        Looking::Unknown => return Err(BrokerError::PerhapsCounted { queue }.into()),
    }
    let Some(taken) = broker.take().await? else {
        broker.close().await;
        return Ok(DryRun::Nothing);
    };
    let correlation_id = taken
        .correlation_id()
        .unwrap_or_else(|| format!("made-up-{}", Timestamp::now().as_millisecond()));
    let reply_to = taken.reply_to().unwrap_or_else(|| DEFAULT_REPLY_QUEUE.to_owned());
    let envelope =
        Envelope { reply_to, correlation_id, message_id: "made when the job is taken".to_owned() };
    let result = match read(
        taken.body(),
        &config.site,
        &Store::unopened(&config.site.spool).paces(),
        &config.site.operator,
    ) {
        Err(error) => DryRun::Rejected { sentence: sentence(&error.to_string()) },
        Ok(Chosen { resources, asked }) => {
            let id = JobId::from_correlation_id(&CorrelationId(envelope.correlation_id.clone()));
            let path = Store::unopened(&config.site.spool).files(&id).job_file();
            let request = kinds_of_job::training(&config.site, &id.slurm_name(), &resources, &path);
            let shown =
                JobFile::masked_text(taken.body(), &envelope, Some(&asked)).unwrap_or_default();
            DryRun::Job {
                properties: format!(
                    "correlation id {}, reply queue {}",
                    printable(&envelope.correlation_id, 100),
                    printable(&envelope.reply_to, 100)
                ),
                job_file: printable_json(&shown),
                command: kinds_of_job::scheduler(&config.site).shown(&request),
            }
        }
    };
    broker.put_back(taken).await?;
    broker.close().await;
    Ok(result)
}

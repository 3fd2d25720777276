//! `check --dry-run`: what would happen to the next job, without taking it.

use jiff::Timestamp;

use super::pass::BridgeError;
use crate::config::Config;
use base::text::{printable, printable_json, sentence};
use contract::broker::{Broker, DEFAULT_REPLY_QUEUE};
use contract::wire::{JobFile, JobMessage};
use domain::{CorrelationId, JobId};
use scheduler::slurm::Request;

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
/// When the broker can't be used.
pub async fn dry_run(config: &Config) -> Result<DryRun, BridgeError> {
    let mut broker = Broker::connect(&config.broker).await?;
    let Some(taken) = broker.take().await? else {
        broker.close().await;
        return Ok(DryRun::Nothing);
    };
    let correlation_id =
        taken.correlation_id().unwrap_or_else(|| format!("made-up-{}", Timestamp::now().as_millisecond()));
    let reply_to = taken.reply_to().unwrap_or_else(|| DEFAULT_REPLY_QUEUE.to_owned());
    let result = match JobMessage::parse_within(taken.body(), &config.site.limits) {
        Err(error) => DryRun::Rejected { sentence: sentence(&error.to_string()) },
        Ok(job) => {
            let id = JobId::from_correlation_id(&CorrelationId(correlation_id.clone()));
            let path = config.site.spool.join("jobs").join(id.as_str()).join("job.json");
            let request = Request::new(&config.site, &id.slurm_name(), &job.resources, &path);
            DryRun::Job {
                properties: format!(
                    "correlation id {}, reply queue {}",
                    printable(&correlation_id, 100),
                    printable(&reply_to, 100)
                ),
                job_file: printable_json(&JobFile::masked_text(
                    &job,
                    &reply_to,
                    &correlation_id,
                    "made when the job is taken",
                )),
                command: request.command_line(),
            }
        }
    };
    broker.put_back(taken).await?;
    broker.close().await;
    Ok(result)
}

//! What a job is called with. Where its reply goes, and by which contract, is told by the command
//! line, the job file, and the record that `check` keeps beside it.

use std::path::PathBuf;

use super::files::Place;
use crate::ledger::{JobFiles, Record};
use base::files::read_own;
use contract::broker::DEFAULT_REPLY_QUEUE;
use contract::wire::{Envelope, JobFile, Protocol};

/// The arguments of the command line.
#[derive(Clone, Debug)]
pub struct JobArgs {
    /// The job file.
    pub job_file: PathBuf,
    /// The reply queue, if it is not the job file's.
    pub reply_queue: Option<String>,
    /// The correlation id, if it is not the job file's.
    pub correlation_id: Option<String>,
    /// `--env-file`.
    pub env_file: Option<PathBuf>,
    /// No progress bar.
    pub quiet: bool,
    /// Waits for a debugger before the first step.
    pub debug_wait: bool,
}

/// Where the reply goes. The command line wins over the job file, and both over the record.
pub(super) fn envelope(arguments: &JobArgs, file: Option<&JobFile>) -> Option<Envelope> {
    let record = || JobFiles::new(arguments.job_file.parent()?).envelope();
    let recorded = if file.is_none() { record() } else { None };
    let given = |argument: &Option<String>, of_file: Option<&Option<String>>| {
        argument.clone().filter(|a| !a.is_empty()).or_else(|| of_file.cloned().flatten())
    };
    let correlation_id = given(&arguments.correlation_id, file.map(|f| &f.correlation_id))
        .or_else(|| recorded.as_ref().map(|e| e.correlation_id.clone()))?;
    let reply_to = given(&arguments.reply_queue, file.map(|f| &f.reply_to))
        .or_else(|| recorded.as_ref().map(|e| e.reply_to.clone()))
        .unwrap_or_else(|| DEFAULT_REPLY_QUEUE.to_owned());
    let message_id = file
        .and_then(|f| f.message_id.clone())
        .or_else(|| recorded.map(|e| e.message_id))
        .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    Some(Envelope { reply_to, correlation_id, message_id })
}

/// The contract of a job whose job file can't be used, as its record says; `None` where there is
/// no record.
pub(super) fn recorded_protocol(place: &Place) -> Option<Protocol> {
    let path = place.managed.as_ref()?.record();
    let record: Record = serde_json::from_slice(&read_own(&path).ok()?).ok()?;
    Some(record.protocol)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::Timestamp;

    use super::super::signals::Signals;
    use super::super::{Attempt, attempt};
    use super::*;
    use crate::config::ConfigError;
    use contract::wire::Answer;
    use domain::{CorrelationId, JobId};

    #[test]
    fn a_conversation_whose_job_file_can_not_be_read_is_answered_as_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (body, is_conversation) in [("{\"protocol\": 2}", true), ("{}", false)] {
            let folder = tempfile::tempdir().unwrap();
            let files = JobFiles::new(folder.path());
            let id = CorrelationId("c-1".into());
            let job_id = JobId::from_correlation_id(&id);
            let now = Timestamp::UNIX_EPOCH;
            let record = Record::new(job_id, id, "q".into(), body.as_bytes(), now);
            fs::write(files.record(), serde_json::to_vec(&record).unwrap()).unwrap();
            let place = Place::of(&files.job_file());
            let arguments = JobArgs {
                job_file: files.job_file(),
                reply_queue: None,
                correlation_id: None,
                env_file: None,
                quiet: true,
                debug_wait: false,
            };
            let config = Err(ConfigError::Variables(Vec::new()));
            let signals = Signals::raised(false, false);
            let attempt = attempt(&arguments, &config, None, &runtime, &signals, &place);
            let Attempt::Ended(ended) = attempt else { panic!("it has no answer") };
            assert_eq!(matches!(ended.answer, Answer::End(_)), is_conversation);
            assert_eq!(ended.envelope.unwrap().reply_to, "q");
        }
    }
}

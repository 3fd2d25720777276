//! Files that the programs or their operator have written.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::assert_shown;
use crate::config::{Config, ConfigError, Sources, TrainerConfig, env_variables};
use crate::ledger::{
    Breaker, Event, HeldBy, Outcome, Progress, Record, State, Unreadable, parse_record,
};
use contract::wire::Reply;
use domain::JobId;
use domain::SlurmJobId;

/// `credentials.env`.
pub(super) fn credentials(data: &[u8]) {
    let path = Path::new("credentials.env");
    let values = match env_variables(path, data) {
        Ok(values) => values,
        Err(ConfigError::Syntax { line, fault, .. }) => {
            assert!((1..=data.split(|byte| *byte == b'\n').count()).contains(&line), "line {line}");
            // Only the number and the kind are told: the line may hold a password.
            let told = ConfigError::Syntax { path: path.to_path_buf(), line, fault }.to_string();
            return assert!(told.len() < 300);
        }
        Err(ConfigError::Encoding { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let told = |password: &str| {
        let mut environment: BTreeMap<String, String> =
            values.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        for name in ["RABBITMQ_PASSWORD", "RODAN_PASSWORD"] {
            environment.insert(name.into(), password.into());
        }
        // No file of this machine is read.
        environment.insert("HPC_TRAINER_HOME".into(), "/nowhere".into());
        environment.remove("HPC_TRAINER_ENV_FILE");
        let sources = Sources { env_file: None, environment, unreadable: Vec::new() };
        let config = Config::load(&sources, None);
        if let Ok(config) = &config {
            check_site(config);
        }
        let trainer = TrainerConfig::load(&sources);
        let (config, trainer) = (
            config.map_err(|e| (format!("{e:?}"), e.to_string())),
            trainer.map_err(|e| e.to_string()),
        );
        format!("{config:?} {trainer:?}")
    };
    assert_eq!(told("one password"), told("and 'another'"), "a password is told");
}

/// What becomes an option of sbatch is a single word.
fn check_site(config: &Config) {
    let site = &config.site;
    let words = [
        &site.account,
        &site.partition,
        &site.qos,
        &site.constraint,
        &site.gres,
        &site.watcher_partition,
    ];
    for word in words.into_iter().flatten() {
        assert!(!word.is_empty() && !word.starts_with('-'), "{word:?}");
        assert!(!word.contains(|c: char| c.is_whitespace() || c.is_control()), "{word:?}");
    }
    for memory in [0, 1000, 64_000, u64::MAX] {
        let row = site.gres_for(memory);
        for word in [row.gres, row.partition].into_iter().flatten() {
            assert!(!word.contains(|c: char| c.is_whitespace() || c.is_control()), "{word:?}");
        }
    }
    assert!(site.max_open_jobs >= 1 && site.signal_seconds <= 65_535);
}

/// The files of the spool: a job's record, a reply, the trainer's note, the lock, the breaker.
pub(super) fn record(data: &[u8]) {
    round_trip::<HeldBy>(data);
    round_trip::<Breaker>(data);
    round_trip::<Progress>(data);
    if let Ok(reply) = Reply::from_body(data.to_vec()) {
        assert_eq!(Reply::from_body(reply.body().to_vec()).ok().as_ref(), Some(&reply));
    }
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let id = value["job_id"].as_str().and_then(JobId::from_directory);
    let other = JobId::from_directory("another").unwrap();
    let Some(id) = id.filter(|id| *id != other) else { return };
    assert!(parse_record(data, &other).is_err(), "the record of another job");
    let record = match parse_record(data, &id) {
        Ok(record) => record,
        Err(Unreadable::Foreign(why)) => return assert_shown(&why),
        Err(_) => return,
    };
    assert_eq!(record.job_id, id);
    again(&record);
    for event in [
        Event::SubmitStarted,
        Event::Accepted(SlurmJobId(17)),
        Event::Started,
        Event::Requeued,
        Event::OutOfMemory,
        Event::Failed("it failed".into()),
        Event::ReplySpooled(Outcome::Models),
        Event::Delivered,
    ] {
        let mut after = record.clone();
        let told = event.clone();
        match after.apply(event, Timestamp::UNIX_EPOCH) {
            Ok(()) => {
                // A job is answered only by a reply that was spooled before, and that is never
                // undone.
                let spooled = matches!(record.state, State::ResultSpooled { .. } | State::Replied);
                assert!(after.state != State::Replied || spooled, "{told:?}");
                assert!(
                    record.state != State::Replied || after.state == State::Replied,
                    "{told:?}"
                );
                again(&after);
            }
            Err(_) => {
                assert_eq!(after, record, "an event that can't happen has changed the record")
            }
        }
    }
}

fn again(record: &Record) {
    let text = serde_json::to_vec(record).unwrap();
    assert_eq!(parse_record(&text, &record.job_id).ok().as_ref(), Some(record));
}

/// Read, written and read again, it is the same.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let text = serde_json::to_vec(&value).unwrap();
        assert_eq!(serde_json::from_slice::<T>(&text).unwrap(), value);
    }
}

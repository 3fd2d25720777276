//! What comes from the job queue.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use jiff::Timestamp;

use super::assert_shown;
use crate::config::{Config, Sources};
use crate::ledger::{Paces, Record};
use crate::sentences;
use base::secret::Secret;
use contract::wire::{Envelope, JobFile, JobMessage, Reply};
use domain::{
    Allowed, CorrelationId, JobId, NamedResources, ResourceSettings, Setting, SettingsMap,
    SiteLimits, TrainingSettings, Walltime,
};
use scheduler::kinds_of_job;

/// Occurs in no input unless somebody searches for it.
const TOKEN: &str = "9f1c3ad0a07e44d2b6f5c2e1d8b7a604";

static SITE: LazyLock<Config> = LazyLock::new(|| {
    let pairs = [
        ("HPC_TRAINER_HOME", "/nowhere"),
        ("RABBITMQ_USER", "u"),
        ("RABBITMQ_PASSWORD", "p"),
        ("RABBITMQ_HOST", "amqps://rabbit"),
        ("RODAN_USER", "u"),
        ("RODAN_PASSWORD", "p"),
        ("RODAN_HOST", "https://rodan"),
    ];
    let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Config::load(&Sources { env_file: None, environment, unreadable: Vec::new() }, None).unwrap()
});

const LIMITS: SiteLimits = SiteLimits {
    cpus: Some(8),
    memory_mb: Some(64_000),
    walltime: None,
    epochs: Some(100),
    samples: Some(20_000),
    instances: Some(8),
};

/// A message: `correlation_id 0xFF reply_to 0xFF body`, or the body alone.
pub(super) fn message(data: &[u8]) {
    let parts: Vec<&[u8]> = data.splitn(3, |byte| *byte == 0xff).collect();
    let (id, reply_to, body) = match parts[..] {
        [id, reply_to, body] => (
            String::from_utf8_lossy(id).into_owned(),
            String::from_utf8_lossy(reply_to).into_owned(),
            body,
        ),
        _ => ("c-1".to_owned(), "q".to_owned(), data),
    };
    let job_id = job_id(&id);
    let record = Record::new(
        job_id.clone(),
        CorrelationId(id.clone()),
        reply_to.clone(),
        body,
        Timestamp::UNIX_EPOCH,
    );
    let text = serde_json::to_vec(&record).unwrap();
    assert_eq!(crate::ledger::parse_record(&text, &job_id).ok().as_ref(), Some(&record));

    let job = match JobMessage::parse(body) {
        Ok(job) => job,
        Err(error) => {
            let sentence = base::text::sentence(&error.to_string());
            assert_shown(&sentence);
            let reply = Reply::error(&sentence);
            let back = Reply::from_body(reply.body().to_vec()).unwrap();
            assert_eq!(back.error_sentence(), Some(sentence));
            return;
        }
    };
    check_training(&job.training);
    let chosen = crate::bridge::chosen(&job, &SITE.site, &Paces::default());
    check_resources(&chosen.resources);
    let mut stems = BTreeSet::new();
    for input in job.inputs.iter() {
        let stem = input.kind.file_stem();
        assert!(stem.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{stem:?}");
        assert!(stems.insert(stem), "two inputs would have one file");
        assert!(!input.location.trim().is_empty());
    }
    let exceeded = LIMITS.exceeded_by(&job.training, &chosen.resources);
    if exceeded.is_empty() {
        assert!(chosen.resources.cpus <= 8 && chosen.resources.memory_mb <= 64_000);
        assert!(job.training.epochs <= 100 && job.training.max_samples <= 20_000);
    } else {
        assert_shown(&sentences::beyond_the_limits(&exceeded, sentences::OPERATOR));
    }
    check_request(&job_id, &chosen.resources);

    let envelope =
        Envelope { reply_to: reply_to.clone(), correlation_id: id.clone(), message_id: "m".into() };
    let text = JobFile::text(body, &envelope, Some(&chosen.asked), &Secret::new(TOKEN)).unwrap();
    let file = JobFile::parse(text.expose().as_bytes()).unwrap();
    let is_told = !job.protocol.is_reply() || chosen.asked.is_chosen();
    let told = Some(chosen.asked.clone()).filter(|_| is_told);
    assert_eq!(file.inputs, job.inputs);
    assert_eq!(file.settings, job.training);
    assert_eq!((file.protocol, file.asked.clone()), (job.protocol, told));
    assert_eq!(file.token.expose(), TOKEN);
    assert_eq!(file.reply_to, Some(reply_to.clone()));
    assert_eq!(file.correlation_id, Some(id.clone()));
    if !String::from_utf8_lossy(data).contains(TOKEN) {
        assert!(
            !JobFile::masked_text(body, &envelope, Some(&chosen.asked)).unwrap().contains(TOKEN)
        );
        assert!(!format!("{file:?}").contains(TOKEN));
    }
}

/// The id is safe as the name of a file and of a Slurm job, whatever it was made from.
fn job_id(correlation_id: &str) -> JobId {
    let id = JobId::from_correlation_id(&CorrelationId(correlation_id.to_owned()));
    for id in [id.clone(), id.again("", 7)] {
        assert!((1..=64).contains(&id.as_str().len()));
        assert!(id.as_str().chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        assert!(!id.as_str().starts_with(['-', '_']));
        assert_eq!(JobId::from_directory(id.as_str()), Some(id.clone()));
        assert_eq!(id.slurm_name(), format!("hpct-{id}"));
    }
    id
}

/// Nothing of a message becomes an option of sbatch or a word of a shell.
fn check_request(id: &JobId, resources: &ResourceSettings) {
    let request = kinds_of_job::training(
        &SITE.site,
        &id.slurm_name(),
        resources,
        Path::new("/spool/job.json"),
    );
    let words: Vec<String> =
        request.arguments().iter().map(|a| a.to_str().unwrap().to_owned()).collect();
    let end = words.iter().position(|word| word == "--").unwrap();
    assert_eq!(words.len(), end + 3, "{words:?}");
    for word in &words[..end] {
        assert!(
            word.starts_with("--") && !word.contains(|c: char| c.is_whitespace() || c.is_control())
        );
        assert!(
            !word.contains(['\'', '"', '`', '$', ';', '&', '|', '<', '>', '(', '\\']),
            "{word:?}"
        );
    }
    let named = |name: &str| words[..end].iter().filter(|word| word.starts_with(name)).count();
    for name in [
        "--parsable",
        "--job-name=",
        "--mem=",
        "--time=",
        "--cpus-per-task=",
        "--gres=",
        "--chdir=",
    ] {
        assert_eq!(named(name), 1, "{words:?}");
    }
    assert_eq!(named("--mail-user="), usize::from(resources.email.is_some()));
}

fn check_training(settings: &TrainingSettings) {
    for (setting, value) in settings.values() {
        check_number(setting, &value);
    }
    assert!(settings.shift <= settings.patch_height.min(settings.patch_width) / 2);
}

/// A number is within what its row of the table allows.
fn check_number(setting: &Setting, value: &serde_json::Value) {
    if let (Allowed::Number { low, high, step }, Some(n)) = (setting.allowed, value.as_u64()) {
        assert!((low..=high).contains(&n) && n.is_multiple_of(step), "{} is {n}", setting.name);
    }
}

fn check_resources(resources: &ResourceSettings) {
    assert!(
        (1..=4096).contains(&resources.cpus) && (1..=100_000_000).contains(&resources.memory_mb)
    );
    assert!((60..=31_536_000).contains(&resources.walltime.seconds()));
    if let Some(email) = &resources.email {
        let (user, host) = email.split_once('@').unwrap();
        assert!(email.len() <= 254 && !user.is_empty() && host.contains('.'));
        assert!(!user.starts_with('-') && !host.contains('@'));
        assert!(
            email.chars().all(|c| c.is_ascii_alphanumeric() || "@._%+-".contains(c)),
            "{email:?}"
        );
    }
}

/// Settings as a JSON object.
pub(super) fn settings(data: &[u8]) {
    let Ok(map) = serde_json::from_slice::<SettingsMap>(data) else { return };
    let (job, local) = (TrainingSettings::from_job(&map), TrainingSettings::from_local(&map));
    match (&job, &local) {
        (Ok(job), Ok(local)) => assert_eq!(job, local, "a default replaces what is there"),
        (Ok(_), Err(error)) => panic!("of a job, and not of a page: {error}"),
        _ => {}
    }
    let resources = NamedResources::from_job(&map);
    for error in
        [job.as_ref().err(), local.as_ref().err(), resources.as_ref().err()].into_iter().flatten()
    {
        assert_shown(&error.to_string());
    }
    local.as_ref().inspect(|settings| check_training(settings)).ok();
    // Settings with unknown names change nothing.
    let mut more = map;
    more.insert("A later setting".into(), true.into());
    assert_eq!(TrainingSettings::from_job(&more), job);
    assert_eq!(NamedResources::from_job(&more), resources);
}

/// A time limit.
pub(super) fn walltime(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(limit) = text.parse::<Walltime>() else { return };
    assert!((60..=31_536_000).contains(&limit.seconds()));
    let shown = limit.to_string();
    assert_eq!(shown.parse(), Ok(limit), "{shown}");
    assert!(shown.chars().all(|c| c.is_ascii_digit() || c == '-' || c == ':'));
    assert_eq!(seconds(text.trim()), limit.seconds(), "{text:?}");
}

/// The same time, computed by the rule that each form is a list of units.
fn seconds(text: &str) -> u64 {
    let units: BTreeMap<(bool, usize), &[u64]> = BTreeMap::from([
        ((false, 1), &[60][..]),
        ((false, 2), &[60, 1]),
        ((false, 3), &[3600, 60, 1]),
        ((true, 2), &[86_400, 3600]),
        ((true, 3), &[86_400, 3600, 60]),
        ((true, 4), &[86_400, 3600, 60, 1]),
    ]);
    let parts: Vec<u64> = text.split(['-', ':']).map(|part| part.parse().unwrap()).collect();
    let units = units[&(text.contains('-'), parts.len())];
    parts.iter().zip(units).map(|(part, unit)| part * unit).sum()
}

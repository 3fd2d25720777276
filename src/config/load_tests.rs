use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::Examined;
use super::super::env::variable;
use super::*;
use scheduler::Gres;

const SIX: &str = "export RABBITMQ_USER=tester\nRABBITMQ_PASSWORD='s3$cret#'\n\
                   RABBITMQ_HOST=rabbit\n# a comment\nexport RODAN_USER=me@example.org\n\
                   RODAN_PASSWORD=\"pass word\"\nRODAN_HOST=rodan\n";

fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials.env");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

fn sources(path: &Path, environment: BTreeMap<String, String>) -> Sources<'_> {
    Sources { env_file: Some(path), environment, unreadable: Vec::new() }
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let (_dir, path) = file(text, 0o600);
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Config::load(&sources(&path, environment), None)
}

#[test]
fn the_six_variables_suffice_with_and_without_export() {
    let config = load(SIX, &[]).unwrap();
    assert_eq!(config.broker.password.expose(), "s3$cret#");
    assert_eq!(config.rodan.password.expose(), "pass word");
    assert_eq!(config.rodan.user, "me@example.org");
    assert!(config.site.spool.ends_with("spool"));
    assert_eq!(config.site.gres_for(1000), Gres { gres: Some("gpu:1".into()), partition: None });
    let shown = format!("{config:?}");
    assert!(!shown.contains("s3$cret") && !shown.contains("pass word"), "{shown}");
}

#[test]
fn jobs_run_on_slurm_unless_this_host_is_named() {
    let kind = |environment: &[(&str, &str)]| load(SIX, environment).map(|c| c.site.scheduler);
    assert_eq!(kind(&[]).unwrap(), Kind::Slurm);
    assert_eq!(kind(&[("SCHEDULER", "slurm"), ("LOCAL_JOBS", "3")]).unwrap(), Kind::Slurm);
    assert_eq!(kind(&[("SCHEDULER", "local")]).unwrap(), Kind::Local { jobs: 1 });
    let two = [("SCHEDULER", "local"), ("LOCAL_JOBS", "2")];
    assert_eq!(kind(&two).unwrap(), Kind::Local { jobs: 2 });
    let error = kind(&[("SCHEDULER", "pbs")]).unwrap_err().to_string();
    assert!(error.contains("SCHEDULER must be slurm or local"), "{error}");
    assert!(kind(&[("LOCAL_JOBS", "0")]).is_err());
}

#[test]
fn the_process_environment_wins() {
    let config =
        load(SIX, &[("RABBITMQ_HOST", "amqps://other/v"), ("SITE_PARTITION", "gpu")]).unwrap();
    assert_eq!(config.broker.address.host, "other");
    assert_eq!(config.site.gres_for(1).partition.as_deref(), Some("gpu"));
}

#[test]
fn every_problem_is_reported_at_once_with_its_purpose() {
    let text = "RABBITMQ_USER=u\nRABBITMQ_HOST=http://x\nRODAN_USER=\n\
                REPLY_QUEUE_DURABLE=maybe\nSITE_ACCOUNT='--wrap x'\nGIVE_UP_HOURS=-1\n\
                MAX_TIME=long\nMAX_CPUS=0\nMETRICS_FILE=/tmp/metrics.txt\n";
    let error = load(text, &[]).unwrap_err().to_string();
    for part in [
        "11 problems",
        "METRICS_FILE must end in .prom",
        "RABBITMQ_PASSWORD is not set: it is the password for RabbitMQ",
        "RABBITMQ_HOST must begin with amqp://",
        "REPLY_QUEUE_DURABLE must be 1 or 0",
        "RODAN_USER is not set",
        "RODAN_PASSWORD is not set",
        "RODAN_HOST is not set",
        "SITE_ACCOUNT must be one word",
        "GIVE_UP_HOURS must be a whole number",
        "MAX_TIME is not a time; write D-HH:MM",
        "MAX_CPUS must be a whole number from 1",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn require_tls_refuses_plain_hosts_and_says_what_to_write() {
    let error = load(SIX, &[("REQUIRE_TLS", "1")]).unwrap_err().to_string();
    assert!(error.contains("2 problems"), "{error}");
    for (name, instead) in [("RABBITMQ_HOST", "amqps://rabbit;"), ("RODAN_HOST", "https://rodan;")]
    {
        let sentence = format!("{name} has no TLS, which REQUIRE_TLS=1 asks for; write {instead}");
        assert!(error.contains(&sentence), "{error}");
    }
    let tls = [("REQUIRE_TLS", "1"), ("RABBITMQ_HOST", "amqps://a"), ("RODAN_HOST", "https://b")];
    assert!(load(SIX, &tls).unwrap().plain_connections().is_empty());
    assert_eq!(load(SIX, &[("REQUIRE_TLS", "0")]).unwrap().plain_connections().len(), 2);
    let error = load(SIX, &[("REQUIRE_TLS", "perhaps")]).unwrap_err().to_string();
    assert!(
        error.contains("1 problem:") && error.contains("REQUIRE_TLS must be 1 or 0"),
        "{error}"
    );
    let (_dir, path) = file(SIX, 0o600);
    let environment = BTreeMap::from([("REQUIRE_TLS".to_owned(), "1".to_owned())]);
    assert!(TrainerConfig::load(&sources(&path, environment)).is_err());
}

#[test]
fn a_bad_line_is_named_by_number_and_not_shown() {
    let error = load("RODAN_USER=x\nRODAN_PASSWORD=top 'secret\n", &[]).unwrap_err();
    assert!(matches!(error, ConfigError::Syntax { line: 2, .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[test]
fn a_password_is_taken_to_its_last_blank() {
    let text = SIX.replace("'s3$cret#'", "'  s3$cret '").replace("\"pass word\"", "'   '");
    let config = load(&text, &[]).unwrap();
    assert_eq!(config.broker.password.expose(), "  s3$cret ");
    assert_eq!(config.rodan.password.expose(), "   ");
    let config = load(SIX, &[("RODAN_PASSWORD", " of the environment\t")]).unwrap();
    assert_eq!(config.rodan.password.expose(), " of the environment\t");
    // What is a name or a number may have blanks around it.
    let config = load(SIX, &[("RABBITMQ_HOST", " other "), ("GIVE_UP_HOURS", " 7 ")]).unwrap();
    assert_eq!(
        (config.broker.address.host.as_str(), config.site.give_up.as_secs()),
        ("other", 7 * 3600)
    );
    let error = load(SIX, &[("RODAN_PASSWORD", "")]).unwrap_err().to_string();
    assert!(error.contains("RODAN_PASSWORD is not set"), "{error}");
}

#[test]
fn a_value_of_the_environment_that_is_no_text_is_not_passed_over() {
    let (_dir, path) = file(SIX, 0o600);
    let mut sources = sources(&path, BTreeMap::new());
    sources.unreadable = vec![variable("RODAN_PASSWORD").unwrap()];
    let error = Config::load(&sources, None).unwrap_err().to_string();
    assert!(error.contains("RODAN_PASSWORD is not UTF-8 in the environment"), "{error}");
}

#[test]
fn what_nobody_reads_from_the_file_is_named() {
    let text = format!("{SIX}HPC_TRAINER_HOME=/x\nHPC_TRAINER_ENV_FILE=/y\nMAX_CPUS=8\n");
    let (_dir, path) = file(&text, 0o600);
    let found = Examined::new(&sources(&path, BTreeMap::new()), None);
    assert_eq!(found.unknown, ["HPC_TRAINER_ENV_FILE", "HPC_TRAINER_HOME"]);
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let (_dir, path) = file(SIX, 0o640);
    let sources = sources(&path, BTreeMap::new());
    let error = Config::load(&sources, None).unwrap_err().to_string();
    assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
}

#[test]
fn whom_to_ask_is_the_sites_own_word() {
    assert_eq!(load(SIX, &[]).unwrap().site.operator, "the operator of the cluster");
    let contact = "the music group's help desk (hpc-help@example.org)";
    assert_eq!(load(SIX, &[("OPERATOR_CONTACT", contact)]).unwrap().site.operator, contact);
    for wrong in ["two\nlines".to_owned(), "\u{202e}".to_owned(), "x".repeat(201)] {
        let error = load(SIX, &[("OPERATOR_CONTACT", &wrong)]).unwrap_err().to_string();
        assert!(error.contains("OPERATOR_CONTACT must be one line"), "{error}");
    }
}

#[test]
fn the_trainer_needs_no_rodan_password() {
    let (_dir, path) =
        file("RABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\nRABBITMQ_HOST=h\nRODAN_HOST=r\n", 0o600);
    let sources = sources(&path, BTreeMap::new());
    assert_eq!(TrainerConfig::load(&sources).unwrap().max_download, 1 << 30);
}

//! `slurm/sites/`: a profile that an operator copies is understood; and what a proxy does on the
//! way to Rodan.

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use hpc_trainer::config::{Config, Sources, TrainerConfig, variable};

use support::SECONDS;
use support::desk::{Desk, job};
use support::program::{self, Program, expect};
use support::rodan::{LOGIN, Rodan, Setup};
use support::services::repository;

const SECRETS: &str = "RABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\nRABBITMQ_HOST=amqps://rabbit\n\
                       RODAN_USER=u\nRODAN_PASSWORD=p\nRODAN_HOST=https://rodan\n";

/// Files of `slurm/sites` with this ending, and their text.
fn files(ending: &str) -> Vec<(PathBuf, String)> {
    let directory = repository().join("slurm/sites");
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.to_str().unwrap().ends_with(ending));
    found.sort();
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// Reads a configuration as both programs do.
fn load(text: &str) -> Result<Config, String> {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("credentials.env");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let sources =
        || Sources { env_file: Some(&path), environment: BTreeMap::new(), unreadable: Vec::new() };
    TrainerConfig::load(&sources()).map_err(|error| error.to_string())?;
    Config::load(&sources(), None).map_err(|error| error.to_string())
}

/// `NAME=value` of a line, even if it is commented out.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('#').unwrap_or(line).split_once('=')?;
    (!name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .then_some((name, value))
}

#[test]
fn every_line_of_every_profile_is_a_variable_with_a_value_that_is_taken() {
    let profiles = files(".env");
    assert!(profiles.len() >= 6, "{profiles:?}");
    for (path, text) in &profiles {
        let path = path.display();
        load(&format!("{SECRETS}{text}")).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut settings = 0;
        for line in text.lines() {
            let Some((name, value)) = setting(line) else {
                assert!(line.is_empty() || line.starts_with('#'), "{path}: what is {line:?}?");
                continue;
            };
            settings += 1;
            assert!(variable(name).is_some(), "{path}: there is no variable {name}");
            assert!(
                !name.contains("PASSWORD") && !name.contains("RABBITMQ"),
                "{path}: {name} is a secret"
            );
            // Lines that are commented out are tried too, because they are there to be used.
            load(&format!("{SECRETS}{name}={value}\n"))
                .unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        assert!(settings >= 5, "{path} says little");
        assert!(text.contains("SITE_TASKS_PER_NODE="), "{path}: how do tasks share its nodes?");
    }
}

#[test]
fn a_profile_gives_a_job_the_gpu_of_its_memory() {
    let gres = |profile: &str, memory_mb: u64| {
        let text = fs::read_to_string(repository().join("slurm/sites").join(profile)).unwrap();
        load(&format!("{SECRETS}{text}")).unwrap().site.gres_for(memory_mb).gres
    };
    let cases = [
        ("cpu-only.env", 6000, None),
        ("generic.env", 6000, Some("gpu:1")),
        ("alliance-fir.env", 6000, Some("gpu:nvidia_h100_80gb_hbm3_1g.10gb:1")),
        ("alliance-fir.env", 200_000, Some("gpu:h100:1")),
        ("alliance-narval.env", 6000, Some("gpu:a100_2g.10gb:1")),
        ("alliance-narval.env", 60_000, Some("gpu:a100_3g.20gb:1")),
        ("alliance-nibi.env", 6000, Some("gpu:h100_1g.10gb:1")),
        ("alliance-rorqual.env", 100_000, Some("gpu:h100:1")),
    ];
    for (profile, memory_mb, expected) in cases {
        assert_eq!(gres(profile, memory_mb).as_deref(), expected, "{profile}, {memory_mb} MB");
    }
}

#[test]
fn every_profile_has_a_site_script_that_the_batch_script_can_read() {
    let scripts = files(".site.sh");
    let names = |files: Vec<(PathBuf, String)>, ending: &str| -> Vec<String> {
        let name =
            |(path, _): (PathBuf, String)| path.file_name().unwrap().to_str().unwrap().to_owned();
        files
            .into_iter()
            .map(name)
            .map(|name| name.strip_suffix(ending).unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(files(".env"), ".env"), names(scripts.clone(), ".site.sh"));
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in scripts {
        Program::new("shellcheck").arg(&path).run().success();
        // Everything in it at once, with the lines that are commented out. Only the site's programs
        // are missing here.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(code) if !code.starts_with(' ') && !code.is_empty() => format!("{code}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let script = directory.path().join("site.sh");
        fs::write(&script, all).unwrap();
        let read = "module() { echo \"module $*\"; }; mkdir -p cuda; : >cuda/runtime.sh; \
                    HPC_TRAINER_HOME=$PWD; SLURM_JOB_ID=7; set -e; . ./site.sh; env";
        let finished =
            Program::new("bash").args(["-c", read]).current_dir(directory.path()).run().success();
        assert_eq!(finished.stderr, "", "{}", path.display());
        if text.contains("module load") {
            assert!(finished.stdout.contains("module load"), "{}\n{finished}", path.display());
        }
    }
}

#[test]
fn a_proxy_leads_both_programs_to_a_rodan_that_has_no_other_route() {
    // A proxy is asked for whole addresses; this one has the files itself.
    let mut desk = Desk::with_script("exit 0");
    let proxy = desk.rodan.url();
    desk.site.set("RODAN_HOST", "http://rodan.invalid");
    let id = desk.vhost.publish_job(&job());
    let finished = desk.check().env("HTTP_PROXY", &proxy).run().success();
    assert!(finished.stdout.starts_with(&format!("{id}  submitted")), "{finished}");
    assert_eq!(desk.rodan.requests_for(LOGIN).len(), 1);

    let Some(trainer) = program::run_trainer() else { return };
    let mut asked = desk.short_job();
    asked["token"] = serde_json::json!(desk.rodan.setup().token);
    let file = desk.site.path().join("by-hand.json");
    fs::write(&file, asked.to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let run = |proxies: &[(&str, &str)], id: &str| {
        let trainer = Program::new(trainer).arg(&file).args(["hpc-results", id]);
        let trainer = trainer.arg("--env-file").arg(desk.site.credentials()).limit(SECONDS(120));
        proxies.iter().fold(trainer, |trainer, (name, value)| trainer.env(name, value)).run()
    };
    run(&[("http_proxy", &proxy)], "by-proxy").success();
    assert!(desk.vhost.receive_reply("by-proxy", SECONDS(60)).json().get("Model 0").is_some());
    // Without the proxy, and where NO_PROXY excludes it, nothing leads there.
    expect(
        &run(&[("http_proxy", &proxy), ("NO_PROXY", "rodan.invalid")], "direct"),
        5,
        &["no connection"],
    );
}

#[test]
fn a_proxy_sees_nothing_of_what_goes_to_an_https_rodan() {
    let proxy = Rodan::with(Setup::default());
    let mut desk = Desk::with(Some("exit 0"), Rodan::start());
    desk.site.set("RODAN_HOST", "https://rodan.invalid");
    desk.vhost.publish_job(&job());
    let finished = desk.check().env("HTTPS_PROXY", proxy.url()).run();
    expect(&finished, 5, &[]);
    assert!(
        finished.stdout.contains("can't log in to Rodan at https://rodan.invalid/"),
        "{finished}"
    );
    let requests = proxy.requests();
    assert!(!requests.is_empty() && requests.iter().all(|r| r.method == "CONNECT"), "{requests:?}");
    assert!(!proxy.was_told(&proxy.setup().password), "{requests:?}");
}

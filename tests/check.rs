//! `check` on a login node: real RabbitMQ, real Slurm, the stand-in Rodan. The batch script is a
//! shell script of the test, so that the job ends as the test needs; `tests/job.rs` has the whole
//! road with the trainer.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lapin::BasicProperties;
use serde_json::{Value, json};

use support::SECONDS;
use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job, with_setting};
use support::program::{Program, expect};
use support::rodan::{Answer, Generation, Rodan, Setup};
use support::services::Services;

#[test]
fn nothing_to_do_is_silence() {
    let desk = Desk::with_script("exit 0");
    let finished = desk.check().run().success();
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("", ""),
        "the queue does not exist"
    );
    assert!(!desk.vhost.queue_exists(JOBS), "check never declares hpc-jobs");
    desk.vhost.declare_queues();
    let finished = desk.check().run().success();
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("", ""),
        "the queue is empty"
    );
    let finished = desk.check().arg("-v").run().success();
    assert_eq!(finished.stderr, "check: done\n");
    assert!(desk.rodan.requests().is_empty(), "nobody logs in for nothing");
}

#[test]
fn a_job_is_taken_recorded_and_submitted_with_what_it_asks_for() {
    let desk = Desk::with_script("env > \"$1.new\"; mv \"$1.new\" \"$1.env\"; sleep 60");
    let mut asked = with_setting("CPUs", json!(2));
    asked["settings"]["Slurm Notification Email"] = json!("me@example.org");
    asked["settings"]["Maximum time (D-HH:MM)"] = json!("90");
    let id = desk.vhost.publish_job(&asked);
    let other = desk.vhost.publish_job(&job());
    let finished =
        desk.check().env("SBATCH_PARTITION", "nowhere").env("MY_SECRET", "x").run().success();
    let slurm_id = desk.slurm_job(&id);
    assert_eq!(
        finished.stdout,
        format!("{id}  submitted  Slurm job {slurm_id} (2 CPUs, 500 MB, 0-01:30:00)\n")
    );
    assert_eq!(
        desk.vhost.waiting(JOBS),
        Some(1),
        "one job a pass, unless --max-jobs says otherwise"
    );
    assert_eq!(desk.cluster.jobs_named(&format!("hpct-{other}")), Vec::<String>::new());

    let shown = desk.cluster.wait_for_state(&slurm_id, &["RUNNING"], SECONDS(60));
    assert_eq!(
        (shown["TimeLimit"].as_str(), shown["MinMemoryNode"].as_str()),
        ("01:30:00", "500M")
    );
    assert_eq!(shown["CPUs/Task"], "2");
    assert!(shown["TresPerNode"].contains("gpu:1"), "{shown:?}");
    assert!(shown["StdOut"].starts_with(desk.site.logs().to_str().unwrap()), "{shown:?}");
    assert_eq!(shown["MailUser"], "me@example.org");

    let directory = desk.site.spool().join("jobs").join(&id);
    let job_file = directory.join("job.json");
    assert_eq!(fs::metadata(&job_file).unwrap().permissions().mode() & 0o777, 0o600);
    let text: Value = serde_json::from_slice(&fs::read(&job_file).unwrap()).unwrap();
    assert_eq!(text["token"], desk.rodan.setup().token.as_str());
    assert_eq!((&text["inputs"], &text["settings"]), (&asked["inputs"], &asked["settings"]));
    assert_eq!(desk.record(&id).unwrap()["state"]["slurm_id"].to_string(), slurm_id);

    let environment = support::wait_for("the job's environment", SECONDS(60), || {
        fs::read_to_string(directory.join("job.json.env"))
            .ok()
            .filter(|text| text.contains("SLURM_JOB_ID"))
    });
    for secret in [
        "MY_SECRET",
        "SBATCH_PARTITION",
        desk.vhost.password(),
        desk.rodan.setup().password.as_str(),
    ] {
        assert!(!environment.contains(secret), "{secret} is in the job's environment");
    }
    let home = format!("HPC_TRAINER_HOME={}", desk.site.path().display());
    assert!(environment.contains(&home), "{environment}");
    desk.cluster.cancel(&slurm_id);
}

#[test]
fn a_site_without_gpus_gets_jobs_without_gpus() {
    let mut desk = Desk::with_script("#SBATCH --gres=gpu:1\nsleep 60");
    desk.site.set("SITE_GRES", "none");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    let shown = desk.cluster.job(&slurm_id).unwrap();
    assert!(
        !format!("{shown:?}").contains("gpu"),
        "what the batch script asks for does not count: {shown:?}"
    );
    desk.cluster.cancel(&slurm_id);
}

#[test]
fn several_jobs_share_one_login() {
    let desk = Desk::with(
        Some("sleep 60"),
        Rodan::with(Setup { generation: Generation::Old, user: "hpc".into(), ..Setup::default() }),
    );
    let ids: Vec<String> = (0..3).map(|_| desk.vhost.publish_job(&job())).collect();
    desk.check().args(["--max-jobs", "0"]).run().success();
    assert_eq!(desk.vhost.waiting(JOBS), Some(3), "--max-jobs 0 takes nothing");
    let finished = desk.check().args(["--max-jobs", "9", "--log-format", "json"]).run().success();
    let lines: Vec<Value> =
        finished.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l["job"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    assert!(lines.iter().all(|l| l["what"] == "submitted"), "{finished}");
    assert_eq!(desk.rodan.requests_for("/api/auth/token/").len(), 1);
    for id in &ids {
        desk.cluster.cancel(&desk.slurm_job(id));
    }
}

#[test]
fn a_dry_run_shows_everything_and_takes_nothing() {
    let desk = Desk::with_script("exit 0");
    let finished = desk.check().arg("--dry-run").run().success();
    assert_eq!(finished.stdout, "There is no job in the queue.\n");
    let id = desk.vhost.publish_job(&job());
    let finished = desk.check().arg("--dry-run").run().success();
    for part in [
        id.as_str(),
        "\"token\":\"********\"",
        "sbatch --parsable",
        "--mem=500M",
        "--gres=gpu:1",
        "job.json",
    ] {
        assert!(finished.stdout.contains(part), "{part} is not in\n{finished}");
    }
    assert_eq!(desk.vhost.waiting(JOBS), Some(1));
    assert!(desk.rodan.requests().is_empty());
    assert!(desk.site.files_below(&desk.site.spool()).is_empty(), "nothing is written");
    let finished = desk.check().run().success();
    assert!(
        finished.stdout.contains("submitted"),
        "the message put back is a job like any other\n{finished}"
    );
}

#[test]
fn a_trainer_that_dies_is_answered_by_the_next_pass() {
    let desk = Desk::with_script("exit 3");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    let finished = desk.check().run();
    expect(&finished, 9, &[]);
    assert!(finished.stdout.contains(&format!("{id}  answered")), "{finished}");
    let sentence = desk.error_reply(&id);
    assert!(
        sentence.contains("ended") && sentence.contains("without a result (FAILED"),
        "{sentence}"
    );
    assert_eq!(desk.record(&id), None, "the job is not open any more");
    let done = desk.site.spool().join("done").join(&id);
    assert!(
        done.join("record.json").exists() && !done.join("job.json").exists(),
        "no token is left"
    );
    desk.check().run().success();
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer only");
}

#[test]
fn a_cancelled_job_is_answered_with_a_sentence_of_its_own() {
    let desk = Desk::with_script("sleep 300");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    desk.cluster.wait_for_state(&slurm_id, &["RUNNING"], SECONDS(60));
    let finished = desk.check().run().success();
    assert_eq!(finished.stdout, "", "a running job is nobody's business\n{finished}");
    assert_eq!(desk.record(&id).unwrap()["state"]["name"], "running");
    desk.cluster.cancel(&slurm_id);
    desk.cluster.wait_for_end(&slurm_id, SECONDS(60));
    expect(&desk.check().run(), 9, &[]);
    let sentence = desk.error_reply(&id);
    assert!(sentence.contains("was cancelled on the cluster"), "{sentence}");
}

#[test]
fn a_reply_that_the_trainer_left_behind_is_delivered() {
    // The state after a run on a node without a route to the broker: the reply is on disk, and the
    // job is over.
    let desk =
        Desk::with_script(r#"echo '{"Background Model":"AAAA"}' > "${1%/*}/reply.json"; exit 10"#);
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    let finished = desk.check().run().success();
    assert!(
        finished.stdout.contains("answered   the models are in the queue 'hpc-results'"),
        "{finished}"
    );
    let reply = desk.vhost.receive_reply(&id, SECONDS(60));
    assert_eq!(reply.body, b"{\"Background Model\":\"AAAA\"}\n");
    assert_eq!(reply.properties.delivery_mode(), &Some(2));
    assert_eq!(reply.properties.expiration().as_ref().unwrap().as_str(), "604800000");
    assert!(reply.properties.message_id().is_some());
}

#[test]
fn a_reply_that_the_trainer_delivers_while_check_looks_is_not_sent_again() {
    // The trainer's last steps, and Rodan's, happen between `check`'s look into the spool and its
    // question to Slurm.
    let mut desk = Desk::with_script(
        r#"echo '{"Background Model":"AAAA"}' > "${1%/*}/reply.json"; sleep 300"#,
    );
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    desk.cluster.wait_for_state(&slurm_id, &["RUNNING"], SECONDS(60));
    let stub = desk.site.path().join("bin");
    fs::create_dir(&stub).unwrap();
    let directory = desk.directory(&id);
    let squeue = format!(
        "if [ -e '{0}' ]; then touch '{0}/delivered'; scancel {slurm_id}\n\
         until squeue -h -t all -o %T -j {slurm_id} | grep -qx CANCELLED; do sleep 0.2; done; \
         fi\nexec squeue \"$@\"",
        directory.display()
    );
    support::write_script(&stub.join("squeue"), &squeue);
    desk.site.set("SITE_SLURM_BIN", stub.to_str().unwrap());
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{id}  answered   the models are")), "{finished}");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "Rodan has had it");
}

#[test]
fn bad_messages_are_answered_kept_and_stop_nothing() {
    let desk = Desk::with_script("sleep 60");
    let properties = |id: &str| {
        BasicProperties::default().with_reply_to(RESULTS.into()).with_correlation_id(id.into())
    };
    desk.vhost.publish(JOBS, b"{\"inputs\": oops", properties("bad-json"));
    desk.vhost.publish(JOBS, b"not even that", BasicProperties::default());
    let mut incomplete = job();
    incomplete["settings"].as_object_mut().unwrap().remove("CPUs");
    incomplete["settings"]["Patch height"] = json!(66);
    let incomplete = desk.vhost.publish_job(&incomplete);
    let good = desk.vhost.publish_job(&job());
    let finished = desk.check().args(["--max-jobs", "9"]).run();
    expect(&finished, 8, &[]);
    assert!(finished.stdout.contains(&format!("{good}  submitted")), "{finished}");
    assert!(desk.error_reply("bad-json").starts_with("The job message can't be read"));
    let sentence = desk.error_reply(&incomplete);
    assert!(sentence.contains("\"Patch height\" must be a multiple of 4"), "{sentence}");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "nobody waits for the one without an address");
    let kept = desk.site.files_below(&desk.site.spool().join("rejected"));
    assert_eq!(kept.len(), 3, "{kept:?}");
    desk.cluster.cancel(&desk.slurm_job(&good));
}

#[test]
fn a_message_without_an_address_is_still_a_job() {
    let desk = Desk::with_script("exit 1");
    desk.vhost.publish(JOBS, job().to_string().as_bytes(), BasicProperties::default());
    let finished = desk.check().run().success();
    let id = finished.stdout.split_whitespace().next().unwrap().to_owned();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    desk.check().run();
    assert!(desk.error_reply(&id).contains("without a result"), "the reply goes to hpc-results");
}

#[test]
fn a_refused_sbatch_is_an_error_reply() {
    let mut desk = Desk::with_script("exit 0");
    desk.site.set("SITE_PARTITION", "nowhere");
    let id = desk.vhost.publish_job(&job());
    let finished = desk.check().run();
    expect(&finished, 6, &[]);
    let sentence = desk.error_reply(&id);
    assert!(
        sentence.starts_with("The cluster refuses the job: ") && sentence.contains("\"CPUs\""),
        "{sentence}"
    );
    assert!(desk.cluster.jobs_named(&format!("hpct-{id}")).is_empty());
}

#[test]
fn a_job_that_asks_for_more_than_the_site_gives_is_answered() {
    let mut desk = Desk::with_script("exit 0");
    desk.site
        .set("MAX_CPUS", "1")
        .set("MAX_MEMORY_MB", "500")
        .set("MAX_TIME", "0-00:10")
        .set("MAX_EPOCHS", "1");
    let over = desk.vhost.publish_job(&with_setting("Maximum number of training epochs", json!(2)));
    let shown = desk.check().arg("--dry-run").run();
    assert!(shown.stdout.contains("at most 1: lower it") && shown.code() == Some(8), "{shown}");
    let at_the_limit = desk.vhost.publish_job(&job());
    expect(&desk.check().args(["--max-jobs", "2"]).run(), 8, &[]);
    let sentence = desk.error_reply(&over);
    for words in ["Maximum number of training epochs", "is 2", "at most 1", "MAX_EPOCHS"] {
        assert!(sentence.contains(words), "{sentence}");
    }
    assert!(desk.cluster.jobs_named(&format!("hpct-{over}")).is_empty());
    desk.slurm_job(&at_the_limit);
}

#[test]
fn a_refused_login_is_an_error_reply_and_names_no_password() {
    let mut desk = Desk::with_script("exit 0");
    desk.site.set("RODAN_PASSWORD", "wr0ng-password");
    let id = desk.vhost.publish_job(&job());
    let finished = desk.check().arg("-vv").run();
    expect(&finished, 5, &["refuses the login", "RODAN_USER and RODAN_PASSWORD"]);
    assert!(desk.error_reply(&id).contains("could not log in to Rodan"));
    assert!(!format!("{finished}").contains("wr0ng-password"));
}

#[test]
fn while_rodan_is_away_jobs_wait() {
    let desk = Desk::with_script("sleep 60");
    desk.rodan.answer_next("/api/auth/token/", 3, &Answer::Status(502));
    let id = desk.vhost.publish_job(&job());
    let finished = desk.check().run();
    expect(&finished, 5, &[]);
    assert!(finished.stdout.contains(&format!("{id}  waiting")), "{finished}");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0));
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{id}  submitted")), "{finished}");
    desk.cluster.cancel(&desk.slurm_job(&id));
}

#[test]
fn a_job_does_not_wait_for_rodan_for_ever() {
    let mut desk = Desk::with_script("exit 0");
    desk.rodan.answer_next("/api/auth/token/", 3, &Answer::Status(502));
    desk.site.set("GIVE_UP_HOURS", "0");
    let id = desk.vhost.publish_job(&job());
    expect(&desk.check().run(), 5, &[]);
    assert!(desk.error_reply(&id).contains("could not reach Rodan"));
}

#[test]
fn while_slurm_is_away_jobs_wait_and_are_submitted_once() {
    let desk = Desk::with_script("sleep 60");
    let id = desk.vhost.publish_job(&job());
    let away = desk.site.path().join("slurm.conf");
    let conf = fs::read_to_string(desk.cluster.conf()).unwrap();
    let nobody = support::DEAD_PORT;
    let lines = conf.lines().map(|line| match line.starts_with("SlurmctldPort=") {
        true => format!("SlurmctldPort={nobody}"),
        false => line.to_owned(),
    });
    fs::write(&away, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let finished = desk.check().env("SLURM_CONF", &away).limit(SECONDS(120)).run();
    expect(&finished, 6, &[]);
    assert!(finished.stdout.contains(&format!("{id}  waiting")), "{finished}");
    let finished = desk.check().env("SLURM_CONF", &away).limit(SECONDS(120)).run();
    expect(&finished, 6, &["stay as they are"]);
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{id}  submitted")), "{finished}");
    desk.cluster.cancel(&desk.slurm_job(&id));
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0));
}

#[test]
fn a_job_whose_number_was_never_learned_is_found_by_its_name() {
    let desk = Desk::with_script("sleep 60");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    // The state that a pass leaves when it dies right after sbatch.
    let path = desk.site.spool().join("jobs").join(&id).join("record.json");
    let mut record = desk.record(&id).unwrap();
    record["state"] = json!({"name": "submitting", "attempts": 1});
    record["slurm_id"] = Value::Null;
    fs::write(&path, record.to_string()).unwrap();
    let finished = desk.check().run().success();
    assert!(
        finished.stdout.contains(&format!("{id}  found      Slurm job {slurm_id}")),
        "{finished}"
    );
    desk.cluster.cancel(&slurm_id);
}

#[test]
fn a_redelivered_message_is_not_a_second_job() {
    let desk = Desk::with_script("sleep 60");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let again = BasicProperties::default()
        .with_reply_to(RESULTS.into())
        .with_correlation_id(id.as_str().into());
    desk.vhost.publish(JOBS, job().to_string().as_bytes(), again.clone());
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{id}  duplicate")), "{finished}");
    let other = with_setting("CPUs", json!(2));
    desk.vhost.publish(JOBS, other.to_string().as_bytes(), again);
    let finished = desk.check().run().success();
    assert!(
        finished.stdout.contains("submitted"),
        "another job with the same id is another job\n{finished}"
    );
    assert_eq!(desk.vhost.waiting(JOBS), Some(0));
    desk.cluster.cancel(&desk.slurm_job(&id));
}

#[test]
fn two_checks_at_once_are_one() {
    let desk = Desk::with_script("sleep 60");
    desk.rodan.answer_next("/api/auth/token/", 1, &Answer::Late(SECONDS(8)));
    let id = desk.vhost.publish_job(&job());
    let first = desk.check().start();
    support::wait_for("the first to log in", SECONDS(60), || {
        (!desk.rodan.requests().is_empty()).then_some(())
    });
    let second = desk.check().run().success();
    assert!(second.stdout.contains("another check is at work (process"), "{second}");
    first.wait().success();
    desk.cluster.cancel(&desk.slurm_job(&id));
}

#[test]
fn the_reply_queue_is_declared_as_rodan_declares_it() {
    let desk = Desk::with_script("exit 0");
    let properties = BasicProperties::default()
        .with_reply_to("rodan.replies.7".into())
        .with_correlation_id("x".into());
    desk.vhost.publish(JOBS, b"{}", properties);
    expect(&desk.check().run(), 8, &[]);
    assert_eq!(desk.vhost.waiting("rodan.replies.7"), Some(1));
    let as_rodan = lapin::options::QueueDeclareOptions::default();
    desk.vhost.declare("rodan.replies.7", as_rodan).expect("the arguments are Rodan's");
}

#[test]
fn an_oversize_reply_becomes_an_error_reply_that_names_the_limit() {
    let mut desk = Desk::with_script(
        r#"(printf '{"Background Model":"'; head -c 3000 /dev/zero | tr '\0' A; echo '"}') \
               > "${1%/*}/reply.json""#,
    );
    desk.site.set("MAX_REPLY_BYTES", "2048");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    desk.check().run().success();
    let sentence = desk.error_reply(&id);
    assert!(sentence.contains("3024 bytes, more than the 2048"), "{sentence}");
}

#[test]
fn the_broker_over_tls() {
    let services = Services::shared();
    let mut desk = Desk::with_script("exit 0");
    desk.site.set("RABBITMQ_HOST", desk.vhost.tls_url());
    desk.check().env("SSL_CERT_FILE", services.ca_file()).run().success();
    let finished = desk.check().run();
    expect(&finished, 4, &["can't trust RabbitMQ at", "set SSL_CERT_FILE"]);
}

#[test]
fn a_broker_that_refuses_is_named_with_what_to_check() {
    let mut desk = Desk::with_script("exit 0");
    desk.site.set("RABBITMQ_PASSWORD", "wr0ng-password");
    let finished = desk.check().arg("-vv").run();
    expect(&finished, 4, &["refuses the login of", "RABBITMQ_USER and RABBITMQ_PASSWORD"]);
    assert!(!finished.to_string().contains("wr0ng-password"));
    desk.site
        .use_broker(&desk.vhost)
        .set("RABBITMQ_HOST", format!("{}-not-there", desk.vhost.url()));
    expect(&desk.check().run(), 4, &["into the vhost"]);
    desk.site.set("RABBITMQ_HOST", format!("127.0.0.1:{}", support::DEAD_PORT));
    expect(&desk.check().run(), 4, &["can't reach RabbitMQ at 127.0.0.1:"]);
    desk.site.set("RABBITMQ_HOST", "no-such-host.invalid");
    expect(&desk.check().run(), 4, &["can't reach RabbitMQ at no-such-host.invalid:5672"]);
}

#[test]
fn a_configuration_with_problems_takes_nothing() {
    let mut desk = Desk::with_script("exit 0");
    desk.vhost.publish_job(&job());
    desk.site
        .unset("RODAN_PASSWORD")
        .set("RABBITMQ_HOST", "ftp://x")
        .set("SITE_GRES_TABLE", "lots");
    let finished = desk.check().run();
    expect(
        &finished,
        3,
        &[
            "3 problems",
            "RODAN_PASSWORD is not set: it is the password for Rodan",
            "RABBITMQ_HOST must begin with",
            "row 'lots'",
        ],
    );
    let finished = Program::new(support::program::check()).current_dir("/").run();
    expect(&finished, 3, &["6 problems", "RABBITMQ_USER is not set"]);
    let finished = desk.check().args(["--env-file", "/nowhere/credentials.env"]).run();
    expect(&finished, 3, &["can't read /nowhere/credentials.env", "credentials.env.example"]);
    fs::set_permissions(desk.site.credentials(), fs::Permissions::from_mode(0o644)).unwrap();
    expect(&desk.check().run(), 3, &["others may read it", "chmod 600"]);
    expect(&desk.check().arg("--max-jobs=-1").run(), 2, &["--max-jobs"]);
    assert_eq!(desk.vhost.waiting(JOBS), Some(1));
}

#[test]
fn an_unwritable_spool_takes_nothing() {
    let desk = Desk::with_script("exit 0");
    desk.vhost.publish_job(&job());
    let spool = desk.site.path().join("credentials.env/spool");
    let finished = desk.check().arg("--spool").arg(&spool).run();
    expect(&finished, 7, &["SPOOL_DIR must be a directory"]);
    assert_eq!(desk.vhost.waiting(JOBS), Some(1));
}

#[test]
fn foreign_files_in_the_spool_are_set_aside() {
    let desk = Desk::with_script("exit 0");
    desk.check().run().success();
    fs::create_dir(desk.site.spool().join("jobs/torn")).unwrap();
    fs::write(desk.site.spool().join("jobs/torn/record.json"), "{\"version\":").unwrap();
    let finished = desk.check().run().success();
    assert!(finished.stderr.contains("torn in the spool is no job of ours"), "{finished}");
    let finished = desk.check().run().success();
    assert_eq!(finished.stderr, "");
}

//! What sbatch says when it does not take a job. Real RabbitMQ, real Slurm; a sbatch in the path
//! says what a healthy controller can't be made to say.

use crate::support;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use support::SECONDS;
use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job};
use support::program::{Finished, expect};

/// Slurm's commands in the path of a site, each of which may be replaced.
struct Tools(PathBuf);

impl Tools {
    fn of(desk: &mut Desk) -> Self {
        let folder = desk.site.path().join("slurm-bin");
        fs::create_dir(&folder).unwrap();
        let tools = Self(folder);
        for name in ["sbatch", "squeue", "sacct", "scancel", "scontrol"] {
            tools.restore(name);
        }
        desk.site.set("SITE_SLURM_BIN", tools.0.to_str().unwrap());
        tools
    }

    fn restore(&self, name: &str) {
        self.replace(name, &format!("exec {name} \"$@\""));
    }

    fn replace(&self, name: &str, script: &str) {
        support::write_script(&self.0.join(name), script);
    }

    /// sbatch fails with these words of its own.
    fn sbatch_says(&self, words: &str) {
        let line = format!("sbatch: error: Batch job submission failed: {words}");
        fs::write(self.0.join("words"), line).unwrap();
        self.replace("sbatch", "cat \"${0%/*}/words\" >&2; exit 1");
    }
}

fn status_of(desk: &Desk, id: &str) -> String {
    desk.check().args(["status", id]).run().success().stdout
}

/// One pass that leaves the job waiting.
fn still_waits(desk: &Desk, id: &str) -> Finished {
    let finished = desk.check().args(["--max-jobs", "0"]).limit(SECONDS(60)).run();
    expect(&finished, 6, &[]);
    assert!(finished.stdout.contains(&format!("{id}  waiting")), "{finished}");
    finished
}

#[test]
fn what_passes_by_at_sbatch_is_waited_for_and_shown() {
    let mut desk = Desk::with_script("sleep 300");
    let tools = Tools::of(&mut desk);
    tools.sbatch_says("Unexpected message received");
    let id = desk.vhost.publish_job(&job());
    expect(&desk.check().run(), 6, &[]);
    for words in [
        "Unexpected message received",
        "I/O error writing script/environment to file",
        "Rate limit exceeded, please retry momentarily",
        "Connection timed out",
        "Communication connection failure",
        "Process is shutting down and closing all communications",
        "Required partition not available (inactive or drain)",
        "Something that no Slurm has said yet",
    ] {
        tools.sbatch_says(words);
        still_waits(&desk, &id);
        let shown = status_of(&desk, &id).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains(words), "{shown}");
    }
    tools.replace(
        "sbatch",
        "echo 'sbatch: fatal: Could not establish a configuration source' >&2; exit 1",
    );
    still_waits(&desk, &id);
    assert_eq!(
        desk.vhost.waiting(RESULTS),
        Some(0),
        "no job is answered for a trouble that passes"
    );
    // A limit of jobs is no trouble at all.
    tools.sbatch_says("MaxJobCount limit reached");
    desk.check().args(["--max-jobs", "0"]).run().success();
    tools.restore("sbatch");
    let finished = desk.check().args(["--max-jobs", "0"]).run().success();
    assert!(finished.stdout.contains(&format!("{id}  submitted")), "{finished}");
    desk.cluster.cancel(&desk.slurm_job(&id));
}

#[test]
fn a_job_that_sbatch_made_in_spite_of_its_words_is_not_made_again() {
    let mut desk = Desk::with_script("sleep 300");
    let tools = Tools::of(&mut desk);
    tools.replace(
        "sbatch",
        "sbatch \"$@\" >/dev/null; echo 'sbatch: error: Unexpected message received' >&2; exit 1",
    );
    let id = desk.vhost.publish_job(&job());
    expect(&desk.check().run(), 6, &[]);
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{id}  found")), "{finished}");
    desk.cluster.cancel(&desk.slurm_job(&id));
}

#[test]
fn unknown_words_that_stay_the_same_while_the_controller_answers_are_a_refusal() {
    const WORDS: &str = "Jobs of project music want --comment=WHY, see the wiki";
    let mut desk = Desk::with_script("sleep 300");
    desk.site.set("OPERATOR_CONTACT", "Ada <ada@example.org>");
    let tools = Tools::of(&mut desk);
    tools.sbatch_says(WORDS);
    let id = desk.vhost.publish_job(&job());
    expect(&desk.check().run(), 6, &[]);
    let record = || desk.record(&id).unwrap();
    let times = || record()["doubt"]["times"].clone();
    still_waits(&desk, &id);
    assert_eq!(times(), 2);
    // Other words, or a controller that does not answer, begin the half hour anew.
    tools.sbatch_says("Some other words");
    still_waits(&desk, &id);
    assert_eq!(times(), 1);
    tools.replace("scontrol", "echo 'Slurmctld(primary) at head is DOWN'; exit 1");
    still_waits(&desk, &id);
    assert_eq!(record()["doubt"], Value::Null);
    tools.restore("scontrol");
    tools.sbatch_says(WORDS);
    for n in 1..4 {
        still_waits(&desk, &id);
        assert_eq!(times(), n);
    }
    // Half an hour later.
    let mut later = record();
    let since: jiff::Timestamp = later["doubt"]["since"].as_str().unwrap().parse().unwrap();
    later["doubt"]["since"] = json!((since - SECONDS(1800)).to_string());
    fs::write(desk.directory(&id).join("record.json"), later.to_string()).unwrap();
    expect(&desk.check().args(["--max-jobs", "0"]).run(), 6, &[]);
    let sentence = desk.error_reply(&id);
    assert!(
        sentence.starts_with("The cluster refuses the job") && sentence.contains(WORDS),
        "{sentence}"
    );
    assert!(sentence.ends_with(", or ask Ada <ada@example.org>."), "{sentence}");
    assert!(desk.cluster.jobs_named(&format!("hpct-{id}")).is_empty());
}

#[test]
fn a_job_with_words_of_its_own_holds_up_no_other() {
    let mut desk = Desk::with_script("sleep 300");
    let tools = Tools::of(&mut desk);
    let odd = desk.vhost.publish_job(&job());
    let script = format!(
        "case \"$*\" in *{odd}*) echo 'sbatch: error: not this one' >&2; exit 1;; esac\nexec \
        sbatch \"$@\""
    );
    tools.replace("sbatch", &script);
    expect(&desk.check().run(), 6, &[]);
    let good = desk.vhost.publish_job(&job());
    let finished = desk.check().run();
    expect(&finished, 6, &[]);
    assert!(finished.stdout.contains(&format!("{odd}  waiting")), "{finished}");
    assert!(finished.stdout.contains(&format!("{good}  submitted")), "{finished}");
    assert_eq!(desk.vhost.waiting(JOBS), Some(0));
    desk.cluster.cancel(&desk.slurm_job(&good));
}

#[test]
fn a_job_whose_watcher_could_not_be_submitted_gets_one_with_the_next_pass() {
    let mut desk = Desk::with_script("sleep 300");
    let tools = Tools::of(&mut desk);
    desk.site.set("WATCHER", "1");
    tools.replace(
        "sbatch",
        "case \"$*\" in *hpcw-*) echo 'sbatch: error: Connection timed out' >&2; exit 1;; \
        esac\nexec sbatch \"$@\"",
    );
    let id = desk.vhost.publish_job(&job());
    let finished = desk.check().run().success();
    assert!(finished.stderr.contains("no watcher yet"), "{finished}");
    assert_eq!(desk.record(&id).unwrap()["watcher"], Value::Null);
    let again = desk.check().run().success();
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""), "cron sends one mail");
    tools.restore("sbatch");
    desk.check().run().success();
    let watcher = desk.record(&id).unwrap()["watcher"].to_string();
    let watchers = || desk.cluster.jobs_named(&format!("hpcw-{id}"));
    assert_eq!(watchers(), [watcher.as_str()]);
    // One whose number was lost is found.
    let mut record = desk.record(&id).unwrap();
    record["watcher"] = Value::Null;
    fs::write(desk.directory(&id).join("record.json"), record.to_string()).unwrap();
    desk.check().run().success();
    assert_eq!(desk.record(&id).unwrap()["watcher"].to_string(), watcher);
    assert_eq!(watchers(), [watcher.as_str()]);
    desk.cluster.cancel(&desk.slurm_job(&id));
}

//! What Slurm says about a job, asked with its own commands.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::program::{Finished, Program};
use super::wait_for;

/// States in which a job will not run again.
const ENDED: [&str; 10] = [
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "NODE_FAIL",
    "DEADLINE",
    "BOOT_FAIL",
    "PREEMPTED",
    "REVOKED",
];

/// The cluster of a `slurm.conf`.
pub(crate) struct Cluster {
    conf: PathBuf,
}

impl Cluster {
    pub(crate) fn new(conf: impl Into<PathBuf>) -> Self {
        Self { conf: conf.into() }
    }

    /// For the environment of a program that calls Slurm: `SLURM_CONF`.
    pub(crate) fn conf(&self) -> &Path {
        &self.conf
    }

    /// A Slurm command for this cluster: `cluster.command("sinfo").arg("-h").run()`.
    pub(crate) fn command(&self, name: &str) -> Program {
        Program::new(name).env("SLURM_CONF", &self.conf).env("LC_ALL", "C").env("HOME", "/tmp")
    }

    /// `sbatch --parsable` with these arguments, in `directory`; gives the job's id.
    pub(crate) fn submit<'a>(
        &self,
        directory: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> String {
        let sbatch =
            self.command("sbatch").arg("--parsable").args(arguments).current_dir(directory);
        sbatch.run().success().stdout.trim().to_owned()
    }

    /// The fields of `scontrol show job`, such as `JobState`, `Command`, `WorkDir`, `TRES`,
    /// `StdOut`; `None` for a job that Slurm does not know (any more).
    pub(crate) fn job(&self, id: &str) -> Option<HashMap<String, String>> {
        let shown: Finished = self.command("scontrol").args(["-o", "show", "job", id]).run();
        shown.status.success().then(|| fields(shown.stdout.trim()))
    }

    /// Ids of the jobs with this name that Slurm still knows, finished ones too.
    pub(crate) fn jobs_named(&self, name: &str) -> Vec<String> {
        let squeue = self.command("squeue").args([
            "-h",
            "--states=all",
            "-o",
            "%A",
            &format!("--name={name}"),
        ]);
        squeue.run().success().stdout.split_whitespace().map(str::to_owned).collect()
    }

    /// Waits until a job's state is one of these, and gives its fields.
    pub(crate) fn wait_for_state(
        &self,
        id: &str,
        states: &[&str],
        limit: Duration,
    ) -> HashMap<String, String> {
        wait_for(&format!("job {id} to be {states:?}"), limit, || {
            self.job(id).filter(|job| {
                job.get("JobState").is_some_and(|state| states.contains(&state.as_str()))
            })
        })
    }

    /// Waits until a job has ended, in whatever way, and gives its fields.
    pub(crate) fn wait_for_end(&self, id: &str, limit: Duration) -> HashMap<String, String> {
        self.wait_for_state(id, &ENDED, limit)
    }

    pub(crate) fn cancel(&self, id: &str) {
        self.command("scancel").arg(id).run().success();
    }

    /// `scontrol update` with these settings, such as `NodeName=node1 State=DOWN Reason=test`.
    pub(crate) fn update(&self, settings: &[&str]) {
        self.command("scontrol").arg("update").args(settings).run().success();
    }

    /// Has the time of a running job be over in so many seconds, as an administrator does it: the
    /// least limit that Slurm takes from a user is a minute. Slurm itself warns and ends the job
    /// then, and its limit is shown as it was.
    pub(crate) fn end_by_time_limit(&self, id: &str, seconds: u32) {
        self.wait_for_state(id, &["RUNNING"], Duration::from_secs(60));
        self.update(&[&format!("JobId={id}"), &format!("EndTime=now+{seconds}")]);
    }

    /// `scontrol create` with these settings, such as `PartitionName=closed Nodes=ALL State=DOWN`.
    pub(crate) fn create(&self, settings: &[&str]) {
        self.command("scontrol").arg("create").args(settings).run().success();
    }

    /// What Slurm's daemons have logged about a job, for the message of a test that fails.
    pub(crate) fn said_of(&self, id: &str) -> String {
        let logs = self.conf.with_file_name("log");
        let names = ["JobId=", "job ", "[", "JOB "].map(|before| format!("{before}{id}"));
        let mut said = Vec::new();
        for file in fs::read_dir(&logs).into_iter().flatten().flatten() {
            let text = fs::read(file.path()).unwrap_or_default();
            let of_job = |line: &&str| {
                names.iter().any(|name| {
                    line.split(name)
                        .skip(1)
                        .any(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
                })
            };
            let text = String::from_utf8_lossy(&text).into_owned();
            said.extend(text.lines().filter(of_job).map(str::to_owned));
        }
        said.sort();
        said.join("\n")
    }
}

/// `A=1 B=two words C=x=y`: a new field starts at a word that has a name and `=`.
fn fields(line: &str) -> HashMap<String, String> {
    let mut found: Vec<(String, String)> = Vec::new();
    for word in line.split(' ') {
        match (word.split_once('='), found.last_mut()) {
            (Some((name, value)), _) if is_field_name(name) => {
                found.push((name.to_owned(), value.to_owned()))
            }
            (_, Some((_, value))) => {
                value.push(' ');
                value.push_str(word);
            }
            (_, None) => {}
        }
    }
    found.into_iter().collect()
}

fn is_field_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "/:_".contains(c))
}

//! What a job asks Slurm for, as sbatch's arguments.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use domain::SlurmJobId;

/// A job that is to run: each part becomes an option of sbatch, in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobRequest {
    /// `--job-name`.
    pub name: String,
    /// The job runs only once this one has failed, and is dropped once that one can't fail any
    /// more.
    pub after_failure_of: Option<SlurmJobId>,
    /// `--cpus-per-task`; there is one task on one node.
    pub cpus: u32,
    /// `--mem` in Slurm's MB (1,048,576 bytes).
    pub memory_mb: u64,
    /// `--time`, in one of Slurm's forms.
    pub time: String,
    /// The same in seconds.
    pub seconds: u64,
    /// `--output` without its ending: `-NUMBER.log` is added, and a job that comes back goes on
    /// there.
    pub log: PathBuf,
    /// `--requeue` or `--no-requeue`; `None` leaves it to the cluster.
    pub requeue: Option<bool>,
    /// `--chdir`.
    pub directory: PathBuf,
    /// `--gres`; `None` asks for none, whatever the batch script says.
    pub gres: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--partition`.
    pub partition: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--constraint`.
    pub constraint: Option<String>,
    /// `--mail-user`, for its begin and its end.
    pub mail: Option<String>,
    /// How many seconds before its time limit the batch script gets SIGUSR1; 0: it gets none.
    pub warning_seconds: u64,
    /// The batch script.
    pub script: PathBuf,
    /// Its only argument.
    pub argument: OsString,
}

/// One call of sbatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    job: JobRequest,
    arguments: Vec<OsString>,
}

fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut text = OsString::from(format!("--{name}="));
    text.push(value);
    text
}

/// sbatch replaces `%j` and the like in a file name; `%%` stands for a percent sign.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

impl From<JobRequest> for Request {
    fn from(job: JobRequest) -> Self {
        let asked = job.clone();
        let mut arguments = vec![OsString::from("--parsable"), option("job-name", &job.name)];
        if let Some(other) = job.after_failure_of {
            arguments.push(option("dependency", format!("afternotok:{other}")));
            arguments.push(option("kill-on-invalid-dep", "yes"));
        }
        arguments.extend([
            option("nodes", "1"),
            option("ntasks", "1"),
            option("cpus-per-task", job.cpus.to_string()),
            option("mem", format!("{}M", job.memory_mb)),
            option("time", &job.time),
            option("output", format!("{}-%j.log", escaped(&job.log))),
            option("open-mode", "append"),
        ]);
        // A site's default may be either.
        let requeue = job.requeue.map(|yes| if yes { "--requeue" } else { "--no-requeue" });
        arguments.extend(requeue.map(OsString::from));
        arguments.push(option("chdir", &job.directory));
        arguments.push(option("gres", job.gres.as_deref().unwrap_or("none")));
        let optional = [
            ("account", job.account),
            ("partition", job.partition),
            ("qos", job.qos),
            ("constraint", job.constraint),
        ];
        arguments
            .extend(optional.into_iter().filter_map(|(name, value)| Some(option(name, value?))));
        if let Some(address) = job.mail {
            arguments.push(option("mail-user", address));
            arguments.push(option("mail-type", "BEGIN,END,FAIL"));
        }
        if job.warning_seconds > 0 {
            arguments.push(option("signal", format!("B:USR1@{}", job.warning_seconds)));
        }
        arguments.extend(["--".into(), job.script.into(), job.argument]);
        Self { job: asked, arguments }
    }
}

impl Request {
    /// The arguments of sbatch for a trial: it says whether it would take the job, and submits
    /// nothing. What the job would wait for is left out.
    pub fn test_only(&self) -> Vec<OsString> {
        let waits = |argument: &OsString| {
            let text = argument.to_string_lossy();
            text.starts_with("--dependency=") || text.starts_with("--kill-on-invalid-dep=")
        };
        let rest = self.arguments.iter().filter(|argument| !waits(argument)).cloned();
        std::iter::once("--test-only".into()).chain(rest).collect()
    }

    /// The job itself.
    pub fn job(&self) -> &JobRequest {
        &self.job
    }

    /// What runs on this host where there is no Slurm, as a person would type it.
    pub fn local_line(&self) -> String {
        let JobRequest { script, argument, cpus, memory_mb, time, .. } = &self.job;
        let words = [script.as_os_str(), argument.as_os_str()];
        let words = words.map(|word| quoted(&word.to_string_lossy())).join(" ");
        format!("{words}  # {cpus} CPUs, {memory_mb} MB, {time}")
    }

    /// The arguments of sbatch.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// The command as a person would type it.
    pub fn command_line(&self) -> String {
        std::iter::once("sbatch".to_owned())
            .chain(self.arguments.iter().map(|a| quoted(&a.to_string_lossy())))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if word.chars().all(plain) && !word.is_empty() {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_not_said_but_for_the_gres() {
        let job = JobRequest {
            name: "a".into(),
            cpus: 1,
            memory_mb: 500,
            time: "5".into(),
            log: "/logs/50%/a".into(),
            directory: "/home of it".into(),
            script: "/it's.sh".into(),
            argument: "x".into(),
            ..JobRequest::default()
        };
        assert_eq!(
            Request::from(job.clone()).command_line(),
            "sbatch --parsable --job-name=a --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=500M \
             --time=5 \
             --output=/logs/50%%/a-%j.log --open-mode=append '--chdir=/home of it' --gres=none \
             -- '/it'\\''s.sh' x"
        );
        let waits = JobRequest { after_failure_of: Some(SlurmJobId(17)), ..job.clone() };
        let request = Request::from(waits);
        assert!(
            request
                .command_line()
                .contains(" --dependency=afternotok:17 --kill-on-invalid-dep=yes ")
        );
        let mut tried = Request::from(job).arguments().to_vec();
        tried.insert(0, "--test-only".into());
        assert_eq!(request.test_only(), tried);
    }
}

//! A job that is to run (on Slurm or on this host), and sbatch's arguments for it: which options
//! there are, and in which order. What a training, a watcher and a look at a node put into them is
//! in `crate::kinds_of_job`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::gres::of_tasks;
use base::text::shell_word;
use domain::SlurmJobId;

/// A job that is to run: each part becomes an option of sbatch, in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobRequest {
    /// `--job-name`.
    pub name: String,
    /// The job runs only once this one has failed, and is dropped once that one can't fail any
    /// more.
    pub after_failure_of: Option<SlurmJobId>,
    /// `--ntasks`; 0 counts as 1.
    pub tasks: u32,
    /// How many of several tasks share a node at most; 0 counts as 1.
    pub tasks_per_node: u32,
    /// `--cpus-per-task`.
    pub cpus: u32,
    /// The memory of a task in Slurm's MB (1,048,576 bytes); `--mem` is that of a node.
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
    /// What a task gets of `--gres`; `None` asks for none, whatever the batch script says.
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
        let (nodes, on_a_node) = job.layout();
        let mut arguments = vec![OsString::from("--parsable"), option("job-name", &job.name)];
        if let Some(other) = job.after_failure_of {
            arguments.push(option("dependency", format!("afternotok:{other}")));
            arguments.push(option("kill-on-invalid-dep", "yes"));
        }
        arguments.extend([
            option("nodes", nodes.to_string()),
            option("ntasks", job.tasks.max(1).to_string()),
        ]);
        if job.tasks > 1 {
            arguments.push(option("ntasks-per-node", on_a_node.to_string()));
        }
        let memory_mb = job.memory_mb.saturating_mul(on_a_node.into());
        arguments.extend([
            option("cpus-per-task", job.cpus.to_string()),
            option("mem", format!("{memory_mb}M")),
            option("time", &job.time),
            option("output", format!("{}-%j.log", escaped(&job.log))),
            option("open-mode", "append"),
        ]);
        // A site's default may be either.
        let requeue = job.requeue.map(|yes| if yes { "--requeue" } else { "--no-requeue" });
        arguments.extend(requeue.map(OsString::from));
        arguments.push(option("chdir", &job.directory));
        let gres = job.gres.as_deref().map(|gres| of_tasks(gres, on_a_node));
        arguments.push(option("gres", gres.as_deref().unwrap_or("none")));
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

impl JobRequest {
    /// How many nodes the tasks need, and how many of them share one: as even as can be.
    fn layout(&self) -> (u32, u32) {
        let (tasks, most) = (self.tasks.max(1), self.tasks_per_node.max(1));
        let nodes = tasks.div_ceil(most);
        (nodes, tasks.div_ceil(nodes))
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
        let JobRequest { script, argument, cpus, memory_mb, time, tasks, .. } = &self.job;
        let tasks = if *tasks > 1 { format!("{tasks} tasks of ") } else { String::new() };
        let words = [script.as_os_str(), argument.as_os_str()];
        let words = words.map(|word| shell_word(&word.to_string_lossy())).join(" ");
        format!("{words}  # {tasks}{cpus} CPUs, {memory_mb} MB, {time}")
    }

    /// The arguments of sbatch.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// The command as a person would type it.
    pub fn command_line(&self) -> String {
        std::iter::once("sbatch".to_owned())
            .chain(self.arguments.iter().map(|a| shell_word(&a.to_string_lossy())))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_share_nodes_as_evenly_as_the_site_allows() {
        for (tasks, tasks_per_node, layout) in [
            (0, 0, (1, 1)),
            (1, 1, (1, 1)),
            (1, 4, (1, 1)),
            (4, 1, (4, 1)),
            (4, 2, (2, 2)),
            (4, 4, (1, 4)),
            (5, 4, (2, 3)),
            (3, 64, (1, 3)),
        ] {
            let job = JobRequest { tasks, tasks_per_node, ..JobRequest::default() };
            assert_eq!(job.layout(), layout, "{tasks} {tasks_per_node}");
        }
    }

    #[test]
    fn a_job_of_several_tasks_asks_each_node_for_what_its_tasks_need() {
        let job = JobRequest {
            tasks: 4,
            tasks_per_node: 2,
            cpus: 6,
            memory_mb: 4400,
            gres: Some("gpu:1".into()),
            ..JobRequest::default()
        };
        let line = Request::from(job.clone()).command_line();
        let expected = "--nodes=2 --ntasks=4 --ntasks-per-node=2 --cpus-per-task=6 --mem=8800M ";
        assert!(line.contains(expected) && line.contains(" --gres=gpu:2 "), "{line}");
        for tasks in [0, 1] {
            let one = Request::from(JobRequest { tasks, ..job.clone() }).command_line();
            let expected = "--nodes=1 --ntasks=1 --cpus-per-task=6 --mem=4400M ";
            assert!(one.contains(expected) && one.contains(" --gres=gpu:1 "), "{one}");
        }
    }

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
             --time=5 --output=/logs/50%%/a-%j.log --open-mode=append '--chdir=/home of it' \
             --gres=none -- '/it'\\''s.sh' x"
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

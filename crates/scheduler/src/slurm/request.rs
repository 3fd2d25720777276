//! What a job asks Slurm for, as sbatch's arguments.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::site::SiteConfig;
use domain::{JobId, ResourceSettings, SlurmJobId};

/// How long a watcher may take in addition to the grace time, in minutes.
const WATCHER_MINUTES: u64 = 10;

/// Time and memory of the job that looks at a node.
const NODE_CHECK_MINUTES: &str = "5";
const NODE_CHECK_MB: u64 = 500;

/// One call of sbatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    arguments: Vec<OsString>,
}

fn option(name: &str, value: impl AsRef<std::ffi::OsStr>) -> OsString {
    let mut text = OsString::from(format!("--{name}="));
    text.push(value);
    text
}

/// sbatch replaces `%j` and the like in a file name; `%%` stands for a percent sign.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

impl Request {
    /// The request for a job of `job_name` with these settings; the trainer gets the job file as
    /// its argument.
    pub fn new(site: &SiteConfig, job_name: &str, resources: &ResourceSettings, job_file: &Path) -> Self {
        let log: PathBuf = site.logs.join(job_name);
        let gres = site.gres_for(resources.memory_mb);
        let mut arguments = vec![
            OsString::from("--parsable"),
            option("job-name", job_name),
            option("nodes", "1"),
            option("ntasks", "1"),
            option("cpus-per-task", resources.cpus.to_string()),
            option("mem", format!("{}M", resources.memory_mb)),
            option("time", resources.walltime.to_string()),
            option("output", format!("{}-%j.log", escaped(&log))),
            option("open-mode", "append"),
            // A site's default may be either; a job that is requeued continues from its checkpoint.
            OsString::from(if site.requeue { "--requeue" } else { "--no-requeue" }),
            option("chdir", &site.home),
        ];
        // Always given: the batch script asks for a GPU by itself if nothing else is said.
        arguments.push(option("gres", gres.gres.as_deref().unwrap_or("none")));
        let optional = [
            ("account", site.account.as_deref()),
            ("partition", gres.partition.as_deref()),
            ("qos", site.qos.as_deref()),
            ("constraint", site.constraint.as_deref()),
        ];
        arguments.extend(optional.into_iter().filter_map(|(name, value)| Some(option(name, value?))));
        if let Some(email) = &resources.email {
            arguments.push(option("mail-user", email));
            arguments.push(option("mail-type", "BEGIN,END,FAIL"));
        }
        // A warning that comes before the job has done anything is of no use.
        let ahead = site.signal_seconds.min(resources.walltime.seconds() / 4);
        if ahead > 0 {
            arguments.push(option("signal", format!("B:USR1@{ahead}")));
        }
        arguments.push("--".into());
        arguments.push(site.batch_script.clone().into());
        arguments.push(job_file.into());
        Self { arguments }
    }

    /// The request for the watcher of a job: a tiny job that Slurm starts only when that job has
    /// failed, and removes when it can't fail any more.
    ///
    /// Slurm takes a dependency on a number that it does not know as satisfied, so the watcher may
    /// also start too early. It looks at the job itself, for as long as its time allows.
    pub fn watcher(site: &SiteConfig, watched: &JobId, slurm_id: SlurmJobId, memory_mb: u64) -> Self {
        let name = watched.watcher_name();
        let log = escaped(&site.logs.join(&name));
        let minutes = site.grace.as_secs().div_ceil(60) + WATCHER_MINUTES;
        let mut arguments = vec![
            OsString::from("--parsable"),
            option("job-name", &name),
            option("dependency", format!("afternotok:{slurm_id}")),
            option("kill-on-invalid-dep", "yes"),
            option("nodes", "1"),
            option("ntasks", "1"),
            option("cpus-per-task", "1"),
            option("mem", "200M"),
            option("time", minutes.to_string()),
            option("output", format!("{log}-%j.log")),
            option("open-mode", "append"),
            option("chdir", &site.home),
            option("gres", "none"),
        ];
        let partition = site.watcher_partition.clone().or_else(|| site.gres_for(memory_mb).partition);
        let optional = [
            ("account", site.account.as_deref()),
            ("partition", partition.as_deref()),
            ("qos", site.qos.as_deref()),
        ];
        arguments.extend(optional.into_iter().filter_map(|(name, value)| Some(option(name, value?))));
        arguments.push("--".into());
        arguments.push(site.watcher_script().into());
        arguments.push(watched.as_str().into());
        Self { arguments }
    }

    /// The request for a job of some minutes that looks at its node with `script`, on the nodes
    /// that jobs of this memory get.
    pub fn node_check(
        site: &SiteConfig,
        name: &str,
        memory_mb: u64,
        script: &Path,
        directory: &Path,
    ) -> Self {
        let gres = site.gres_for(memory_mb);
        let mut arguments = vec![
            OsString::from("--parsable"),
            option("job-name", name),
            option("nodes", "1"),
            option("ntasks", "1"),
            option("cpus-per-task", "1"),
            option("mem", format!("{}M", memory_mb.min(NODE_CHECK_MB))),
            option("time", NODE_CHECK_MINUTES),
            option("output", format!("{}/node.log", escaped(directory))),
            OsString::from("--no-requeue"),
            option("chdir", &site.home),
        ];
        arguments.push(option("gres", gres.gres.as_deref().unwrap_or("none")));
        let optional = [
            ("account", site.account.as_deref()),
            ("partition", gres.partition.as_deref()),
            ("qos", site.qos.as_deref()),
            ("constraint", site.constraint.as_deref()),
        ];
        arguments.extend(optional.into_iter().filter_map(|(name, value)| Some(option(name, value?))));
        arguments.extend(["--".into(), script.into(), directory.into()]);
        Self { arguments }
    }

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

    fn site() -> SiteConfig {
        SiteConfig {
            home: "/project/hpc trainer".into(),
            env_file: None,
            spool: "/project/spool".into(),
            metrics_file: None,
            logs: "/project/100%/logs".into(),
            batch_script: "/project/hpc_training.sh".into(),
            account: None,
            partition: None,
            qos: None,
            constraint: None,
            gres: Some("gpu:1".into()),
            gres_table: "64000=gpu:p100l:1@short".parse().unwrap(),
            signal_seconds: 120,
            slurm_bin: None,
            give_up: std::time::Duration::ZERO,
            slurm_timeout: std::time::Duration::from_secs(60),
            max_pending: std::time::Duration::MAX,
            limits: domain::SiteLimits::default(),
            choice: domain::SiteChoice {
                cpus: 6,
                walltime: domain::Walltime::MINUTE,
                gpu: true,
                limits: domain::SiteLimits::default(),
            },
            max_open_jobs: 100,
            watcher: true,
            watcher_partition: None,
            requeue: true,
            grace: std::time::Duration::ZERO,
        }
    }

    fn resources() -> ResourceSettings {
        ResourceSettings { cpus: 6, memory_mb: 257_000, walltime: "0-06:00".parse().unwrap(), email: None }
    }

    #[test]
    fn a_watcher_waits_for_the_failure_of_one_job_and_asks_for_next_to_nothing() {
        let id = JobId::from_directory("a").unwrap();
        let mut site = site();
        site.grace = std::time::Duration::from_secs(601);
        site.watcher_partition = Some("short".into());
        assert_eq!(
            Request::watcher(&site, &id, SlurmJobId(17), 1000).command_line(),
            "sbatch --parsable --job-name=hpcw-a --dependency=afternotok:17 --kill-on-invalid-dep=yes --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=200M --time=21 --output=/project/100%%/logs/hpcw-a-%j.log --open-mode=append '--chdir=/project/hpc trainer' --gres=none --partition=short -- '/project/hpc trainer/slurm/handle_failure.sh' a"
        );
    }

    #[test]
    fn the_request_of_rodans_example() {
        let request =
            Request::new(&site(), "hpct-a", &resources(), Path::new("/project/spool/jobs/a/job.json"));
        assert_eq!(
            request.command_line(),
            "sbatch --parsable --job-name=hpct-a --nodes=1 --ntasks=1 --cpus-per-task=6 --mem=257000M \
             --time=0-06:00:00 --output=/project/100%%/logs/hpct-a-%j.log --open-mode=append --requeue \
             '--chdir=/project/hpc trainer' --gres=gpu:1 --signal=B:USR1@120 -- /project/hpc_training.sh \
             /project/spool/jobs/a/job.json"
        );
    }

    #[test]
    fn options_of_the_site_and_the_job_appear_only_when_set() {
        let site = SiteConfig { account: Some("def-prof".into()), qos: Some("normal".into()), ..site() };
        let short = ResourceSettings {
            memory_mb: 8000,
            walltime: "2".parse().unwrap(),
            email: Some("me@example.org".into()),
            ..resources()
        };
        let line = Request::new(&site, "hpct-a", &short, Path::new("job.json")).command_line();
        for part in [
            "--account=def-prof",
            "--qos=normal",
            "--gres=gpu:p100l:1",
            "--partition=short",
            "--mail-user=me@example.org",
            "--mail-type=BEGIN,END,FAIL",
            "--signal=B:USR1@30",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        let none = SiteConfig { gres: None, signal_seconds: 0, ..self::site() };
        let line = Request::new(&none, "hpct-a", &resources(), Path::new("job.json")).command_line();
        assert!(line.contains("--gres=none "), "{line}");
        assert!(
            ["--signal", "--account", "--partition", "--mail"].iter().all(|o| !line.contains(o)),
            "{line}"
        );
    }
}

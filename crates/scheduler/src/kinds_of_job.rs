//! What this site's settings make of its scheduler: how it is called, and what each kind of job
//! (a training, its watcher, a look at a node) asks for. Which options of sbatch that becomes is in
//! `slurm/request.rs`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::gres::Gres;
use crate::interface::Scheduler;
use crate::local::Local;
use crate::site::{Kind, LOCAL, SiteConfig};
use crate::slurm::{JobRequest, Request, Slurm};
use domain::JobId;
use domain::ResourceSettings;
use domain::SlurmJobId;

/// How long a watcher may take in addition to the grace time, in minutes.
const WATCHER_MINUTES: u64 = 10;
/// The memory that a watcher asks for.
const WATCHER_MB: u64 = 200;

/// Time and memory of the job that looks at a node.
const NODE_CHECK_MINUTES: u64 = 5;
const NODE_CHECK_MB: u64 = 500;

/// The scheduler of this site. The jobs are told where the installation and the spool are.
pub fn scheduler(site: &SiteConfig) -> Scheduler {
    match site.scheduler {
        Kind::Slurm => Scheduler::Slurm(commands(site)),
        Kind::Local { jobs } => Scheduler::Local(this_host(site, jobs)),
    }
}

/// What a job that runs can ask of the scheduler: to be put back. `spool` is the directory that its
/// environment names.
pub fn of_job(
    kind: Kind,
    spool: &Path,
    slurm_bin: Option<PathBuf>,
    deadline: Duration,
) -> Scheduler {
    match kind {
        Kind::Slurm => Scheduler::Slurm(Slurm::new(slurm_bin, deadline, [])),
        // A job only asks to be put back. It starts no supervisor, so it needs no program.
        Kind::Local { jobs } => {
            let root = spool.join(LOCAL);
            Scheduler::Local(Local::new(root, jobs, PathBuf::new(), false, Vec::new()))
        }
    }
}

/// The directories of the installation that may hold the programs, as in `run_check`.
const PROGRAMS: [&str; 4] = ["", "bin", "target/login", "target/release"];

/// Variables that a supervisor needs beside those that Slurm's commands get: to ask systemd for a
/// scope, to find the driver's libraries, and to know the GPUs that it may give out.
const OF_THIS_HOST: [&str; 4] =
    ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"];

fn this_host(site: &SiteConfig, jobs: u32) -> Local {
    let mut environment = crate::slurm::environment(told(site));
    environment.extend(
        OF_THIS_HOST.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))),
    );
    environment.push(("SCHEDULER".into(), "local".into()));
    Local::new(site.local_jobs(), jobs, check(&site.home), site.watcher, environment)
}

/// The program that looks after a job: this one, or where it was replaced meanwhile, the one of the
/// installation.
fn check(home: &Path) -> PathBuf {
    let own = std::env::current_exe().ok().filter(|path| path.is_file());
    let installed =
        || PROGRAMS.iter().map(|place| home.join(place).join("check")).find(|path| path.is_file());
    own.or_else(installed).unwrap_or_else(|| home.join("check"))
}

/// Slurm's commands at this site.
pub fn commands(site: &SiteConfig) -> Slurm {
    Slurm::new(site.slurm_bin.clone(), site.slurm_timeout, told(site))
}

/// What a job is told by its environment.
fn told(site: &SiteConfig) -> Vec<(OsString, OsString)> {
    let mut told: Vec<(OsString, OsString)> = vec![
        ("HPC_TRAINER_HOME".into(), site.home.clone().into()),
        // For the watcher: `check` may use another spool than the file says.
        ("SPOOL_DIR".into(), site.spool.clone().into()),
    ];
    told.extend(site.env_file.clone().map(|file| ("HPC_TRAINER_ENV_FILE".into(), file.into())));
    told
}

impl SiteConfig {
    /// The generic resource and the partition for a job of this memory: a row of the site's table,
    /// else `SITE_GRES` and `SITE_PARTITION`.
    pub fn gres_for(&self, memory_mb: u64) -> Gres {
        let row = self.gres_table.get(memory_mb).cloned();
        let default = || Gres { gres: self.gres.clone(), partition: None };
        let mut gres = row.unwrap_or_else(default);
        gres.partition = gres.partition.or_else(|| self.partition.clone());
        gres
    }
}

/// How long before the time limit Slurm warns the trainer, in seconds: as the site wants it, but at
/// most a tenth of the limit, or ten seconds where that is more. Later training is worth more than
/// an early warning, and in less than ten seconds no model is sent. 0 is no warning.
fn warning(wanted: u64, limit: u64) -> u64 {
    wanted.min((limit / 10).max(LEAST_WARNING))
}

/// In this time the models that are there are written and sent, in seconds.
const LEAST_WARNING: u64 = 10;

/// The request for a training of the name `job_name` with these settings; the batch script gets the
/// job file as its argument.
pub fn training(
    site: &SiteConfig,
    job_name: &str,
    resources: &ResourceSettings,
    job_file: &Path,
) -> Request {
    let gres = site.gres_for(resources.memory_mb);
    JobRequest {
        name: job_name.to_owned(),
        after_failure_of: None,
        tasks: resources.instances,
        tasks_per_node: site.tasks_per_node,
        cpus: resources.cpus,
        memory_mb: resources.memory_mb,
        time: resources.walltime.to_string(),
        seconds: resources.walltime.seconds(),
        log: site.logs.join(job_name),
        // A job that comes back goes on from its checkpoint.
        requeue: Some(site.requeue),
        directory: site.home.clone(),
        gres: gres.gres,
        account: site.account.clone(),
        partition: gres.partition,
        qos: site.qos.clone(),
        constraint: site.constraint.clone(),
        mail: resources.email.clone(),
        warning_seconds: warning(site.signal_seconds, resources.walltime.seconds()),
        script: site.batch_script.clone(),
        argument: job_file.into(),
    }
    .into()
}

/// The request for the watcher of a job: a tiny job that Slurm starts only when that job has
/// failed, and removes when it can't fail any more.
///
/// Slurm takes a dependency on a number that it does not know as satisfied, so the watcher may also
/// start too early. It looks at the job itself, for as long as its time allows.
pub fn watcher(
    site: &SiteConfig,
    watched: &JobId,
    slurm_id: SlurmJobId,
    memory_mb: u64,
) -> Request {
    let name = watched.watcher_name();
    let minutes = site.grace.as_secs().div_ceil(60) + WATCHER_MINUTES;
    JobRequest {
        log: site.logs.join(&name),
        name,
        after_failure_of: Some(slurm_id),
        cpus: 1,
        memory_mb: WATCHER_MB,
        time: minutes.to_string(),
        seconds: minutes * 60,
        directory: site.home.clone(),
        account: site.account.clone(),
        partition: site.watcher_partition.clone().or_else(|| site.gres_for(memory_mb).partition),
        qos: site.qos.clone(),
        script: site.watcher_script(),
        argument: watched.as_str().into(),
        ..JobRequest::default()
    }
    .into()
}

/// The request for a job of minutes that looks at its node with `script`, on the nodes that jobs of
/// this memory get. Its log lies in `directory`, as `node-NUMBER.log`.
pub fn node_check(
    site: &SiteConfig,
    name: &str,
    memory_mb: u64,
    script: &Path,
    directory: &Path,
) -> Request {
    let gres = site.gres_for(memory_mb);
    JobRequest {
        name: name.to_owned(),
        cpus: 1,
        memory_mb: memory_mb.min(NODE_CHECK_MB),
        time: NODE_CHECK_MINUTES.to_string(),
        seconds: NODE_CHECK_MINUTES * 60,
        log: directory.join("node"),
        requeue: Some(false),
        directory: site.home.clone(),
        gres: gres.gres,
        account: site.account.clone(),
        partition: gres.partition,
        qos: site.qos.clone(),
        constraint: site.constraint.clone(),
        script: script.to_owned(),
        argument: directory.into(),
        ..JobRequest::default()
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{SiteChoice, SiteLimits};

    fn site() -> SiteConfig {
        SiteConfig {
            scheduler: Kind::Slurm,
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
            tasks_per_node: 1,
            signal_seconds: 120,
            slurm_bin: None,
            give_up: std::time::Duration::ZERO,
            slurm_timeout: std::time::Duration::from_secs(60),
            max_pending: std::time::Duration::MAX,
            limits: SiteLimits::default(),
            max_open_jobs: 100,
            watcher: true,
            watcher_partition: None,
            requeue: true,
            operator: "the operator".into(),
            grace: std::time::Duration::ZERO,
            choice: SiteChoice {
                cpus: 4,
                walltime: "0-06:00".parse().unwrap(),
                gpu: true,
                host: None,
                limits: SiteLimits::default(),
            },
        }
    }

    #[test]
    fn the_warning_takes_at_most_a_tenth_of_the_limit_and_is_never_of_no_use() {
        const HOUR: u64 = 3600;
        for (wanted, limit, seconds) in [
            (120, 6 * HOUR, 120),
            (120, 20 * 60, 120),
            (120, 19 * 60, 114),
            (120, 10 * 60, 60),
            (120, 2 * 60, 12),
            (120, 60, 10),
            (3600, HOUR, 360),
            (65535, 28 * 24 * HOUR, 65535),
            (5, 60, 5),
            (5, 6 * HOUR, 5),
            (0, 6 * HOUR, 0),
        ] {
            assert_eq!(warning(wanted, limit), seconds, "{wanted} s before {limit} s");
        }
    }

    fn resources() -> ResourceSettings {
        ResourceSettings {
            cpus: 6,
            memory_mb: 257_000,
            walltime: "0-06:00".parse().unwrap(),
            email: None,
            instances: 1,
        }
    }

    #[test]
    fn a_watcher_waits_for_the_failure_of_one_job_and_asks_for_next_to_nothing() {
        let id = JobId::from_directory("a").unwrap();
        let mut site = site();
        site.grace = std::time::Duration::from_secs(601);
        site.watcher_partition = Some("short".into());
        assert_eq!(
            watcher(&site, &id, SlurmJobId(17), 1000).command_line(),
            "sbatch --parsable --job-name=hpcw-a --dependency=afternotok:17 \
            --kill-on-invalid-dep=yes --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=200M --time=21 \
            --output=/project/100%%/logs/hpcw-a-%j.log --open-mode=append '--chdir=/project/hpc \
            trainer' --gres=none --partition=short -- '/project/hpc \
            trainer/slurm/handle_failure.sh' a"
        );
    }

    #[test]
    fn the_request_of_rodans_example() {
        let request =
            training(&site(), "hpct-a", &resources(), Path::new("/project/spool/jobs/a/job.json"));
        assert_eq!(
            request.command_line(),
            "sbatch --parsable --job-name=hpct-a --nodes=1 --ntasks=1 --cpus-per-task=6 \
             --mem=257000M --time=0-06:00:00 --output=/project/100%%/logs/hpct-a-%j.log \
             --open-mode=append --requeue '--chdir=/project/hpc trainer' --gres=gpu:1 \
             --signal=B:USR1@120 -- /project/hpc_training.sh /project/spool/jobs/a/job.json"
        );
    }

    #[test]
    fn options_of_the_site_and_the_job_appear_only_when_set() {
        let site =
            SiteConfig { account: Some("def-prof".into()), qos: Some("normal".into()), ..site() };
        let short = ResourceSettings {
            memory_mb: 8000,
            walltime: "2".parse().unwrap(),
            email: Some("me@example.org".into()),
            ..resources()
        };
        let line = training(&site, "hpct-a", &short, Path::new("job.json")).command_line();
        for part in [
            "--account=def-prof",
            "--qos=normal",
            "--gres=gpu:p100l:1",
            "--partition=short",
            "--mail-user=me@example.org",
            "--mail-type=BEGIN,END,FAIL",
            "--signal=B:USR1@12",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        let none = SiteConfig { gres: None, signal_seconds: 0, ..self::site() };
        let line = training(&none, "hpct-a", &resources(), Path::new("job.json")).command_line();
        assert!(line.contains("--gres=none "), "{line}");
        assert!(
            ["--signal", "--account", "--partition", "--mail"].iter().all(|o| !line.contains(o)),
            "{line}"
        );
    }
}

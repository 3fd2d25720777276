//! This host as the place where jobs run: `SCHEDULER=local`.

use super::row::{Row, Rows};
use super::typical::Typical;
use domain::ResourceSettings;
use scheduler::local;
use scheduler::slurm::Phase;
use scheduler::{Scheduler, SiteConfig, kinds_of_job};

/// The rows' group.
pub(super) const GROUP: &str = "this host";

pub(super) fn rows(site: &SiteConfig, most: u32, typical: &Typical) -> Vec<Row> {
    let mut rows = Rows::new(GROUP);
    let Scheduler::Local(queue) = kinds_of_job::scheduler(site) else { return rows.done() };
    match queue.queue() {
        Ok(jobs) => {
            let count = |phase| jobs.iter().filter(|job| job.state.phase() == phase).count();
            let (run, wait) = (count(Phase::Active), count(Phase::Waiting));
            let seen = format!("{run} run and {wait} wait; LOCAL_JOBS={most} at a time");
            rows.pass("queue", seen);
        }
        Err(error) => rows.fail_with("queue", &error, "look at the directory local in SPOOL_DIR"),
    }
    let ResourceSettings { cpus, memory_mb, walltime, .. } = &typical.resources;
    let job_file = site.spool.join("jobs/doctor/job.json");
    let request = kinds_of_job::training(site, "hpct-doctor", &typical.resources, &job_file);
    let asks = format!("{cpus} CPUs, {memory_mb} MB, {walltime}");
    match local::refusal(&request) {
        None => rows.pass("job", format!("{asks}: this host has as much")),
        Some(why) => rows.fail(
            "job",
            format!("{asks} ({}): {why}", typical.source),
            "set DEFAULT_CPUS lower, or MAX_CPUS and MAX_MEMORY_MB to what the host has",
        ),
    }
    gpus(&mut rows, most, site.gres.is_some());
    if local::scope_works() {
        rows.pass("limits", "systemd keeps each job within its memory and its cores");
    } else {
        rows.pass(
            "limits",
            "the memory of each job is looked at every second; systemd makes no scopes for this \
             account here, which would bind it",
        );
    }
    let without_meaning = meaningless(site);
    if !without_meaning.is_empty() {
        rows.warn(
            "settings",
            format!("without meaning with SCHEDULER=local: {}", without_meaning.join(", ")),
            "remove them, or set SCHEDULER=slurm",
        );
    }
    rows.done()
}

fn gpus(rows: &mut Rows, most: u32, wanted: bool) {
    let gpus = local::gpus();
    let count = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
    let names = gpus.join(", ");
    match count {
        0 => rows.pass("GPUs", "there is none: jobs train on the processor"),
        _ if !wanted => rows.pass("GPUs", format!("{names}; SITE_GRES=none leaves them alone")),
        1.. if count < most => rows.warn(
            "GPUs",
            format!("{names}: at most {count} jobs run at a time, and LOCAL_JOBS={most}"),
            format!("set LOCAL_JOBS={count}"),
        ),
        _ => rows.pass("GPUs", format!("{names}: one a job")),
    }
}

/// What is set and only Slurm would understand.
fn meaningless(site: &SiteConfig) -> Vec<&'static str> {
    let set = [
        ("SITE_ACCOUNT", site.account.is_some()),
        ("SITE_PARTITION", site.partition.is_some()),
        ("SITE_QOS", site.qos.is_some()),
        ("SITE_CONSTRAINT", site.constraint.is_some()),
        ("SITE_GRES_TABLE", site.gres_table.limits().next().is_some()),
        ("SITE_SLURM_BIN", site.slurm_bin.is_some()),
        ("WATCHER_PARTITION", site.watcher_partition.is_some()),
    ];
    set.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect()
}

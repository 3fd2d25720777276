//! Slurm: would it take our jobs, and can we ask what became of them?

use super::row::{Row, Rows};
use super::typical::Typical;
use domain::JobId;
use domain::ResourceSettings;
use domain::SlurmJobId;
use scheduler::kinds_of_job;
use scheduler::slurm::{Accounting, SlurmError, Trial};
use scheduler::{Kind, SiteConfig};

/// So many rows of the gres table are tried out.
const MOST_ROWS: usize = 8;

pub(super) async fn rows(site: &SiteConfig, typical: &Typical) -> Vec<Row> {
    if let Kind::Local { jobs } = site.scheduler {
        return super::local::rows(site, jobs, typical);
    }
    let mut rows = Rows::new("Slurm");
    let slurm = kinds_of_job::commands(site);
    match slurm.queue().await {
        Ok(jobs) => rows.pass("squeue", format!("answers; jobs of this account: {}", jobs.len())),
        Err(error) => failed(&mut rows, "squeue", &error),
    }
    match slurm.accounts().await {
        Ok(Accounting::Works) => rows.pass("sacct", "answers"),
        Ok(Accounting::Fails(words)) => rows.warn("sacct", words, FALLBACK),
        Ok(Accounting::Missing) => rows.warn("sacct", "there is none", FALLBACK),
        Err(error) => failed(&mut rows, "sacct", &error),
    }
    let mut tried = Vec::new();
    for resources in requests(site, typical) {
        let ResourceSettings { cpus, memory_mb, walltime, .. } = &resources;
        let job_file = site.spool.join("jobs/doctor/job.json");
        let request = kinds_of_job::training(site, "hpct-doctor", &resources, &job_file);
        let asks = format!("{cpus} CPUs, {memory_mb} MB, {walltime}");
        tried.push((format!("sbatch {memory_mb} MB"), asks, request));
    }
    if let [(name, ..)] = &mut tried[..] {
        "sbatch".clone_into(name);
    }
    if site.watcher
        && let Some(id) = JobId::from_directory("doctor")
    {
        let request = kinds_of_job::watcher(site, &id, SlurmJobId(1), typical.resources.memory_mb);
        tried.push(("watcher".to_owned(), "the watcher's job".to_owned(), request));
    }
    for (name, asks, request) in tried {
        match slurm.try_out(&request).await {
            Ok(Trial::Taken(says)) => rows.pass(&name, format!("{asks}: {says}")),
            Ok(Trial::Refused(words)) if name == "watcher" => rows.warn(
                &name,
                format!("Slurm would refuse it: {words}"),
                "name a partition for small jobs in WATCHER_PARTITION, or do without: WATCHER=0",
            ),
            Ok(Trial::Refused(words)) => rows.fail(
                &name,
                format!("{asks} ({}): Slurm would refuse it: {words}", typical.source),
                "check SITE_ACCOUNT, SITE_PARTITION, SITE_QOS, SITE_CONSTRAINT, SITE_GRES and \
                SITE_GRES_TABLE",
            ),
            Err(error) => failed(&mut rows, &name, &error),
        }
    }
    rows.done()
}

const FALLBACK: &str = "nothing to do: check then asks squeue and scontrol, and takes the memory \
    that a job used from the trainer's own note";

fn failed(rows: &mut Rows, name: &str, error: &SlurmError) {
    rows.fail_with(name, error, "ask the operators of the cluster, or look at: scontrol ping");
}

/// The typical job, and one for each other row of the gres table, so that a mistake in any of them
/// shows.
fn requests(site: &SiteConfig, typical: &Typical) -> Vec<ResourceSettings> {
    let mut requests = vec![typical.resources.clone()];
    let memory = typical.resources.memory_mb;
    let own = site.gres_table.limits().find(|limit| memory <= *limit);
    let mut below: u64 = 0;
    for limit in site.gres_table.limits().take(MOST_ROWS) {
        // The least memory that leads to this row: one more than the row before it has.
        let least = below.saturating_add(1);
        below = limit;
        if Some(limit) == own || site.limits.memory_mb.is_some_and(|most| most < least) {
            continue;
        }
        let memory_mb = if limit < memory { limit } else { least };
        requests.push(ResourceSettings { memory_mb, ..typical.resources.clone() });
    }
    requests
}

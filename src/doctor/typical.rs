//! What a job of this site is like: the last one that came, or else one that every site should be
//! able to run.

use std::path::Path;

use crate::ledger::Store;
use base::files::read_own;
use contract::wire::JobMessage;
use domain::{InputKind, ResourceSettings, SiteLimits, Walltime};
use scheduler::{Kind, SiteConfig};

/// So many of the latest jobs are looked at.
const LOOKED_AT: usize = 20;

/// A job to try things out with.
#[derive(Clone, Debug)]
pub(super) struct Typical {
    /// What it asks Slurm for.
    pub(super) resources: ResourceSettings,
    /// Where Rodan keeps its page, where that is known.
    pub(super) page: Option<String>,
    /// Where this is known from.
    pub(super) source: &'static str,
}

impl Typical {
    /// From the spool, where a job has come before.
    pub(super) fn new(site: &SiteConfig) -> Self {
        match last_message(&site.spool) {
            Some(job) => {
                let paces = Store::unopened(&site.spool).paces();
                let resources = crate::bridge::chosen(&job, site, &paces).resources;
                let is_page = |input: &&domain::Input| input.kind == InputKind::Image;
                Self {
                    page: job.inputs.iter().find(is_page).map(|input| input.location.clone()),
                    // Nobody wants a mail about a job that is only tried out.
                    resources: ResourceSettings { email: None, ..resources },
                    source: "as the last job",
                }
            }
            None => Self::usual(site),
        }
    }

    /// The job that is assumed before one has come.
    pub(super) fn usual(site: &SiteConfig) -> Self {
        let mut resources = usual(&site.limits);
        if site.scheduler != Kind::Slurm {
            resources.cpus = resources.cpus.min(site.choice.cpus);
        }
        Self { resources, page: None, source: "a usual job" }
    }
}

/// The request that the documents recommend, within the site's limits.
fn usual(limits: &SiteLimits) -> ResourceSettings {
    let six_hours = Walltime::from_seconds(6 * 3600).ok();
    let walltime = limits.walltime.into_iter().chain(six_hours).min();
    ResourceSettings {
        cpus: limits.cpus.map_or(6, |most| most.min(6)),
        memory_mb: limits.memory_mb.map_or(6000, |most| most.min(6000)),
        // Six hours are a valid limit.
        walltime: walltime.unwrap_or(Walltime::MINUTE),
        email: None,
        instances: 1,
    }
}

fn last_message(spool: &Path) -> Option<JobMessage> {
    let store = Store::unopened(spool);
    let (mut ids, done) = store.ids().ok()?;
    ids.extend(done);
    let mut seen: Vec<_> = ids.iter().filter_map(|id| store.see(id).ok().flatten()).collect();
    seen.sort_by_key(|job| job.record.received_at);
    let read =
        |job: &crate::ledger::Seen| JobMessage::parse(&read_own(&job.files.message()).ok()?).ok();
    seen.iter().rev().take(LOOKED_AT).find_map(read)
}

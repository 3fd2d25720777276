//! Runs all checks; those that don't need each other run at the same time.

use std::io;
use std::path::Path;

use super::node::{Ended, NodeCheck, RESULT, on_node};
use super::rodan::Wanted;
use super::row::{Grade, Report, Row, Rows, apart, host};
use super::typical::Typical;
use super::{broker, local, rodan, schedule, settings, slurm, spool, trainer};
use crate::config::Examined;
use base::files::write_atomic;

/// What is to be downloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Download {
    /// The page of the last job, where one has come.
    #[default]
    LastPage,
    /// This path on Rodan, or URL.
    This(String),
    /// Nothing.
    Nothing,
}

/// What is to be looked at in addition.
#[derive(Debug, Default)]
pub struct Options {
    /// What to download from Rodan.
    pub download: Download,
    /// Also look from a compute node; wait for at most this long.
    pub on_node: Option<NodeCheck>,
}

/// Runs all checks. `tell` is told what is waited for; `stop` ends the wait for a compute node.
///
/// No queue and no job of anybody is changed, and no file stays. Only the look from a compute node
/// submits a job, and makes the spool where there is none. What a doctor that was killed has left
/// is removed.
pub async fn doctor(
    found: &Examined,
    options: Options,
    tell: &mut dyn FnMut(&str),
    stop: impl Future<Output = ()>,
) -> (Report, Option<Ended>) {
    let site = &found.site;
    let deadline = std::time::Duration::from_secs(20);
    let (of_typical, of_pass) = (site.clone(), site.spool.clone());
    // A filesystem that hangs must not keep the rest from being looked at.
    let known =
        apart(deadline, move || (Typical::new(&of_typical), schedule::last_pass(&of_pass))).await;
    let (typical, last_pass) = known.unwrap_or_else(|| (Typical::usual(site), None));
    let wanted = match &options.download {
        Download::LastPage => Wanted::LastPage(&typical),
        Download::This(location) => Wanted::This(location),
        Download::Nothing => Wanted::Nothing,
    };
    let mut rows = settings::rows(found);
    let mut stop = std::pin::pin!(stop);
    let parts = async {
        tokio::join!(
            spool::rows(site, options.on_node.is_some()),
            broker::rows("RabbitMQ", found.broker.as_ref(), false),
            rodan::rows("Rodan", found.rodan.as_ref(), Some(wanted), found.max_download),
            slurm::rows(site, &typical),
            trainer::rows(site),
            schedule::rows(site, last_pass),
        )
    };
    let parts = tokio::select! {
        parts = parts => parts,
        () = &mut stop => return (Report::new(rows), Some(Ended::Stopped)),
    };
    let parts = [parts.0, parts.1, parts.2, parts.3, parts.4, parts.5];
    let refused = parts.iter().flatten().any(|row| {
        (row.group == "Slurm" && row.name.starts_with("sbatch") || row.group == local::GROUP)
            && row.verdict == Grade::Fail
    });
    rows.extend(parts.into_iter().flatten());
    let mut ended = None;
    if let Some(node) = options.on_node {
        if refused {
            let mut skipped = Rows::new("compute node");
            skipped.skip("job", "it would be refused, see above");
            rows.extend(skipped.done());
        } else {
            let (more, how) =
                on_node(site, typical.resources.memory_mb, node, tell, stop.as_mut()).await;
            rows.extend(more);
            ended = Some(how);
        }
    }
    (Report::new(rows), ended)
}

/// Looks around on a compute node and writes the rows into `directory`, for the doctor that waits
/// for them.
///
/// # Errors
/// When they can't be written.
pub async fn write_rows(found: &Examined, directory: &Path) -> io::Result<()> {
    let mut rows = on_this_node(found).await;
    let mut spool = Rows::new(format!("node {}", host()));
    spool.pass("spool", "it is seen from here, and can be written");
    rows.extend(spool.done());
    write_atomic(&directory.join(RESULT), &serde_json::to_vec(&rows).map_err(io::Error::other)?)
}

/// The checks that run on a compute node.
async fn on_this_node(found: &Examined) -> Vec<Row> {
    let group = format!("node {}", host());
    let site = &found.site;
    // Slurm names the GPUs that it gave in these variables.
    let wants_gpu = ["SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let mut rows: Vec<Row> = settings::rows(found);
    for row in &mut rows {
        row.group.clone_from(&group);
    }
    // The settings were checked on the login node, so only the file itself can be wrong here.
    rows.retain(|row| row.verdict != Grade::Pass);
    let (of_broker, of_rodan, of_trainer) = tokio::join!(
        broker::rows(&group, found.broker.as_ref(), true),
        rodan::rows(&group, found.rodan.as_ref(), None, found.max_download),
        trainer::rows_on_node(&group, site, wants_gpu),
    );
    let named = |rows: Vec<Row>, who: &'static str| {
        rows.into_iter().map(move |row| Row { name: format!("{who} {}", row.name), ..row })
    };
    rows.extend(named(of_broker, "RabbitMQ"));
    rows.extend(named(of_rodan, "Rodan"));
    rows.extend(of_trainer);
    rows
}

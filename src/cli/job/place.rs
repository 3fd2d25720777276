//! The files around a job file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::ledger::{JobFiles, write_atomic};
use crate::wire::Reply;

/// The files around a job file. `check` keeps a record beside it; a job file written by hand stands alone, and then
/// nothing of it is removed.
pub(super) struct Place {
    pub(super) managed: Option<JobFiles>,
    pub(super) reply: PathBuf,
    pub(super) delivered: PathBuf,
}

impl Place {
    pub(super) fn of(job_file: &Path) -> Self {
        let directory = job_file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let files = JobFiles::new(directory);
        if files.is_record_of(job_file) {
            return Self { reply: files.reply(), delivered: files.delivered(), managed: Some(files) };
        }
        Self {
            managed: None,
            reply: job_file.with_extension("reply.json"),
            delivered: job_file.with_extension("delivered"),
        }
    }

    /// Writes the reply down; from here on it can't be lost.
    pub(super) fn spool(&self, job_file: &Path, reply: &Reply) -> io::Result<()> {
        write_atomic(&self.reply, reply.body())?;
        self.managed.iter().for_each(JobFiles::remove_checkpoint);
        if self.managed.is_some()
            && let Err(error) = fs::remove_file(job_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!("the job file {} can't be removed: {error}", job_file.display());
        }
        Ok(())
    }
}

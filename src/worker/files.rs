//! The files around a job file.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;
use zeroize::Zeroizing;

use crate::ledger::{JobFiles, Outbox};
use base::files::{read_own, sweep, write_atomic};
use contract::wire::Answer;

/// The files around a job file. `check` keeps a record beside its job files. A job file written by
/// hand has none, and none of its files is removed.
pub(super) struct Place {
    pub(super) managed: Option<JobFiles>,
    pub(super) reply: PathBuf,
    pub(super) delivered: PathBuf,
    /// The report for people.
    pub(super) report: PathBuf,
    /// What a conversation has to send.
    pub(super) outbox: Outbox,
}

impl Place {
    pub(super) fn of(job_file: &Path) -> Self {
        let directory = job_file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let files = JobFiles::new(directory);
        if files.is_record_of(job_file) {
            let (reply, delivered, report) = (files.reply(), files.delivered(), files.report());
            let outbox = files.outbox();
            return Self { managed: Some(files), reply, delivered, report, outbox };
        }
        Self {
            managed: None,
            reply: job_file.with_extension("reply.json"),
            delivered: job_file.with_extension("delivered"),
            report: job_file.with_extension("report.html"),
            outbox: Outbox::new(&job_file.with_extension("outbox")),
        }
    }

    /// Reads the job file, which holds a token. In the spool, a file of another account is refused.
    /// One written by hand may be a link.
    pub(super) fn read(&self, job_file: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
        if self.managed.is_some() {
            return read_own(job_file).map(Zeroizing::new);
        }
        let mut file = File::open(job_file)?;
        let mode = file.metadata()?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let path = job_file.display();
            warn!("{path} holds a token and others may read it (mode {mode:04o}); run: chmod 600 {path}");
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the report. If the job was answered and filed away meanwhile, the report is written
    /// there.
    pub(super) fn write_report(&self, html: &[u8]) -> io::Result<()> {
        let written = write_atomic(&self.report, html);
        let moved = self.managed.as_ref().and_then(JobFiles::filed_away);
        match (written, moved) {
            (Err(error), Some(moved)) if error.kind() == io::ErrorKind::NotFound => {
                write_atomic(&moved.report(), html)?;
                sweep(moved.directory()); // what was moved half-made
                Ok(())
            }
            (written, _) => written,
        }
    }

    /// Writes the reply down; from now on it can't be lost.
    pub(super) fn spool(&self, job_file: &Path, answer: &Answer) -> io::Result<()> {
        write_atomic(&self.reply, &answer.body())?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_report_follows_a_job_that_is_filed_away() {
        let spool = tempfile::tempdir().unwrap();
        let (open, done) = (spool.path().join("jobs/a"), spool.path().join("done/a"));
        fs::create_dir_all(&open).unwrap();
        fs::create_dir(spool.path().join("done")).unwrap();
        fs::write(open.join("record.json"), "{}").unwrap();
        let place = Place::of(&open.join("job.json"));
        place.write_report(b"first").unwrap();
        assert_eq!(fs::read(open.join("report.html")).unwrap(), b"first");
        fs::write(open.join(".new-1"), "half").unwrap();
        fs::rename(&open, &done).unwrap();
        place.write_report(b"second").unwrap();
        let report = done.join("report.html");
        assert_eq!(fs::read(&report).unwrap(), b"second");
        assert_eq!(fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!open.exists() && !done.join(".new-1").exists());
        fs::remove_dir_all(&done).unwrap();
        assert!(place.write_report(b"third").is_err(), "a job that is gone is not made anew");
        assert!(!open.exists() && !done.exists());
    }

    #[test]
    fn a_job_file_written_by_hand_has_its_report_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(&folder.path().join("mine.json"));
        place.write_report(b"html").unwrap();
        assert_eq!(fs::read(folder.path().join("mine.report.html")).unwrap(), b"html");
    }
}

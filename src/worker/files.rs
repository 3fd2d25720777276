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
        let directory =
            job_file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
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
            warn!(
                "{path} holds a token and others may read it (mode {mode:04o}); run: chmod 600 \
                {path}"
            );
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The answer that an earlier run has left; `None` where there is none, or it is no answer.
    ///
    /// # Errors
    /// When there may be one, but it can't be read now.
    pub(super) fn spooled(&self) -> io::Result<Option<Answer>> {
        if self.managed.is_none() {
            return Ok(None);
        }
        match read_own(&self.reply) {
            Ok(body) => Ok(Answer::from_body(body).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a reply is that was not sent, as the log says it; `kept` when it is on disk.
    pub(super) fn whereabouts(&self, kept: bool) -> String {
        let path = self.reply.display();
        match (kept, self.managed.is_some()) {
            (true, true) => format!("is in {path}, the next check delivers it"),
            (true, false) => format!("is in {path}, and nobody sends it later"),
            (false, true) => format!(
                "could not be written to {path} either and is lost; the next check answers the \
                job with an error"
            ),
            (false, false) => format!("could not be written to {path} either and is lost"),
        }
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
    use contract::wire::Reply;

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
    fn only_a_reply_that_is_not_there_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("record.json"), "{}").unwrap();
        let place = Place::of(&folder.path().join("job.json"));
        assert_eq!(place.spooled().unwrap(), None);
        let answer = Answer::Reply(Reply::error("No page."));
        write_atomic(&place.reply, &answer.body()).unwrap();
        assert_eq!(place.spooled().unwrap(), Some(answer));
        fs::write(&place.reply, "{").unwrap();
        assert_eq!(place.spooled().unwrap(), None);
        fs::remove_file(&place.reply).unwrap();
        fs::create_dir(&place.reply).unwrap();
        assert!(place.spooled().is_err());
        let by_hand = Place::of(&folder.path().join("mine.json"));
        fs::create_dir(&by_hand.reply).unwrap();
        assert_eq!(by_hand.spooled().unwrap(), None, "its reply is not looked for");
    }

    #[test]
    fn the_log_promises_a_check_only_where_there_is_one_and_a_reply_to_deliver() {
        let folder = tempfile::tempdir().unwrap();
        let by_hand = Place::of(&folder.path().join("job.json"));
        fs::write(folder.path().join("record.json"), "{}").unwrap();
        let managed = Place::of(&folder.path().join("job.json"));
        assert!(managed.whereabouts(true).ends_with("the next check delivers it"));
        for (place, kept) in [(&by_hand, true), (&by_hand, false), (&managed, false)] {
            let text = place.whereabouts(kept);
            assert!(!text.contains("delivers"), "{text}");
            assert_eq!(text.contains("is lost"), !kept, "{text}");
        }
    }

    #[test]
    fn a_job_file_written_by_hand_has_its_report_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(&folder.path().join("mine.json"));
        place.write_report(b"html").unwrap();
        assert_eq!(fs::read(folder.path().join("mine.report.html")).unwrap(), b"html");
    }
}

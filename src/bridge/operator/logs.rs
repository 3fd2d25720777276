//! The Slurm logs of a job.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use domain::JobId;

/// The log of one Slurm job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Log {
    /// The job that it belongs to.
    pub job: JobId,
    /// False for the training's, true for its watcher's.
    pub of_watcher: bool,
    /// Slurm's number.
    pub slurm_id: u64,
    /// The file.
    pub path: PathBuf,
}

impl Log {
    /// Reads a file's name: `hpct-ID-NUMBER.log`, or `hpcw-…` for a watcher's.
    fn from_path(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
        let (of_watcher, rest) = match name.split_at_checked(5)? {
            ("hpct-", rest) => (false, rest),
            ("hpcw-", rest) => (true, rest),
            _ => return None,
        };
        // The id may itself end in a dash and digits: the number is what stands last.
        let (id, number) = rest.rsplit_once('-')?;
        let is_number = number.bytes().all(|b| b.is_ascii_digit());
        let slurm_id = number.parse().ok().filter(|_| is_number)?;
        Some(Self { job: JobId::from_directory(id)?, of_watcher, slurm_id, path })
    }

    /// All logs of jobs in a directory, sorted: a job's own before its watcher's. A directory that
    /// is not there has none.
    pub(super) fn all(directory: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut logs = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A link, which may lead anywhere, is not ours.
            if entry.file_type()?.is_file() {
                logs.extend(Self::from_path(entry.path()));
            }
        }
        logs.sort();
        Ok(logs)
    }
}

/// The logs of one job: the training's and its watcher's, as far as Slurm has begun them.
///
/// # Errors
/// When the directory can't be read.
pub fn logs_of(directory: &Path, id: &JobId) -> io::Result<Vec<Log>> {
    Ok(Log::all(directory)?.into_iter().filter(|log| log.job == *id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_of_a_job_are_not_those_of_one_whose_id_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["hpct-a-17.log", "hpct-a-7-18.log", "hpcw-a-19.log", "hpct-a-x.log", "hpct-a-+1.log", "a-17.log"]
        {
            fs::write(dir.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("hpct-a-20.log")).unwrap();
        let numbers = |id: &str| -> Vec<(bool, u64)> {
            let logs = logs_of(dir.path(), &JobId::from_directory(id).unwrap()).unwrap();
            logs.iter().map(|log| (log.of_watcher, log.slurm_id)).collect()
        };
        assert_eq!(numbers("a"), [(false, 17), (true, 19)]);
        assert_eq!(numbers("a-7"), [(false, 18)]);
        let nowhere = dir.path().join("nowhere");
        assert_eq!(logs_of(&nowhere, &JobId::from_directory("a").unwrap()).unwrap(), []);
    }
}

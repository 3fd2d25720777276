//! One event file, written record by record.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::message;
use super::record::frame;

/// Most files that one host may begin within the same second. More means that something else is
/// wrong.
const MOST_NAMESAKES: u32 = 1000;

/// An open event file.
#[derive(Debug)]
pub(super) struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Begins a new file in `directory`, which is made where it is missing.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let host: String = base::host_name()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' })
            .collect();
        let name = format!("events.out.tfevents.{}.{host}", now() as u64);
        let mut namesakes = 0;
        let (file, path) = loop {
            let path = directory.join(match namesakes {
                0 => name.clone(),
                n => format!("{name}.{n}"),
            });
            match File::create_new(&path) {
                // Two runs of a layer began within the same second.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists
                        && namesakes < MOST_NAMESAKES =>
                {
                    namesakes += 1;
                }
                result => break (result?, path),
            }
        };
        let mut events = Self { file, path };
        events.write(&message::version(now()))?;
        Ok(events)
    }

    /// Says that what was written for `step` and later steps no longer counts.
    pub(super) fn start(&mut self, step: u64) -> io::Result<()> {
        self.write(&message::start(now(), step))
    }

    /// Writes values with their names. Readers can see them when this returns.
    pub(super) fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        self.write(&message::scalars(now(), step, values))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one record in one call, without a buffer, so that a reader sees whole records only.
    fn write(&mut self, event: &[u8]) -> io::Result<()> {
        self.file.write_all(&frame(event))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

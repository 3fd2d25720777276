//! What a training tells, read while it is written.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use domain::TrainingEvent;

/// Most bytes that are taken at a look.
const MOST: u64 = 1 << 20;

/// The lines of a file that grows.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    read: u64,
    /// Whether the last look brought a line.
    come: bool,
}

impl Lines {
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), read: 0, come: false }
    }

    /// Whether the last look brought something.
    pub(super) fn have_come(&self) -> bool {
        self.come
    }

    /// The whole lines that have come since the last look. What can't be understood is left out.
    pub(super) fn read(&mut self) -> Vec<TrainingEvent> {
        let bytes = self.bytes().unwrap_or_default();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        self.come = whole > 0;
        let lines = bytes[..whole].split(|byte| *byte == b'\n');
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    fn bytes(&self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_are_read_when_they_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("progress.jsonl");
        let mut lines = Lines::of(&path);
        assert_eq!(lines.read(), []);
        let mut file = File::create(&path).unwrap();
        write!(file, "{{\"event\":\"predicting\"}}\nno json\n{{\"event\":\"fini").unwrap();
        assert_eq!(lines.read(), [TrainingEvent::Predicting]);
        assert!(lines.have_come());
        assert_eq!(lines.read(), []);
        assert!(!lines.have_come());
        writeln!(file, "shed\",\"model\":\"Model 0\"}}").unwrap();
        assert_eq!(lines.read(), [TrainingEvent::Finished { model: "Model 0".into() }]);
    }
}

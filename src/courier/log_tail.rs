//! The last lines of a job's log, for the person who asks why it failed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use base::text::printable;

/// So much of a log's end is looked at, in bytes.
const MOST_BYTES: u64 = 32 << 10;

/// So many lines are kept.
const MOST_LINES: usize = 40;

/// The longest line, in characters.
const MOST_CHARS: usize = 300;

/// The last lines of a log file; none where it can't be read. No secret is ever in a log.
pub fn tail_of(path: &Path) -> Vec<String> {
    File::open(path).and_then(tail).unwrap_or_default()
}

/// The last lines of an open log.
///
/// # Errors
/// When it is no file that can be read from its end.
pub fn tail(mut file: File) -> io::Result<Vec<String>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Vec::new());
    }
    let begin = metadata.len().saturating_sub(MOST_BYTES);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line of the window may be half a line, so it is left out.
    let lines = text.lines().skip(usize::from(begin > 0));
    let lines: Vec<String> = lines
        .map(|line| line.rsplit('\r').next().unwrap_or_default())
        .map(|line| printable(line.trim_end(), MOST_CHARS))
        .filter(|line| !line.is_empty())
        .collect();
    let skipped = lines.len().saturating_sub(MOST_LINES);
    Ok(lines.into_iter().skip(skipped).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_lines_are_found_in_a_long_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.log");
        assert!(tail_of(&path).is_empty() && tail_of(dir.path()).is_empty());
        let lines: Vec<String> = (0..20_000).map(|n| format!("line {n}")).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        let found = tail_of(&path);
        assert_eq!(found.len(), MOST_LINES);
        assert_eq!(found.last().map(String::as_str), Some("line 19999"));
        fs::write(&path, b"a\n\n  \n10 %\r20 %\r\x1b[31mred\xff\n").unwrap();
        let found = tail_of(&path);
        assert_eq!((found.len(), found[0].as_str()), (2, "a"));
        assert!(found[1].contains("red") && !found[1].contains('\u{1b}'), "{found:?}");
        fs::write(&path, "x".repeat(100_000)).unwrap();
        assert!(tail_of(&path).is_empty(), "a line without a beginning");
    }
}

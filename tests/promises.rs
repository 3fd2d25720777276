//! Every test that a document names exists.

use std::fs;
use std::path::{Path, PathBuf};

use crate::documents::{files, quoted, repository, sources};

/// The text of every Rust file of the programs and of the tests.
fn texts() -> Vec<(PathBuf, String)> {
    let tests = files(&repository().join("tests"), ".rs");
    let paths = sources().into_iter().chain(tests);
    paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// Whether a word looks like a test's name: at least four words, the last of which may be left out
/// (`a_test_that_…`).
fn is_test_name(word: &str) -> bool {
    let name = word.trim_end_matches('…');
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    letters && name.matches('_').count() >= 3
}

fn exists(sources: &[(PathBuf, String)], word: &str) -> bool {
    let name = word.trim_end_matches('…');
    let end = if name == word { "(" } else { "" };
    let wanted = format!("fn {name}{end}");
    sources
        .iter()
        .any(|(_, text)| text.contains(&format!("#[test]\n{wanted}")) || is_test(text, &wanted))
}

/// Whether a function with this beginning is a test: in a module, below other attributes, or made
/// by a macro.
fn is_test(text: &str, wanted: &str) -> bool {
    text.match_indices(wanted).any(|(at, _)| {
        let before = text[..at].trim_end_matches("async ").trim_end();
        before
            .lines()
            .rev()
            .take_while(|line| line.trim_start().starts_with('#'))
            .any(|line| line.contains("test"))
    })
}

#[test]
fn every_test_that_a_document_names_exists() {
    let sources = texts();
    let mut named = 0;
    for name in ["security.md", "reliability.md", "protocol.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        for word in quoted(&fs::read_to_string(path).unwrap()).filter(|word| is_test_name(word)) {
            assert!(exists(&sources, word), "docs/{name} names the test {word}, which there isn't");
            named += 1;
        }
    }
    assert!(named > 60, "{named} tests are named");
}

#[test]
fn every_door_in_the_threat_model_has_a_test() {
    let sources = texts();
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let (_, doors) = text.split_once("## The doors").unwrap();
    let (doors, _) = doors.split_once("\n## ").unwrap();
    let rows =
        doors.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| could try"));
    let mut count = 0;
    for row in rows {
        let tests = row.trim_end_matches('|').rsplit_once(" | ").unwrap().1;
        let file = |word: &str| {
            sources.iter().any(|(path, text)| path.ends_with(word) && text.contains("#[test]"))
        };
        let has_one = quoted(tests)
            .any(|word| exists(&sources, word) || (word.ends_with(".rs") && file(word)));
        assert!(has_one, "no test in the row {row}");
        count += 1;
    }
    assert!(count > 20, "{count} rows");
}

//! Replays the corpora of `fuzz/` and variations of them, in every run of the tests.
//!
//! `HPC_TRAINER_FUZZ_SECONDS` continues for that long with each target, from a seed that is
//! printed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::mutate::{Random, mutated};
use super::{TARGETS, Target};

/// Largest file of a corpus, and of anything that libFuzzer is given to begin with.
const MAX_FILE: usize = 64 << 10;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The inputs of a target, in the order of their names.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fuzz().join("corpus").join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// The words of a dictionary in libFuzzer's form, without its names and comments.
fn words(target: &Target) -> Vec<Vec<u8>> {
    let text =
        fs::read_to_string(fuzz().join("dictionaries").join(target.name)).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with('"'));
    lines.map(|line| unescaped(line.trim().trim_matches('"'))).collect()
}

/// `\\`, `\\"` and `\\xAB`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes().peekable();
    let mut word = Vec::new();
    while let Some(byte) = bytes.next() {
        word.push(match bytes.peek().copied() {
            Some(b'x') if byte == b'\\' => {
                let digits: String = bytes.by_ref().skip(1).take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap()
            }
            Some(next) if byte == b'\\' => {
                bytes.next();
                next
            }
            _ => byte,
        });
    }
    word
}

fn run(target: &Target, data: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(data))).is_err() {
        let path =
            std::env::temp_dir().join(format!("crash-{}-{}", target.name, std::process::id()));
        fs::write(&path, data).unwrap();
        panic!("{} breaks a promise with {what}: {}", target.name, path.display());
    }
}

fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let (corpus, words) = (corpus(target), words(target));
    assert!(!corpus.is_empty());
    for (path, data) in &corpus {
        assert!(data.len() <= MAX_FILE, "{} is too large", path.display());
        run(target, data, &path.display().to_string());
    }
    run(target, b"", "nothing");
    let seconds: u64 =
        std::env::var("HPC_TRAINER_FUZZ_SECONDS").ok().map_or(0, |s| s.parse().unwrap());
    let seed = match seconds {
        0 => 1,
        _ => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    let (mut random, start) = (Random(seed), Instant::now());
    let mut tried = 0u64;
    while tried < u64::from(target.tries) || start.elapsed() < Duration::from_secs(seconds) {
        let (path, input) = &corpus[random.below(corpus.len())];
        let other = &corpus[random.below(corpus.len())].1;
        let data = mutated(input, other, &words, &mut random);
        run(target, &data, &format!("a variation of {} (seed {seed})", path.display()));
        tried += 1;
    }
    println!("{name}: {} files, {tried} variations from seed {seed}", corpus.len());
}

macro_rules! replays {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        $($(#[$attribute])* #[test] fn $name() { replay(stringify!($name)); })*

        const NAMES: &[&str] = &[$($(#[$attribute])* stringify!($name)),*];
    };
}

replays!(
    message,
    settings,
    walltime,
    conversation,
    slurm,
    url,
    credentials,
    record,
    #[cfg(feature = "trainer")]
    model,
    #[cfg(feature = "trainer")]
    model_edits,
    #[cfg(feature = "trainer")]
    image,
    #[cfg(feature = "trainer")]
    archive,
    #[cfg(feature = "gateway")]
    run_request,
    #[cfg(feature = "gateway")]
    settings_form,
    #[cfg(feature = "gateway")]
    login_form,
    #[cfg(feature = "gateway")]
    multipart,
);

#[test]
fn every_target_is_replayed_and_has_its_program() {
    assert_eq!(NAMES, TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let program =
            fs::read_to_string(fuzz().join(format!("fuzz_targets/{}.rs", target.name))).unwrap();
        assert!(program.contains(&format!("target!(\"{}\")", target.name)));
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)));
    }
}

#[test]
fn a_dictionary_is_read() {
    assert_eq!(unescaped(r#"a\"b\\c\x00d"#), b"a\"b\\c\0d");
}

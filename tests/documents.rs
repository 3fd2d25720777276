//! The documents are true and whole: messages that they quote and commands that are to be typed are
//! the programs' own, links lead somewhere, files and targets that are named exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::CommandFactory as _;
#[cfg(feature = "trainer")]
use clap::Parser as _;
use hpc_trainer::cli::check;

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap()
}

/// All files below a directory that end so, but for what a build, a run or an editor leaves there.
pub(crate) fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "artifacts", "dist", "spool"].contains(&&*name)
            {
                found.extend(files(&path, ending));
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The Rust files of all crates.
pub(crate) fn sources() -> Vec<PathBuf> {
    ["src", "crates"].iter().flat_map(|name| files(&repository().join(name), ".rs")).collect()
}

/// What stands in backticks.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A Markdown file without its code blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            kept.push_str(line);
        }
        kept.push('\n');
    }
    kept
}

/// The rows of a document's tables, without their heads.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    let is_head =
        |line: &str| line.starts_with("| what ") || line.starts_with("| the answer says ");
    text.lines().filter(move |line| line.starts_with("| ") && !is_head(line))
}

#[test]
fn the_messages_that_are_explained_are_those_of_the_programs() {
    let scripts = ["run_check", "hpc_training.sh"].map(|name| repository().join(name));
    let texts = sources().into_iter().chain(scripts).map(|path| fs::read_to_string(path).unwrap());
    // A long message is broken into lines in the source.
    let said = texts.collect::<String>().replace("\\\n", " ");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_command =
        |part: &&str| part.starts_with("./run_check") || part.starts_with("METRICS_FILE");
    let is_word = |part: &&str| part.split(' ').count() < 2; // a state or a variable
    for (name, at_least) in [("docs/troubleshooting.md", 20), ("docs/answers.md", 25)] {
        let text = read(name);
        let mut count = 0;
        for row in rows(&text) {
            let symptom = row.split(" | ").next().unwrap();
            let messages: Vec<_> =
                quoted(symptom).filter(|part| !is_command(part) && !is_word(part)).collect();
            for message in &messages {
                assert!(
                    said.contains(message),
                    "no program says {message:?}, which {name} quotes:\n{row}"
                );
            }
            count += usize::from(!messages.is_empty());
        }
        assert!(count >= at_least, "{count} rows of {name} quote a message");
    }
    for row in rows(&read("docs/troubleshooting.md")) {
        assert_eq!(row.replace("\\|", "").matches(" | ").count(), 2, "three columns: {row}");
    }
}

#[test]
fn every_command_in_the_documents_can_be_typed() {
    let mut documents = files(&repository().join("docs"), ".md");
    documents.push(repository().join("README.md"));
    let mut typed = 0;
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("./run_check ") {
            let line = text[at..].split(['`', '#', '\n', ',', ';', ')', '|', ':']).next().unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut command = check::Arguments::command();
            if words.contains(&"…") || words.contains(&"SUBCOMMAND") {
                continue;
            }
            let parsed = command.try_get_matches_from_mut(&words);
            let shown = |error: &clap::Error| {
                matches!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                )
            };
            if let Err(error) = parsed.as_ref()
                && !shown(error)
            {
                panic!("{}: {line:?}: {error}", path.display());
            }
            typed += 1;
        }
    }
    assert!(typed > 30, "{typed} commands");
}

/// The commands for a page in a folder are read by the program that they call.
#[cfg(feature = "trainer")]
#[test]
fn every_command_for_a_page_in_a_folder_can_be_typed() {
    let mut typed = 0;
    for name in ["README.md", "docs/local.md"] {
        for line in read(name).lines() {
            let starts = ["cargo run --release -p local -- ", "target/release/train_page "];
            let Some(rest) = starts.iter().find_map(|start| line.strip_prefix(start)) else {
                continue;
            };
            let words = ["train_page"].into_iter().chain(rest.split_whitespace());
            let parsed = local::train_page::Arguments::try_parse_from(words);
            assert!(parsed.is_ok(), "{name}: {line}: {}", parsed.unwrap_err());
            typed += 1;
        }
    }
    assert_eq!(typed, 4);
}

// ── The book ────────────────────────────────────────────────────────────────────────────────────

/// The links of a Markdown text: what stands in the round brackets of `[…](…)`.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    // What stands in backticks is no link. An odd one out would hide the rest of its paragraph
    // only.
    let mut without_code = String::new();
    for paragraph in prose.split("\n\n") {
        for (number, part) in paragraph.split('`').enumerate() {
            without_code.push_str(if number % 2 == 0 { part } else { "code" });
        }
        without_code.push_str("\n\n");
    }
    let target = |at: usize| without_code[at + 2..].split(')').next().map(str::to_owned);
    without_code.match_indices("](").filter_map(|(at, _)| target(at)).collect()
}

/// The anchors of a page: its headings as Git hosts and mdBook turn them into ids.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings =
        prose(text).lines().filter(|line| line.starts_with('#')).map(anchor).collect::<Vec<_>>();
    let numbered = headings.into_iter().map(|anchor| {
        let earlier = seen.entry(anchor.clone()).or_default();
        *earlier += 1;
        if *earlier == 1 { anchor } else { format!("{anchor}-{}", *earlier - 1) }
    });
    numbered.collect()
}

fn anchor(heading: &str) -> String {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    heading.trim_start_matches('#').trim().chars().filter_map(kept).collect()
}

/// `path` without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Where a link of the page leads: the file, and the anchor in it. `None` for another site.
fn target(page: &Path, link: &str) -> Option<(PathBuf, Option<String>)> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) =
        link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let file = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
    Some((plain(&file), anchor.map(str::to_owned)))
}

#[test]
fn headings_become_the_anchors_of_git_hosts_and_mdbook() {
    assert_eq!(anchor("## A job's states"), "a-jobs-states");
    assert_eq!(anchor("### What to ask Slurm for"), "what-to-ask-slurm-for");
    assert_eq!(
        anchor("## RabbitMQ (exit code 4) and replies (10)"),
        "rabbitmq-exit-code-4-and-replies-10"
    );
    assert_eq!(anchor("# `check`"), "check");
    assert!(
        anchors("# A\n## B\n```sh\n# no heading\n```\n## B\n").into_iter().eq(["a", "b", "b-1"])
    );
    let text = "[a](b.md) `[no](c)` ![d\ne](f.svg#g)\n```\n[no](h)\n```\n";
    assert_eq!(links(text), ["b.md", "f.svg#g"]);
    let from = Path::new("/r/docs/page.md");
    assert_eq!(target(from, "../a/./b.md#c"), Some(("/r/a/b.md".into(), Some("c".into()))));
    assert_eq!(target(from, "#c"), Some((from.into(), Some("c".into()))));
    assert_eq!(target(from, "https://example.org/"), None);
}

#[test]
fn every_link_and_anchor_in_the_documents_leads_somewhere() {
    let mut followed = 0;
    for page in files(repository(), ".md") {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let Some((file, anchor)) = target(&page, &link) else { continue };
            assert!(file.exists(), "{}: there is no {link}", page.display());
            if let Some(anchor) = anchor {
                let has = anchors(&fs::read_to_string(&file).unwrap()).contains(&anchor);
                assert!(has, "{}: no heading for {link}", page.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 80, "{followed} links");
}

/// The site has nothing but what lies in `docs/`.
#[test]
fn pages_of_the_book_link_to_nothing_outside_of_it() {
    let docs = repository().join("docs");
    for page in files(&docs, ".md") {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            if let Some((file, _)) = target(&page, &link) {
                assert!(file.starts_with(&docs), "{}: {link} is not in the book", page.display());
            }
        }
    }
}

#[test]
fn every_page_is_in_the_summary_once() {
    let docs = repository().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed = links(&read("docs/SUMMARY.md")).into_iter().map(|link| docs.join(link));
    let listed: Vec<PathBuf> = listed.collect();
    let pages: BTreeSet<PathBuf> =
        files(&docs, ".md").into_iter().filter(|page| *page != summary).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), pages);
    assert_eq!(listed.len(), pages.len(), "a page is there twice");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("# "), "{} begins without a title", page.display());
    }
}

#[test]
fn the_readme_is_short() {
    let text = read("README.md");
    assert!(text.lines().count() <= 100, "{} lines", text.lines().count());
    assert!(text.contains("has never run on a GPU"));
}

// ── What is named exists ────────────────────────────────────────────────────────────────────────

/// All documents, the tests' own comments, and the scripts that developers call.
fn texts() -> Vec<(PathBuf, String)> {
    let mut paths = files(repository(), ".md");
    paths.extend(files(&repository().join("tests"), ".rs"));
    paths.extend(sources());
    paths.extend(["run_tests", "fuzz/run", ".ci/run"].map(|name| repository().join(name)));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The words that follow `before` in a text, up to the first sign that no name of a target has.
fn after<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let named = text.match_indices(before).map(move |(at, _)| {
        let rest = &text[at + before.len()..];
        rest.split(|c| !is_name(c)).next().unwrap()
    });
    named.filter(|name| !name.is_empty() && name.starts_with(|c: char| c.is_ascii_lowercase()))
}

#[test]
fn every_test_example_and_stage_that_can_be_run_exists() {
    let exists = |path: String| repository().join(path).exists();
    let stages = read("run_tests");
    let (_, stages) = stages.split_once("ALL_STAGES=(").unwrap();
    let stages: Vec<&str> = stages.split(')').next().unwrap().split_whitespace().collect();
    let mut named = 0;
    for (path, text) in texts() {
        let mut check = |kind: &str, name: &str, there: bool| {
            assert!(there, "{}: there is no {kind} {name}", path.display());
            named += 1;
        };
        // This file names what does not exist.
        if path.ends_with("tests/documents.rs") {
            continue;
        }
        for name in after(&text, "--test ") {
            let in_crates = exists(format!("crates/page-layers/tests/{name}.rs"));
            check("test target", name, name == "stories" || in_crates);
        }
        for name in after(&text, "--test stories ") {
            check("story", name, exists(format!("tests/{name}.rs")) || name == "--");
        }
        for name in after(&text, "--example ") {
            let paths = [format!("examples/{name}.rs"), format!("examples/{name}/main.rs")];
            let in_crates = files(&repository().join("crates"), &format!("{name}.rs"));
            check("example", name, paths.into_iter().any(exists) || !in_crates.is_empty());
        }
        for name in after(&text, "run_tests --only ") {
            check("stage", name, stages.contains(&name));
        }
    }
    assert!(named > 20, "{named} are named");
}

/// A source file may be named by the end of its path, such as `ledger/lock.rs`.
#[test]
fn every_source_file_that_a_document_names_exists() {
    let all: Vec<PathBuf> =
        [".rs", ".cu", ".py"].iter().flat_map(|ending| files(repository(), ending)).collect();
    let is_source = |word: &&str| {
        let path = Path::new(word);
        let known = path.extension().is_some_and(|e| e == "rs" || e == "cu" || e == "py");
        known && !word.contains([' ', '*', '…', '{', 'N'])
    };
    let mut named = 0;
    for page in files(repository(), ".md") {
        for word in quoted(&prose(&fs::read_to_string(&page).unwrap())).filter(is_source) {
            assert!(
                all.iter().any(|file| file.ends_with(word)),
                "{}: there is no {word}",
                page.display()
            );
            named += 1;
        }
    }
    assert!(named > 20, "{named} source files are named");
}

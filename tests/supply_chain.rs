//! What a packager relies on: every crate comes from crates.io, under a licence that is allowed,
//! and the login node's program has none of the trainer's crates. `deny.toml` has the rules.
//! `cargo deny check` goes further (known faults, yanked versions); this test needs neither it nor
//! a network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What cargo resolves, with these arguments.
fn metadata(arguments: &[&str]) -> Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Names and versions of the crates that a program is built from, without those for tests only.
fn built(metadata: &Value) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).iter().map(|node| (text(&node["id"]), node)).collect();
    let packages: BTreeMap<&str, String> = list(&metadata["packages"])
        .iter()
        .map(|p| (text(&p["id"]), format!("{} {}", text(&p["name"]), text(&p["version"]))))
        .collect();
    let (mut found, mut waiting) = (BTreeSet::new(), vec![text(&metadata["resolve"]["root"])]);
    while let Some(this) = waiting.pop() {
        if !found.insert(packages[this].clone()) {
            continue;
        }
        let needed =
            |dep: &&Value| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
        waiting
            .extend(list(&nodes[this]["deps"]).iter().filter(needed).map(|dep| text(&dep["pkg"])));
    }
    found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The strings of a list in `deny.toml`; for tables, their `crate`.
fn rules(name: &str) -> BTreeSet<String> {
    let rules = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let (_, rest) = rules.split_once(&format!("\n{name} = [\n")).unwrap();
    let (inside, _) = rest.split_once("\n]").unwrap();
    inside.lines().map(|line| line.split('"').nth(1).unwrap().to_owned()).collect()
}

/// Whether these licences satisfy an SPDX expression. `AND` binds more tightly than `OR`; old
/// crates write `/`.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = &words[..];
    let met = any(&mut words, allowed);
    assert!(words.is_empty(), "{expression}");
    met
}

fn any(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, allowed);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let (first, rest) = words.split_first().unwrap();
    *words = rest;
    if *first == "(" {
        let met = any(words, allowed);
        assert_eq!(words.first(), Some(&")"));
        *words = &words[1..];
        return met;
    }
    if let ["WITH", exception, rest @ ..] = words {
        *words = rest;
        return allowed.contains(&format!("{first} WITH {exception}"));
    }
    allowed.contains(*first)
}

#[test]
fn licences_are_read_as_spdx_says() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR MIT AND ISC", true),
        ("GPL-3.0 AND MIT OR Apache-2.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("MIT AND (GPL-3.0 OR Apache-2.0)", false),
        ("MIT WITH LLVM-exception", false),
    ] {
        assert_eq!(is_met(expression, &allowed), met, "{expression}");
    }
}

#[test]
fn every_crate_comes_from_crates_io_under_an_allowed_licence() {
    let (metadata, allowed, refused) =
        (metadata(&["--features=cuda"]), rules("allow"), rules("deny"));
    let mut problems = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
        // A crate of the workspace: it lies in this folder.
        let own = text(&package["manifest_path"]).starts_with(root().to_str().unwrap());
        match &package["source"] {
            Value::Null if own => {}
            Value::String(from)
                if from == "registry+https://github.com/rust-lang/crates.io-index" => {}
            other => problems.push(format!("{name} comes from {other}")),
        }
        match package["license"].as_str() {
            Some(licence) if is_met(licence, &allowed) => {}
            other => problems
                .push(format!("{name} has the licence {other:?}, which deny.toml does not allow")),
        }
        if refused.contains(text(&package["name"])) {
            problems.push(format!("{name} is not wanted"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(list(&metadata["packages"]).len() > 100);
}

/// Cargo only warns of a name in a profile that no crate has: what calculates would be slow from
/// then on.
#[test]
fn the_profiles_name_crates_that_there_are() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (manifest, lock) = (read("Cargo.toml"), read("Cargo.lock"));
    let profiles = manifest
        .split("\n[")
        .filter(|part| part.starts_with("profile.") && part.contains(".package]\n"));
    let names: Vec<&str> = profiles
        .flat_map(|part| part.lines().skip(1))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    let gone: Vec<_> =
        names.iter().filter(|name| !lock.contains(&format!("\nname = \"{name}\"\n"))).collect();
    assert!(gone.is_empty(), "not in Cargo.lock: {gone:?}");
}

/// The rows of a profile's table of crates in `Cargo.toml`.
fn crates_of_profile(profile: &str) -> String {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once(&format!("\n[profile.{profile}.package]\n")).unwrap();
    rest.split("\n[").next().unwrap().to_owned()
}

/// Cargo hands the level of each crate of a release build on to the profiles that inherit it. What
/// a release build leaves unoptimised only to be built sooner is optimised in what is handed out.
#[test]
fn what_is_handed_out_is_optimised_more_than_a_release_build() {
    let names = |rows: &str| -> Vec<String> {
        rows.lines().filter_map(|row| Some(row.split_once(" = {")?.0.to_owned())).collect()
    };
    let [release, dist, login] = ["release", "dist", "login"].map(crates_of_profile);
    let (_, called) = release.split_once("# Called now and then.").unwrap();
    for name in names(called) {
        assert!(
            format!("\n{dist}").contains(&format!("\n{name} = {{ opt-level = 3 }}")),
            "{name} in a tarball"
        );
    }
    let check = built(&metadata(&["--no-default-features"]));
    for name in names(&release) {
        let in_check = check.iter().any(|c| c.split(' ').next() == Some(&name));
        let row = format!("\n{name} = {{ opt-level = \"s\" }}");
        assert_eq!(format!("\n{login}").contains(&row), in_check, "{name} in check");
    }
    assert!(names(&release).len() > 30);
}

#[test]
fn the_login_node_builds_nothing_of_the_trainer() {
    let check = built(&metadata(&["--no-default-features"]));
    let has = |name: &str| check.iter().any(|c| c.split(' ').next() == Some(name));
    for name in [
        "candle-core",
        "gemm",
        "image",
        "png",
        "hdf5-pure",
        "zip",
        "rayon",
        "indicatif",
        "safetensors",
    ] {
        assert!(!has(name), "check needs {name}");
    }
    assert!(has("lapin") && has("rustls"));
}

/// Crates that passwords and the token pass through have been looked at: `docs/supply-chain.md`
/// says when, and why they are trusted. A new version of one of them has to be looked at again.
#[test]
fn what_touches_secrets_is_reviewed_in_this_version() {
    let review = std::fs::read_to_string(root().join("docs/supply-chain.md")).unwrap();
    let rows: BTreeSet<String> = review
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        // The page's other tables have no version there.
        .filter(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
        .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap_or_default()))
        .collect();
    let check = built(&metadata(&["--no-default-features"]));
    let count = format!("`check` is built from {} crates,", check.len());
    assert!(review.contains(&count), "docs/supply-chain.md has to say: {count}");
    let gone: Vec<&String> = rows.difference(&check).collect();
    assert!(
        gone.is_empty(),
        "look at the new versions, then change docs/supply-chain.md: {gone:?}"
    );
    for name in ["lapin", "amq-protocol", "rustls", "ring", "reqwest", "hyper", "base64", "zeroize"]
    {
        assert!(
            rows.iter().any(|row| row.split(' ').next() == Some(name)),
            "{name} is not reviewed"
        );
    }
}

#[test]
fn the_bill_of_materials_lists_what_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sbom.json");
    let made = |path: &Path| {
        let output = Command::new(root().join("packaging/sbom")).arg(path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(path).unwrap()
    };
    let bytes = made(&path);
    assert_eq!(
        bytes,
        made(&folder.path().join("again.json")),
        "the same sources give the same bytes"
    );
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (text(&document["bomFormat"]), text(&document["specVersion"])),
        ("CycloneDX", "1.5")
    );
    let listed = |program: &str| -> BTreeSet<String> {
        let has = |c: &&Value| list(&c["properties"]).iter().any(|p| p["value"] == program);
        let components = list(&document["components"]).iter().filter(has);
        components.map(|c| format!("{} {}", text(&c["name"]), text(&c["version"]))).collect()
    };
    for (program, features) in [
        ("check", "--no-default-features"),
        ("run_trainer", "--features=cuda"),
        ("gateway", "--features=cuda"),
    ] {
        let mut built = built(&metadata(&[features]));
        built.remove(&format!("hpc-trainer {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(listed(program), built, "{program}");
    }
    let own = [
        "base",
        "contract",
        "domain",
        "gateway",
        "kernels",
        "local",
        "page-layers",
        "report",
        "scheduler",
        "terminal",
    ];
    for component in list(&document["components"]) {
        let hashed = component["hashes"][0]["content"].as_str().map(str::len) == Some(64);
        assert!(hashed || own.contains(&text(&component["name"])), "{component}");
        assert!(text(&component["purl"]).starts_with("pkg:cargo/"));
    }
    let known: BTreeSet<&str> =
        list(&document["dependencies"]).iter().map(|d| text(&d["ref"])).collect();
    for dependency in list(&document["dependencies"]) {
        assert!(
            list(&dependency["dependsOn"]).iter().all(|on| known.contains(text(on))),
            "{dependency}"
        );
    }
}

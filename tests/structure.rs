//! The modules of every crate form no circle: neither its files nor its folders.
//!
//! Cargo keeps circles between crates away; this keeps them away inside each. A file's arrows are
//! the paths of its `use` lines and the paths in its text that begin with `crate::`, tests left
//! out. A name that a folder hands on (`pub use`) leads to the file that it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module's path below its crate, such as `["ledger", "record"]`; empty for the crate's root.
type Module = Vec<String>;

/// The source of one crate.
struct Crate {
    /// The text of each module, without comments and unit tests.
    modules: BTreeMap<Module, String>,
    /// What each module hands on: the name, and the path that it stands for.
    handed_on: BTreeMap<(Module, String), Module>,
}

#[test]
fn no_crate_has_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = vec![root.join("src")];
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        sources.push(entry.unwrap().path().join("src"));
    }
    let mut found = Vec::new();
    for source in &sources {
        let arrows = Crate::read(source).arrows();
        let folders = arrows
            .iter()
            .map(|(from, to)| (from[..1].to_vec(), to[..1].to_vec()))
            .filter(|(from, to)| from != to)
            .collect();
        for circle in circles(&arrows).into_iter().chain(circles(&folders)) {
            found.push(format!("{}: {}", source.display(), circle.join(" → ")));
        }
    }
    assert!(found.is_empty(), "modules that need each other:\n{}", found.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    file("lib.rs", "pub mod a;\npub mod b;\n");
    file("a/mod.rs", "mod deep;\npub use deep::Thing;\n");
    file("a/deep.rs", "use crate::b::{self, Other as _};\npub struct Thing;\n");
    file(
        "b.rs",
        "/// Not `crate::b`.\npub struct Other;\n#[cfg(test)]\nmod tests \
        {\nuse crate::a::Thing;\n}\n",
    );
    assert!(
        circles(&Crate::read(folder.path()).arrows()).is_empty(),
        "tests and comments do not count"
    );
    file("b.rs", "pub struct Other(\n    crate::a::Thing,\n);\n");
    let found = circles(&Crate::read(folder.path()).arrows());
    assert_eq!(found, [["a::deep", "b", "a::deep"]]);
}

impl Crate {
    fn read(source: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for file in rust_files(source) {
            let path = file.strip_prefix(source).unwrap().with_extension("");
            let mut module: Module =
                path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            let name = module.last().unwrap().clone();
            if module[0] == "bin" || name == "tests" || name.ends_with("_tests") {
                continue;
            }
            if name == "mod" || (name == "lib" && module.len() == 1) {
                module.pop();
            }
            modules.insert(module, code(&fs::read_to_string(&file).unwrap()));
        }
        let mut this = Self { modules, handed_on: BTreeMap::new() };
        for (module, text) in &this.modules {
            for statement in uses(text).filter(|statement| statement.public) {
                for (path, name) in expand(statement.path) {
                    let path = this.absolute(module, &path);
                    this.handed_on.insert((module.clone(), name), path);
                }
            }
        }
        this
    }

    /// All arrows between two files of the crate.
    fn arrows(&self) -> BTreeSet<(Module, Module)> {
        let mut arrows = BTreeSet::new();
        for (module, text) in &self.modules {
            let is_folder = self
                .modules
                .keys()
                .any(|other| other.len() > module.len() && other.starts_with(module));
            let mut paths = Vec::new();
            for statement in uses(text) {
                // A folder's own index is no arrow.
                if !(statement.public && is_folder) {
                    paths.extend(expand(statement.path).into_iter().map(|(path, _)| path));
                }
            }
            for (start, _) in text.match_indices("crate::") {
                let rest = &text[start..];
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
                let path = rest[..end.unwrap_or(rest.len())].trim_end_matches(':');
                paths.push(path.split("::").map(str::to_owned).collect());
            }
            for path in paths {
                let Some(target) = self.file_of(&self.absolute(module, &path), 0) else { continue };
                if target != *module && !target.is_empty() && !module.is_empty() {
                    arrows.insert((module.clone(), target));
                }
            }
        }
        arrows
    }

    /// A path as it is seen from the crate's root; of another crate: empty.
    fn absolute(&self, module: &Module, path: &[String]) -> Module {
        let mut path = path.iter().peekable();
        let mut absolute = match path.peek().map(|first| first.as_str()) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => module.clone(),
            Some(name) if self.modules.contains_key(&child(module, name)) => module.clone(),
            _ => return Vec::new(),
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                name => absolute.push(name.to_owned()),
            }
        }
        absolute
    }

    /// The file that defines what a path names.
    fn file_of(&self, path: &[String], depth: usize) -> Option<Module> {
        let mut file = Module::new();
        for (index, name) in path.iter().enumerate() {
            let next = child(&file, name);
            if self.modules.contains_key(&next) {
                file = next;
            } else if let Some(target) = self.handed_on.get(&(file.clone(), name.clone())) {
                let rest = &path[index + 1..];
                return (depth < 8 && !target.is_empty())
                    .then(|| self.file_of(&[target, rest].concat(), depth + 1))?;
            } else {
                break;
            }
        }
        Some(file)
    }
}

fn child(module: &Module, name: &str) -> Module {
    let mut child = module.clone();
    child.push(name.to_owned());
    child
}

/// A `use` statement.
struct Use<'a> {
    public: bool,
    path: &'a str,
}

fn uses(text: &str) -> impl Iterator<Item = Use<'_>> {
    text.match_indices("use ").filter_map(|(start, _)| {
        let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let before = text[line..start].trim();
        let end = text[start..].find(';')?;
        let path = text[start + 4..start + end].trim();
        (before.is_empty() || before.starts_with("pub"))
            .then_some(Use { public: !before.is_empty(), path })
    })
}

/// `a::{b, c as d}` as paths, each with the name that it gets.
fn expand(path: &str) -> Vec<(Vec<String>, String)> {
    let (prefix, list) = match path.split_once('{') {
        Some((prefix, list)) => (prefix, list.rsplit_once('}').map_or(list, |(list, _)| list)),
        None => ("", path),
    };
    let mut items = vec![String::new()];
    let mut depth = 0_usize;
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                items.push(String::new());
                continue;
            }
            _ => {}
        }
        items.last_mut().unwrap().push(c);
    }
    let mut paths = Vec::new();
    for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
        if item.contains('{') {
            paths.extend(expand(&format!("{prefix}{item}")));
            continue;
        }
        let (item, name) = item.split_once(" as ").unwrap_or((item, ""));
        let whole = format!("{prefix}{item}");
        let parts: Vec<String> = whole
            .split("::")
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty() && part != "*")
            .collect();
        let last = parts.last().cloned().unwrap_or_default();
        paths.push((parts, if name.is_empty() { last } else { name.trim().to_owned() }));
    }
    paths
}

/// A file's text without its comments and its unit tests.
fn code(text: &str) -> String {
    let text = match text.find("#[cfg(test)]\nmod tests {") {
        Some(end) => &text[..end],
        None => text,
    };
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// One circle for each module that can reach itself, by the shortest way, each circle once.
fn circles(arrows: &BTreeSet<(Module, Module)>) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = Vec::new();
    let starts: BTreeSet<&Module> = arrows.iter().map(|(from, _)| from).collect();
    let mut told = BTreeSet::new();
    for start in starts {
        let mut came_from: BTreeMap<&Module, &Module> = BTreeMap::new();
        let mut waiting = std::collections::VecDeque::from([start]);
        while let Some(here) = waiting.pop_front() {
            for (_, to) in arrows.iter().filter(|(from, _)| from == here) {
                if !came_from.contains_key(to) {
                    came_from.insert(to, here);
                    waiting.push_back(to);
                }
            }
        }
        if told.contains(start) || !came_from.contains_key(start) {
            continue;
        }
        let mut way = vec![start.join("::")];
        let mut here = start;
        loop {
            here = came_from[here];
            told.insert(here.clone());
            way.push(here.join("::"));
            if here == start {
                break;
            }
        }
        way.reverse();
        found.push(way);
    }
    found
}

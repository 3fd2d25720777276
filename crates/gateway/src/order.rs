//! What a request for a run asks for, checked field by field: a pure function of its JSON.

use std::collections::BTreeMap;

use domain::{
    NamedResources, RESOURCE_SETTINGS, Setting, SettingsMap, TRAINING_SETTINGS, TrainingSettings,
    training_setting,
};
use serde_json::{Map, Value};

/// Most pages that a run may learn from.
pub(crate) const MOST_PAGES: usize = 50;
/// Most characters of a name, of a label's key and of its value.
pub(crate) const LONGEST_NAME: usize = 200;
/// Most labels of a run.
pub(crate) const MOST_LABELS: usize = 32;

/// Most runs of a grid.
pub(crate) const MOST_RUNS: u64 = 200;

/// A run that is wanted, or a grid of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Order {
    /// What its user calls it.
    pub name: String,
    /// The pages to learn from.
    pub pages: Vec<String>,
    /// Settings by Rodan's names; what is absent has the default of a page in a folder.
    pub settings: SettingsMap,
    /// Settings with several values each: a run for every combination.
    pub grid: Vec<(String, Vec<Value>)>,
    /// The run whose models are gone on from.
    pub models_from: Option<i64>,
    /// Words of the user's own, to find it again.
    pub labels: BTreeMap<String, String>,
    /// Whether it is only to be checked.
    pub dry_run: bool,
}

impl Order {
    /// How many runs it makes.
    pub(crate) fn count(&self) -> u64 {
        let values = self.grid.iter().map(|(_, values)| values.len() as u64);
        values.fold(1, u64::saturating_mul)
    }

    /// The settings of each run, the last setting of the grid changing first. At most
    /// [`MOST_RUNS`].
    pub(crate) fn variations(&self) -> Vec<SettingsMap> {
        let mut all = vec![self.settings.clone()];
        for (name, values) in &self.grid {
            let with = |settings: &SettingsMap, value: &Value| {
                let mut settings = settings.clone();
                settings.insert(name.clone(), value.clone());
                settings
            };
            let each = |settings| values.iter().map(move |value| with(settings, value));
            all = all.iter().flat_map(each).take(MOST_RUNS as usize).collect();
        }
        all
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldProblem {
    /// The field, as a JSON Pointer (RFC 6901) into the request.
    pub pointer: String,
    /// What is wrong, and what to change.
    pub detail: String,
}

impl FieldProblem {
    /// A problem of this field.
    pub(crate) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// A part of a JSON Pointer.
pub(crate) fn pointer_part(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Reads a request for a run.
///
/// # Errors
/// All that is wrong with it, at once.
pub(crate) fn read(body: &Value) -> Result<Order, Vec<FieldProblem>> {
    let Some(body) = body.as_object() else {
        let what = "a run is a JSON object such as {\"name\": …, \"pages\": [\"ID\"]}";
        return Err(vec![FieldProblem::new("", what)]);
    };
    let lists = if body.contains_key("grid") { "/grid" } else { "/settings" };
    let mut reader = Reader { problems: Vec::new(), lists };
    let mut order = Order::default();
    for (field, value) in body {
        match field.as_str() {
            "name" => order.name = reader.name(value),
            "pages" => order.pages = reader.pages(value),
            "settings" => reader.settings(value, &mut order),
            "grid" => reader.grid(value, &mut order),
            "models_from" => order.models_from = reader.models_from(value),
            "labels" => order.labels = reader.labels(value),
            "dry_run" => order.dry_run = reader.dry_run(value),
            other => reader.refuse(
                format!("/{}", pointer_part(other)),
                "there is no such field; known are name, pages, settings, grid, models_from, \
                 labels and dry_run",
            ),
        }
    }
    reader.combinations(&order);
    if !body.contains_key("pages") {
        reader.refuse("/pages", "is missing: name the pages to learn from by their ids");
    }
    if reader.problems.is_empty() { Ok(order) } else { Err(reader.problems) }
}

/// What is said of a setting that has both a value and a list, or two lists.
const TWICE: &str = "is there twice, in \"settings\" and \"grid\" or under two names; leave one";

struct Reader {
    problems: Vec<FieldProblem>,
    /// The field that is pointed at where lists do not go together: both may have some.
    lists: &'static str,
}

impl Reader {
    fn refuse(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.problems.push(FieldProblem::new(pointer, detail));
    }

    fn text(&mut self, pointer: &str, value: &Value) -> String {
        match value.as_str() {
            Some(text) if text.chars().count() <= LONGEST_NAME => text.trim().to_owned(),
            _ => {
                let what = format!("must be a text of at most {LONGEST_NAME} characters");
                self.refuse(pointer, what);
                String::new()
            }
        }
    }

    fn name(&mut self, value: &Value) -> String {
        self.text("/name", value)
    }

    fn pages(&mut self, value: &Value) -> Vec<String> {
        let pages = value.as_array().filter(|list| (1..=MOST_PAGES).contains(&list.len()));
        let Some(pages) = pages else {
            self.refuse("/pages", format!("must be a list of 1 to {MOST_PAGES} ids of pages"));
            return Vec::new();
        };
        let mut ids: Vec<String> = Vec::with_capacity(pages.len());
        for (index, page) in pages.iter().enumerate() {
            match page.as_str() {
                Some(id) if ids.iter().any(|known| known == id) => {
                    self.refuse(format!("/pages/{index}"), "is there twice; leave one");
                }
                Some(id) => ids.push(id.to_owned()),
                None => self.refuse(format!("/pages/{index}"), "must be the id of a page"),
            }
        }
        ids
    }

    /// One value for each setting, or a list of them, which makes a grid.
    fn settings(&mut self, value: &Value, order: &mut Order) {
        let Some(map) = value.as_object() else {
            return self.refuse("/settings", "must be an object such as {\"Patch height\": 64}");
        };
        for (name, value) in map {
            let pointer = format!("/settings/{}", pointer_part(name));
            if value.is_array() {
                self.values(&pointer, name, value, order);
            } else if let Err(detail) = setting(name, value) {
                self.refuse(pointer, detail);
            } else if order.settings.contains_key(own_name(name)) {
                self.refuse(pointer, "is there under two names; leave one of them");
            } else {
                order.settings.insert(own_name(name).to_owned(), value.clone());
            }
        }
    }

    fn grid(&mut self, value: &Value, order: &mut Order) {
        let Some(map) = value.as_object() else {
            let what = "must be an object of lists such as {\"Patch height\": [64, 128]}";
            return self.refuse("/grid", what);
        };
        for (name, value) in map {
            let pointer = format!("/grid/{}", pointer_part(name));
            self.values(&pointer, name, value, order);
        }
    }

    /// The values of one setting of a grid.
    fn values(&mut self, pointer: &str, name: &str, value: &Value, order: &mut Order) {
        let Some(values) = value.as_array().filter(|values| !values.is_empty()) else {
            return self.refuse(pointer, "must be a list of at least one value");
        };
        let own = own_name(name);
        if order.grid.iter().any(|(known, _)| known == own) {
            return self.refuse(pointer, TWICE);
        }
        if values.len() as u64 > MOST_RUNS {
            return self.refuse(pointer, too_many(values.len() as u64));
        }
        for (index, value) in values.iter().enumerate() {
            let pointer = format!("{pointer}/{index}");
            if values[..index].contains(value) {
                self.refuse(pointer, "is there twice; leave one");
            } else if let Err(detail) = setting(name, value) {
                self.refuse(pointer, detail);
            }
        }
        // The list wins over a single value elsewhere, which is told where the lists are.
        order.grid.push((own.to_owned(), values.clone()));
    }

    /// What depends on more than one setting; told only where each is right by itself.
    fn combinations(&mut self, order: &Order) {
        for (name, _) in &order.grid {
            if order.settings.contains_key(name) {
                self.refuse(format!("{}/{}", self.lists, pointer_part(name)), TWICE);
            }
        }
        let wrong = |problem: &FieldProblem| {
            problem.pointer.starts_with("/settings") || problem.pointer.starts_with("/grid")
        };
        if self.problems.iter().any(wrong) {
            return;
        }
        if order.count() > MOST_RUNS {
            return self.refuse(self.lists, too_many(order.count()));
        }
        let mut variations = order.variations().into_iter();
        if let Some(error) =
            variations.find_map(|settings| TrainingSettings::from_local(&settings).err())
        {
            let pointer = if order.grid.is_empty() { "/settings" } else { self.lists };
            self.refuse(pointer, error.to_string());
        }
    }

    fn models_from(&mut self, value: &Value) -> Option<i64> {
        let id = value.as_i64().filter(|id| *id > 0);
        if id.is_none() && !value.is_null() {
            self.refuse("/models_from", "must be the number of a run whose models are there");
        }
        id
    }

    fn labels(&mut self, value: &Value) -> BTreeMap<String, String> {
        let Some(map) = value.as_object().filter(|map| map.len() <= MOST_LABELS) else {
            let what = format!("must be an object of at most {MOST_LABELS} texts");
            self.refuse("/labels", what);
            return BTreeMap::new();
        };
        let label = |(key, value): (&String, &Value)| {
            let pointer = format!("/labels/{}", pointer_part(key));
            if key.chars().count() > LONGEST_NAME {
                self.refuse(&pointer, format!("its name has over {LONGEST_NAME} characters"));
            }
            (key.clone(), self.text(&pointer, value))
        };
        map.iter().map(label).collect()
    }

    fn dry_run(&mut self, value: &Value) -> bool {
        if !value.is_boolean() {
            self.refuse("/dry_run", "must be true or false");
        }
        value.as_bool().unwrap_or_default()
    }
}

/// Why a grid is too large.
fn too_many(count: u64) -> String {
    format!(
        "makes {count} runs, and at most {MOST_RUNS} are taken at a time; leave some values out"
    )
}

/// The setting of this name, or of this other name.
fn known_setting(name: &str) -> Option<&'static Setting> {
    let mut all = TRAINING_SETTINGS.iter().chain(RESOURCE_SETTINGS);
    all.find(|setting| setting.name == name || setting.also == Some(name))
}

/// The own name of a setting that has another one, too; any other name is what it is.
pub(crate) fn own_name(name: &str) -> &str {
    known_setting(name).map_or(name, |setting| setting.name)
}

/// Whether one setting by itself is right.
fn setting(name: &str, value: &Value) -> Result<(), String> {
    if value.is_array() || value.is_object() {
        return Err("must be one value".to_owned());
    }
    let Some(known) = known_setting(name) else {
        return Err("there is no such setting; docs/settings.md lists them".to_owned());
    };
    let alone: SettingsMap = Map::from_iter([(known.name.to_owned(), value.clone())]);
    if training_setting(known.name).is_some() {
        // A shift is limited by the patch, which is another setting.
        let wide = ["Patch height", "Patch width"].map(|side| (side.to_owned(), 4096.into()));
        let mut map = Map::from_iter(wide);
        map.extend(alone);
        return TrainingSettings::from_local(&map).map(drop).map_err(|error| error.to_string());
    }
    NamedResources::from_job(&alone).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(body: Value) -> Vec<(String, String)> {
        let problems = read(&body).unwrap_err();
        problems.into_iter().map(|problem| (problem.pointer, problem.detail)).collect()
    }

    #[test]
    fn a_request_is_read_with_all_of_its_fields() {
        let order = read(&json!({
            "name": " Salzinnes ", "pages": ["a", "b"], "models_from": 7, "dry_run": true,
            "settings": {"Patch height": 64, "Patch width": "64", "CPUs": 4},
            "labels": {"hand": "A"},
        }))
        .unwrap();
        assert_eq!(order.name, "Salzinnes");
        assert_eq!(order.pages, ["a", "b"]);
        assert_eq!((order.models_from, order.dry_run), (Some(7), true));
        assert_eq!(order.settings.len(), 3);
        assert_eq!(order.labels["hand"], "A");
        let least = read(&json!({"pages": ["a"]})).unwrap();
        assert_eq!((least.name.as_str(), least.settings.len(), least.dry_run), ("", 0, false));
    }

    #[test]
    fn a_setting_is_kept_under_its_own_name() {
        let (own, also) = ("Parallel instances", "PARALLEL_INSTANCES");
        let order = read(&json!({"pages": ["a"], "settings": {also: "auto"}})).unwrap();
        assert_eq!(Value::from(order.settings), json!({own: "auto"}));
        for field in ["settings", "grid"] {
            let order = read(&json!({"pages": ["a"], field: {also: [1, 2]}})).unwrap();
            assert_eq!(order.grid, [(own.to_owned(), vec![json!(1), json!(2)])]);
        }
        for (body, part) in [
            (json!({"pages": ["a"], "settings": {also: 1, own: 2}}), "two names"),
            (json!({"pages": ["a"], "settings": {also: 1}, "grid": {own: [2]}}), "leave one"),
            (json!({"pages": ["a"], "settings": {also: [1], own: [2]}}), "leave one"),
            (json!({"pages": ["a"], "settings": {also: 65}}), "or auto"),
        ] {
            let found = problems(body.clone());
            assert_eq!(found.len(), 1, "{body}: {found:?}");
            assert!(found[0].1.contains(part), "{body}: {found:?}");
        }
    }

    #[test]
    fn every_wrong_field_is_pointed_at() {
        let long = "x".repeat(LONGEST_NAME + 1);
        let cases = [
            (json!([]), "", "a run is a JSON object"),
            (json!({}), "/pages", "is missing"),
            (json!({"pages": []}), "/pages", "a list of 1 to 50"),
            (json!({"pages": "a"}), "/pages", "a list of 1 to 50"),
            (json!({"pages": vec!["a"; 51]}), "/pages", "a list of 1 to 50"),
            (json!({"pages": ["a", 1]}), "/pages/1", "the id of a page"),
            (json!({"pages": ["a", "a"]}), "/pages/1", "twice"),
            (json!({"pages": ["a"], "name": 1}), "/name", "must be a text"),
            (json!({"pages": ["a"], "name": long}), "/name", "at most 200 characters"),
            (json!({"pages": ["a"], "settings": 1}), "/settings", "must be an object"),
            (
                json!({"pages": ["a"], "settings": {"Patch hight": 1}}),
                "/settings/Patch hight",
                "no such setting",
            ),
            (
                json!({"pages": ["a"], "settings": {"a/b~c": 1}}),
                "/settings/a~1b~0c",
                "no such setting",
            ),
            (
                json!({"pages": ["a"], "settings": {"Patch height": 65}}),
                "/settings/Patch height",
                "multiple of 4",
            ),
            (
                json!({"pages": ["a"], "settings": {"Patch height": [64, 65]}}),
                "/settings/Patch height/1",
                "multiple of 4",
            ),
            (json!({"pages": ["a"], "grid": {"CPUs": []}}), "/grid/CPUs", "at least one value"),
            (json!({"pages": ["a"], "grid": {"CPUs": 4}}), "/grid/CPUs", "a list"),
            (json!({"pages": ["a"], "grid": {"CPUs": [4, 4]}}), "/grid/CPUs/1", "twice"),
            (json!({"pages": ["a"], "grid": {"CPUs": [[4]]}}), "/grid/CPUs/0", "one value"),
            (
                json!({"pages": ["a"], "settings": {"CPUs": 4}, "grid": {"CPUs": [4, 8]}}),
                "/grid/CPUs",
                "leave one",
            ),
            (
                json!({"pages": ["a"], "settings": {"PARALLEL_INSTANCES": 4,
                    "Parallel instances": [4, 8]}}),
                "/settings/Parallel instances",
                "leave one",
            ),
            (
                json!({"pages": ["a"], "settings": {"Seed": (0..15).collect::<Vec<_>>(),
                    "CPUs": (1..15).collect::<Vec<_>>()}}),
                "/settings",
                "makes 210 runs",
            ),
            (
                json!({"pages": ["a"], "grid": {"Seed": (0..201).collect::<Vec<_>>()}}),
                "/grid/Seed",
                "makes 201 runs",
            ),
            (
                json!({"pages": ["a"], "grid": {"Seed": (0..15).collect::<Vec<_>>(),
                    "CPUs": (1..15).collect::<Vec<_>>()}}),
                "/grid",
                "makes 210 runs",
            ),
            (
                json!({"pages": ["a"], "settings": {"Augmentation: shift (pixels)": 40},
                    "grid": {"Patch height": [128, 64]}}),
                "/grid",
                "from 0 to 32",
            ),
            (json!({"pages": ["a"], "settings": {"CPUs": 0}}), "/settings/CPUs", "from 1 to 4096"),
            (
                json!({"pages": ["a"], "settings": {"Patch height": 64,
                    "Augmentation: shift (pixels)": 40}}),
                "/settings",
                "from 0 to 32",
            ),
            (json!({"pages": ["a"], "models_from": "7"}), "/models_from", "number of a run"),
            (json!({"pages": ["a"], "models_from": -7}), "/models_from", "number of a run"),
            (json!({"pages": ["a"], "labels": ["x"]}), "/labels", "at most 32 texts"),
            (json!({"pages": ["a"], "labels": {"x": 1}}), "/labels/x", "must be a text"),
            (json!({"pages": ["a"], "dry_run": 1}), "/dry_run", "true or false"),
            (json!({"pages": ["a"], "grid": []}), "/grid", "object of lists"),
            (json!({"pages": ["a"], "inputs": {}}), "/inputs", "no such field"),
            (json!({"pages": ["a"], "gird": {}}), "/gird", "no such field"),
        ];
        for (body, pointer, detail) in cases {
            let found = problems(body.clone());
            assert_eq!(found.len(), 1, "{body}: {found:?}");
            assert_eq!(found[0].0, pointer, "{body}");
            assert!(found[0].1.contains(detail), "{body}: {found:?}");
        }
    }

    #[test]
    fn a_grid_is_every_combination_once() {
        let order = read(&json!({
            "pages": ["a"], "settings": {"CPUs": 4, "Patch height": [64, 128]},
            "grid": {"Seed": [1, 2, 3]},
        }))
        .unwrap();
        assert_eq!(order.count(), 6);
        let seen: Vec<Value> = order.variations().into_iter().map(Value::from).collect();
        assert_eq!(seen.len(), 6);
        // What is read first changes last.
        assert_eq!(seen[0]["CPUs"], 4);
        let pairs: std::collections::BTreeSet<String> =
            seen.iter().map(|one| format!("{} {}", one["Patch height"], one["Seed"])).collect();
        assert_eq!(pairs.len(), 6);
        let single = read(&json!({"pages": ["a"]})).unwrap();
        assert_eq!((single.count(), single.variations().len()), (1, 1));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let body = json!({"name": 1, "settings": {"Patch height": 65, "Batch Size": 0}, "x": 1});
        let pointers: Vec<_> = problems(body).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(
            pointers,
            ["/name", "/settings/Batch Size", "/settings/Patch height", "/x", "/pages"]
        );
    }
}

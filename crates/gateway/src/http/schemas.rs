//! The parts of the description that no Rust type has: what a request for a run may hold, made from
//! the table of settings; and the forms of a page.

use domain::{Allowed, Instances, RESOURCE_SETTINGS, Setting, TRAINING_SETTINGS};
use serde_json::{Map, Value, json};

use crate::order::{LONGEST_NAME, MOST_LABELS, MOST_PAGES, MOST_RUNS};

/// All of them, by name.
pub(super) fn all() -> Vec<(&'static str, Value)> {
    let mut request = request();
    let changes = request.clone();
    request["required"] = json!(["pages"]);
    vec![
        ("PageId", json!({"type": "string", "description": "The id of a page that is there."})),
        ("Settings", settings()),
        ("Grid", grid()),
        ("RunRequest", request),
        ("RunChanges", changes),
        ("ApplyRequest", apply()),
        ("PageForm", form(true)),
        ("ImageForm", form(false)),
        ("RunEvent", event()),
        ("BridgeLogIn", texts(&["username", "email", "password"], &["password"])),
        ("BridgeToken", texts(&["token"], &["token"])),
        ("BridgeRefusal", texts(&["detail"], &["detail"])),
    ]
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// One value of a setting. Null is its default. Numbers may come as texts, too, which only makes it
/// easier to ask: the description leaves that out.
fn value(setting: &Setting) -> Value {
    match setting.allowed {
        Allowed::Number { low, high, step } => {
            let mut number = json!({"type": ["integer", "null"], "minimum": low});
            // Few readers of numbers take 64 bits.
            number["maximum"] = high.min(i64::MAX as u64).into();
            if step > 1 {
                number["multipleOf"] = step.into();
            }
            number
        }
        Allowed::Words(words) => {
            let words = words().into_iter().map(Value::from).chain([Value::Null]);
            json!({"type": ["string", "null"], "enum": words.collect::<Vec<_>>()})
        }
        Allowed::Walltime => json!({"type": ["string", "null"], "example": "0-02:00"}),
        // Generators of clients know no choice of a number or a word: the number is a text, too.
        Allowed::Instances => {
            let numbers = (1..=Instances::MOST).map(|number| number.to_string());
            let all: Vec<_> = numbers.chain([Instances::AUTO.to_owned()]).collect();
            json!({"type": ["string", "null"], "pattern": format!("^({})?$", all.join("|"))})
        }
        Allowed::Email => json!({"type": ["string", "null"], "format": "email"}),
    }
}

fn values(setting: &Setting) -> Value {
    json!({
        "type": "array", "items": value(setting), "minItems": 1, "maxItems": MOST_RUNS,
        "uniqueItems": true,
    })
}

fn table(one: impl Fn(&Setting) -> Value) -> Map<String, Value> {
    let all = TRAINING_SETTINGS.iter().chain(RESOURCE_SETTINGS);
    all.map(|setting| {
        let mut found = one(setting);
        found["description"] = setting.meaning.into();
        (setting.name.to_owned(), found)
    })
    .collect()
}

fn settings() -> Value {
    json!({
        "type": "object", "additionalProperties": false,
        "description": "Settings by Rodan's names; what is absent has its default. A list of \
            values makes a grid: a run for every combination, in a group.",
        "properties": table(|setting| json!({"anyOf": [value(setting), values(setting)]})),
        "example": {"Patch height": 64, "Patch width": 64},
    })
}

fn grid() -> Value {
    json!({
        "type": "object", "additionalProperties": false,
        "description": "Lists of values by the names of settings: the same as lists in settings.",
        "properties": table(values),
        "example": {"Patch height": [64, 128]},
    })
}

/// What a request for a run may hold.
fn request() -> Value {
    let text =
        |what: &str| json!({"type": "string", "maxLength": LONGEST_NAME, "description": what});
    json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "name": text("What its user calls it."),
            "pages": {
                "type": "array", "items": reference("PageId"),
                "minItems": 1, "maxItems": MOST_PAGES, "uniqueItems": true,
                "description": "The pages to learn from.",
            },
            "settings": reference("Settings"),
            "grid": reference("Grid"),
            "models_from": {
                "type": ["integer", "null"], "format": "int64", "minimum": 1,
                "description": "A run whose models are gone on from.",
            },
            "labels": {
                "type": "object", "maxProperties": MOST_LABELS,
                "propertyNames": {"type": "string", "maxLength": LONGEST_NAME},
                "additionalProperties": text("A word."),
                "description": "Words of the user's own.",
            },
            "dry_run": {
                "type": "boolean", "description": "Only check it, and count its runs.",
            },
        },
    })
}

/// The page that models are to be applied to.
fn apply() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["page"],
        "properties": {"page": reference("PageId")},
    })
}

/// An object with texts of these names, of which some have to be there.
fn texts(names: &[&str], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// The parts of a form: a whole page, or its image alone.
fn form(whole: bool) -> Value {
    let file = |what: &str| json!({"type": "string", "format": "binary", "description": what});
    let mut parts = Map::new();
    parts.insert("image".into(), file("The page, as PNG or JPEG."));
    let address = json!({
        "type": "string",
        "description": "Instead of the image: the address of a IIIF image, its info.json or a \
                        request for it, of a host that the gateway's administrator allows.",
    });
    parts.insert("image_url".into(), address);
    if whole {
        parts.insert("background".into(), file("The background, as an RGBA PNG."));
        parts.insert("regions".into(), file("The part of the page that counts, as an RGBA PNG."));
        for number in 0..=9 {
            parts.insert(format!("layer_{number}"), file("A layer, as an RGBA PNG."));
        }
        parts.insert("archive".into(), file("Instead of all these: one zip as Pixel makes it."));
        let name = json!({
            "type": "string", "description": "The page's name.",
        });
        parts.insert("name".into(), name);
    }
    let mut form = json!({"type": "object", "additionalProperties": false, "properties": parts});
    if !whole {
        // One of the two.
        form["minProperties"] = 1.into();
        form["maxProperties"] = 1.into();
    }
    form
}

/// What comes of each part of a form.
pub(super) fn encoding(form: &str) -> Vec<(String, &'static str)> {
    let known = all();
    let parts = known.iter().find(|(name, _)| *name == form);
    let parts = parts.and_then(|(_, schema)| schema["properties"].as_object());
    let kind = |name: &str| match name {
        "image" => Some("image/png, image/jpeg"),
        "archive" => Some("application/zip"),
        "name" | "image_url" => None,
        _ => Some("image/png"),
    };
    let names = parts.into_iter().flatten();
    names.filter_map(|(name, _)| Some((name.clone(), kind(name)?))).collect()
}

/// A server-sent event.
fn event() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "Its number; progress events have none."},
            "event": {"type": "string", "enum": ["state", "layer", "epoch", "progress"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the description calls right is taken, and each of its fields is known.
    #[test]
    fn the_description_is_what_is_read() {
        let (known, settings) = (request(), settings());
        let mut body = json!({"pages": ["a"]});
        for (field, schema) in known["properties"].as_object().unwrap() {
            let value = match schema["type"].as_str().unwrap_or("object") {
                "string" => json!("x"),
                "boolean" => json!(true),
                "array" => json!(["a"]),
                _ if field == "models_from" => json!(1),
                _ => json!({}),
            };
            body[field] = value;
        }
        for (name, schema) in settings["properties"].as_object().unwrap() {
            let one = &schema["anyOf"][0];
            for end in ["minimum", "maximum"] {
                // A patch of the largest size has room for the largest shift.
                let mut body = json!({"pages": ["a"],
                    "settings": {"Patch height": 4096, "Patch width": 4096}});
                body["settings"][name] = one[end].clone();
                crate::order::read(&body).unwrap_or_else(|wrong| panic!("{name}: {wrong:?}"));
            }
            for word in one["enum"].as_array().into_iter().flatten() {
                body["settings"][name] = word.clone();
                crate::order::read(&body).unwrap_or_else(|wrong| panic!("{name}: {wrong:?}"));
            }
        }
    }

    #[test]
    fn every_file_of_a_form_has_its_kind() {
        let page = encoding("PageForm");
        assert_eq!(page.len(), 14);
        assert_eq!(encoding("ImageForm"), [("image".to_owned(), "image/png, image/jpeg")]);
    }
}

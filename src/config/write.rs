//! Writes `credentials.env`: the example with its explanations, and the given values.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::env::variable;
use super::error::Problem;
use super::lines;
use super::load::Reader;
use base::secret::Secret;

const EXAMPLE: &str = include_str!("../../credentials.env.example");
/// The end of the example's lines about making the file by hand.
const BY_HAND: &str = "chmod 600 credentials.env\n#\n";
/// What stands in place of those lines.
const HEAD: &str =
    "# The configuration of check, run_trainer and gateway. Keep it to yourself.\n#\n";

/// What would be wrong with these values as the whole configuration of an installation in `home`.
pub fn problems(home: &Path, values: impl Iterator<Item = (String, String)>) -> Vec<Problem> {
    let mut reader = Reader::new(values.collect::<HashMap<_, _>>(), home.to_path_buf());
    reader.resolve(None, None);
    reader.problems
}

/// The text of a `credentials.env` with these values; the other variables stay as in the example.
///
/// # Errors
///
/// The name of a variable whose value does not fit into a line.
pub fn credentials_text(values: &BTreeMap<String, Secret>) -> Result<Secret, String> {
    let explained = EXAMPLE.split_once(BY_HAND).map_or(EXAMPLE, |(_, rest)| rest);
    let mut lines = Vec::new();
    for line in HEAD.lines().chain(explained.lines()) {
        let name = line.trim_start_matches('#').split_once('=').map(|(name, _)| name);
        let known = name.filter(|name| variable(name).is_some());
        match known.and_then(|name| Some((name, values.get(name)?))) {
            Some((name, value)) => lines.push(Secret::new(assignment(name, value)?)),
            None => lines.push(Secret::new(line)),
        }
    }
    let mut text = String::with_capacity(2 * EXAMPLE.len());
    for line in &lines {
        text.push_str(line.expose());
        text.push('\n');
    }
    Ok(Secret::new(text))
}

/// `NAME='value'`; single quotes in the value are put between double ones.
fn assignment(name: &str, value: &Secret) -> Result<String, String> {
    let value = value.expose();
    let line = format!("{name}='{}'", value.replace('\'', r#"'"'"'"#));
    let read_back = lines::read(line.as_bytes(), |_| None);
    let fits =
        read_back.faults.is_empty() && read_back.values.get(name).is_some_and(|read| read == value);
    if fits { Ok(line) } else { Err(name.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_passwords_are_read_back_as_they_were() {
        for value in [
            "pass",
            "pa ss",
            " pass ",
            "  ",
            "s3$cret#",
            "#",
            "$HOME",
            "it's",
            "'",
            "\"x\"",
            r"back\slash",
            r"pa\",
            r"\'\",
            "a'b\"c$d`e",
            "“typographic”",
            "tab\tbed",
            "ü=ß",
        ] {
            let values = BTreeMap::from([("RABBITMQ_PASSWORD".to_owned(), Secret::new(value))]);
            let text = credentials_text(&values).unwrap();
            let lines::Lines { values: read, faults } =
                lines::read(text.expose().as_bytes(), |_| None);
            assert_eq!(faults, []);
            assert_eq!(read["RABBITMQ_PASSWORD"], value);
            assert_eq!(read["REQUIRE_TLS"], "1", "what is not given stands as in the example");
            let by_hand = ["credentials.env.example", "cp ", "chmod"];
            assert!(by_hand.iter().all(|words| !text.expose().contains(words)));
            assert!(
                text.expose().starts_with(HEAD) && text.expose().contains("\n# One NAME=value")
            );
        }
        for value in ["two\nlines", "\u{1b}[0m", "\0"] {
            assert!(assignment("A", &Secret::new(value)).is_err());
        }
    }
}

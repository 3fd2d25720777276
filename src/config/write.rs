//! Writes `credentials.env`: the example with its explanations, and the values that are given.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::env::VARIABLES;
use super::load::{Problem, Reader};
use base::secret::Secret;

const EXAMPLE: &str = include_str!("../../credentials.env.example");

/// What is wrong with these values, if they were the whole configuration of an installation in `home`.
pub fn problems(home: &Path, values: impl Iterator<Item = (String, String)>) -> Vec<Problem> {
    let mut reader = Reader::new(values.collect::<HashMap<_, _>>(), home.to_path_buf());
    reader.read(home, None, None);
    reader.problems
}

/// The text of a `credentials.env` with these values; the other variables stand in it as in the example.
///
/// # Errors
/// The name of a variable whose value can't stand in a line.
pub fn credentials_text(values: &BTreeMap<String, Secret>) -> Result<Secret, String> {
    let mut lines = Vec::new();
    // How to make the file by hand is of no use in it.
    for line in EXAMPLE.lines() {
        let name = line.trim_start_matches('#').split_once('=').map(|(name, _)| name);
        let known = name.filter(|name| VARIABLES.iter().any(|variable| variable.name == *name));
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

/// `NAME='value'`; single quotes of the value stand in double ones.
fn assignment(name: &str, value: &Secret) -> Result<String, String> {
    let value = value.expose();
    let line = format!("{name}='{}'", value.replace('\'', r#"'"'"'"#));
    let read_back = || {
        let (read_name, read) = dotenvy::from_read_iter(line.as_bytes()).next()?.ok()?;
        (read_name == name && read == value).then_some(())
    };
    let fits = !value.chars().any(char::is_control) && read_back().is_some();
    if fits { Ok(line) } else { Err(name.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_passwords_are_read_back_as_they_were() {
        for value in ["pass", "pa ss", "s3$cret#", "it's", "'", "\"x\"", r"back\slash", "a'b\"c$d`e", "ü=ß"]
        {
            let values = BTreeMap::from([("RABBITMQ_PASSWORD".to_owned(), Secret::new(value))]);
            let text = credentials_text(&values).unwrap();
            let read: HashMap<String, String> =
                dotenvy::from_read_iter(text.expose().as_bytes()).map(Result::unwrap).collect();
            assert_eq!(read["RABBITMQ_PASSWORD"], value);
            assert_eq!(read["REQUIRE_TLS"], "1", "what is not given stands as in the example");
        }
        assert!(assignment("A", &Secret::new("two\nlines")).is_err());
    }
}

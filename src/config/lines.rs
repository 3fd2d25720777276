//! The lines of `credentials.env`: `NAME=value`, as a shell and the usual `.env` readers take them.
//!
//! This is a reader of our own, because nothing may be guessed where a password is read: a line
//! that can be understood in two ways is an error with its number. The dialect:
//!
//! - one variable a line, with or without `export`; blank lines and lines that begin with `#` mean
//!   nothing;
//! - `'…'` is taken as it stands, without any escape;
//! - in `"…"` and outside of quotes `\` takes the meaning from one of `\ ' " $` and the blank, and
//!   `$NAME` or `${NAME}` is the value of a variable that is set in the environment or further up;
//! - outside of quotes a blank ends the value, and only a comment (`#…`) may follow;
//! - quoted and unquoted pieces may stand side by side: `'it'"'"'s'`.

use std::collections::HashMap;

use thiserror::Error;
use zeroize::Zeroizing;

/// What is wrong with a line. The text of the line is never shown, because it may be part of a
/// password.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LineFault {
    /// Something else than `NAME=value`.
    #[error("is not NAME=value")]
    NotAssignment,
    /// A quotation mark without a second one.
    #[error("opens a quote that does not end in the same line")]
    OpenQuote,
    /// Text after the end of the value.
    #[error("has more after the end of its value")]
    MoreText,
    /// `#` where the value should begin: a comment, or the password's first character?
    #[error("has a value that begins with #")]
    Hash,
    /// A backslash before a character that needs none.
    #[error("has a backslash that escapes nothing")]
    Escape,
    /// `$NAME` of a variable that nobody has set.
    #[error("has a $ before the name of a variable that is not set")]
    Unset,
    /// `$` or `${` without the name of a variable.
    #[error("has a $ that no variable's name follows")]
    Dollar,
    /// Quotes of a word processor, which quote nothing.
    #[error("has a value that begins with a typographic quote")]
    TypographicQuote,
    /// A character that no value holds.
    #[error("holds a control character")]
    Control,
    /// Another encoding.
    #[error("is not UTF-8")]
    Encoding,
}

impl LineFault {
    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Encoding => {
                "type the line again in an editor that saves UTF-8, and leave the other lines as they are"
            }
            Self::TypographicQuote => "write the straight quote ' instead",
            Self::Control => "type the line again",
            _ => {
                "put a value that holds spaces, quotes, # or $ in single quotes \
                 (one with a single quote: in double ones, with \\ before each \", \\ and $)"
            }
        }
    }
}

/// The content of a file.
#[derive(Default)]
pub(super) struct Lines {
    /// The variables; of two lines with one name the later one counts.
    pub(super) values: HashMap<String, String>,
    /// Lines that can't be used: their number, from 1, and why.
    pub(super) faults: Vec<(usize, LineFault)>,
}

/// Reads all lines. `environment` says what a variable of the process is set to, for `$NAME`.
pub(super) fn read(text: &[u8], environment: impl Fn(&str) -> Option<String>) -> Lines {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut lines = Lines::default();
    for (number, bytes) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes).trim_ascii();
        if bytes.is_empty() || bytes.starts_with(b"#") {
            continue;
        }
        let set = |name: &str| environment(name).or_else(|| lines.values.get(name).cloned());
        let read = match std::str::from_utf8(bytes) {
            Ok(line) => assignment(line, &set),
            Err(_) => Err(LineFault::Encoding),
        };
        match read {
            Ok((name, value)) => {
                lines.values.insert(name.to_owned(), value);
            }
            Err(fault) => lines.faults.push((number, fault)),
        }
    }
    lines
}

/// Name and value of one line without the blanks around it.
fn assignment<'a>(
    line: &'a str,
    set: &dyn Fn(&str) -> Option<String>,
) -> Result<(&'a str, String), LineFault> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(LineFault::Control);
    }
    let after_export = || {
        let rest = line.strip_prefix("export")?;
        rest.starts_with(BLANKS)
            .then(|| rest.trim_start_matches(BLANKS))
            .filter(|rest| !rest.starts_with('='))
    };
    let line = after_export().unwrap_or(line);
    let (name, rest) = line.split_at(line.find(|c| !is_of_name(c)).unwrap_or(line.len()));
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err(LineFault::NotAssignment);
    }
    let rest = rest.trim_start_matches(BLANKS).strip_prefix('=').ok_or(LineFault::NotAssignment)?;
    if rest.starts_with('#') {
        return Err(LineFault::Hash);
    }
    let text = rest.trim_start_matches(BLANKS);
    if text.starts_with(['‘', '’', '‚', '“', '”', '„', '«', '»', '`', '´']) {
        return Err(LineFault::TypographicQuote);
    }
    Ok((name, value(text, set)?))
}

const BLANKS: [char; 2] = [' ', '\t'];

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

/// The value at the beginning of `text`, after which only blanks and a comment may follow.
fn value(text: &str, set: &dyn Fn(&str) -> Option<String>) -> Result<String, LineFault> {
    // It is wiped if the line turns out to be wrong.
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut is_quoted = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\'' if !is_quoted => {
                let (quoted, after) = rest.split_once('\'').ok_or(LineFault::OpenQuote)?;
                value.push_str(quoted);
                rest = after;
            }
            '"' => is_quoted = !is_quoted,
            '\\' => {
                let escaped = rest.chars().next().filter(|c| r#"\'"$ "#.contains(*c));
                value.push(escaped.ok_or(LineFault::Escape)?);
                rest = &rest[1..]; // each of them has one byte
            }
            '$' => rest = variable(rest, set, &mut value)?,
            ' ' | '\t' if !is_quoted => {
                let rest = rest.trim_start_matches(BLANKS);
                let is_comment = rest.is_empty() || rest.starts_with('#');
                return if is_comment { Ok(std::mem::take(&mut *value)) } else { Err(LineFault::MoreText) };
            }
            _ => value.push(c),
        }
    }
    if is_quoted { Err(LineFault::OpenQuote) } else { Ok(std::mem::take(&mut *value)) }
}

/// Adds the value of the variable whose name follows a `$`, and returns what stands behind the
/// name.
fn variable<'a>(
    rest: &'a str,
    set: &dyn Fn(&str) -> Option<String>,
    value: &mut String,
) -> Result<&'a str, LineFault> {
    let (name, rest) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once('}').ok_or(LineFault::Dollar)?,
        None => rest.split_at(rest.find(|c| !is_of_name(c) || c == '.').unwrap_or(rest.len())),
    };
    if name.is_empty() || !name.chars().all(is_of_name) {
        return Err(LineFault::Dollar);
    }
    value.push_str(&Zeroizing::new(set(name).ok_or(LineFault::Unset)?));
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::LineFault as F;
    use super::*;

    /// The value of `A` in this text.
    fn a(text: &str) -> Result<String, (usize, F)> {
        let environment = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        let mut lines = read(text.as_bytes(), environment);
        match lines.faults.first() {
            Some(fault) => Err(*fault),
            None => Ok(lines.values.remove("A").unwrap_or_else(|| "(unset)".to_owned())),
        }
    }

    #[test]
    fn lines_that_can_be_read() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=b\n", "b"),
            ("A=b\r\n", "b"),
            ("  A=b  ", "b"),
            ("\tA=b\t", "b"),
            ("A = b", "b"),
            ("A= b", "b"),
            ("A =b", "b"),
            ("A=", ""),
            ("A=  ", ""),
            ("A= # nothing", ""),
            ("export A=b", "b"),
            ("export\tA=b", "b"),
            ("  export   A = b", "b"),
            ("\u{feff}A=b", "b"),
            ("\u{feff}# a comment\nA=b", "b"),
            ("#A=c\nA=b", "b"),
            ("  # A=c\nA=b", "b"),
            ("\n\n  \nA=b", "b"),
            ("A=b # a comment", "b"),
            ("A=b\t# a 'comment", "b"),
            ("A=b#c", "b#c"),
            ("A=b=c==", "b=c=="),
            ("A=-x:/;!?&*()[]<>|~^%@,+", "-x:/;!?&*()[]<>|~^%@,+"),
            ("A=ü=ß€", "ü=ß€"),
            ("A=''", ""),
            ("A=\"\"", ""),
            ("A='b'", "b"),
            ("A=\"b\"", "b"),
            ("A=' b '", " b "),
            ("A=\" b \"", " b "),
            ("A='\tb\t'", "\tb\t"),
            ("A='   '", "   "),
            (r"A='pa\'", r"pa\"),
            (r"A='\'", r"\"),
            (r"A='pa\' # a comment", r"pa\"),
            (r"A='pa\n\$x'", r"pa\n\$x"),
            (r#"A="pa\\""#, r"pa\"),
            (r#"A="\"b\"""#, "\"b\""),
            (r#"A="it's""#, "it's"),
            (r#"A='say "x"'"#, "say \"x\""),
            (r#"A='it'"'"'s'"#, "it's"),
            (r"A='it'\''s'", "it's"),
            (r"A=a\ b", "a b"),
            (r"A=a\#b", "a#b"),
            (r"A=a\\b", r"a\b"),
            (r"A=\$x", "$x"),
            (r#"A="\$x""#, "$x"),
            ("A='$HOME'", "$HOME"),
            ("A=$HOME/x", "/home/me/x"),
            ("A=${HOME}x", "/home/mex"),
            ("A=\"$HOME\"", "/home/me"),
            ("A=$HOME$HOME", "/home/me/home/me"),
            ("B=b c\nA=$HOME", "(fault)"),
            ("B='b c'\nA=x$B", "xb c"),
            ("B_1=b\nA=$B_1.c", "b.c"),
            ("B=\nA=$B", ""),
            ("A=b\nA=c", "c"),
            ("A='a'b\"c\"", "abc"),
            ("A='a # b'", "a # b"),
            ("A.B=c", "(unset)"),
            ("export=c", "(unset)"),
            ("exporter=c\nA=b", "b"),
            ("", "(unset)"),
            ("\u{feff}", "(unset)"),
        ] {
            match value {
                "(fault)" => assert!(a(text).is_err(), "{text:?}"),
                value => assert_eq!(a(text).as_deref(), Ok(value), "{text:?}"),
            }
        }
    }

    #[test]
    fn lines_that_are_refused_by_their_number() {
        for (text, line, fault) in [
            ("A", 1, F::NotAssignment),
            ("\nA b", 2, F::NotAssignment),
            ("B=c\n=b", 2, F::NotAssignment),
            ("1A=b", 1, F::NotAssignment),
            (".A=b", 1, F::NotAssignment),
            ("A-B=c", 1, F::NotAssignment),
            ("export A", 1, F::NotAssignment),
            ("export", 1, F::NotAssignment),
            ("B=c\r\nÄ=b\r\n", 2, F::NotAssignment),
            ("A='b", 1, F::OpenQuote),
            ("A=b'", 1, F::OpenQuote),
            ("A=\"b", 1, F::OpenQuote),
            ("B=c\n\n# it's a comment\nA=top 'secret\n", 4, F::MoreText),
            ("B=c\nA='two\nlines'", 2, F::OpenQuote),
            ("A=\"two\nlines\"", 1, F::OpenQuote),
            (r#"A="pa\""#, 1, F::OpenQuote),
            (r"A='it\'s'", 1, F::OpenQuote),
            ("A=two words", 1, F::MoreText),
            ("A='two' 'words'", 1, F::MoreText),
            ("A=#b", 1, F::Hash),
            ("A=#", 1, F::Hash),
            (r"A=pa\ss", 1, F::Escape),
            (r"A=pa\n", 1, F::Escape),
            (r#"A="pa\new""#, 1, F::Escape),
            (r"A=pa\", 1, F::Escape),
            ("A=s3$cret", 1, F::Unset),
            ("A=\"s3$cret\"", 1, F::Unset),
            ("A=$B\nB=c", 1, F::Unset),
            ("A=pa$$word", 1, F::Dollar),
            ("A=pa$", 1, F::Dollar),
            ("A=pa$!", 1, F::Dollar),
            ("A=${B", 1, F::Dollar),
            ("A=${}x", 1, F::Dollar),
            ("A=${B C}", 1, F::Dollar),
            ("A=“b”", 1, F::TypographicQuote),
            ("A=‘b’", 1, F::TypographicQuote),
            ("A=`b`", 1, F::TypographicQuote),
            ("A='b\u{1b}'", 1, F::Control),
            ("B=c\nA=b\0", 2, F::Control),
            ("B=c\rA=b", 1, F::Control),
            ("A='b\u{85}'", 1, F::Control),
        ] {
            assert_eq!(a(text), Err((line, fault)), "{text:?}");
        }
    }

    #[test]
    fn a_line_in_another_encoding_is_named_and_the_others_are_read() {
        // Latin-1: a comment may be so, a value may not.
        let lines = read(b"# f\xfcr RabbitMQ\nB=c\nA='pass\xfcord'\nC=d\n", |_| None);
        assert_eq!(lines.faults, [(3, F::Encoding)]);
        assert_eq!((lines.values["B"].as_str(), lines.values["C"].as_str()), ("c", "d"));
        assert!(!lines.values.contains_key("A"));
    }

    #[test]
    fn every_fault_is_found_at_once_and_none_tells_the_line() {
        let lines = read(b"A=hunter2 x\nB='hunter2\nC=d\nD=hun$ter2\n", |_| None);
        assert_eq!(lines.faults, [(1, F::MoreText), (2, F::OpenQuote), (4, F::Unset)]);
        for (_, fault) in lines.faults {
            assert!(!format!("{fault} {fault:?} {}", fault.advice()).contains("hun"));
        }
    }
}

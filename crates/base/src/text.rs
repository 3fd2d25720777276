//! Foreign text, times and sizes, made fit to be shown.

use std::time::Duration;

/// Shortens a foreign text to at most `max` characters and takes out whatever a terminal could act
/// on.
pub fn printable(text: &str, max: usize) -> String {
    let mut shown: String = text
        .chars()
        .take(max)
        .map(|c| if acts_on_terminal(c) { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned();
    if text.chars().count() > max {
        shown.push('…');
    }
    shown
}

/// Columns of a terminal that is not wide.
pub const COLUMNS: usize = 80;

/// Adds a sentence to a text, broken into lines of at most [`COLUMNS`]. The first line goes on in
/// column `indent`, where the others begin.
pub fn wrap(text: &mut String, sentence: &str, indent: usize) {
    let mut column = indent;
    for word in printable(sentence, 2000).split_whitespace() {
        let width = word.chars().count();
        if column > indent && column + 1 + width > COLUMNS {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if column > indent {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

/// True for characters that a terminal obeys or that change the order of the text around them:
/// control characters, line separators, and the marks and isolates of bidirectional text.
pub fn acts_on_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A JSON text in which such characters are escaped, so that it can be shown. (In JSON they occur
/// in strings only.)
pub fn printable_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match acts_on_terminal(c) && c != '\n' {
            true => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => text.push(c),
        }
    }
    text
}

/// The longest sentence in a reply, in characters. A limit is needed because an error may repeat
/// what a message said.
const LONGEST_SENTENCE: usize = 4000;

/// An error's text as a sentence for a person.
pub fn sentence(text: &str) -> String {
    let text = printable(text, LONGEST_SENTENCE);
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    let rest = chars.as_str().trim_end_matches('.');
    format!("{first}{rest}.")
}

/// Bytes in hexadecimal, two characters each.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A word as a shell takes it: in quotes where it holds anything that a shell could act on.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The same in the line of a crontab, where a percent sign would end the command.
pub fn crontab_word(word: &str) -> String {
    shell_word(word).replace('%', r"\%")
}

/// A span of time, roughly: `40 s`, `12 min`, `3 h`, `5 d`.
pub fn span(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// The size of a file, roughly: `900 B`, `1.2 kB`, `34.5 MB`.
pub fn file_size(bytes: u64) -> String {
    let tenths =
        |unit: u64, name: &str| format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => tenths(1_000, "kB"),
        1_000_000..1_000_000_000 => tenths(1_000_000, "MB"),
        _ => tenths(1_000_000_000, "GB"),
    }
}

/// `m:ss`, or `h:mm:ss` from one hour on.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_short() {
        let spans =
            [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]);
        let sizes = [999, 1_000, 1_250_000, 25_990_000_000].map(file_size);
        assert_eq!(sizes, ["999 B", "1.0 kB", "1.2 MB", "25.9 GB"]);
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_could_act_on_it() {
        for (word, of_shell, of_crontab) in [
            ("/home/me/run_check", "/home/me/run_check", "/home/me/run_check"),
            ("--gres=gpu:1,x@y+z_9", "--gres=gpu:1,x@y+z_9", "--gres=gpu:1,x@y+z_9"),
            ("", "''", "''"),
            ("a b", "'a b'", "'a b'"),
            ("$HOME;`x`", "'$HOME;`x`'", "'$HOME;`x`'"),
            ("it's", r"'it'\''s'", r"'it'\''s'"),
            ("100%", "100%", r"100\%"),
            ("ü", "'ü'", "'ü'"),
        ] {
            assert_eq!(
                (shell_word(word).as_str(), crontab_word(word).as_str()),
                (of_shell, of_crontab)
            );
        }
    }

    #[test]
    fn bytes_have_two_digits_each() {
        assert_eq!(hex(&[0, 1, 0xab, 0xff]), "0001abff");
    }

    #[test]
    fn foreign_text_can_not_act_on_a_terminal() {
        assert_eq!(printable("a\u{1b}[31mred\nline", 40), "a [31mred line");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{2028}d\u{9b}e", 40), "a b c d e");
        let shown = printable_json(&serde_json::json!({"a": "\u{202e}\u{9b}\n"}).to_string());
        assert_eq!(shown, r#"{"a":"\u202e\u009b\n"}"#);
        assert_eq!(sentence("it says \u{1b}[2J."), "It says  [2J.");
        assert_eq!(sentence(&"x".repeat(5000)).chars().count(), 4002);
    }
}

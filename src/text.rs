//! Foreign text, made fit to be shown.

/// Shortens a foreign text to at most `max` characters and takes out whatever a terminal could act on.
pub fn printable(text: &str, max: usize) -> String {
    let mut shown: String = text
        .chars()
        .take(max)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned();
    if text.chars().count() > max {
        shown.push('…');
    }
    shown
}

/// An error's text as a sentence for a person.
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    let rest = chars.as_str().trim_end_matches('.');
    format!("{first}{rest}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_can_not_act_on_a_terminal() {
        assert_eq!(printable("a\u{1b}[31mred\nline", 40), "a [31mred line");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}

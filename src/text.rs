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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_can_not_act_on_a_terminal() {
        assert_eq!(printable("a\u{1b}[31mred\nline", 40), "a [31mred line");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}

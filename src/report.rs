//! What a person is told about a job that failed: one sentence, what happened and what to change.

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

//! Texts of others within the limits of a body.

/// At most so many bytes of a text, in one line.
pub(super) fn clip(text: &str, most: usize) -> String {
    let mut clipped = String::with_capacity(text.len().min(most));
    for c in text.chars().map(|c| if base::text::acts_on_terminal(c) { ' ' } else { c }) {
        if clipped.len() + c.len_utf8() > most {
            break;
        }
        clipped.push(c);
    }
    clipped
}

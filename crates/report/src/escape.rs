//! Foreign text made safe for HTML.

use base::text::printable;

/// The longest piece of foreign text that is shown, in characters.
pub(crate) const LONGEST: usize = 200;

/// Foreign text for an element or for an attribute in double quotes: shortened, and without
/// characters that a browser would act on.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable(text, LONGEST).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

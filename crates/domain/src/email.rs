//! Which e-mail addresses are taken.

/// An address that is safe in an argument list and a mail header: letters, digits and a few signs
/// around one `@`.
pub(crate) fn is_email(text: &str) -> bool {
    let word = |part: &str, signs: &str| {
        !part.is_empty()
            && !part.starts_with(['-', '.'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
    };
    text.len() <= 254
        && text.split_once('@').is_some_and(|(user, host)| {
            word(user, "._%+-") && word(host, ".-") && host.contains('.')
        })
}

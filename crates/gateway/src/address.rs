//! Texts in addresses.

/// A text as a part of an address: all bytes but letters, digits and `-._~` are escaped (RFC 3986).
pub(crate) fn percent(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(byte.into());
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_an_address_is_escaped() {
        for (text, escaped) in [
            ("report.html", "report.html"),
            ("Model 0.hdf5", "Model%200.hdf5"),
            ("a/../b?c#d&e=%", "a%2F..%2Fb%3Fc%23d%26e%3D%25"),
            ("\u{e9}", "%C3%A9"),
            ("", ""),
        ] {
            assert_eq!(percent(text), escaped);
        }
    }
}

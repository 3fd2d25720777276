//! Errors that say what to do about them.

use std::borrow::Cow;

/// An error whose text says what happened and, behind `; `, what to do about it if it knows that.
pub trait Advice: std::error::Error {
    /// What to do: the end of its text.
    fn advice(&self) -> Option<Cow<'static, str>> {
        None
    }

    /// What happened: its text without the advice.
    fn what(&self) -> String {
        let text = self.to_string();
        let what = self.advice().and_then(|advice| text.strip_suffix(&*advice)?.strip_suffix("; "));
        what.map_or_else(|| text.clone(), str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("it is full; really; {1}")]
    struct Full(Option<&'static str>, &'static str);

    impl Advice for Full {
        fn advice(&self) -> Option<Cow<'static, str>> {
            self.0.map(Cow::from)
        }
    }

    #[test]
    fn the_advice_is_taken_from_the_end_whatever_stands_before() {
        assert_eq!(Full(Some("empty it"), "empty it").what(), "it is full; really");
        assert_eq!(Full(None, "empty it").what(), "it is full; really; empty it");
        assert_eq!(Full(Some("other"), "empty it").what(), "it is full; really; empty it");
    }
}

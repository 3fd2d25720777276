//! Every reader of what a stranger or another program has written, each as a function of bytes that
//! panics when a promise is broken. libFuzzer calls them from `fuzz/`; the unit tests replay its
//! corpora and vary them.
//!
//! Built for tests and with the feature `fuzzing` only; no part of the product calls it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a promise that is broken must panic")]

#[cfg(feature = "gateway")]
mod doors;
mod files;
#[cfg(feature = "trainer")]
mod images;
mod messages;
#[cfg(feature = "trainer")]
mod models;
#[cfg(test)]
mod mutate;
#[cfg(test)]
mod replay;
mod slurm;
mod talk;
mod urls;

/// One reader and what it promises.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its folder in `fuzz/corpus`, and of its program.
    pub name: &'static str,
    /// Reads these bytes; panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Bytes that it may hold at a time, in addition to `per_byte`.
    pub memory: usize,
    /// Bytes that it may hold for each byte that it reads.
    pub per_byte: usize,
    /// How many varied inputs a test run tries.
    pub tries: u32,
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    // The JSON value of `[0,0,0…` takes 16 times the text.
    Target { name, run, memory: 1 << 20, per_byte: 100, tries: 2_000 }
}

/// All targets of this build.
pub const TARGETS: &[Target] = &[
    target("message", messages::message),
    target("settings", messages::settings),
    target("walltime", messages::walltime),
    Target { tries: 1_000, ..target("conversation", talk::conversation) },
    target("slurm", slurm::answers),
    target("url", urls::join),
    target("credentials", files::credentials),
    target("record", files::record),
    #[cfg(feature = "trainer")]
    Target { memory: 16 << 20, ..target("model", models::bytes) },
    #[cfg(feature = "trainer")]
    Target { memory: 64 << 20, tries: 100, ..target("model_edits", models::edits) },
    #[cfg(feature = "trainer")]
    Target { memory: 96 << 20, tries: 500, ..target("image", images::image) },
    #[cfg(feature = "trainer")]
    Target { memory: 16 << 20, tries: 300, ..target("archive", images::archive) },
    // Each run of a grid has all of the settings.
    #[cfg(feature = "gateway")]
    Target { memory: 8 << 20, ..target("run_request", doors::run_request) },
    #[cfg(feature = "gateway")]
    Target { memory: 8 << 20, ..target("settings_form", doors::settings_form) },
    #[cfg(feature = "gateway")]
    target("login_form", doors::login_form),
    #[cfg(feature = "gateway")]
    Target { memory: 4 << 20, tries: 500, ..target("multipart", doors::multipart) },
];

/// Asserts that a text can go to a terminal, a log or a reply as it is: short, and without anything
/// that acts on it.
fn assert_shown(text: &str) {
    let bad = text.chars().find(|c| c.is_control() && *c != '\n');
    assert!(bad.is_none(), "{bad:?} in {text:?}");
    assert!(text.len() <= 8_000, "a text of {} bytes: {:.200}", text.len(), text);
}

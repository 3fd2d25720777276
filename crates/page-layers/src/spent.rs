//! Where the time of a job goes: what a person who finds it slow looks at first.

use std::time::Duration;

/// How long each part of a training took, all layers together, in this run of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Reading pages and masks.
    pub decode: Duration,
    /// Drawing the samples of all layers.
    pub sample: Duration,
    /// Training steps, and everything that belongs to no other part.
    pub train: Duration,
    /// Computing the validation samples after each epoch.
    pub validate: Duration,
    /// Writing the models.
    pub write: Duration,
}

impl Spent {
    /// The parts by name, in the order in which they come.
    pub fn parts(&self) -> [(&'static str, Duration); 5] {
        let Self { decode, sample, train, validate, write } = *self;
        [
            ("decode", decode),
            ("sample", sample),
            ("train", train),
            ("validate", validate),
            ("write", write),
        ]
    }
}

/// Parts with their seconds, in one line: `decode 0.12 s, train 40.10 s`.
pub fn spent_line(parts: &[(&'static str, Duration)]) -> String {
    let part = |(name, took): &(&str, Duration)| format!("{name} {:.2} s", took.as_secs_f64());
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

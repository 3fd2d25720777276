//! What became of the joint calibration of a job's layers.

use serde_json::{Value, json};
use thiserror::Error;

use crate::layer::Layer;

/// What became of the joint calibration of a job's layers.
#[derive(Clone, Debug, PartialEq)]
pub enum Calibration {
    /// The job did not want it.
    Off,
    /// It is in the models.
    Done(Gain),
    /// The job wanted it, and the models are as they were trained.
    LeftOut(NotCalibrated),
}

/// What a calibration is good for, on pixels that no network has learned from. Each half of them
/// was judged with what was fitted on the other half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gain {
    /// Number of these pixels.
    pub pixels: u64,
    /// Mean F1 of the layers as they were trained.
    pub before: f64,
    /// Mean F1 of the layers with what was fitted.
    pub after: f64,
}

/// Why models are not calibrated.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum NotCalibrated {
    /// There is nothing to choose among.
    #[error("there is only one layer")]
    OneLayer,
    /// There is nothing to fit on.
    #[error(
        "{} has too few pixels on the pages that no network has learned from ({pixels})",
        layer.model_name()
    )]
    TooFew {
        /// The layer.
        layer: Layer,
        /// How many it has.
        pixels: u64,
    },
    /// The choice among the layers would not be better.
    #[error(
        "it would not be clearly better: F1 {:.3} instead of {:.3} on {} pixels that no network \
        has learned from",
        .0.after, .0.before, .0.pixels
    )]
    NoBetter(Gain),
    /// One of several pages would be cut worse.
    #[error(
        "page {page} would be worse: F1 {:.3} instead of {:.3} on {} of its pixels that no \
        network has learned from",
        gain.after, gain.before, gain.pixels
    )]
    WorsePage {
        /// Number of the page, from 1.
        page: usize,
        /// What it would be.
        gain: Gain,
    },
    /// The job was told to end, or is near its time limit.
    #[error("there was no time for it")]
    Stopped,
    /// A network could not be computed.
    #[error("a network can't be computed ({0})")]
    Network(String),
}

impl Calibration {
    /// A sentence's end for reports, such as `mean F1 0.712 → 0.774 on …`; `None` where the job did
    /// not want it.
    pub fn in_words(&self) -> Option<String> {
        match self {
            Self::Off => None,
            Self::Done(Gain { pixels, before, after }) => Some(format!(
                "mean F1 {before:.3} → {after:.3} on {pixels} pixels that no network has learned \
                 from"
            )),
            Self::LeftOut(why) => Some(format!("left out: {why}")),
        }
    }

    /// The same for programs; null where the job did not want it.
    pub fn to_json(&self) -> Value {
        let of = |done: bool, gain: Option<&Gain>, why: Option<String>| {
            json!({
                "done": done,
                "pixels": gain.map(|gain| gain.pixels),
                "f1_before": gain.map(|gain| gain.before),
                "f1_after": gain.map(|gain| gain.after),
                "left_out": why,
            })
        };
        match self {
            Self::Off => Value::Null,
            Self::Done(gain) => of(true, Some(gain), None),
            Self::LeftOut(why) => {
                let gain = match why {
                    NotCalibrated::NoBetter(gain) => Some(gain),
                    _ => None,
                };
                of(false, gain, Some(why.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAIN: Gain = Gain { pixels: 4711, before: 0.7123, after: 0.7741 };

    #[test]
    fn it_is_told_in_words_and_for_programs() {
        assert_eq!((Calibration::Off.in_words(), Calibration::Off.to_json()), (None, Value::Null));
        let done = Calibration::Done(GAIN);
        let words = "mean F1 0.712 → 0.774 on 4711 pixels that no network has learned from";
        assert_eq!(done.in_words().as_deref(), Some(words));
        assert_eq!(done.to_json()["f1_after"], 0.7741);
        assert_eq!(
            (&done.to_json()["done"], &done.to_json()["left_out"]),
            (&json!(true), &json!(null))
        );
    }

    #[test]
    fn whatever_the_reason_it_is_a_sentence() {
        let layer = Layer::Numbered(2);
        for (why, said) in [
            (NotCalibrated::OneLayer, "only one layer"),
            (NotCalibrated::TooFew { layer, pixels: 3 }, "Model 2 has too few pixels"),
            (
                NotCalibrated::NoBetter(GAIN),
                "not be clearly better: F1 0.774 instead of 0.712 on 4711",
            ),
            (NotCalibrated::WorsePage { page: 2, gain: GAIN }, "page 2 would be worse"),
            (NotCalibrated::Stopped, "no time"),
            (NotCalibrated::Network("out of memory".into()), "(out of memory)"),
        ] {
            let left_out = Calibration::LeftOut(why);
            let words = left_out.in_words().unwrap();
            assert!(words.starts_with("left out: ") && words.contains(said), "{words}");
            let json = left_out.to_json();
            assert_eq!(json["done"], false);
            assert!(words.ends_with(json["left_out"].as_str().unwrap()));
        }
    }
}

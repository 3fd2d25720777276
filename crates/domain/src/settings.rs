//! The settings of a job, by Rodan's names.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::choices::{Augmentation, Choice, PatchSelection, StoppingMetric};
use super::walltime::Walltime;

/// The `settings` object of a message, as it came; unknown names stay in it.
pub type SettingsMap = serde_json::Map<String, Value>;

pub(super) const EPOCHS: &str = "Maximum number of training epochs";
pub(super) const SAMPLES: &str = "Maximum number of samples per label";
const PATCH_HEIGHT: &str = "Patch height";
const PATCH_WIDTH: &str = "Patch width";
const BATCH_SIZE: &str = "Batch Size";
const PATIENCE: &str = "Patience";
const SEED: &str = "Seed";
const METRIC: &str = "Early stopping metric";
const SELECTION: &str = "Patch selection";
const BRIGHTNESS: &str = "Augmentation: brightness (%)";
const SHIFT: &str = "Augmentation: shift (pixels)";
const FLIP: &str = "Augmentation: flip";
pub(super) const CPUS: &str = "CPUs";
pub(super) const MEMORY: &str = "Maximum memory (MB)";
pub(super) const WALLTIME: &str = "Maximum time (D-HH:MM)";
const EMAIL: &str = "Slurm Notification Email";

/// The names of the settings that training understands: what `--set` may name.
pub const TRAINING_SETTINGS: [&str; 12] = [
    EPOCHS,
    SAMPLES,
    PATCH_HEIGHT,
    PATCH_WIDTH,
    BATCH_SIZE,
    PATIENCE,
    SEED,
    METRIC,
    SELECTION,
    BRIGHTNESS,
    SHIFT,
    FLIP,
];

/// How the layers are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingSettings {
    /// At most this many passes over the samples, 1 to 10,000.
    pub epochs: u32,
    /// At most this many samples a layer, 1 to 10,000,000.
    pub max_samples: u32,
    /// Height of a patch in pixels: a multiple of 4, 16 to 4096.
    pub patch_height: u32,
    /// Width of a patch in pixels: a multiple of 4, 16 to 4096.
    pub patch_width: u32,
    /// Patches in one training step, 1 to 1024.
    pub batch_size: u32,
    /// Epochs without a better one after which training stops, 0 to 10,000; 0 is as 1, as in Keras.
    pub patience: u32,
    /// Seed of every random choice; `None`: the trainer draws one and logs it.
    pub seed: Option<u64>,
    /// What makes an epoch better than another.
    pub metric: StoppingMetric,
    /// Which patches are learned from.
    pub selection: PatchSelection,
    /// How they vary.
    pub augmentation: Augmentation,
}

/// What the job asks Slurm for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceSettings {
    /// `--cpus-per-task`, 1 to 4096.
    pub cpus: u32,
    /// `--mem` in MB (Slurm's: 1,048,576 bytes), 1 to 100,000,000.
    pub memory_mb: u64,
    /// `--time`.
    pub walltime: Walltime,
    /// `--mail-user`, where one was given.
    pub email: Option<String>,
}

/// What a job's message says that Slurm is to be asked for: all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedResources {
    /// `--cpus-per-task`, 1 to 4096.
    pub cpus: Option<u32>,
    /// `--mem` in MB (Slurm's: 1,048,576 bytes), 1 to 100,000,000.
    pub memory_mb: Option<u64>,
    /// `--time`.
    pub walltime: Option<Walltime>,
    /// `--mail-user`, where one was given.
    pub email: Option<String>,
}

/// Settings that are missing or wrong: all of them at once.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{}", list(.0))]
pub struct SettingsError(Vec<String>);

fn list(problems: &[String]) -> String {
    let mut text = String::new();
    for (n, problem) in problems.iter().enumerate() {
        let _ = write!(text, "{}{problem}", if n == 0 { "" } else { "; " }); // writing to a String can't fail
    }
    text
}

struct Reader<'a> {
    map: &'a SettingsMap,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn number(&mut self, name: &'static str, default: Option<u64>, low: u64, high: u64) -> u64 {
        let value = match self.map.get(name) {
            None | Some(Value::Null) => default.or_else(|| {
                self.problems.push(format!("the setting \"{name}\" is missing"));
                None
            }),
            Some(value) => integer(value).filter(|n| (low..=high).contains(n)).or_else(|| {
                let got = base::text::printable(&value.to_string(), 40);
                let what =
                    format!("the setting \"{name}\" must be a whole number from {low} to {high}, not {got}");
                self.problems.push(what);
                None
            }),
        };
        value.unwrap_or(low)
    }

    fn small(&mut self, name: &'static str, default: Option<u64>, low: u32, high: u32) -> u32 {
        // The value is at most `high`, or `low` after a problem: both fit.
        u32::try_from(self.number(name, default, low.into(), high.into())).unwrap_or(low)
    }

    fn patch(&mut self, name: &'static str, default: Option<u64>) -> u32 {
        let side = self.small(name, default, 16, 4096);
        if !side.is_multiple_of(4) {
            let (below, above) = (side / 4 * 4, side / 4 * 4 + 4);
            self.problems.push(format!(
                "the setting \"{name}\" must be a multiple of 4 (the network halves the image twice), not {side}: use {below} or {above}"
            ));
        }
        side
    }

    fn choice<T: Choice>(&mut self, name: &'static str) -> T {
        let value = match self.map.get(name) {
            None | Some(Value::Null) => return T::default(),
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(other) => other.to_string(),
        };
        if let Some((_, choice)) = T::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(&value)) {
            return *choice;
        }
        let words: Vec<_> = T::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let got = base::text::printable(&value, 40);
        self.problems.push(format!("the setting \"{name}\" must be {}, not {got}", words.join(" or ")));
        T::default()
    }

    fn finish<T>(self, value: T) -> Result<T, SettingsError> {
        if self.problems.is_empty() { Ok(value) } else { Err(SettingsError(self.problems)) }
    }
}

/// A whole number, also where it was sent as text or as `15.0`.
fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64().or_else(|| {
            let whole = n.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f))?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be whole and in range"
            )]
            Some(whole as u64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

impl TrainingSettings {
    /// Reads the training settings of a job; only the numbers of epochs and samples and the patch size must be there.
    ///
    /// # Errors
    /// When settings are missing or out of range: all of them at once.
    pub fn from_job(map: &SettingsMap) -> Result<Self, SettingsError> {
        Self::read(map, [None; 4])
    }

    /// Reads the training settings of a local page, where each has a default: 15 epochs, 10,000 samples, 256×256.
    ///
    /// # Errors
    /// When settings are out of range: all of them at once.
    pub fn from_local(map: &SettingsMap) -> Result<Self, SettingsError> {
        Self::read(map, [Some(15), Some(10_000), Some(256), Some(256)])
    }

    fn read(map: &SettingsMap, defaults: [Option<u64>; 4]) -> Result<Self, SettingsError> {
        let mut reader = Reader { map, problems: Vec::new() };
        let (epochs, max_samples) =
            (reader.small(EPOCHS, defaults[0], 1, 10_000), reader.small(SAMPLES, defaults[1], 1, 10_000_000));
        let patch_height = reader.patch(PATCH_HEIGHT, defaults[2]);
        let patch_width = reader.patch(PATCH_WIDTH, defaults[3]);
        let settings = Self {
            epochs,
            max_samples,
            patch_height,
            patch_width,
            batch_size: reader.small(BATCH_SIZE, Some(16), 1, 1024),
            patience: reader.small(PATIENCE, Some(3), 0, 10_000),
            seed: match map.get(SEED) {
                None | Some(Value::Null) => None,
                Some(_) => Some(reader.number(SEED, None, 0, u64::MAX)),
            },
            metric: reader.choice(METRIC),
            selection: reader.choice(SELECTION),
            augmentation: Augmentation {
                brightness: reader.small(BRIGHTNESS, Some(0), 0, 50),
                shift: reader.small(SHIFT, Some(0), 0, patch_height.min(patch_width) / 2),
                flip: reader.choice(FLIP),
            },
        };
        reader.finish(settings)
    }
}

impl NamedResources {
    /// Reads what a job's message says that Slurm is to be asked for. A text of nothing names nothing.
    ///
    /// # Errors
    /// When settings are out of range, or the address is none: all of them at once.
    pub fn from_job(map: &SettingsMap) -> Result<Self, SettingsError> {
        let mut reader = Reader { map, problems: Vec::new() };
        let is_named = |name: &str| match map.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.trim().is_empty(),
            Some(_) => true,
        };
        let cpus = is_named(CPUS).then(|| reader.small(CPUS, None, 1, 4096));
        let memory_mb = is_named(MEMORY).then(|| reader.number(MEMORY, None, 1, 100_000_000));
        let walltime = map.get(WALLTIME).filter(|_| is_named(WALLTIME)).and_then(|value| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.parse::<Walltime>()
                .map_err(|error| reader.problems.push(format!("the setting \"{WALLTIME}\" {error}")))
                .ok()
        });
        let email = match map.get(EMAIL) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.trim().is_empty() => None,
            Some(Value::String(text)) if is_email(text.trim()) => Some(text.trim().to_owned()),
            Some(_) => {
                reader.problems.push(format!(
                    "the setting \"{EMAIL}\" is not an e-mail address; leave it empty for no mail"
                ));
                None
            }
        };
        reader.finish(Self { cpus, memory_mb, walltime, email })
    }
}

/// An address that is safe in an argument list and a mail header: letters, digits and a few signs around one `@`.
fn is_email(text: &str) -> bool {
    let word = |part: &str, signs: &str| {
        !part.is_empty()
            && !part.starts_with(['-', '.'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
    };
    text.len() <= 254
        && text
            .split_once('@')
            .is_some_and(|(user, host)| word(user, "._%+-") && word(host, ".-") && host.contains('.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rodan() -> SettingsMap {
        let settings = json!({
            EPOCHS: 15, SAMPLES: 10000, PATCH_HEIGHT: 256, PATCH_WIDTH: "128", CPUS: 6, MEMORY: 257_000,
            WALLTIME: "0-06:00", EMAIL: "", "Some later setting": [1, 2],
        });
        settings.as_object().unwrap().clone()
    }

    fn with(name: &str, value: Value) -> SettingsMap {
        let mut map = rodan();
        map.insert(name.into(), value);
        map
    }

    #[test]
    fn rodan_settings_are_read_with_the_defaults_of_the_optional_ones() {
        let training = TrainingSettings::from_job(&rodan()).unwrap();
        let expected = TrainingSettings {
            epochs: 15,
            max_samples: 10_000,
            patch_height: 256,
            patch_width: 128,
            batch_size: 16,
            patience: 3,
            seed: None,
            metric: StoppingMetric::Accuracy,
            selection: PatchSelection::Random,
            augmentation: Augmentation::default(),
        };
        assert_eq!(training, expected);
        let named = NamedResources::from_job(&rodan()).unwrap();
        assert_eq!((named.cpus, named.memory_mb, named.email), (Some(6), Some(257_000), None));
        assert_eq!(named.walltime.map(Walltime::seconds), Some(6 * 3600));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let map = json!({ EPOCHS: 0, PATCH_HEIGHT: 66, PATCH_WIDTH: 1.5, BATCH_SIZE: "many" });
        let error = TrainingSettings::from_job(map.as_object().unwrap()).unwrap_err().to_string();
        for part in [
            "\"Maximum number of training epochs\" must be a whole number from 1 to 10000, not 0",
            "\"Maximum number of samples per label\" is missing",
            "\"Patch height\" must be a multiple of 4 (the network halves the image twice), not 66: use 64 or 68",
            "\"Patch width\" must be a whole number from 16 to 4096, not 1.5",
            "\"Batch Size\" must be a whole number",
        ] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        let map = json!({ CPUS: 0, MEMORY: "much", WALLTIME: "soon" });
        let error = NamedResources::from_job(map.as_object().unwrap()).unwrap_err().to_string();
        assert!(["CPUs", "Maximum memory (MB)", "Maximum time"].iter().all(|p| error.contains(p)), "{error}");
    }

    #[test]
    fn addresses_that_could_be_something_else_are_refused() {
        let email = |text: &str| NamedResources::from_job(&with(EMAIL, json!(text))).map(|r| r.email);
        assert_eq!(email(" me+hpc@music.example.org "), Ok(Some("me+hpc@music.example.org".into())));
        for text in
            ["--wrap=x@y.z", "a@b", "a@b.c\nBcc: d@e.f", "a b@c.d", "a@b.c,d@e.f", "@b.c", "$(id)@b.c"]
        {
            assert!(email(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_slurm_is_asked_for_may_be_left_out() {
        let nothing = json!({});
        let empty = json!({ CPUS: "", MEMORY: null, WALLTIME: " ", EMAIL: "" });
        for map in [nothing, empty] {
            let named = NamedResources::from_job(map.as_object().unwrap());
            assert_eq!(named, Ok(NamedResources::default()));
        }
        let some = json!({ CPUS: "4", WALLTIME: 90 });
        let named = NamedResources::from_job(some.as_object().unwrap()).unwrap();
        assert_eq!((named.cpus, named.memory_mb), (Some(4), None));
        assert_eq!(named.walltime.map(Walltime::seconds), Some(5400));
    }

    #[test]
    fn a_seed_may_be_any_64_bit_number() {
        assert_eq!(TrainingSettings::from_job(&with(SEED, json!(u64::MAX))).unwrap().seed, Some(u64::MAX));
        assert!(TrainingSettings::from_job(&with(SEED, json!(-1))).is_err());
    }

    #[test]
    fn choices_are_words_and_the_shift_stays_within_the_patch() {
        let read = |name, value| TrainingSettings::from_job(&with(name, value));
        assert_eq!(read(METRIC, json!("f1")).unwrap().metric, StoppingMetric::F1);
        assert_eq!(read(SELECTION, json!(" covering ")).unwrap().selection, PatchSelection::Covering);
        assert!(read(FLIP, json!("horizontal")).unwrap().augmentation.flip.horizontal());
        assert_eq!(read(SHIFT, json!(64)).unwrap().augmentation.shift, 64);
        for (name, value, part) in [
            (METRIC, json!("speed"), "must be \"accuracy\" or \"F1\" or \"loss\", not speed"),
            (FLIP, json!(true), "must be \"none\" or \"horizontal\" or \"vertical\" or \"both\", not true"),
            (SHIFT, json!(65), "must be a whole number from 0 to 64, not 65"),
            (BRIGHTNESS, json!(51), "from 0 to 50"),
        ] {
            let error = read(name, value).unwrap_err().to_string();
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }
}

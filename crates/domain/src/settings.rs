//! The settings of a job: one table, a row a setting.
//!
//! From a row come: how the message is read and what is refused, what `--set` may name, the field
//! of the settings, what reports show, what a checkpoint depends on, `docs/settings.md` and the
//! help text. A new setting is a row here and the place that uses its field.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::choices::{Augmentation, Calibrate, Flip, PatchSelection, StoppingMetric, words};
use crate::instances::Instances;
use crate::values::{Allowed, SettingValue};
use crate::walltime::Walltime;

/// The `settings` object of a message, as it came; unknown names stay in it.
pub type SettingsMap = serde_json::Map<String, Value>;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Rodan's name of it.
    pub name: &'static str,
    /// The values that it may have.
    pub allowed: Allowed,
    /// The value where a message does not have it. `None`: the type decides; an `Option` may be
    /// absent, anything else must be there.
    pub default: Option<&'static str>,
    /// The value where a page in a folder does not have it, where that is another.
    pub local_default: Option<&'static str>,
    /// What it does: whole sentences.
    pub meaning: &'static str,
    /// The name by which `training.json` and `report.html` show the value that was used; `None` if
    /// they show it elsewhere.
    pub shown_as: Option<&'static str>,
    /// The site's variable that limits it.
    pub limit: Option<&'static str>,
    /// Another name of it, which counts where its own is absent.
    pub also: Option<&'static str>,
}

impl Setting {
    /// A row with defaults for the columns that most rows leave out.
    const fn new(name: &'static str, allowed: Allowed, meaning: &'static str) -> Self {
        let (default, local_default, shown_as, limit, also) = (None, None, None, None, None);
        Self { name, allowed, default, local_default, meaning, shown_as, limit, also }
    }

    const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn or_local(self, default: &'static str) -> Self {
        Self { local_default: Some(default), ..self }
    }

    const fn shown_as(self, name: &'static str) -> Self {
        Self { shown_as: Some(name), ..self }
    }

    const fn limited_by(self, variable: &'static str) -> Self {
        Self { limit: Some(variable), ..self }
    }

    const fn also(self, name: &'static str) -> Self {
        Self { also: Some(name), ..self }
    }

    /// The values that it may have, in words.
    pub fn in_words(&self) -> String {
        match self.allowed {
            Allowed::Number { low, high: u64::MAX, .. } => format!("a whole number from {low}"),
            Allowed::Number { low, high, step: 1 } => format!("{low} to {high}"),
            Allowed::Number { low, high, step } => format!("{low} to {high}, a multiple of {step}"),
            Allowed::Words(words) => words().join(", "),
            Allowed::Walltime => "D-HH:MM, HH:MM:SS or minutes".to_owned(),
            Allowed::Email => "an e-mail address".to_owned(),
            Allowed::Instances => format!("1 to {}, or {}", Instances::MOST, Instances::AUTO),
        }
    }
}

const fn number(low: u64, high: u64) -> Allowed {
    Allowed::Number { low, high, step: 1 }
}

/// A side of a patch in pixels.
const SIDE: Allowed = Allowed::Number { low: 16, high: 4096, step: 4 };

/// Makes a table of settings and the struct of their values.
macro_rules! settings {
    (
        $(#[$doc:meta])* $table:ident => $(#[$struct_doc:meta])* $struct:ident
        $(($copy:ident))? {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $row:ident: $setting:expr;)*
        }
    ) => {
        $(
            $(#[$field_doc])*
            pub const $row: Setting = $setting;
        )*

        $(#[$doc])*
        pub const $table: &[Setting] = &[$($row),*];

        $(#[$struct_doc])*
        #[derive(Clone, Debug, PartialEq, Eq $(, $copy)?)]
        pub struct $struct {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $struct {
            /// The settings of a local page that names none.
            fn default() -> Self {
                let map = SettingsMap::new();
                let mut reader = Reader { map: &map, origin: Origin::Local, problems: Vec::new() };
                Self { $($field: reader.read::<$type>(&$row).unwrap_or_default(),)* }
            }
        }

        impl $struct {
            fn read(map: &SettingsMap, origin: Origin) -> Result<Self, SettingsError> {
                let mut reader = Reader { map, origin, problems: Vec::new() };
                $(let $field = reader.read::<$type>(&$row);)*
                match ($($field,)*) {
                    ($(Some($field),)*) if reader.problems.is_empty() => Ok(Self { $($field),* }),
                    _ => Err(SettingsError(reader.problems)),
                }
            }

            /// Each setting with the value that was used.
            pub fn values(&self) -> Vec<(&'static Setting, Value)> {
                const TABLE: &[Setting] = $table;
                let values = [$(SettingValue::to_json(&self.$field)),*];
                TABLE.iter().zip(values).collect()
            }
        }
    };
}

settings! {
    /// How a job is trained: what `--set` may name.
    TRAINING_SETTINGS =>
    /// How the layers are trained.
    TrainingSettings (Copy) {
        /// At most this many passes over the samples.
        epochs: u32 = EPOCHS: Setting::new(
            "Maximum number of training epochs", number(1, 10_000),
            "Passes over the samples, at most.",
        ).or_local("15").shown_as("epochs").limited_by("MAX_EPOCHS");
        /// At most this many samples a layer.
        max_samples: u32 = SAMPLES: Setting::new(
            "Maximum number of samples per label", number(1, 10_000_000),
            "Patches per layer, at most.",
        ).or_local("10000").shown_as("max_samples").limited_by("MAX_SAMPLES");
        /// Height of a patch in pixels.
        patch_height: u32 = PATCH_HEIGHT: Setting::new(
            "Patch height", SIDE,
            "Height of the pieces that the network sees, in pixels.",
        ).or_local("256");
        /// Width of a patch in pixels.
        patch_width: u32 = PATCH_WIDTH: Setting::new(
            "Patch width", SIDE,
            "Width of the pieces that the network sees, in pixels.",
        ).or_local("256");
        /// Patches in one training step.
        batch_size: u32 = BATCH_SIZE: Setting::new(
            "Batch Size", number(1, 1024),
            "Patches in one training step. Fewer take less memory.",
        ).or("16").shown_as("batch_size");
        /// Epochs without a better one after which training stops; 0 is as 1, as in Keras.
        patience: u32 = PATIENCE: Setting::new(
            "Patience", number(0, 10_000),
            "Epochs without a better one before training stops; 0 means 1, as in Keras.",
        ).or("3").shown_as("patience");
        /// Seed of every random choice; `None`: the trainer draws one and logs it.
        seed: Option<u64> = SEED: Setting::new(
            "Seed", number(0, u64::MAX),
            "Seed of all random choices; without it one is drawn and logged.",
        );
        /// What makes an epoch better than another.
        metric: StoppingMetric = METRIC: Setting::new(
            "Early stopping metric", Allowed::Words(words::<StoppingMetric>),
            "What makes an epoch better, on the validation patches: accuracy, F1 of the layer, or \
             loss. Until an epoch beats a \
             constant output (with F1: until it finds a pixel of the layer), epochs are compared \
             by loss.",
        ).or("accuracy").shown_as("early_stopping_metric");
        /// Which patches are learned from.
        selection: PatchSelection = SELECTION: Setting::new(
            "Patch selection", Allowed::Words(words::<PatchSelection>),
            "random: patches around random pixels of the layer. covering: patches are first chosen \
             so that each pixel of the layer that can be a patch's centre lies in at least one, as \
             far as their number allows. Either way, the last fifth validates.",
        ).or("random").shown_as("patch_selection");
        /// How many percent of a layer's patches lie around pixels of the other layers.
        around_others: u32 = AROUND_OTHERS: Setting::new(
            "Patches around other layers (%)", number(0, 90),
            "How many of a layer's patches lie around pixels of the other layers, so that it \
             learns what is not its own: only between its own first and last row. The \
             background's patches are all its own. 0: none, as in Rodan's trainer.",
        ).or("33").shown_as("patches_around_others_percent");
        /// Each patch gets lighter or darker by at most so many percent of white.
        brightness: u32 = BRIGHTNESS: Setting::new(
            "Augmentation: brightness (%)", number(0, 50),
            "In each epoch, patches get lighter or darker by at most this much.",
        ).or("0").shown_as("brightness_percent");
        /// Each patch is cut at most so many pixels farther up, down, left or right: at most half
        /// its smaller side.
        shift: u32 = SHIFT: Setting::new(
            "Augmentation: shift (pixels)", number(0, 2048),
            "In each epoch, patches are cut at most this far from where they were drawn; at most \
            half a patch.",
        ).or("0").shown_as("shift_pixels");
        /// Directions in which each patch is mirrored, each with a probability of one half.
        flip: Flip = FLIP: Setting::new(
            "Augmentation: flip", Allowed::Words(words::<Flip>),
            "Patches are mirrored at random in these directions.",
        ).or("none").shown_as("flip");
        /// Over about how many steps the weights are averaged; 0: not at all.
        average: u32 = AVERAGE: Setting::new(
            "Averaged steps", number(0, 10_000),
            "The weights that are validated and kept are an average over about so many of the \
             last steps, which jumps less from epoch to epoch. 0: those after the last step.",
        ).or("0").shown_as("averaged_steps");
        /// How much of a model that a layer goes on from stays in the new one, in percent.
        keep: u32 = KEEP: Setting::new(
            "Keep of the given models (%)", number(0, 90),
            "Where a layer goes on from a model: how much of its weights stays in the new model, \
             so that less of what it has learned from other pages is lost. 0: the new model is \
             as the new page has made it.",
        ).or("25").shown_as("keep_percent");
        /// Whether the layers are calibrated together once they are trained.
        calibrate: Calibrate = CALIBRATE: Setting::new(
            "Calibrate", Allowed::Words(words::<Calibrate>),
            "yes: once all layers are trained, their models are made comparable, on pixels that \
             none of them has learned from: the choice among them gets better, and where it would \
             not, the models stay as they are. The report says which.",
        ).or("yes").shown_as("calibrate");
    }
}

settings! {
    /// What a job asks Slurm for.
    RESOURCE_SETTINGS =>
    /// What a job's message says that Slurm is to be asked for: all of it may be left out.
    NamedResources {
        /// `--cpus-per-task`.
        cpus: Option<u32> = CPUS: Setting::new(
            "CPUs", number(1, 4096),
            "Cores of the Slurm job; of each task where there are several.",
        ).limited_by("MAX_CPUS");
        /// `--mem` in MB (Slurm's: 1,048,576 bytes).
        memory_mb: Option<u64> = MEMORY: Setting::new(
            "Maximum memory (MB)", number(1, 100_000_000), "Memory of the Slurm job; of each task \
            where there are several. 6000 is enough for the default patches and batch.",
        ).limited_by("MAX_MEMORY_MB");
        /// `--time`.
        walltime: Option<Walltime> = WALLTIME: Setting::new(
            "Maximum time (D-HH:MM)", Allowed::Walltime,
            "Time limit of the Slurm job, in every form of sbatch --time; one minute to 365 days.",
        ).limited_by("MAX_TIME");
        /// `--mail-user`, where one was given.
        email: Option<String> = EMAIL: Setting::new(
            "Slurm Notification Email", Allowed::Email,
            "The address that Slurm mails when the job begins, ends or fails.",
        );
        /// How many tasks train its layers.
        instances: Instances = INSTANCES: Setting::new(
            "Parallel instances", Allowed::Instances,
            "How many tasks train the layers side by side, each with the CPUs, the memory and the \
            GPU of a job. auto: one for each layer. More tasks than layers are not asked for. \
            `PARALLEL_INSTANCES` is the same.",
        ).or("1").limited_by("MAX_INSTANCES").also("PARALLEL_INSTANCES");
    }
}

/// The setting of training with this name.
pub fn training_setting(name: &str) -> Option<&'static Setting> {
    TRAINING_SETTINGS.iter().find(|setting| setting.name == name)
}

/// Settings that are missing or wrong: all of them at once.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{}", .0.join("; "))]
pub struct SettingsError(Vec<String>);

/// Where settings come from. This decides what happens if one is missing.
#[derive(Clone, Copy)]
enum Origin {
    /// A message, which has to have the most important ones.
    Job,
    /// A page in a folder, where each has a default.
    Local,
}

struct Reader<'a> {
    map: &'a SettingsMap,
    origin: Origin,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn read<T: SettingValue>(&mut self, setting: &Setting) -> Option<T> {
        let default = match self.origin {
            Origin::Job => setting.default,
            Origin::Local => setting.local_default.or(setting.default),
        };
        let default = default.map(Value::from);
        let named = |name: &str| self.map.get(name).filter(|value| !value.is_null());
        let given = named(setting.name).or_else(|| named(setting.also?)).or(default.as_ref());
        let read = match given {
            Some(value) => T::read(value, &setting.allowed),
            None => T::absent().ok_or_else(|| "is missing".to_owned()),
        };
        read.map_err(|what| self.problems.push(format!("the setting \"{}\" {what}", setting.name)))
            .ok()
    }
}

impl TrainingSettings {
    /// Reads the training settings of a job; only the numbers of epochs and samples and the patch
    /// size must be there.
    ///
    /// # Errors
    /// When settings are missing or out of range: all of them at once.
    pub fn from_job(map: &SettingsMap) -> Result<Self, SettingsError> {
        Self::read(map, Origin::Job)?.checked()
    }

    /// Reads the training settings of a local page, where each has a default.
    ///
    /// # Errors
    /// When settings are out of range: all of them at once.
    pub fn from_local(map: &SettingsMap) -> Result<Self, SettingsError> {
        Self::read(map, Origin::Local)?.checked()
    }

    /// What depends on more than one setting.
    fn checked(self) -> Result<Self, SettingsError> {
        let most = self.patch_height.min(self.patch_width) / 2;
        if self.shift <= most {
            return Ok(self);
        }
        let what = format!("must be a whole number from 0 to {most}, not {}", self.shift);
        Err(SettingsError(vec![format!("the setting \"{}\" {what}", SHIFT.name)]))
    }

    /// How patches vary.
    pub fn augmentation(&self) -> Augmentation {
        Augmentation { brightness: self.brightness, shift: self.shift, flip: self.flip }
    }

    /// What reports show of the settings, by their names there.
    pub fn shown(&self) -> Map<String, Value> {
        let shown =
            |(setting, value): (&Setting, Value)| Some((setting.shown_as?.to_owned(), value));
        self.values().into_iter().filter_map(shown).collect()
    }

    /// A text that differs between settings if a checkpoint of one can't be used with the other.
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        for (setting, value) in self.values() {
            let _ = writeln!(text, "{}={value}", setting.name); // writing to a String can't fail
        }
        text
    }
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
    /// How many tasks train the layers; cores and memory are those of one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub instances: u32,
}

fn one() -> u32 {
    1
}

fn is_one(instances: &u32) -> bool {
    *instances == 1
}

impl NamedResources {
    /// Reads what a job's message says that Slurm is to be asked for. An empty text counts as left
    /// out.
    ///
    /// # Errors
    /// When settings are out of range, or the address is none: all of them at once.
    pub fn from_job(map: &SettingsMap) -> Result<Self, SettingsError> {
        Self::read(map, Origin::Job)
    }
}

/// The settings of training as lines of a help text: name, what it may be, default of a page in a
/// folder.
pub fn help() -> String {
    let mut text = String::new();
    for setting in TRAINING_SETTINGS {
        let default = setting.local_default.or(setting.default);
        let default = default.map_or_else(String::new, |default| format!(" [default: {default}]"));
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {}: {}{default}", setting.name, setting.in_words());
    }
    text
}

/// `docs/settings.md`; `update` is the command that writes it anew.
pub fn markdown(update: &str) -> String {
    let mut text = format!(
        "# Settings of a job\n\nMade by `{update}` from the table in \
         `crates/domain/src/settings.rs`; a test compares.\n\n\
         The names are those of Rodan's workflows. In `settings.json` of a\n\
         [local page](local.md), and with `--set`, all of them are optional.\n\
         [Choosing settings](choosing.md) says which of them matter, and how the cluster chooses\n\
         what is left out. A setting with another name is kept and ignored.\n"
    );
    for (title, table) in [("Training", TRAINING_SETTINGS), ("The Slurm job", RESOURCE_SETTINGS)] {
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "\n## {title}\n\n| setting | values | default | what it does |\n|---|---|---|---|\n"
        );
        for setting in table {
            let default = match (setting.default, setting.local_default) {
                (Some(default), _) => default.to_owned(),
                (None, Some(local)) => format!("must be set; {local} for a page in a folder"),
                (None, None) if setting.name == SEED.name => "drawn".to_owned(),
                (None, None) if setting.name == EMAIL.name => "none".to_owned(),
                (None, None) => "chosen by the cluster".to_owned(),
            };
            let limit = setting.limit.map_or_else(String::new, |name| {
                format!(" A site may allow less ([`{name}`](variables.md)).")
            });
            let Setting { name, meaning, .. } = setting;
            let _ = writeln!(
                text,
                "| `{name}` | {} | {default} | {meaning}{limit} |",
                setting.in_words()
            );
        }
    }
    text
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;

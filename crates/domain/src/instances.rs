//! How many tasks train the layers of a job at a time.

use serde_json::Value;

use crate::values::{Allowed, SettingValue};

impl Instances {
    /// The most tasks that can be asked for by number. No job has more layers.
    pub const MOST: u64 = 64;
    /// The word for [`Self::Auto`].
    pub const AUTO: &str = "auto";
}

/// What a job's message asks for in `Parallel instances`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// So many tasks.
    Number(u32),
    /// As many as there are layers.
    Auto,
}

impl Default for Instances {
    fn default() -> Self {
        Self::Number(1)
    }
}

impl SettingValue for Instances {
    fn read(value: &Value, _: &Allowed) -> Result<Self, String> {
        match value.as_str().map(str::trim) {
            // An empty text counts as left out.
            Some("") => return Ok(Self::default()),
            Some(text) if text.eq_ignore_ascii_case(Self::AUTO) => return Ok(Self::Auto),
            _ => {}
        }
        let number = Allowed::Number { low: 1, high: Self::MOST, step: 1 };
        let or_auto = |error: String| format!("{error}; or {}", Self::AUTO);
        u32::read(value, &number).map(Self::Number).map_err(or_auto)
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => (*number).into(),
            Self::Auto => Self::AUTO.into(),
        }
    }
}

//! How many tasks train the layers of a job at a time.

use serde_json::Value;

use crate::values::{Allowed, SettingValue};

/// The most tasks that a job can ask for. No job has more layers.
pub(crate) const MOST: u64 = 64;

/// The word for as many tasks as there are layers.
pub(crate) const AUTO: &str = "auto";

impl Instances {
    /// The most that can be asked for by number.
    pub const MOST: u64 = MOST;
    /// The word for [`Self::Auto`].
    pub const AUTO: &str = AUTO;
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
        if value.as_str().is_some_and(|text| text.trim().eq_ignore_ascii_case(AUTO)) {
            return Ok(Self::Auto);
        }
        let number = Allowed::Number { low: 1, high: MOST, step: 1 };
        u32::read(value, &number).map(Self::Number).map_err(|error| format!("{error}; or {AUTO}"))
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => (*number).into(),
            Self::Auto => AUTO.into(),
        }
    }
}

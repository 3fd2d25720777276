//! What the value of a setting may be, and how it is read from a message.

use serde_json::Value;

use crate::choices::Choice;
use crate::email::is_email;
use crate::walltime::Walltime;

/// The values of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Allowed {
    /// A whole number of these, and a multiple of the last.
    Number {
        /// The lowest.
        low: u64,
        /// The highest.
        high: u64,
        /// What it is a multiple of.
        step: u64,
    },
    /// One of these words, in any case.
    Words(fn() -> Vec<&'static str>),
    /// A time limit of Slurm.
    Walltime,
    /// An e-mail address.
    Email,
    /// A number of tasks, or the word for as many as there are layers.
    Instances,
}

/// A type that a setting can have.
pub(crate) trait SettingValue: Sized {
    /// Reads a value; the error completes the sentence `the setting "NAME" ...`.
    fn read(value: &Value, allowed: &Allowed) -> Result<Self, String>;

    /// The value of a setting that is not there and has no default; `None` if it has to be there.
    fn absent() -> Option<Self> {
        None
    }

    /// The value as reports have it.
    fn to_json(&self) -> Value;
}

fn shown(value: &str) -> String {
    base::text::printable(value, 40)
}

impl SettingValue for u64 {
    fn read(value: &Value, allowed: &Allowed) -> Result<Self, String> {
        let Allowed::Number { low, high, step } = *allowed else {
            return Err("is no number".to_owned());
        };
        let n = integer(value).filter(|n| (low..=high).contains(n)).ok_or_else(|| {
            format!(
                "must be a whole number from {low} to {high}, not {}",
                shown(&value.to_string())
            )
        })?;
        if n.is_multiple_of(step) {
            return Ok(n);
        }
        // So far only the sides of patches have a step.
        let (below, above) = (n / step * step, n / step * step + step);
        Err(format!(
            "must be a multiple of {step} (the network halves the image twice), not {n}: use \
            {below} or {above}"
        ))
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }
}

impl SettingValue for u32 {
    fn read(value: &Value, allowed: &Allowed) -> Result<Self, String> {
        let n = u64::read(value, allowed)?;
        Self::try_from(n).map_err(|_| format!("must be at most {}, not {n}", Self::MAX))
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }
}

/// A setting that may be left out; an empty text counts as left out.
macro_rules! may_be_left_out {
    ($($type:ty),*) => {$(
        impl SettingValue for Option<$type> {
            fn read(value: &Value, allowed: &Allowed) -> Result<Self, String> {
                if value.as_str().is_some_and(|text| text.trim().is_empty()) {
                    return Ok(None);
                }
                <$type>::read(value, allowed).map(Some)
            }

            fn absent() -> Option<Self> {
                Some(None)
            }

            fn to_json(&self) -> Value {
                self.as_ref().map_or(Value::Null, SettingValue::to_json)
            }
        }
    )*};
}

may_be_left_out!(u32, u64, Walltime);

impl<T: Choice> SettingValue for T {
    fn read(value: &Value, _: &Allowed) -> Result<Self, String> {
        let text = value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_owned());
        let found = T::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<_> = T::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            format!("must be {}, not {}", words.join(" or "), shown(&text))
        })
    }

    fn to_json(&self) -> Value {
        self.word().into()
    }
}

impl SettingValue for Walltime {
    fn read(value: &Value, _: &Allowed) -> Result<Self, String> {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.parse::<Self>().map_err(|error| error.to_string())
    }

    fn to_json(&self) -> Value {
        self.to_string().into()
    }
}

impl SettingValue for Option<String> {
    fn read(value: &Value, _: &Allowed) -> Result<Self, String> {
        match value.as_str().map(str::trim) {
            Some("") => Ok(None),
            Some(text) if is_email(text) => Ok(Some(text.to_owned())),
            _ => Err("is not an e-mail address; leave it empty for no mail".to_owned()),
        }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn to_json(&self) -> Value {
        self.clone().into()
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

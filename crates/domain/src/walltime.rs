//! Slurm's time limits, in every form that `sbatch --time` takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A time limit in whole seconds, at least one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Walltime(u64);

/// A time limit that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WalltimeError {
    /// None of Slurm's forms.
    #[error("is not a time; write D-HH:MM (such as 0-06:00), HH:MM:SS or minutes")]
    Form,
    /// Less than a minute, which includes Slurm's 0 for "no limit".
    #[error("must be at least one minute")]
    TooShort,
    /// More than a year.
    #[error("must be at most 365 days")]
    TooLong,
}

impl Walltime {
    /// The shortest limit.
    pub const MINUTE: Self = Self(60);

    /// A limit of this many seconds.
    ///
    /// # Errors
    /// Below one minute or above 365 days.
    pub fn from_seconds(seconds: u64) -> Result<Self, WalltimeError> {
        match seconds {
            0..60 => Err(WalltimeError::TooShort),
            60..=31_536_000 => Ok(Self(seconds)),
            _ => Err(WalltimeError::TooLong),
        }
    }

    /// The limit in seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }
}

impl From<Walltime> for String {
    fn from(limit: Walltime) -> Self {
        limit.to_string()
    }
}

impl TryFrom<String> for Walltime {
    type Error = WalltimeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Walltime {
    type Err = WalltimeError;

    /// Reads `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`,
    /// `days-hours:minutes` and `days-hours:minutes:seconds` (the forms of sbatch's manual).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| match text.len() {
            1..=9 if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse::<u64>().map_err(|_| WalltimeError::Form)
            }
            _ => Err(WalltimeError::Form),
        };
        let (days, rest) = match text.trim().split_once('-') {
            Some((days, rest)) => (Some(number(days)?), rest),
            None => (None, text.trim()),
        };
        let parts: Vec<u64> = rest.split(':').map(number).collect::<Result<_, _>>()?;
        let (hours, minutes, seconds) = match (days, parts.as_slice()) {
            (Some(_), [h]) => (*h, 0, 0),
            (Some(_), [h, m]) => (*h, *m, 0),
            (_, [h, m, s]) => (*h, *m, *s),
            (None, [m]) => (0, *m, 0),
            (None, [m, s]) => (0, *m, *s),
            _ => return Err(WalltimeError::Form),
        };
        Self::from_seconds(days.unwrap_or(0) * 86_400 + hours * 3600 + minutes * 60 + seconds)
    }
}

impl fmt::Display for Walltime {
    /// `D-HH:MM:SS`, which every Slurm command reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        write!(f, "{}-{:02}:{:02}:{:02}", s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_sbatch_is_read() {
        for (text, seconds) in [
            ("90", 90 * 60),
            ("90:30", 90 * 60 + 30),
            ("01:30:00", 5400),
            ("1-12", 36 * 3600),
            ("0-06:00", 6 * 3600),
            ("2-00:00:30", 2 * 86_400 + 30),
            (" 1:00:00 ", 3600),
        ] {
            assert_eq!(text.parse::<Walltime>().map(Walltime::seconds), Ok(seconds), "{text}");
        }
        let limit: Walltime = "36:00:00".parse().unwrap();
        assert_eq!(limit.to_string(), "1-12:00:00");
        let kept = serde_json::to_string(&limit).unwrap();
        assert_eq!((kept.as_str(), serde_json::from_str(&kept).unwrap()), ("\"1-12:00:00\"", limit));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        use WalltimeError::{Form, TooLong, TooShort};
        for (text, error) in [
            ("", Form),
            ("six hours", Form),
            ("-1", Form),
            ("1:2:3:4", Form),
            ("1-", Form),
            ("1-1:1:1:1", Form),
            ("+5", Form),
            ("99999999999999999999", Form),
            ("0", TooShort),
            ("0:59", TooShort),
            ("366-0", TooLong),
        ] {
            assert_eq!(text.parse::<Walltime>(), Err(error), "{text}");
        }
    }
}

//! What a site gives one job at most, whatever its message asks for.

use crate::settings::{
    CPUS, EPOCHS, MEMORY, ResourceSettings, SAMPLES, SettingsError, TrainingSettings, WALLTIME,
};
use crate::walltime::Walltime;

/// The most that one job may ask for; what is `None` has no limit but the message's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteLimits {
    /// `CPUs`.
    pub cpus: Option<u32>,
    /// `Maximum memory (MB)`, in Slurm's MB (1,048,576 bytes).
    pub memory_mb: Option<u64>,
    /// `Maximum time (D-HH:MM)`.
    pub walltime: Option<Walltime>,
    /// `Maximum number of training epochs`.
    pub epochs: Option<u32>,
    /// `Maximum number of samples per label`.
    pub samples: Option<u32>,
}

/// What a site gives jobs that name nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteChoice {
    /// Cores.
    pub cpus: u32,
    /// Time, where no finished job tells a better one.
    pub walltime: Walltime,
    /// Whether jobs get a GPU.
    pub gpu: bool,
    /// What no choice goes beyond.
    pub limits: SiteLimits,
}

impl SiteLimits {
    /// Makes sure that a job asks for no more than the site gives.
    ///
    /// # Errors
    /// When it does: all settings at once, each with its limit and the variable that the operator can change.
    pub fn check(
        &self,
        training: &TrainingSettings,
        resources: &ResourceSettings,
    ) -> Result<(), SettingsError> {
        let number = |name, variable, asked: u64, most: Option<u64>| {
            most.filter(|most| asked > *most)
                .map(|most| beyond(name, variable, &asked.to_string(), &most.to_string()))
        };
        let problems: Vec<String> = [
            number(CPUS, "MAX_CPUS", resources.cpus.into(), self.cpus.map(u64::from)),
            number(MEMORY, "MAX_MEMORY_MB", resources.memory_mb, self.memory_mb),
            self.walltime
                .filter(|most| resources.walltime > *most)
                .map(|most| beyond(WALLTIME, "MAX_TIME", &resources.walltime.to_string(), &most.to_string())),
            number(EPOCHS, "MAX_EPOCHS", training.epochs.into(), self.epochs.map(u64::from)),
            number(SAMPLES, "MAX_SAMPLES", training.max_samples.into(), self.samples.map(u64::from)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if problems.is_empty() { Ok(()) } else { Err(SettingsError::new(problems)) }
    }
}

fn beyond(name: &str, variable: &str, asked: &str, most: &str) -> String {
    format!(
        "the setting \"{name}\" is {asked}, and this cluster gives a job at most {most}: lower it, or ask the operator of the cluster ({variable})"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: serde_json::Value) -> (TrainingSettings, ResourceSettings) {
        let map = value.as_object().unwrap();
        (TrainingSettings::from_job(map).unwrap(), ResourceSettings::from_job(map).unwrap())
    }

    #[test]
    fn each_setting_may_be_at_its_limit_and_not_one_above() {
        let asked = json!({"Maximum number of training epochs": 15, "Maximum number of samples per label": 2000,
            "Patch height": 64, "Patch width": 64, "CPUs": 8, "Maximum memory (MB)": 6000,
            "Maximum time (D-HH:MM)": "0-06:00"});
        let (training, resources) = settings(asked);
        assert_eq!(SiteLimits::default().check(&training, &resources), Ok(()));
        let at = SiteLimits {
            cpus: Some(8),
            memory_mb: Some(6000),
            walltime: Some("360".parse().unwrap()),
            epochs: Some(15),
            samples: Some(2000),
        };
        assert_eq!(at.check(&training, &resources), Ok(()));
        let one_over = [
            (SiteLimits { cpus: Some(7), ..at }, "CPUs", "MAX_CPUS"),
            (SiteLimits { memory_mb: Some(5999), ..at }, "Maximum memory (MB)", "MAX_MEMORY_MB"),
            (SiteLimits { walltime: Some("359".parse().unwrap()), ..at }, "0-06:00:00", "MAX_TIME"),
            (SiteLimits { epochs: Some(14), ..at }, "training epochs\" is 15", "MAX_EPOCHS"),
            (SiteLimits { samples: Some(1999), ..at }, "at most 1999", "MAX_SAMPLES"),
        ];
        for (limits, words, variable) in one_over {
            let error = limits.check(&training, &resources).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(&format!("({variable})")), "{error}");
            assert!(!error.contains(';'), "one problem: {error}");
        }
    }
}

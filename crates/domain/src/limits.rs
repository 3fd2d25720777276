//! The most that a site gives one job, whatever its message asks for.

use crate::settings::{
    CPUS, EPOCHS, INSTANCES, MEMORY, ResourceSettings, SAMPLES, Setting, TrainingSettings, WALLTIME,
};
use crate::walltime::Walltime;

/// The most that one job may ask for; `None` means no limit but that of the setting itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteLimits {
    /// `CPUs`, of each task.
    pub cpus: Option<u32>,
    /// `Maximum memory (MB)` of each task, in Slurm's MB (1,048,576 bytes).
    pub memory_mb: Option<u64>,
    /// `Maximum time (D-HH:MM)`.
    pub walltime: Option<Walltime>,
    /// `Maximum number of training epochs`.
    pub epochs: Option<u32>,
    /// `Maximum number of samples per label`.
    pub samples: Option<u32>,
    /// `Parallel instances`.
    pub instances: Option<u32>,
}

/// A host that runs the jobs itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its cores.
    pub cpus: u32,
    /// Its memory in MB, where that is known.
    pub memory_mb: Option<u64>,
}

/// What a site gives a job whose message names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteChoice {
    /// Cores.
    pub cpus: u32,
    /// The time limit, until finished jobs tell a better one.
    pub walltime: Walltime,
    /// Whether jobs get a GPU.
    pub gpu: bool,
    /// The host, where there is no Slurm.
    pub host: Option<Host>,
    /// What is chosen stays within these.
    pub limits: SiteLimits,
}

/// A setting that asks for more than the site gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// The setting, by Rodan's name.
    pub name: &'static str,
    /// What the job asks for.
    pub asked: String,
    /// What the site gives at most.
    pub most: String,
    /// The variable that the operator can change.
    pub variable: &'static str,
}

impl SiteLimits {
    /// All settings of a job that ask for more than the site gives; none where it keeps to its
    /// limits.
    pub fn exceeded_by(
        &self,
        training: &TrainingSettings,
        resources: &ResourceSettings,
    ) -> Vec<Beyond> {
        let beyond = |setting: &Setting, asked: String, most: String| Beyond {
            name: setting.name,
            asked,
            most,
            variable: setting.limit.unwrap_or("the site's limit"),
        };
        let number = |setting: &Setting, asked: u64, most: Option<u64>| {
            let most = most.filter(|most| asked > *most)?;
            Some(beyond(setting, asked.to_string(), most.to_string()))
        };
        let walltime = self.walltime.filter(|most| resources.walltime > *most);
        let walltime = walltime
            .map(|most| beyond(&WALLTIME, resources.walltime.to_string(), most.to_string()));
        let all = [
            number(&CPUS, resources.cpus.into(), self.cpus.map(u64::from)),
            number(&MEMORY, resources.memory_mb, self.memory_mb),
            walltime,
            number(&EPOCHS, training.epochs.into(), self.epochs.map(u64::from)),
            number(&SAMPLES, training.max_samples.into(), self.samples.map(u64::from)),
            number(&INSTANCES, resources.instances.into(), self.instances.map(u64::from)),
        ];
        all.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: serde_json::Value) -> (TrainingSettings, ResourceSettings) {
        let map = value.as_object().unwrap();
        let named = crate::NamedResources::from_job(map).unwrap();
        let resources = ResourceSettings {
            cpus: named.cpus.unwrap(),
            memory_mb: named.memory_mb.unwrap(),
            walltime: named.walltime.unwrap(),
            email: named.email,
            instances: 4,
        };
        (TrainingSettings::from_job(map).unwrap(), resources)
    }

    #[test]
    fn each_setting_may_be_at_its_limit_and_not_one_above() {
        let asked = json!({"Maximum number of training epochs": 15, "Maximum number of samples per \
            label": 2000,
            "Patch height": 64, "Patch width": 64, "CPUs": 8, "Maximum memory (MB)": 6000,
            "Maximum time (D-HH:MM)": "0-06:00"});
        let (training, resources) = settings(asked);
        assert_eq!(SiteLimits::default().exceeded_by(&training, &resources), []);
        let at = SiteLimits {
            cpus: Some(8),
            memory_mb: Some(6000),
            walltime: Some("360".parse().unwrap()),
            epochs: Some(15),
            samples: Some(2000),
            instances: Some(4),
        };
        assert_eq!(at.exceeded_by(&training, &resources), []);
        let one_over = [
            (SiteLimits { cpus: Some(7), ..at }, "CPUs", "8", "7", "MAX_CPUS"),
            (
                SiteLimits { memory_mb: Some(5999), ..at },
                "Maximum memory (MB)",
                "6000",
                "5999",
                "MAX_MEMORY_MB",
            ),
            (
                SiteLimits { walltime: Some("359".parse().unwrap()), ..at },
                "Maximum time (D-HH:MM)",
                "0-06:00:00",
                "0-05:59:00",
                "MAX_TIME",
            ),
            (
                SiteLimits { epochs: Some(14), ..at },
                "Maximum number of training epochs",
                "15",
                "14",
                "MAX_EPOCHS",
            ),
            (
                SiteLimits { samples: Some(1999), ..at },
                "Maximum number of samples per label",
                "2000",
                "1999",
                "MAX_SAMPLES",
            ),
            (
                SiteLimits { instances: Some(3), ..at },
                "Parallel instances",
                "4",
                "3",
                "MAX_INSTANCES",
            ),
        ];
        for (limits, name, asked, most, variable) in one_over {
            let beyond = Beyond { name, asked: asked.into(), most: most.into(), variable };
            assert_eq!(limits.exceeded_by(&training, &resources), [beyond]);
        }
    }
}

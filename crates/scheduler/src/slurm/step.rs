//! What a task of a job asks Slurm for inside its allocation, as srun's arguments.

use std::ffi::OsString;
use std::path::PathBuf;

/// A task of a job: a job step with a part of the allocation to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `--cpus-per-task`.
    pub cpus: u32,
    /// `--mem` in MB, where the job's own is known.
    pub memory_mb: Option<u64>,
    /// How many GPUs it gets.
    pub gpus: u32,
    /// More options of this site (`SITE_SRUN_OPTIONS`); they come last, so that they win.
    pub options: Vec<String>,
    /// What it runs.
    pub script: PathBuf,
    /// The arguments of that.
    pub arguments: Vec<OsString>,
}

impl Step {
    /// The arguments of srun. Slurm chooses the node, among those of the job with enough left.
    pub fn srun(&self) -> Vec<OsString> {
        let gres = if self.gpus == 0 { "none".to_owned() } else { format!("gpu:{}", self.gpus) };
        let mut words: Vec<OsString> = [
            "--nodes=1",
            "--ntasks=1",
            // No more than it asks for, so that the others have room beside it.
            "--exact",
            "--kill-on-bad-exit=0",
            "--export=ALL",
        ]
        .map(OsString::from)
        .into();
        words.push(format!("--cpus-per-task={}", self.cpus).into());
        words.extend(self.memory_mb.map(|memory| format!("--mem={memory}M").into()));
        words.push(format!("--gres={gres}").into());
        words.extend(self.options.iter().map(OsString::from));
        words.push(self.script.clone().into());
        words.extend(self.arguments.iter().cloned());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_a_part_of_the_allocation_and_the_sites_options_win() {
        let step = Step {
            cpus: 6,
            memory_mb: Some(4400),
            gpus: 1,
            options: vec!["--mpi=none".into(), "--mem=0".into()],
            script: "/home/hpc trainer/hpc_training.sh".into(),
            arguments: vec!["/spool/jobs/a/job.json".into(), "--task=2".into()],
        };
        let words = |step: &Step| {
            let words = step.srun().into_iter().map(|word| word.into_string().unwrap());
            words.collect::<Vec<_>>()
        };
        assert_eq!(
            words(&step),
            [
                "--nodes=1",
                "--ntasks=1",
                "--exact",
                "--kill-on-bad-exit=0",
                "--export=ALL",
                "--cpus-per-task=6",
                "--mem=4400M",
                "--gres=gpu:1",
                "--mpi=none",
                "--mem=0",
                "/home/hpc trainer/hpc_training.sh",
                "/spool/jobs/a/job.json",
                "--task=2",
            ]
        );
        let bare = Step { memory_mb: None, gpus: 0, ..step };
        assert!(words(&bare).contains(&"--gres=none".to_owned()));
        assert!(!words(&bare).contains(&"--mem=4400M".to_owned()));
    }
}

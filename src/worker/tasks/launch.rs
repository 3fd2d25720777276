//! How the tasks of a job are started.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::config::TrainerConfig;
use crate::worker::requeue::Allocation;
use scheduler::Kind;
use scheduler::slurm::Step;

/// How the tasks of a job are started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Launcher {
    /// Each as a step of Slurm: the program srun, and what every task asks for.
    Steps(PathBuf, Step),
    /// Each as a child of this process, on this node.
    Here,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(program, _) => write!(f, "{}", program.display()),
            Self::Here => f.write_str("this process"),
        }
    }
}

/// What all tasks of a job are started with.
#[derive(Clone, Debug)]
pub(super) struct Start<'a> {
    /// The job file, which leads to the job's directory.
    pub(super) job_file: &'a Path,
    /// How many tasks there are.
    pub(super) tasks: u32,
    /// No progress bar.
    pub(super) quiet: bool,
    /// Whether each task waits for a debugger.
    pub(super) debug_wait: bool,
}

impl Launcher {
    /// The way for this job.
    pub(super) fn of(config: &TrainerConfig, allocation: &Allocation) -> Self {
        if config.scheduler != Kind::Slurm {
            return Self::Here;
        }
        let number = |name: &str| std::env::var(name).ok()?.parse().ok();
        Self::steps(config, allocation.tasks, &number)
    }

    /// `number` reads a variable of Slurm. A node's memory and GPUs are those of all tasks that
    /// share it.
    fn steps(config: &TrainerConfig, tasks: u32, number: &dyn Fn(&str) -> Option<u64>) -> Self {
        let program =
            config.slurm_bin.as_ref().map_or_else(|| "srun".into(), |bin| bin.join("srun"));
        let on_a_node = number("SLURM_NTASKS_PER_NODE").unwrap_or_else(|| tasks.into()).max(1);
        let of_one = |name| number(name).map(|all| all / on_a_node);
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let step = Step {
            cpus: number("SLURM_CPUS_PER_TASK").map_or(1, small).max(1),
            memory_mb: of_one("SLURM_MEM_PER_NODE").filter(|memory| *memory > 0),
            gpus: of_one("SLURM_GPUS_ON_NODE").map_or(0, small),
            options: config.srun_options.clone(),
            script: config.batch_script.clone(),
            arguments: Vec::new(),
        };
        Self::Steps(program, step)
    }

    /// The command that starts a task.
    fn command(&self, task: u32, start: &Start<'_>) -> io::Result<Command> {
        let mut arguments: Vec<OsString> =
            vec![start.job_file.into(), format!("--task={task}").into()];
        if start.quiet {
            arguments.push("--quiet".into());
        }
        if start.debug_wait {
            arguments.push("--debug-wait".into());
        }
        // A step sees no more than its own GPU. Processes on one host have none.
        let (mut command, local_rank) = match self {
            Self::Steps(program, step) => {
                let mut command = Command::new(program);
                command.args(Step { arguments, ..step.clone() }.srun());
                // That of the job, which srun would take for its own.
                command.env_remove("SLURM_NTASKS_PER_NODE");
                (command, 0)
            }
            Self::Here => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(arguments);
                (command, task)
            }
        };
        command
            .env("RANK", task.to_string())
            .env("WORLD_SIZE", start.tasks.to_string())
            .env("LOCAL_RANK", local_rank.to_string())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Starts a task.
    pub(super) fn start(&self, task: u32, start: &Start<'_>) -> io::Result<Child> {
        self.command(task, start)?.spawn()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn config(slurm_bin: Option<&str>) -> TrainerConfig {
        let mut pairs = vec![
            ("RABBITMQ_USER", "u"),
            ("RABBITMQ_PASSWORD", "p"),
            ("RABBITMQ_HOST", "amqps://broker"),
            ("RODAN_HOST", "https://rodan"),
            ("HPC_TRAINER_HOME", "/home/t"),
            ("SITE_SRUN_OPTIONS", " --mpi=none  --overlap "),
        ];
        pairs.extend(slurm_bin.map(|bin| ("SITE_SLURM_BIN", bin)));
        let environment = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        TrainerConfig::load(&Sources { env_file: None, environment, unreadable: Vec::new() })
            .unwrap()
    }

    fn steps(slurm_bin: Option<&str>, variables: &[(&str, u64)]) -> (PathBuf, Step) {
        let number =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, n)| *n);
        match Launcher::steps(&config(slurm_bin), 4, &number) {
            Launcher::Steps(program, step) => (program, step),
            Launcher::Here => panic!("not as steps"),
        }
    }

    #[test]
    fn a_step_gets_its_part_of_what_its_node_has() {
        let (program, step) = steps(
            None,
            &[
                ("SLURM_CPUS_PER_TASK", 6),
                ("SLURM_NTASKS_PER_NODE", 2),
                ("SLURM_MEM_PER_NODE", 8800),
                ("SLURM_GPUS_ON_NODE", 2),
            ],
        );
        assert_eq!(program, Path::new("srun"));
        assert_eq!((step.cpus, step.memory_mb, step.gpus), (6, Some(4400), 1));
        assert_eq!(step.options, ["--mpi=none", "--overlap"]);
        assert_eq!(step.script, Path::new("/home/t/hpc_training.sh"));
        let (program, step) = steps(Some("/opt/slurm/bin"), &[]);
        assert_eq!(program, Path::new("/opt/slurm/bin/srun"));
        assert_eq!((step.cpus, step.memory_mb, step.gpus), (1, None, 0));
    }

    #[test]
    fn a_task_is_told_its_number_and_how_many_there_are() {
        let job_file = Path::new("/s/jobs/a/job.json");
        let start = Start { job_file, tasks: 4, quiet: true, debug_wait: false };
        let (program, step) = steps(None, &[]);
        for (launcher, local_rank) in [(Launcher::Steps(program, step), "0"), (Launcher::Here, "2")]
        {
            let command = launcher.command(2, &start).unwrap();
            let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(words[words.len() - 3..], ["/s/jobs/a/job.json", "--task=2", "--quiet"]);
            let told: Vec<_> = command
                .get_envs()
                .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
                .collect();
            assert_eq!(told, [("LOCAL_RANK", local_rank), ("RANK", "2"), ("WORLD_SIZE", "4")]);
            let waits = Start { quiet: false, debug_wait: true, ..start.clone() };
            let command = launcher.command(2, &waits).unwrap();
            let words: Vec<_> = command.get_args().collect();
            assert_eq!(words[words.len() - 2..], ["--task=2", "--debug-wait"]);
        }
    }
}

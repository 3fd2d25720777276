//! Several tasks train the layers of one job, side by side (`Parallel instances`).
//!
//! The batch script starts one `run_trainer`, as for every job. Where Slurm has given the job more
//! than one task, that process is the *leader*: it trains nothing. It fetches the files, finds out
//! what is wrong with them, starts the tasks, looks after them, and answers. Only the leader
//! speaks with RabbitMQ, only it publishes and asks for a requeue, and only its end is the job's
//! end. So everything that holds for a job with one task holds here by the same code, and `check`
//! sees nothing new but the tasks in the note.
//!
//! Each task is a job step of its own (`srun --ntasks=1 --exact`), which Slurm puts on a node of
//! the job: `run_trainer JOB_FILE --task=K`. Its end is known from the end of its srun. On a host
//! without Slurm, and where no step can be started, a task is a child process of the leader.
//!
//! What they share lies in the job's directory on the shared filesystem:
//!
//! ```text
//! tasks/inputs/                 the downloaded files
//! tasks/plan.json               settings, seed, inputs, the layers (the longest first)
//! tasks/run-JOB-RESTART/        one run of the Slurm job
//!     NAME.claim                the task that trains this layer; created by one task only
//!     NAME.done                 the layer is done: by whom, on what
//!     K.started, K.progress     task K has begun; where it stands
//!     K.failure                 what task K can't do, as the answer says it
//! checkpoint/NAME/              the layer's checkpoint, and its model once it is done
//! ```
//!
//! - **Who trains a layer?** The task that created its claim. A task that is done takes the first
//!   layer of the plan without one. The file server lets one task create a file.
//! - **A task dies.** The leader knows by the end of its srun. It removes the claims of that task,
//!   and starts it again; whichever task is free first goes on from the layer's checkpoint. A
//!   layer that loses its task again and again ends the job as the task has ended (by the same
//!   signal), and `check` answers by Slurm's word: out of memory, killed, and so on.
//! - **A task fails** (pages that can't be learned from, a disk that is full): the others are
//!   ended, and the leader answers with the error, as a single trainer does.
//! - **The leader dies, or a node fails.** Slurm ends the job and all of its steps. `check`
//!   answers, or Slurm starts the job again. Each start has claims of its own, so that a task which
//!   Slurm could not end claims nothing of the next start; the checkpoints are used again.
//! - **Time is nearly up.** Slurm warns the batch script, which is the leader, and it passes the
//!   signal on. The tasks write their checkpoints and end. Then the leader replies with the best of
//!   every layer, or asks Slurm for a requeue, by the rules of a single trainer.
//! - **The job is cancelled, preempted or requeued.** Slurm sends SIGTERM to all steps: the tasks
//!   write their checkpoints and end, and the leader sends no reply.
//!
//! A layer's samples, first weights and order depend on the job's seed and the layer, not on the
//! task. So on the CPU the models are, bit for bit, those of one task.

mod decide;
mod launch;
mod leader;
mod shared;
mod task;

pub(super) use leader::{Leader, Led};
pub(super) use shared::Shared;
pub(crate) use task::{TaskArgs, run as run_task};

# shellcheck shell=bash
# A cluster with GPUs, to start from. Copied to site.sh beside
# hpc_training.sh, which reads it in the job, before the trainer starts. It is not read by check on
# the login node.

# What the trainer opens on a GPU: CUDA 12 or 13, cuDNN 9 (docs/gpu.md). Without them it trains on
# the CPU.
#module load cuda/13.0 cudnn/9.14
# Or, without modules, the libraries that slurm/cuda-libraries has put together:
#. "$HPC_TRAINER_HOME/cuda/runtime.sh"

# Or a container (docs/gpu.md):
#module load apptainer
#export HPC_TRAINER_IMAGE=$HPC_TRAINER_HOME/hpc-trainer.sif

# Downloads go to $SLURM_TMPDIR where there is one, else to $TMPDIR: a disk of the node.
#export TMPDIR=/scratch/local/$SLURM_JOB_ID

# Nodes without a route of their own: a proxy for Rodan. RabbitMQ takes no proxy; without a route to
# it the reply stays in the spool, and check on the login node delivers it.
#export HTTPS_PROXY=http://proxy.example.org:3128

# One job that is to wait for a debugger, by the beginning of its id (docs/debugging.md):
#case ${SLURM_JOB_NAME:-} in hpct-0123abcd*) export HPC_TRAINER_DEBUG_WAIT=1 ;; esac

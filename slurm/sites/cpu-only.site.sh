# shellcheck shell=bash
# A cluster, or a single machine, without GPUs. Copied to site.sh beside
# hpc_training.sh. The trainer needs no module there.

# Less of the processor than it has, for comparisons: avx2 or portable.
#export HPC_TRAINER_SIMD=avx2

# Factors rounded to bfloat16 where the processor has AVX-512 BF16: a third less time
# (docs/performance.md, bf16).
#export HPC_TRAINER_CPU_PRECISION=bf16

# Downloads go to $SLURM_TMPDIR where there is one, else to $TMPDIR: a disk of the node.
#export TMPDIR=/scratch/local/$SLURM_JOB_ID

# Nodes without a route of their own: a proxy for Rodan.
#export HTTPS_PROXY=http://proxy.example.org:3128

# One job that is to wait for a debugger, by the beginning of its id (docs/debugging.md):
#case ${SLURM_JOB_NAME:-} in hpct-0123abcd*) export HPC_TRAINER_DEBUG_WAIT=1 ;; esac

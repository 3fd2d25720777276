#!/usr/bin/env bash
# The watcher: `check` submits it beside each training job, and Slurm starts it only when that job
# has failed.
#
#   sbatch --dependency=afternotok:SLURM_JOB --kill-on-invalid-dep=yes slurm/handle_failure.sh JOB
#
# It reports the failure at once, instead of with the next `check` of the crontab: it looks at this
# one job, as `check` does, and holds the same lock, so that there is one answer. Should it be lost,
# `check` answers later.
set -eu
unset CDPATH
umask 077

# Slurm runs a copy of this file from its spool, so $0 does not lead home.
HPC_TRAINER_HOME=${HPC_TRAINER_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
exec "$HPC_TRAINER_HOME/run_check" --watch \
    "${1:?which job? The name of its directory in spool/jobs}"

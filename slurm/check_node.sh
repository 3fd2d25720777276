#!/usr/bin/env bash
# The job of `check doctor --on-node`: looks from a compute node at what a training needs there, and
# writes what it saw into the directory that it is given.
#
#   sbatch slurm/check_node.sh DIRECTORY
set -eu
unset CDPATH
umask 077

# Slurm runs a copy of this file from its spool, so $0 does not lead home.
HPC_TRAINER_HOME=${HPC_TRAINER_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
export HPC_TRAINER_HOME

# The site's modules, as hpc_training.sh loads them: the trainer may not start without.
if [ -f "$HPC_TRAINER_HOME/site.sh" ]; then
    set +eu # the site's own code, and `module` itself, need not be strict
    # shellcheck source=/dev/null
    . "$HPC_TRAINER_HOME/site.sh"
    set -eu
fi

exec "$HPC_TRAINER_HOME/run_check" doctor --as-node "${1:?which directory?}"

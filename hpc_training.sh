#!/usr/bin/env bash
#SBATCH --job-name=hpc-trainer
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=6
#SBATCH --mem=32000
#SBATCH --time=0-06:00
#SBATCH --signal=B:USR1@120
#SBATCH --output=hpc-trainer-%j.log
#
# The batch script: `check` submits it with the job's own requests, which win over the lines above.
# Those are for use by hand:
#
#   sbatch hpc_training.sh JOB_FILE REPLY_QUEUE CORRELATION_ID
#
# With --debug-wait behind these, or HPC_TRAINER_DEBUG_WAIT=1 from site.sh, the trainer waits for a
# debugger before its first step (docs/debugging.md).
#
# Where a job has several tasks, the trainer starts this script again for each of them, by srun, as
# `hpc_training.sh JOB_FILE --task=NUMBER`: so a task has the same modules. RANK, WORLD_SIZE and
# LOCAL_RANK are set there.
set -eu
unset CDPATH
umask 077

# Slurm runs a copy of this file from its spool, so $0 does not lead home.
HPC_TRAINER_HOME=${HPC_TRAINER_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
export HPC_TRAINER_HOME

# ── The site's modules ────────────────────────────────────────────────────────────────────────────
# Everything a site needs before the program starts goes here, or into site.sh beside this file,
# which an update leaves alone. For example:
#   module load cuda/12.6 cudnn/9.5      (any CUDA 12 or 13, cuDNN 9: docs/gpu.md)
if [ -f "$HPC_TRAINER_HOME/site.sh" ]; then
    set +eu # the site's own code, and `module` itself, need not be strict
    # shellcheck source=/dev/null
    . "$HPC_TRAINER_HOME/site.sh"
    set -eu
fi
# ──────────────────────────────────────────────────────────────────────────────────────────────────

# As many threads as Slurm gave cores; more would only wait for each other.
threads=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-}}
if [ -n "$threads" ]; then
    export OMP_NUM_THREADS="$threads" RAYON_NUM_THREADS="$threads"
fi

# find_binary NAME: its path, or nothing.
find_binary() {
    local directory
    for directory in "$HPC_TRAINER_HOME" "$HPC_TRAINER_HOME/bin" \
        "$HPC_TRAINER_HOME/target/release"; do
        if [ -f "$directory/$1" ] && [ -x "$directory/$1" ]; then
            printf '%s\n' "$directory/$1"
            return
        fi
    done
}

# in_container ARGUMENTS…: becomes the trainer in the Apptainer image $HPC_TRAINER_IMAGE. Home, the
# configuration, the job's spool, the temporary directories and the certificate authority have the
# same paths inside. HPC_TRAINER_BIND in site.sh adds what else is read or written, such as client
# certificates and TENSORBOARD_DIR outside of home (/a,/b:/c).
in_container() {
    local runtime image=$HPC_TRAINER_IMAGE path options=() binds=${HPC_TRAINER_BIND:-}
    local config=${HPC_TRAINER_ENV_FILE:-}
    runtime=$(command -v apptainer || command -v singularity) || {
        echo "hpc_training.sh: HPC_TRAINER_IMAGE is set, but there is no apptainer: load its" \
            "module in site.sh." >&2
        exit 127
    }
    case $image in
    /* | *://*) ;;
    *) image=$HPC_TRAINER_HOME/$image ;;
    esac
    case $image in *://*) ;; *)
        if [ ! -e "$image" ]; then
            echo "hpc_training.sh: there is no image $image; build it from" \
                "slurm/hpc-trainer.def." >&2
            exit 127
        fi
        ;;
    esac
    if [ -f "${1:-}" ]; then
        path=$(readlink -f -- "$1")
        shift
        set -- "$path" "$@"
        # A job of check: its whole spool, for the report may have to follow the job to done/.
        case $path in
        */jobs/*/job.json) binds+=,${path%/jobs/*/job.json} ;;
        *) binds+=,$(dirname -- "$path") ;;
        esac
    fi
    # All of home is there.
    case $config in "$HPC_TRAINER_HOME"/*) config='' ;; esac
    for path in "$HPC_TRAINER_HOME" "$config" "${SLURM_TMPDIR:-}" "${TMPDIR:-}" \
        "${SSL_CERT_FILE:-}" "${SSL_CERT_DIR:-}"; do
        [ -z "$path" ] || [ ! -e "$path" ] || binds+=,$(readlink -m -- "$path"):$path
    done
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
        options=(--nv)
    fi
    # exec here too. Outside a terminal Apptainer hands the signals that it gets on to the trainer.
    exec "$runtime" exec ${options[@]+"${options[@]}"} --pwd "$HPC_TRAINER_HOME" \
        --bind "${binds#,}" "$image" run_trainer "$@"
}
[ -z "${HPC_TRAINER_IMAGE:-}" ] || in_container "$@"

trainer=$(find_binary run_trainer)
if [ -z "$trainer" ]; then
    echo "hpc_training.sh: there is no program run_trainer in $HPC_TRAINER_HOME, its bin or its" \
        "target/release." >&2
    echo "Build it there: cargo build --release" >&2
    exit 127
fi

# exec: Slurm's warning ahead of the time limit (--signal=B:…) goes to this process, and it has to
# be the trainer.
exec "$trainer" "$@"

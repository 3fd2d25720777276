#!/usr/bin/env bash
# A Jupyter server on pages and models: in a Slurm job of its own, or on this machine.
#
#   usage: slurm/notebook.sh [OPTION]… DIR [-- OPTIONS OF sbatch]
#
# DIR has what is to be looked at: the folder of a page, laid out as for run_trainer --local, and
# the folders with models (run_trainer's --out, or what a workflow has saved). models.ipynb is put
# into it, unless it is there, and shows them. Everything in DIR can be read and changed from the
# browser.
#
#   --here         on this machine, even where there is Slurm; Ctrl-C ends it
#   --time TIME    how long, as sbatch takes it (0-02:00). The server ends with its job
#   --cpus N       cores (2)
#   --mem MB       memory (8000)
#   --listen WHERE localhost: a tunnel through ssh to the node (the default); node: a tunnel through
#                  the login node, for clusters whose nodes take no ssh. Then the cluster's network
#                  reaches the port, and what you see crosses that network unencrypted
#   --with WHAT    lab, notebook, or server (no pages of its own, for programs). The first that is
#                  installed
#
# SBATCH_ACCOUNT, SBATCH_PARTITION and the like say what sbatch is asked for, or options behind --.
# Where site.sh is beside run_check it is read in the job before Python is looked for: load the
# site's Python there. PYTHON in the environment is the one with Jupyter (python3).
#
# The token is in ~/.hpc-trainer/notebook/token (HPC_TRAINER_NOTEBOOK names another folder), which
# this account alone can read; it is made when it is not there, and never stands in a command line.
#
# Exit codes: 0 it has ended, 1 it failed, 2 wrong usage, 3 something has to be installed first.
set -euo pipefail
umask 077
unset CDPATH

HOME_OF_THIS=${HPC_TRAINER_HOME:-$(dirname "$(dirname "$(readlink -f "$0")")")}
FOLDER=${HPC_TRAINER_NOTEBOOK:-$HOME/.hpc-trainer/notebook}

die() {
    echo "notebook.sh: $1" >&2
    exit "${2:-1}"
}

wrong() {
    echo "notebook.sh: $1; slurm/notebook.sh --help says how" >&2
    exit 2
}

# The token, drawn once.
make_token() {
    mkdir -p "$FOLDER"
    chmod 700 "$FOLDER"
    if [ ! -s "$FOLDER/token" ]; then
        od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$FOLDER/token.new"
        mv "$FOLDER/token.new" "$FOLDER/token"
    fi
    [ -O "$FOLDER/token" ] || die "$FOLDER/token belongs to another account"
    case $(stat -c %a "$FOLDER/token") in
    600 | 400) ;;
    *) die "others can read $FOLDER/token: remove it, and a new one is made" ;;
    esac
}

# has MODULE…: whether Python has these.
has() {
    "$PYTHON" -c 'import importlib.util, sys
sys.exit(not all(importlib.util.find_spec(name) for name in sys.argv[1:]))' "$@"
}

# Sets WITH to what is installed.
find_jupyter() {
    command -v "$PYTHON" >/dev/null || die "there is no $PYTHON: load its module in site.sh" 3
    if [ -z "$WITH" ]; then
        if has jupyterlab; then WITH=lab; elif has notebook; then WITH=notebook; fi
    fi
    case $WITH in
    lab) has jupyterlab && return ;;
    notebook) has notebook && return ;;
    server) has jupyter_server && return ;;
    esac
    die "$(command -v "$PYTHON") has no Jupyter${WITH:+ $WITH}: $PYTHON -m pip install jupyterlab \
h5py pillow" 3
}

# Becomes the shell around the server; tells in the file $1 where it listens: host and port.
serve() {
    local told=$1 module options=() host=127.0.0.1 server='' port='' runtime
    if [ -f "$HOME_OF_THIS/site.sh" ]; then
        set +eu
        # shellcheck source=/dev/null
        . "$HOME_OF_THIS/site.sh"
        set -eu
    fi
    find_jupyter
    case $WITH in
    lab) module=jupyterlab ;;
    notebook) module=notebook ;;
    *) module=jupyter_server ;;
    esac
    [ "$LISTEN" != node ] || host=$(hostname)
    [ "$(id -u)" != 0 ] || options=(--allow-root)
    # Where the server notes its port, with the token: on a disk of this machine.
    runtime=$(mktemp -d)
    # SC2064: as it is now.
    # shellcheck disable=SC2064
    trap "rm -rf '$runtime' '$told'" EXIT
    # A place to begin with, so that several servers do not look for the same ports. The server
    # takes the next one that is free.
    JUPYTER_TOKEN_FILE=$FOLDER/token JUPYTER_RUNTIME_DIR=$runtime \
        "$PYTHON" -m "$module" --no-browser --ServerApp.ip="$host" \
        --ServerApp.port=$((20000 + RANDOM % 12000)) --ServerApp.port_retries=100 \
        --ServerApp.root_dir="$DIR" --ServerApp.log_level=WARN ${options[@]+"${options[@]}"} \
        </dev/null &
    server=$!
    # SC2064: as it is now.
    # shellcheck disable=SC2064
    trap "kill $server 2>/dev/null || true" TERM INT HUP
    while [ -z "$port" ] && kill -0 "$server" 2>/dev/null; do
        sleep 0.2
        port=$(sed -n 's/.*"port": *\([0-9][0-9]*\).*/\1/p' "$runtime"/jpserver-*.json \
            2>/dev/null || true)
    done
    if [ -n "$port" ]; then
        echo "$(hostname) $port" >"$told.new"
        mv "$told.new" "$told"
        [ -n "${SLURM_JOB_ID:-}" ] || tell "$(hostname)" "$port"
    fi
    # A signal ends the waiting, not the server.
    while kill -0 "$server" 2>/dev/null; do wait "$server" || true; done
    [ -n "$port" ] || die "the server did not start"
}

# tell HOST PORT: how a person reaches it.
tell() {
    local me target=$2 here=127.0.0.1 end=localhost
    me=$(id -un)
    echo "The server runs on $1, at port $2, and shows $DIR."
    local login
    login=$(hostname -f 2>/dev/null || hostname)
    if [ $SLURM = 0 ]; then
        # With --listen node it listens at the name of this machine alone.
        [ "$LISTEN" != node ] || here=$1 end=$1
        echo "On this machine open http://$here:$2/"
        echo "From another one, type there, and leave it running:"
        echo "  ssh -N -L 8888:$end:$target $me@$1"
    elif [ "$LISTEN" = node ]; then
        echo "On your own computer type, and leave it running:"
        echo "  ssh -N -L 8888:$1:$target $me@$login"
    else
        echo "On your own computer type, and leave it running:"
        echo "  ssh -N -L 8888:localhost:$target -J $me@$login $me@$1"
    fi
    echo "and open http://localhost:8888/. It asks for the token in $FOLDER/token"
}

# Where the job stands, for as long as it is in the queue.
state() {
    squeue --noheader --jobs="$1" --format='%T %r' 2>/dev/null || true
}

submit() {
    local id told state='' seen='' log
    command -v sbatch >/dev/null || die "there is no sbatch: use --here"
    log=$FOLDER/%j.log
    id=$(sbatch --parsable --job-name=hpc-notebook --nodes=1 --ntasks=1 --cpus-per-task="$CPUS" \
        --mem="$MEM" --time="$TIME" --output="$log" --open-mode=truncate --export=ALL \
        ${MORE[@]+"${MORE[@]}"} \
        "$(readlink -f "$0")" --inside --listen "$LISTEN" ${WITH:+--with "$WITH"} "$DIR") ||
        die 'sbatch has not taken the job'
    id=${id%%;*} log=$FOLDER/$id.log told=$FOLDER/$id.place
    trap 'echo; echo "The server goes on. To end it: scancel '"$id"'"; exit 0' INT
    while [ ! -s "$told" ]; do
        state=$(state "$id")
        if [ -z "$state" ]; then
            # squeue may be away for a moment; a job that is over has left its log.
            sleep 2
            state=$(state "$id")
            [ -n "$state" ] || [ -s "$told" ] || {
                cat "$log" >&2 2>/dev/null || true
                die "the job $id has ended before the server ran; its log is $log"
            }
        fi
        [ "$state" = "$seen" ] || echo "job $id: $state"
        seen=$state
        [ -s "$told" ] || sleep 1
    done
    # SC2046: two words.
    # shellcheck disable=SC2046
    tell $(cat "$told")
    echo "It ends with its job: in $TIME, or by: scancel $id"
}

INSIDE=0 SLURM=1 TIME=0-02:00 CPUS=2 MEM=8000 LISTEN=localhost WITH='' DIR='' MORE=()
PYTHON=${PYTHON:-python3}
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --inside) INSIDE=1 ;;
    --here) SLURM=0 ;;
    --time | --cpus | --mem | --listen | --with)
        [ $# -gt 1 ] || wrong "$1 wants a value"
        case $1 in
        --time) TIME=$2 ;;
        --cpus) CPUS=$2 ;;
        --mem) MEM=$2 ;;
        --listen) LISTEN=$2 ;;
        --with) WITH=$2 ;;
        esac
        shift
        ;;
    --)
        shift
        MORE=("$@")
        break
        ;;
    -*) wrong "what is «$1»?" ;;
    *)
        [ -z "$DIR" ] || wrong 'one DIR only'
        DIR=$1
        ;;
    esac
    shift
done
[ -n "$DIR" ] || wrong 'which DIR?'
case $LISTEN in localhost | node) ;; *) wrong '--listen takes localhost or node' ;; esac
case $WITH in
'' | lab | notebook | server) ;;
*) wrong '--with takes lab, notebook or server' ;;
esac
case $CPUS$MEM in *[!0-9]*) wrong '--cpus and --mem take a number' ;; esac
[ -d "$DIR" ] || die "there is no folder $DIR" 2
DIR=$(readlink -f "$DIR")

if [ $INSIDE = 1 ]; then
    serve "$FOLDER/$SLURM_JOB_ID.place"
    exit
fi
make_token
if [ ! -e "$DIR/models.ipynb" ]; then
    cp "$HOME_OF_THIS/examples/models.ipynb" "$DIR/models.ipynb" 2>/dev/null ||
        echo "models.ipynb can't be put into $DIR; the server is started without it" >&2
fi
[ $SLURM = 0 ] || command -v sbatch >/dev/null || SLURM=0
if [ $SLURM = 0 ]; then
    # Not as a part of a job, in which this may be called.
    unset SLURM_JOB_ID
    serve "$FOLDER/here-$$.place"
    exit
fi
export HPC_TRAINER_HOME=$HOME_OF_THIS HPC_TRAINER_NOTEBOOK=$FOLDER PYTHON
submit

#!/usr/bin/env bash
# Seconds and memory of one training step: ours, TensorFlow's and PyTorch's, in turns on the same
# cores; one table.
#
#   usage: bench/compare.sh [OPTIONS]     (bench/compare.sh -h lists the options)
#
# Nothing else may run meanwhile: the last line says whether something did. The defaults take about
# seven minutes on two cores and 15 GB of memory. TensorFlow is that of HPC_TRAINER_TEST_PYTHON or
# of the .venv of ./run_tests; what is missing is installed into target/peers the first time
# (TensorFlow 0.6 GB; PyTorch 3 GB or more, unless pip is pointed to an index with CPU builds).
# PyTorch's compiled step needs a C++ compiler.
set -euo pipefail
unset CDPATH
root=$(dirname "$(readlink -f "$0")")/..
target=${CARGO_TARGET_DIR:-$root/target}
peers=$target/peers
tensorflow=2.15.1

# Whether a Python has a module, without importing it.
has() {
    [ -x "$1" ] && "$1" -c "import importlib.util, sys
sys.exit(importlib.util.find_spec('$2') is None)"
}

# given OPTION ARGUMENTS…: whether the option is among the arguments.
given() {
    local option=$1 argument
    shift
    for argument; do
        case $argument in "$option" | "$option"=*) return 0 ;; esac
    done
    return 1
}

# make_peers PACKAGE…: an environment of their own.
make_peers() {
    local python
    if [ ! -x "$peers/bin/python" ]; then
        for python in python3.11 python3.10 python3.9 python3; do
            # TensorFlow 2.15 exists for these.
            "$python" -c 'import sys, venv, ensurepip
sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null && break
            python=
        done
        if [ -z "$python" ]; then
            echo "bench/compare.sh: TensorFlow $tensorflow needs Python 3.9 to 3.11 with its venv" \
                "module" >&2
            return 1
        fi
        "$python" -m venv "$peers"
    fi
    echo "Installing $* into $peers …" >&2
    "$peers/bin/pip" install --quiet --disable-pip-version-check "$@" >&2
}

if given -h "$@" || given --help "$@"; then
    exec python3 "$root/bench/compare.py" -h
fi
without=
for argument; do
    [ "${previous-}" != --without ] || without=$argument
    case $argument in --without=*) without=${argument#*=} ;; esac
    previous=$argument
done

if ! given --tensorflow "$@" && [[ ,$without, != *,tensorflow,* ]]; then
    for python in "${HPC_TRAINER_TEST_PYTHON:-}" "$root/.venv/bin/python" "$peers/bin/python"; do
        ! has "$python" tensorflow || break
        python=
    done
    if [ -z "$python" ] && make_peers "tensorflow-cpu==$tensorflow" 'numpy<2'; then
        python=$peers/bin/python
    fi
    [ -z "$python" ] || set -- "$@" --tensorflow "$python"
fi
if ! given --torch "$@" && [[ ,$without, != *,torch-f32,* || ,$without, != *,torch-bf16,* ]]; then
    has "$peers/bin/python" torch || make_peers torch 'numpy<2' || true
    if has "$peers/bin/python" torch; then
        set -- "$@" --torch "$peers/bin/python"
    else
        echo 'bench/compare.sh: PyTorch can not be installed; it is left out' >&2
    fi
fi
if ! given --ours "$@"; then
    cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml" --example time_steps
    set -- --ours "$target/release/examples/time_steps" "$@"
fi
exec python3 "$root/bench/compare.py" "$@"

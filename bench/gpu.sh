#!/usr/bin/env bash
# The GPU's figures in one unattended run: does it compute what the CPU computes, how long does a
# training step take in each precision beside PyTorch's, how much memory, and how long does a whole
# small training take. Prints one table.
#
# It needs no Rust, no CUDA toolkit of its own and no network. What to carry to the machine with the
# GPU (from the repository's root, after `cargo build --release --bin run_trainer`):
#
#   target/release/run_trainer, bench/gpu.sh, bench/peer_torch_step.py, and examples/page as page/
#
# into one folder; or the whole checkout. The machine needs a driver for the GPU; libnvrtc and cuDNN
# 9 (a toolkit's module, or the Python packages that come with PyTorch, which are found by
# themselves); and for the rows of the peer, PyTorch in the python3 that PATH finds.
#
#   gpu.sh [--out DIR]       DIR [gpu-results]: everything that was printed, and gpu.tsv
#
# Exit code 0: every comparison held and our bf16 step (f32 where the GPU has no bf16) is no slower
# than PyTorch's; 1: otherwise, or there is no GPU.
set -uo pipefail
unset CDPATH

here=$(cd "$(dirname "$0")" && pwd)
out=gpu-results
case ${1:-} in
--out) out=${2:?--out wants a directory} ;;
-h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
'') ;;
*) echo "gpu.sh: what is «$1»?" >&2 && exit 2 ;;
esac
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1

# find NAME PLACE…: the first place that is there.
find_one() {
    local name=$1 place
    shift
    for place; do
        [ -e "$place" ] && printf '%s\n' "$place" && return
    done
    echo "gpu.sh: there is no $name beside this script" >&2
    return 1
}
trainer=$(find_one run_trainer "$here/run_trainer" "$here/../target/release/run_trainer") || exit 1
page=$(find_one page "$here/page" "$here/../examples/page") || exit 1
peer=$(find_one peer_torch_step.py "$here/peer_torch_step.py") || exit 1
chmod +x "$trainer" 2>/dev/null

# PyTorch's wheels bring libnvrtc and cuDNN: where the system has none, these do.
wheels=$(python3 - 2>/dev/null <<'P'
import glob, os, sys
found = []
for base in sys.path:
    for name in ("libnvrtc.so.*", "libcudnn.so.*"):
        for place in ("nvidia/*/lib", "nvidia/*/lib64", "torch/lib"):
            found += [os.path.dirname(p) for p in glob.glob(os.path.join(base, place, name))]
print(":".join(dict.fromkeys(found)))
P
)
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}${LD_LIBRARY_PATH:+${wheels:+:}}$wheels"

{
    date -u '+%F %T UTC'
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>&1
    nproc
} >"$out/machine.txt"
cat "$out/machine.txt"
if ! nvidia-smi >/dev/null 2>&1; then
    echo 'gpu.sh: nvidia-smi finds no GPU here; nothing was measured' >&2
    exit 1
fi

echo 'Comparing with the CPU and measuring steps …'
"$trainer" --check-gpu >"$out/check.txt" 2>"$out/check.err"
status=$?
cat "$out/check.txt" "$out/check.err"

echo 'PyTorch, channels last, compiled …'
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    python3 "$peer" >"$out/torch.txt" 2>"$out/torch.err" || tail -n 5 "$out/torch.err"
    cat "$out/torch.txt"
else
    echo '# no PyTorch with CUDA in python3' | tee "$out/torch.txt"
fi

# A second look, the other way round: a GPU that slows down with heat would favour whoever comes
# first.
"$trainer" --check-gpu >"$out/check-again.txt" 2>/dev/null

echo 'A small training, with the GPU and on the CPU …'
settings=(--set 'Maximum number of training epochs=3'
    --set 'Maximum number of samples per label=200'
    --set 'Patch height=128' --set 'Patch width=128' --set 'Seed=1')
# seconds NAME COMMAND…: runs it, prints its seconds.
seconds() {
    local name=$1 began ended
    shift
    began=$(date +%s.%N)
    "$@" >"$out/$name.txt" 2>"$out/$name.err" || {
        echo failed && tail -n 3 "$out/$name.err" >&2 && return
    }
    ended=$(date +%s.%N)
    awk "BEGIN { printf \"%.1f\", $ended - $began }"
}
whole_gpu=$(seconds whole-gpu "$trainer" --local "$page" --out "$out/models-gpu" "${settings[@]}")
whole_cpu=$(seconds whole-cpu env HPC_TRAINER_DEVICE=cpu "$trainer" --local "$page" \
    --out "$out/models-cpu" "${settings[@]}")
# f1 DIR: mean F1 of the layers on the whole page.
f1() {
    python3 - "$1/training.json" 2>/dev/null <<'P' || echo '?'
import json, sys
layers = json.load(open(sys.argv[1]))["layers"]
print(f"{sum(layer['f1'] for layer in layers) / len(layers):.3f}")
P
}

{
    echo "what numbers ours_ms torch_ms ours/torch ours_MB torch_MB agrees"
    for numbers in f32 tf32 bf16; do
        awk -v numbers=$numbers '
            FILENAME ~ /check/ && $1 == numbers {
                if (!ours || $5 < ours) { ours = $5; validation = $6 }
                memory = $7; agrees = $4
            }
            FILENAME ~ /torch/ && $1 == "torch" && $2 == numbers {
                torch = $3; torch_validation = $4; torch_memory = $5
            }
            function shown(value) { return value ? value : "-" }
            function row(what, a, b) {
                print what, numbers, shown(a), shown(b), a && b ? sprintf("%.2f", a / b) : "-",
                    shown(memory), shown(torch_memory), shown(agrees)
            }
            END { row("step", ours, torch); row("validation", validation, torch_validation) }
        ' "$out/check.txt" "$out/check-again.txt" "$out/torch.txt"
    done
} | tr ' ' '\t' >"$out/gpu.tsv"

echo
head -n 2 "$out/machine.txt" | tail -n 1
awk -F '\t' '{
    printf "%-11s %-7s %8s %8s %10s %8s %8s  %s\n", $1, $2, $3, $4, $5, $6, $7, $8
}' "$out/gpu.tsv"
echo "whole training of examples/page (3 epochs, 200 patches of 128x128 a layer):" \
    "GPU $whole_gpu s, CPU $whole_cpu s;" \
    "mean F1 $(f1 "$out/models-gpu") and $(f1 "$out/models-cpu")"
[ "$status" = 0 ] || { echo 'The GPU does NOT agree with the CPU, see above.' && exit 1; }
awk -F '\t' '
    $1 == "step" && $5 != "-" { last = $5 }
    END { exit !(last != "" && last <= 1) }
' "$out/gpu.tsv" || {
    echo "Our step is slower than PyTorch's, or there was nothing to compare with." && exit 1
}

"""The measurement behind bench/compare.sh: seconds of one training step, ours and others', in
turns.

Every program keeps its network and does a step when it is told to, so that A B C A B C … share
whatever the machine does meanwhile. Time is the wall clock of the answer, processor time and peak
memory (VmHWM) are the kernel's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")

# Multiplications and additions of a step for one pixel of a patch, as direct sums: forward, and
# twice that backward, without the gradient of the first layer's image.
FLOP_A_PIXEL = 2 * (3 * 320_994 - 864)


class Peer:
    """A program that does steps on demand."""

    def __init__(self, name, command, environment):
        self.name, self.times, self.busy, self.why = name, [], [], None
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=dict(os.environ, **environment),
        )
        if self.answer() != "ready":
            self.failed()

    def answer(self):
        return self.process.stdout.readline().strip()

    def failed(self):
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        said = [line for line in self.errors.read().splitlines() if line.strip()]
        self.why = said[-1].strip() if said else f"it ended with code {self.process.returncode}"

    def processor(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def step(self, counts):
        if self.why:
            return
        busy, started = self.processor(), time.perf_counter()
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            float(self.answer())
        except (OSError, ValueError):
            self.failed()
            return
        seconds = time.perf_counter() - started
        if counts:
            self.times.append(seconds)
            self.busy.append(self.processor() - busy)

    def end(self):
        if self.why:
            return
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.mib = int(status.split("VmHWM:")[1].split()[0]) / 1024
        self.process.stdin.close()
        self.process.wait()


def machine_busy():
    """Processor seconds of everything on this machine."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / TICK


def available_mib():
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) / 1024


def processor_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def has_bf16():
    """Whether the processor multiplies bfloat16 as our program does (AVX-512 BF16)."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return "avx512_bf16" in line.split()
    return False


def main():
    parser = argparse.ArgumentParser(prog="bench/compare.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16, help="patches in a step [%(default)s]")
    parser.add_argument(
        "--size", type=int, default=256, help="side of a patch in pixels [%(default)s]"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="steps of each that count [%(default)s]"
    )
    parser.add_argument(
        "--warm-up", type=int, default=2, help="steps before, that don't [%(default)s]"
    )
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each [%(default)s]"
    )
    parser.add_argument(
        "--without",
        default="",
        metavar="A,B",
        help="leaves out: ours-bf16, tensorflow, torch-f32, torch-bf16",
    )
    parser.add_argument(
        "--tensorflow", metavar="PYTHON", help="a Python that has tensorflow(-cpu) 2.15.1"
    )
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has torch")
    parser.add_argument(
        "--ours",
        action="append",
        default=[],
        metavar="[NAME=]PROGRAM",
        help="a built example time_steps; several times, to compare builds",
    )
    options = parser.parse_args()
    without = options.without.split(",")
    sizes = [str(options.batch), str(options.size)]
    threads = {"RAYON_NUM_THREADS": str(options.threads), "OMP_NUM_THREADS": str(options.threads)}

    candidates = []
    for given in options.ours:
        name, _, program = given.rpartition("=")
        candidates.append((f"ours, {name or 'f32'}", [program, *sizes]))
        if not name and has_bf16() and "ours-bf16" not in without:
            candidates.append(("ours, bf16", [program, *sizes]))
    sizes.append(str(options.threads))
    if options.tensorflow and "tensorflow" not in without:
        candidates.append(
            ("TensorFlow, f32", [options.tensorflow, str(HERE / "step_tensorflow.py"), *sizes])
        )
    for kind in ("f32", "bf16"):
        if options.torch and f"torch-{kind}" not in without:
            name = "PyTorch, f32" if kind == "f32" else "PyTorch, compiled, bf16"
            candidates.append((name, [options.torch, str(HERE / "step_torch.py"), *sizes, kind]))
    if not candidates:
        sys.exit("bench/compare.sh: nothing to measure")

    pixels = options.batch * options.size**2
    needed = 500 + len(candidates) * 4000 * pixels / (16 * 256**2)
    if available_mib() < needed:
        sys.exit(
            f"bench/compare.sh: {available_mib():.0f} MiB of memory are free, all of them side by "
            f"side take about {needed:.0f}: leave some out (--without), or take a smaller --batch"
        )
    flop = FLOP_A_PIXEL * pixels
    print(
        f"One training step of {options.batch} patches of {options.size}x{options.size} "
        f"({flop / 1e12:.2f} TFLOP as direct sums), {options.threads} threads\n"
        f"{processor_name()}, load before: {os.getloadavg()[0]:.2f}",
        flush=True,
    )

    peers = []
    for name, command in candidates:
        print(f"  starting {name} …", file=sys.stderr, flush=True)
        bf16 = {"HPC_TRAINER_CPU_PRECISION": "bf16"} if name == "ours, bf16" else {}
        peers.append(Peer(name, command, threads | bf16))
    for number in range(-options.warm_up, options.rounds):
        if number == 0:
            began, busy = time.monotonic(), machine_busy()
        for peer in peers:
            peer.step(number >= 0)
            # Threads that spin for a while after their work must not slow the next one down.
            time.sleep(0.2)
        if number >= 0:
            said = ", ".join(f"{peer.times[-1]:.2f}" for peer in peers if not peer.why)
            print(
                f"  round {number + 1} of {options.rounds}: {said} s", file=sys.stderr, flush=True
            )
    passed = time.monotonic() - began
    others = (machine_busy() - busy - sum(sum(peer.busy) for peer in peers)) / passed
    for peer in peers:
        peer.end()

    # The ratios are to TensorFlow; where it was left out, to the last of ours or else the first of
    # all.
    base = next(
        (peer for peer in peers if peer.name.startswith("TensorFlow") and not peer.why), None
    )
    base = base or next(
        (peer for peer in reversed(peers) if peer.name.startswith("ours") and not peer.why),
        peers[0],
    )
    print(
        f"\n{'':24}{'median':>9}{'min':>8}{'max':>8}{'processor':>11}{'GFLOP/s':>9}{'peak':>10}"
        f"{'time':>7}{'memory':>8}"
    )
    print("-" * 94)
    for peer in peers:
        if peer.why:
            print(f"{peer.name:24}  not measured: {peer.why[:66]}")
            continue
        # In each round the machine was the same for all.
        ratios = (
            [mine / other for mine, other in zip(peer.times, base.times)]
            if not base.why
            else [1.0]
        )
        median = statistics.median(peer.times)
        print(
            f"{peer.name:24}{median:>7.3f} s{min(peer.times):>8.3f}{max(peer.times):>8.3f}"
            f"{statistics.median(peer.busy):>9.2f} s{flop / median / 1e9:>9.0f}{peer.mib:>6.0f} MiB"
            f"{statistics.median(ratios):>6.2f}x{peer.mib / base.mib:>7.2f}x"
        )
    print(
        f"\nRatios to {base.name}, of time: the median of each round's. GFLOP/s: as if all did "
        "direct sums.\n"
        f"Other programs used {max(others, 0):.2f} cores meanwhile; below 0.1 the machine was "
        "quiet."
    )
    sys.exit(1 if all(peer.why for peer in peers) else 0)


if __name__ == "__main__":
    main()

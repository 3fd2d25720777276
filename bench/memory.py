"""The measurement behind bench/memory: peak resident memory of run_trainer --local by number of
samples.

What the network itself takes (weights, Adam, one batch with all that is kept for the gradients) is
measured first, by training a page no larger than a patch with a single batch: what goes beyond it
is the price of page and samples.
"""

import argparse
import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

# What the Python original takes for one sample of one layer, all layers at once: measured at
# 256x256 pixels. It holds each sample (three
# channels and the target, as doubles) about twice.
ORIGINAL_MIB = 3.06
ORIGINAL_PIXELS = 256 * 256

# The exit code of run_trainer that was told to stop.
STOPPED = 12


class Run:
    """One run of the trainer; `steps` says after how many it is stopped, 0 lets it come to its
    end."""

    def __init__(self, options, page, samples, steps):
        settings = {
            "Maximum number of samples per label": samples,
            "Maximum number of training epochs": 1,
            "Patch height": options.patch,
            "Patch width": options.patch,
            "Batch Size": options.batch,
            "Seed": 1,
        }
        self.drawn, self.steps, self.seconds = None, 0, time.monotonic()
        with tempfile.TemporaryDirectory() as out:
            command = [options.trainer, "--local", page, "--out", out]
            command += [
                word for name, value in settings.items() for word in ("--set", f"{name}={value}")
            ]
            environment = dict(os.environ, TERM="xterm")
            if options.threads:
                environment["RAYON_NUM_THREADS"] = str(options.threads)
            # The trainer counts its steps for a terminal only.
            terminal, end = pty.openpty()
            fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=end, env=environment
            )
            os.close(end)
            said = self.watch(terminal, process, options, steps)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        os.close(terminal)
        if process.returncode not in ((0, STOPPED) if steps else (0,)):
            sys.exit(
                f"{said}\nbench/memory: run_trainer failed with exit code {process.returncode}"
            )
        self.whole = process.returncode == 0
        self.seconds = time.monotonic() - self.seconds
        self.mib = usage.ru_maxrss / 1024

    def watch(self, terminal, process, options, steps):
        """Reads what the trainer shows until it ends; stops it after `steps` steps of the first
        layer."""
        said, stopped = "", False
        while True:
            try:
                read = os.read(terminal, 65536)
            except OSError as error:
                if (
                    error.errno != errno.EIO
                ):  # Linux's way to say that nobody writes to the terminal any more.
                    raise
                read = b""
            if not read:
                return said
            said += read.decode(errors="replace")
            counts = re.findall(r"(\d+) samples to learn from, (\d+) to validate", said)
            if counts and self.drawn is None:
                self.drawn = sum(map(int, counts[0]))
            if len(counts) == 1:
                # How far the bar is, of the one epoch's steps.
                bars = re.findall(r"\[(=*)>?( *)\] epoch", said)
                if bars:
                    filled, left = map(len, bars[-1])
                    self.steps = (
                        -(-int(counts[0][0]) // options.batch)
                        * filled
                        // max(filled + left + 1, 1)
                    )
            if steps and self.steps >= steps and not stopped:
                process.send_signal(signal.SIGTERM)
                stopped = True


def main():
    parser = argparse.ArgumentParser(prog="bench/memory", description=__doc__.splitlines()[0])
    parser.add_argument("page", help="folder of the page, as for run_trainer --local")
    parser.add_argument(
        "--size",
        metavar="WxH",
        help="measure a page of this size, tiled from the page, with layers "
        "large enough for any number of samples",
    )
    parser.add_argument("--samples", default="100,1000,10000", help="per layer [%(default)s]")
    parser.add_argument(
        "--steps",
        type=int,
        default=20,
        help="after which a run is stopped, if it has so many in one "
        "epoch; 0: never [%(default)s]",
    )
    parser.add_argument("--batch", type=int, default=16, help="Batch Size [%(default)s]")
    parser.add_argument(
        "--patch", type=int, default=256, help="side of a patch in pixels [%(default)s]"
    )
    parser.add_argument("--threads", type=int, help="of the trainer [one for each core]")
    parser.add_argument("--trainer", help="run_trainer to measure")
    parser.add_argument("--tile", help=argparse.SUPPRESS)
    options = parser.parse_args()
    counts = [int(count) for count in options.samples.split(",")]

    with tempfile.TemporaryDirectory() as work:
        page, small = options.page, os.path.join(work, "small")
        if options.size:
            page = os.path.join(work, "page")
            subprocess.run(
                [options.tile, options.page, page, options.size, str(options.patch + 1)],
                check=True,
            )
        subprocess.run(
            [options.tile, options.page, small, f"{options.patch}x{options.patch}"], check=True
        )
        layers = sum(
            name == "background.png" or name.startswith("layer_") for name in os.listdir(page)
        )
        print(
            f"{layers} layers, page {options.size or options.page}, "
            f"patches {options.patch}x{options.patch}, batch {options.batch}, "
            f"{options.threads or os.cpu_count()} threads\n"
        )

        # Four fifths are learned from: one batch.
        network = Run(options, small, -(-options.batch * 5 // 4), 0)
        print(f"the network by itself, one batch: {network.mib:.0f} MiB\n", flush=True)
        print(
            f"{'samples':>8}{'a layer':>9}{'steps':>7}{'peak':>11}{'beyond the':>13}"
            f"{'growth':>10}{'the original':>15}{'':>7}"
        )
        print(
            f"{'at most':>8}{'drawn':>9}{'run':>7}{'':>11}{'network':>13}"
            f"{'':>10}{'for its samples':>15}{'ratio':>7}"
        )
        print("-" * 80)
        before = None
        for count in counts:
            run = Run(options, page, count, options.steps)
            growth = "" if before is None else f"{run.mib - before:+.0f} MiB"
            before = run.mib
            original = ORIGINAL_MIB * options.patch**2 / ORIGINAL_PIXELS * run.drawn * layers
            said = f"{original / 1024:.1f} GiB" if original >= 1024 else f"{original:.0f} MiB"
            steps = "all" if run.whole else run.steps
            print(
                f"{count:>8}{run.drawn:>9}{steps:>7}{f'{run.mib:.0f} MiB':>11}"
                f"{f'{run.mib - network.mib:+.0f} MiB':>13}{growth:>10}{said:>15}"
                f"{original / run.mib:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

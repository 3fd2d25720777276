"""The measurement behind bench/spread: one job with 1, 2 and 4 tasks that share this machine's
cores, and a forecast for nodes of their own.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import job


def train(options, tasks, threads, rodan):
    """One job; returns its parts as its log says them, the layers' seconds, and its models."""
    settings = job.SETTINGS | dict(
        (name, job.value(text)) for name, text in (pair.split("=", 1) for pair in options.set)
    )
    with tempfile.TemporaryDirectory() as folder:
        # As check leaves it: a job's directory with a record in it.
        directory = Path(folder) / "jobs" / "spread"
        directory.mkdir(parents=True, mode=0o700)
        (directory / "record.json").write_text("{}")
        path = directory / "job.json"
        text = {
            "inputs": job.inputs(options.page),
            "settings": settings,
            "token": job.TOKEN,
            "reply_to": "bench",
            "correlation_id": "bench",
            "protocol": 2,
        }
        path.write_text(json.dumps(text))
        for private in (directory / "record.json", path):
            private.chmod(0o600)
        # Nobody listens at port 1: the models stay on disk, and the program is stopped while it
        # tries to deliver them.
        environment = {
            name: os.environ[name] for name in ("PATH", "TMPDIR", "HOME") if name in os.environ
        }
        environment |= rodan | {
            "RABBITMQ_HOST": "127.0.0.1:1",
            "RABBITMQ_USER": "nobody",
            "RABBITMQ_PASSWORD": "none",
            "SCHEDULER": "local",
            "HPC_TRAINER_DEVICE": "cpu",
            "SLURM_JOB_ID": "1",
            "SLURM_NTASKS": str(tasks),
            "SLURM_CPUS_PER_TASK": str(threads),
        }
        trainer = subprocess.Popen(
            [options.trainer, str(path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        said, line = [], None
        for text in trainer.stderr:
            said.append(text)
            if "time to the reply" in text:
                line = text
            if line is not None and (directory / "outbox/training.json").exists():
                break
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        if line is None:
            sys.exit("".join(said) + "bench/spread: the trainer ended without models")
        whole = float(re.search(r"time to the reply ([0-9.]+) s", line).group(1))
        parts = dict(re.findall(r"(\w+) ([0-9.]+) s", line.split(" s: ", 1)[1]))
        told = json.loads((directory / "outbox/training.json").read_text())
        layers = [layer["figures"]["seconds"] for layer in told["layers"]]
        files = sorted((directory / "outbox").glob("*.hdf5"))
        models = [file.read_bytes() for file in files]
    return whole, {name: float(took) for name, took in parts.items()}, layers, models


def spread(layers, nodes):
    """When the last of these layers is done, if each goes to the node that is free first, the
    longest layers first."""
    busy = [0.0] * nodes
    for seconds in sorted(layers, reverse=True):
        first = busy.index(min(busy))
        busy[first] += seconds
    return max(busy)


def main():
    parser = argparse.ArgumentParser(prog="bench/spread", description=__doc__)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument(
        "page", nargs="?", type=Path, default=here / "examples/page", help="folder of the page"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the job"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--cores", type=int, default=cores, help=f"cores that the tasks divide (all: {cores})"
    )
    parser.add_argument("--trainer", help="run_trainer to measure")
    parser.add_argument("--rodan", help=argparse.SUPPRESS)
    options = parser.parse_args()

    cores = options.cores
    runs = {}
    server = subprocess.Popen(
        [options.rodan, "serve", str(options.page)], stdout=subprocess.PIPE, text=True
    )
    try:
        rodan = dict(server.stdout.readline().strip().split("=", 1) for _ in range(3))
        rodan["RODAN_PASSWORD"] = rodan["RODAN_PASSWORD"].strip("'")
        for tasks in (1, 2, 4):
            runs[tasks] = train(options, tasks, max(1, cores // tasks), rodan)
    finally:
        server.kill()
        server.wait()

    one, _, layers, models = runs[1]
    load = os.getloadavg()[0]
    print(f"{options.page}, {len(layers)} layers, {cores} cores of one machine, load {load:.1f}")
    print("measured here, where the tasks divide the same cores:")
    print(f"  {'tasks':>5}{'threads each':>14}{'seconds':>10}{'of one task':>13}  models")
    for tasks, (whole, _, _, others) in runs.items():
        threads = max(1, cores // tasks)
        note = " (more threads than cores)" if threads * tasks > cores else ""
        same = "the same" if others == models else "OTHERS"
        print(f"  {tasks:>5}{threads:>14}{whole:>10.2f}{one / whole:>12.2f}x  {same}{note}")
    # What is not training: fetching and checking the page, starting the tasks, collecting.
    whole, parts, _, _ = runs[2]
    beside = whole - parts.get("tasks", whole)
    starting = max(0.0, parts.get("tasks", 0.0) - spread(runs[2][2], 2))
    print(f"beside the training: {beside:.2f} s, and {starting:.2f} s in the tasks")
    print(f"by the model, for nodes with {cores} such cores each:")
    print(f"  {'nodes':>5}{'seconds':>10}{'gain':>8}{'efficiency':>12}")
    for nodes in (1, 2, 4):
        extra = beside + starting if nodes > 1 else one - sum(layers)
        seconds = extra + spread(layers, nodes)
        gain = one / seconds
        print(f"  {nodes:>5}{seconds:>10.2f}{gain:>7.2f}x{gain / nodes:>11.0%}")


if __name__ == "__main__":
    main()

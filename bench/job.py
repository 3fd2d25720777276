"""The measurement behind bench/job: what run_trainer says about its time, for a page from a
stand-in for Rodan.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What the stand-in takes for a token.
TOKEN = "0123456789abcdef0123456789abcdef01234567"

SETTINGS = {
    "Maximum number of training epochs": 3,
    "Maximum number of samples per label": 100,
    "Patch height": 64,
    "Patch width": 64,
    "Seed": 1,
    "CPUs": 1,
    "Maximum memory (MB)": 6000,
    "Maximum time (D-HH:MM)": "0-06:00",
    "Slurm Notification Email": "",
}


def value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def inputs(page):
    names = {
        "image.png": "Image",
        "background.png": "Background",
        "regions.png": "Selected Regions",
    }
    names |= {f"layer_{n}.png": f"rgba PNG - Layer {n}" for n in range(10)}
    return {kind: f"/uploads/{name}" for name, kind in names.items() if (page / name).exists()}


def run(options, folder, rodan):
    """One job; returns what the trainer's line says, and the seconds until its process had said
    it."""
    settings = SETTINGS | dict(
        (name, value(text)) for name, text in (pair.split("=", 1) for pair in options.set)
    )
    job = {
        "inputs": inputs(options.page),
        "settings": settings,
        "token": TOKEN,
        "reply_to": "bench",
        "correlation_id": "bench",
    }
    path = Path(folder) / "job.json"
    path.write_text(json.dumps(job))
    path.chmod(0o600)
    # Nobody listens at port 1: the reply stays on disk, and the program is stopped while it tries
    # to deliver it.
    environment = {
        name: os.environ[name] for name in ("PATH", "TMPDIR", "HOME") if name in os.environ
    }
    environment |= rodan | {
        "RABBITMQ_HOST": "127.0.0.1:1",
        "RABBITMQ_USER": "nobody",
        "RABBITMQ_PASSWORD": "none",
    }
    if options.threads:
        environment["RAYON_NUM_THREADS"] = str(options.threads)
    started = time.perf_counter()
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
            line, seconds = text, time.perf_counter() - started
            break
    trainer.send_signal(signal.SIGKILL)
    _, _, usage = os.wait4(trainer.pid, 0)
    if line is None:
        sys.exit("".join(said) + "bench/job: the trainer ended without a reply")
    parts = dict(
        re.findall(r"(\w+) ([0-9.]+) s", line.split(": ", 1)[1] if ": " in line else line)
    )
    return {name: float(took) for name, took in parts.items()}, seconds, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(prog="bench/job", description=__doc__)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument(
        "page", nargs="?", type=Path, default=here / "examples/page", help="folder of the page"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the job"
    )
    parser.add_argument("--threads", type=int, help="of the trainer [one for each core]")
    parser.add_argument("--trainer", help="run_trainer to measure")
    parser.add_argument("--rodan", help=argparse.SUPPRESS)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [options.rodan, "serve", str(options.page)], stdout=subprocess.PIPE, text=True
        )
        try:
            rodan = dict(server.stdout.readline().strip().split("=", 1) for _ in range(3))
            rodan["RODAN_PASSWORD"] = rodan["RODAN_PASSWORD"].strip("'")
            parts, seconds, mib = run(options, folder, rodan)
        finally:
            server.kill()
            server.wait()
    whole = sum(parts.values())
    print(f"{options.page}, {len(inputs(options.page))} files")
    for name, took in parts.items():
        print(f"  {name:10}{took:>10.2f} s{took / whole:>8.1%}")
    print(
        f"  {'whole':10}{whole:>10.2f} s, {seconds:.2f} s with the program's start; "
        f"peak memory {mib:.0f} MiB"
    )


if __name__ == "__main__":
    main()

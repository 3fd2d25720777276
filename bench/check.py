"""The measurement behind bench/check: an idle pass beside a Python client's, and a pass that takes
many jobs.
"""

import argparse
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

try:
    import pika
except ImportError:  # bench/check installs it; the list of the options does without
    pika = None

HERE = Path(__file__).resolve().parent
VHOST = "test-1"
QUEUE = "hpc-jobs"

# What the first version, in Python, took for an idle pass.
ORIGINAL = (0.24, 34)

JOB = {
    "inputs": {
        "Image": "/uploads/image.png",
        "Background": "/uploads/background.png",
        "Selected Regions": "/uploads/regions.png",
        "rgba PNG - Layer 0": "/uploads/layer_0.png",
    },
    "settings": {
        "Maximum number of training epochs": 1,
        "Maximum number of samples per label": 100,
        "Patch height": 32,
        "Patch width": 32,
        "CPUs": 1,
        "Maximum memory (MB)": 500,
        "Maximum time (D-HH:MM)": "0-00:10",
        "Slurm Notification Email": "",
    },
}


class Rodan(http.server.BaseHTTPRequestHandler):
    """Gives a token to whoever logs in, and counts."""

    logins = 0

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Rodan.logins += 1
        body = json.dumps({"token": "0123456789abcdef0123456789abcdef01234567"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def service(name):
    return os.environ[f"HPC_TRAINER_TEST_{name}"]


def measured(command, environment, folder):
    """Seconds and processor seconds of a program that must succeed, and what it said."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{said}\nbench/check: {command[0]} failed with exit code {process.returncode}")
    return (seconds, usage.ru_utime + usage.ru_stime), said


def peak_memory(command, environment, folder):
    """Peak memory in MB, looked at all the time. The kernel's own sum at the end (ru_maxrss) would
    count this program too, out of which the other one is made.
    """
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    peak, name = 0, Path(command[0]).resolve()
    while process.poll() is None:
        try:
            if Path(f"/proc/{process.pid}/exe").resolve() == name:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, int(status.split("VmHWM:")[1].split()[0]))
        except (OSError, IndexError):
            pass
    return peak * 1024 / 1e6


def wake_ups(process):
    """How often its threads have waited for something and were woken."""
    count = 0
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        status = (thread / "status").read_text()
        count += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return count


def staying(command, environment, folder, seconds):
    """Wake-ups a minute, processor seconds a minute and peak memory in MB of a check --stay to
    which nothing comes for so long.
    """
    process = subprocess.Popen(
        [*command, "--stay", "86400"], env=environment, cwd=folder, stdout=subprocess.DEVNULL
    )
    ticks = os.sysconf("SC_CLK_TCK")

    def used():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")")[-1].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    try:
        time.sleep(5)  # its first pass is over
        woken, busy = wake_ups(process), used()
        time.sleep(seconds)
        if process.poll() is not None:
            sys.exit("bench/check: check --stay has ended")
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
        minutes = seconds / 60
        return (wake_ups(process) - woken) / minutes, (used() - busy) / minutes, peak
    finally:
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser(prog="bench/check", description=__doc__)
    parser.add_argument("--passes", type=int, default=30, help="idle passes of each [%(default)s]")
    parser.add_argument(
        "--jobs", type=int, default=200, help="jobs that one pass takes [%(default)s]"
    )
    parser.add_argument(
        "--idle", type=int, default=120, help="seconds that check --stay is watched [%(default)s]"
    )
    parser.add_argument("--check", help="check to measure")
    options = parser.parse_args()

    user, password = service("AMQP_USER"), service("AMQP_PASSWORD")
    plain = pika.BlockingConnection(
        pika.ConnectionParameters(
            "127.0.0.1", int(service("AMQP_PORT")), VHOST, pika.PlainCredentials(user, password)
        )
    )
    channel = plain.channel()
    channel.queue_declare(QUEUE, durable=True)

    rodan = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rodan)
    threading.Thread(target=rodan.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "batch.sh").write_text("#!/bin/sh\n")
        commands = folder / "slurm"
        commands.mkdir()
        (commands / "count").write_text("1000\n")
        sbatch = commands / "sbatch"
        sbatch.write_text(
            f"#!/bin/sh\nread n <{commands}/count\nn=$((n + 1))\necho $n >{commands}/count\n"
            "echo $n\n"
        )
        sbatch.chmod(0o700)
        variables = {
            "RABBITMQ_HOST": f"amqps://127.0.0.1:{service('AMQPS_PORT')}/{VHOST}",
            "RABBITMQ_USER": user,
            "RABBITMQ_PASSWORD": password,
            "RODAN_HOST": f"http://127.0.0.1:{rodan.server_port}",
            "RODAN_USER": "hpc",
            "RODAN_PASSWORD": "none",
            "SPOOL_DIR": str(folder / "spool"),
            "LOG_DIR": str(folder / "logs"),
            "BATCH_SCRIPT": str(folder / "batch.sh"),
            "SITE_SLURM_BIN": str(commands),
            "MAX_OPEN_JOBS": str(2 * options.jobs),
            "WATCHER": "0",
        }
        credentials = folder / "credentials.env"
        credentials.write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))
        credentials.chmod(0o600)
        clean = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "SSL_CERT_FILE": service("CA")}
        ours = [options.check, "--env-file", str(credentials)]
        peer = [sys.executable, str(HERE / "check_peer.py"), service("AMQPS_PORT"), VHOST]
        for_peer = clean | {
            name: value
            for name, value in os.environ.items()
            if name.startswith("HPC_TRAINER_TEST_")
        }

        idle = {"check": [], "Python, pika": []}
        for number in range(-2, options.passes):
            for name, command, environment in (
                ("check", ours, clean),
                ("Python, pika", peer, for_peer),
            ):
                result, _ = measured(command, environment, folder)
                if number >= 0:
                    idle[name].append((*result, peak_memory(command, environment, folder)))
        print(
            f"An idle pass against a broker with TLS, {options.passes} of each in turns "
            "(medians):\n"
        )
        print(f"{'':16}{'time':>10}{'processor':>12}{'peak memory':>14}")
        medians = {}
        for name, results in idle.items():
            wall, busy, memory = medians[name] = [
                statistics.median(column) for column in zip(*results)
            ]
            print(f"{name:16}{wall:>8.3f} s{busy:>10.3f} s{memory:>11.1f} MB")
        ratios = [ours / theirs for ours, theirs in zip(medians["check"], medians["Python, pika"])]
        print(f"{'ratio':16}{ratios[0]:>9.2f}x{ratios[1]:>11.2f}x{ratios[2]:>12.2f}x")
        print(f"(The first version, in Python: {ORIGINAL[0]} s and {ORIGINAL[1]} MB.)\n")

        woken, busy, memory = staying(ours, clean, folder, options.idle)
        print(
            f"check --stay to which nothing comes, watched for {options.idle} s:\n"
            f"{woken:.1f} wake-ups and {busy:.3f} s of the processor a minute, "
            f"peak memory {memory:.1f} MB,\n"
            f"{memory / medians['check'][2]:.2f} times that of an idle pass\n"
        )

        for number in range(options.jobs):
            channel.basic_publish(
                "",
                QUEUE,
                json.dumps(JOB).encode(),
                pika.BasicProperties(
                    correlation_id=f"job-{number}", reply_to="hpc-results", delivery_mode=2
                ),
            )
        plain.close()
        logins = Rodan.logins
        (wall, busy), said = measured([*ours, "--max-jobs", str(options.jobs)], clean, folder)
        taken = said.count("submitted")
        print(
            f"A pass that takes {taken} queued jobs, with a stub for sbatch: {wall:.2f} s "
            f"({busy:.2f} s processor, its sbatch with it),\n{taken / wall:.0f} jobs a second, "
            f"{Rodan.logins - logins} login to Rodan"
        )
        sys.exit(0 if taken == options.jobs else 1)


if __name__ == "__main__":
    main()

"""The measurement behind bench/gateway."""

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "examples" / "page"
PARTS = ["image", "background", "regions", "layer_0", "layer_1", "layer_2"]

# Stands for run_trainer: waits until it is told, tells epochs, and leaves a model.
TRAINER = """#!/bin/sh
while [ $# -gt 0 ]; do case $1 in --out) out=$2 ;; --progress) told=$2 ;; esac; shift; done
while [ -e HOLD ]; do sleep 0.05; done
printf '{"event":"layer","model":"Model 0","number":1,"layers":1,' >"$told"
echo '"train":8,"validation":2,"epochs":1}' >>"$told"
echo model >"$out/Model 0.hdf5"; echo report >"$out/report.html"
echo '{"layers": [{"model": "Model 0", "f1": 0.5}]}' >"$out/training.json"
"""


class Gateway:
    """A gateway with a data folder of its own."""

    def __init__(self, program, folder):
        self.program, self.folder = program, Path(folder)
        self.data, self.hold = self.folder / "data", self.folder / "hold"
        trainer = self.folder / "trainer"
        trainer.write_text(TRAINER.replace("HOLD", f"'{self.hold}'"))
        trainer.chmod(0o700)
        self.token = self.run("account", "add", "bench", "--role", "admin").strip()
        self.process = None

    def run(self, *arguments):
        command = [self.program, "--data", str(self.data), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def start(self):
        command = [self.program, "--data", str(self.data), "--quiet", "--listen", "127.0.0.1:0"]
        command += ["--trainer", str(self.folder / "trainer"), "--max-requests", "100000"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.host, port = line.split("http://")[1].split(";")[0].split(":")
        self.port = int(port)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def status(self, name):
        """A size from the kernel's record of the process, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith(name + ":"))
        return int(line.split()[1]) / 1024

    def forget_peak(self):
        try:
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        except OSError:
            pass  # the peak is that of the whole life then

    async def ask(self, method, path, body=b"", kind="application/json"):
        """Sends a request on a connection of its own; the status and the body."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(self.head(method, path, len(body), kind))
        try:
            for start in range(0, len(body), 1 << 16):
                writer.write(body[start : start + (1 << 16)])
                await writer.drain()
        except ConnectionError:
            pass  # refused early: the answer is there
        answer = b""
        try:
            answer = await reader.read(-1)
        except ConnectionError:
            pass
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1]) if head else 0
        return status, rest

    def head(self, method, path, length, kind):
        lines = [
            f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close",
            f"Authorization: Bearer {self.token}", f"Content-Type: {kind}",
            f"Content-Length: {length}",
        ]  # fmt: skip
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def json(self, method, path, value=None):
        body = b"" if value is None else json.dumps(value).encode()
        status, answer = await self.ask(method, path, body)
        assert status in (200, 201, 202), (method, path, status, answer[:400])
        return json.loads(unchunked(answer))


def unchunked(body):
    return body if body[:1] in b"{[" else body[body.index(b"{") :]


def form(files):
    body = b""
    for name, content in files:
        body += (
            f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        ).encode()
        body += content + b"\r\n"
    return body + b"--edge--\r\n"


FORM = "multipart/form-data; boundary=edge"


def png(side, channels, value):
    """A square PNG whose rows are equal but for the first, which has this value."""

    def chunk(kind, content):
        head = kind + content
        return struct.pack(">I", len(content)) + head + struct.pack(">I", zlib.crc32(head))

    colour = {3: 2, 4: 6}[channels]
    packer = zlib.compressobj(1)
    row = b"\0" + bytes(range(256)) * (side * channels // 256 + 1)
    pixels = [packer.compress(b"\0" + bytes([value]) * (side * channels))]
    pixels += [packer.compress(row[: side * channels + 1]) for _ in range(side - 1)]
    pixels.append(packer.flush())
    header = struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(pixels))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def page(side, value):
    image, layer = png(side, 3, value), png(side, 4, value)
    return form([("image.png", image), ("background.png", layer), ("layer_0.png", layer)])


def example():
    return form([(f"{part}.png", (PAGE / f"{part}.png").read_bytes()) for part in PARTS])


def row(name, figures, bar=""):
    print(f"{name:<44} {figures:<40} {bar}", flush=True)


async def many_runs(gateway, count):
    """Fills the store: one run that is trained, and others that are made like it."""
    uploaded = unchunked((await gateway.ask("POST", "/v1/pages", example(), FORM))[1])
    pages = [json.loads(uploaded)["id"]]
    first = (await gateway.json("POST", "/v1/runs", {"pages": pages}))["id"]
    await gateway.json("GET", f"/v1/runs/{first}?wait=60s")
    gateway.hold.write_text("")
    left = count - 1
    while left > 0:
        some = min(left, 100)
        asked = {"pages": pages, "grid": {"Seed": list(range(some))}}
        placed = await gateway.json("POST", "/v1/runs", asked)
        await gateway.json("POST", placed["links"]["cancel"])
        left -= some
    gateway.hold.unlink()
    gateway.stop()
    store = sqlite3.connect(gateway.data / "gateway.sqlite")
    columns = [name for _, name, *_ in store.execute("PRAGMA table_info(results)")]
    named = ", ".join("runs.id" if name == "run" else f"results.{name}" for name in columns)
    with store:
        store.execute(
            "UPDATE runs SET state = 'succeeded', figures = "
            "(SELECT figures FROM runs WHERE id = ?1) WHERE id <> ?1",
            [first],
        )
        store.execute(
            f"INSERT OR IGNORE INTO results ({', '.join(columns)}) SELECT {named} FROM runs "
            "JOIN results ON results.run = ?1 WHERE runs.id <> ?1",
            [first],
        )
    store.close()
    gateway.start()
    return pages


async def lists(gateway, count, times):
    for path in ("/v1/runs?page_size=50", "/"):
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            status, _ = await gateway.ask("GET", path)
            taken.append((time.perf_counter() - start) * 1000)
            assert status == 200, (path, status)
        taken.sort()
        middle, late = statistics.median(taken), taken[len(taken) * 95 // 100]
        row(f"GET {path}, {count} runs", f"{middle:.1f} ms, 95 of 100 in {late:.1f} ms", "< 50 ms")


async def watchers(gateway, count, pages):
    gateway.hold.write_text("")
    run = (await gateway.json("POST", "/v1/runs", {"pages": pages}))["id"]
    before = gateway.status("VmRSS")
    watching = asyncio.Semaphore(0)

    async def watch():
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        writer.write(gateway.head("GET", f"/v1/runs/{run}/events", 0, "text/plain"))
        text = b""
        while b'"queued"' not in text:
            text += await reader.read(1 << 16)
        watching.release()
        while b'"succeeded"' not in text:
            piece = await reader.read(1 << 16)
            assert piece, text
            text += piece
        writer.close()
        return time.perf_counter()

    tasks = [asyncio.ensure_future(watch()) for _ in range(count)]
    for _ in range(count):
        await watching.acquire()
    while (await gateway.json("GET", f"/v1/runs/{run}"))["state"] == "queued":
        await asyncio.sleep(0.05)
    held = gateway.status("VmRSS")
    start = time.perf_counter()
    gateway.hold.unlink()
    ends = await asyncio.gather(*tasks)
    each = (held - before) * 1024 / count
    row(
        f"{count} watchers hear of a run's end", f"all within {max(ends) - start:.2f} s",
        "all of them",
    )  # fmt: skip
    row("  memory of a watcher", f"{each:.0f} KiB")


async def uploads(gateway, count, side):
    bodies = [page(side, value) for value in range(count)]
    gateway.forget_peak()
    before = gateway.status("VmRSS")
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(gateway.ask("POST", "/v1/pages", body, FORM) for body in bodies)
    )
    took = time.perf_counter() - start
    statuses = [status for status, _ in answers]
    taken, later = statuses.count(201), statuses.count(503)
    assert taken + later == count and taken > 0, statuses
    size = side * side / 1e6
    row(
        f"{count} uploads at once, {size:.0f} megapixels each",
        f"{taken} taken, {later} told to come later, {took:.1f} s",
    )
    peak = gateway.status("VmHWM")
    row("  memory", f"{before:.0f} MiB before, {peak:.0f} MiB at most", "not all at once")


async def large(gateway, megapixels):
    side = int((megapixels * 1e6) ** 0.5)
    body = page(side, 255)
    gateway.forget_peak()
    before = gateway.status("VmRSS")
    start = time.perf_counter()
    status, answer = await gateway.ask("POST", "/v1/pages", body, FORM)
    took = time.perf_counter() - start
    assert status == 201, (status, answer[:400])
    peak = gateway.status("VmHWM")
    # The image stays while its layers are decoded, one after the other, to masks of a bit a pixel.
    decoded = side * side * (3 + 4) / 2**20
    row(f"a page of {megapixels} megapixels", f"{took:.1f} s, {len(body) / 1e6:.0f} MB sent")
    times = (peak - before) / decoded
    row(
        "  memory", f"{before:.0f} MiB before, {peak:.0f} MiB at most",
        f"{times:.2f} times the image and a layer; < 1.2",
    )  # fmt: skip
    await asyncio.sleep(1)
    row("  afterwards", f"{gateway.status('VmRSS'):.0f} MiB")


async def measure(options, folder):
    gateway = Gateway(options.gateway, folder)
    gateway.start()
    try:
        await asyncio.sleep(1)
        row("memory while nothing happens", f"{gateway.status('VmRSS'):.1f} MiB", "< 40 MiB")
        pages = await many_runs(gateway, options.runs)
        await lists(gateway, options.runs, options.times)
        await watchers(gateway, options.watchers, pages)
        await uploads(gateway, options.uploads, options.side)
        # Anew: what an allocator has kept from before is not what this page takes.
        gateway.stop()
        gateway.start()
        await large(gateway, options.megapixels)
    finally:
        gateway.stop()


def main():
    parser = argparse.ArgumentParser(description="what the gateway costs")
    parser.add_argument("--gateway", required=True, help="the program")
    parser.add_argument("--runs", type=int, default=1000, help="runs in the store (1000)")
    parser.add_argument("--times", type=int, default=100, help="requests for a list (100)")
    parser.add_argument("--watchers", type=int, default=200, help="watchers of a run (200)")
    parser.add_argument("--uploads", type=int, default=50, help="uploads at once (50)")
    parser.add_argument("--side", type=int, default=2000, help="pixels a side of each (2000)")
    parser.add_argument("--megapixels", type=int, default=100, help="of the large page (100)")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}{': busy' if load > 0.5 else ''}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(options, folder))


if __name__ == "__main__":
    sys.exit(main())

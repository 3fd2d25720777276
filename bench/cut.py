"""The measurement behind bench/cut: run_trainer --predict beside Keras on the same page and models."""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What Rodan's classifier does, in a process of its own, so that its memory is its own too: for each model, for each window.
# 25 pixels around each window are not used, and windows follow each other by 51 pixels less than their side.
KERAS = """
import os, sys, time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
import numpy as np
import tensorflow as tf

page, out, *models = sys.argv[1:]
image = tf.io.decode_image(open(page, "rb").read(), channels=3).numpy()[..., ::-1]
height, width = image.shape[:2]
loaded = [tf.keras.models.load_model(path) for path in models]
tops, lefts = loaded[0].input_shape[1:3]
loaded[0].predict(np.zeros((1, tops, lefts, 3), np.float32), verbose=0)  # it builds its graph
started = time.perf_counter()
down, across = tops - 51, lefts - 51
padded = np.pad(image, [(25, tops), (25, lefts), (0, 0)], mode="edge")
seen = np.zeros((len(loaded), height + tops, width + lefts), np.float32)
for index, model in enumerate(loaded):
    for row in range(0, height, down):
        for column in range(0, width, across):
            window = (255.0 - padded[None, row : row + tops, column : column + lefts].astype(np.float32)) / 255.0
            found = model.predict(window, verbose=0)[0, 25 : 25 + down, 25 : 25 + across, 0]
            seen[index, row : row + down, column : column + across] = found
np.argmax(seen[:, :height, :width], axis=0).astype(np.uint8).tofile(out)
print(f"cut in {time.perf_counter() - started:.3f} s")
"""


def run(command):
    """Runs a command; the seconds that it says it cut for, those of its whole run, and its largest memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.perf_counter() - started
    found = re.search(r"cut in ([0-9.]+) s", said)
    if status != 0 or found is None:
        sys.exit(f"{said}bench/cut: {command[0]} failed")
    return float(found[1]), whole, usage.ru_maxrss / 1024


def train(trainer, folder, patch):
    """Models of the example page, which have learned for a moment: what they see does not matter here."""
    sets = [f"Patch height={patch}", f"Patch width={patch}", "Maximum number of samples per label=20"]
    sets += ["Maximum number of training epochs=1", "Batch Size=4", "Seed=1"]
    command = [trainer, "--local", str(ROOT / "examples/page"), "--out", str(folder), "--quiet"]
    subprocess.run(command + [word for one in sets for word in ("--set", one)], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(prog="bench/cut", description=__doc__)
    parser.add_argument("page", nargs="?", type=Path, default=ROOT / "examples/page/image.png", help="PNG or JPEG")
    parser.add_argument("--models", type=Path, help="folder of models [trained for a moment on examples/page]")
    parser.add_argument("--patch", type=int, default=256, help="side of those models' patches [256]")
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="one that has TensorFlow")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured [3]; the median counts")
    parser.add_argument("--trainer", help="run_trainer to measure")
    parser.add_argument("--without-keras", action="store_true", help="measure only run_trainer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        models = options.models
        if models is None:
            models = folder / "models"
            train(options.trainer, models, options.patch)
        files = sorted(models.glob("*.hdf5")) + sorted(models.glob("*.h5"))
        ours = [options.trainer, "--predict", str(options.page), "--models", str(models), "--out", str(folder / "out")]
        runs = {
            "large windows": ours,
            "classifier's windows": ours + ["--windows", "classifier"],
        }
        if not options.without_keras:
            keras = [options.python, "-c", KERAS, str(options.page), str(folder / "labels")]
            runs = {"Keras": keras + [str(file) for file in files]} | runs
        found = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, command in runs.items():
                found[name].append(run(command))
        medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in found.items()}
    first = next(iter(medians.values()))[0]
    print(f"{options.page.name}, {len(files)} models, medians of {options.rounds} rounds")
    print(f"{'':<22}{'cut':>10}{'of the first':>14}{'whole run':>12}{'peak memory':>14}")
    for name, (cut, whole, memory) in medians.items():
        print(f"{name:<22}{cut:>8.2f} s{cut / first:>14.2f}{whole:>10.2f} s{memory:>10.0f} MiB")


if __name__ == "__main__":
    main()

"""The measurement behind bench/cut: run_trainer --predict beside Keras, same page, same models."""

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

# The loop of Rodan's classifier, in a process of its own, so that its memory is its own too: for
# each window each model by itself. 25 pixels of the page's border are repeated around it, the outer
# 25 pixels of a window are not used, windows follow each other by 51 pixels less than their side,
# and the last ones are moved back to the border. Opening the models is not counted.
KERAS = """
import os, sys, time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
import numpy as np
import tensorflow as tf

page, out, *models = sys.argv[1:]
image = tf.io.decode_image(open(page, "rb").read(), channels=3).numpy()[..., ::-1]
padded = np.pad(image, [(25, 25), (25, 25), (0, 0)], mode="edge")
loaded = [tf.keras.models.load_model(path) for path in models]
height, width = loaded[0].input_shape[1:3]
if min(padded.shape[0] - height, padded.shape[1] - width) < 0:
    sys.exit("the classifier can't cut a page that is smaller than a window")
for model in loaded:
    model.predict(np.zeros((1, height, width, 3), np.float32), verbose=0)  # builds its graph
started, used = time.perf_counter(), time.process_time()
labels = np.zeros(padded.shape[:2], np.uint8)
for row in range(0, padded.shape[0], height - 51):
    for column in range(0, image.shape[1], width - 51):
        row = min(row, padded.shape[0] - height)
        column = min(column, padded.shape[1] - width)
        window = (255.0 - padded[None, row : row + height, column : column + width]) / 255.0
        seen = [model.predict(window, verbose=0)[0, 25:-25, 25:-25, 0] for model in loaded]
        labels[row + 25 : row + height - 25, column + 25 : column + width - 25] = np.argmax(seen, 0)
labels[25:-25, 25:-25].tofile(out)
print(f"cut in {time.perf_counter() - started:.3f} s")
print(f"processor {time.process_time() - used:.3f} s")
"""


def run(command):
    """Runs a command; the seconds that it says it cut for, those of the processor (where it does
    not say them, of the whole run), those of the whole run, and its largest memory in MiB.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.perf_counter() - started
    found = re.search(r"cut in ([0-9.]+) s", said)
    if status != 0 or found is None:
        sys.exit(f"{said}bench/cut: {command[0]} failed")
    used = re.search(r"processor ([0-9.]+) s", said)
    processor = float(used[1]) if used else usage.ru_utime + usage.ru_stime
    return float(found[1]), processor, whole, usage.ru_maxrss / 1024


def train(trainer, folder, patch):
    """Models of the example page that learn for a moment: what they see does not matter here."""
    sets = [f"Patch height={patch}", f"Patch width={patch}", "Seed=1", "Batch Size=4"]
    sets += ["Maximum number of samples per label=20", "Maximum number of training epochs=1"]
    command = [trainer, "--local", str(ROOT / "examples/page"), "--out", str(folder), "--quiet"]
    command += [word for one in sets for word in ("--set", one)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(prog="bench/cut", description=__doc__)
    page = ROOT / "examples/page/image.png"
    parser.add_argument("page", nargs="?", type=Path, default=page, help="PNG or JPEG")
    parser.add_argument(
        "--models", type=Path, help="folder of models [trained for a moment on examples/page]"
    )
    parser.add_argument("--patch", type=int, default=256, help="side of such models' patches [256]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements; the median counts [3]")
    parser.add_argument("--trainer", help="run_trainer to measure")
    parser.add_argument("--without-keras", action="store_true", help="measure only run_trainer")
    options = parser.parse_args()
    python = os.environ.get("HPC_TRAINER_TEST_PYTHON", str(ROOT / ".venv/bin/python"))
    if not options.without_keras and not os.access(python, os.X_OK):
        sys.exit(
            "bench/cut: no Python with TensorFlow: run ./run_tests --only python, "
            "set HPC_TRAINER_TEST_PYTHON, or say --without-keras"
        )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        models = options.models
        if models is None:
            models = folder / "models"
            train(options.trainer, models, options.patch)
        files = sorted(models.glob("*.hdf5")) + sorted(models.glob("*.h5"))
        ours = [options.trainer, "--predict", str(options.page), "--models", str(models)]
        ours += ["--out", str(folder / "out")]
        runs = {"large windows": ours, "classifier's windows": ours + ["--windows", "classifier"]}
        if not options.without_keras:
            keras = [python, "-c", KERAS, str(options.page), str(folder / "labels")]
            runs = {"Keras": keras + [str(file) for file in files]} | runs
        found = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, command in runs.items():
                found[name].append(run(command))
    medians = {name: [statistics.median(row) for row in zip(*rows)] for name, rows in found.items()}
    first = next(iter(medians.values()))
    print(f"{options.page.name}, {len(files)} models, medians of {options.rounds} rounds")
    heads = [("cut", 10), ("ratio", 7), ("processor", 12), ("ratio", 7), ("whole run", 12)]
    print(" " * 22 + "".join(f"{head:>{width}}" for head, width in [*heads, ("memory", 12)]))
    for name, row in medians.items():
        ratios = [of / to if to > 0 else float("nan") for of, to in zip(row, first)]
        print(
            f"{name:<22}{row[0]:>8.2f} s{ratios[0]:>7.2f}{row[1]:>10.2f} s{ratios[1]:>7.2f}"
            f"{row[2]:>10.2f} s{row[3]:>8.0f} MiB"
        )


if __name__ == "__main__":
    main()

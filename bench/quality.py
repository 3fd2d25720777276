"""The comparison behind bench/quality: the same page, counts, split, batch and epochs for both
trainers.

Both draw a layer's patches by the original's rule; ours draws a third of them around the other
layers instead, unless --set "Patches around other layers (%)=0" says otherwise. Keras is trained
as the original trainer does it: Adam 1e-4, binary cross-entropy, the best epoch by validation
accuracy, early stopping. Both sets of models are compared with the drawn pages by run_trainer
--evaluate: each pixel goes to the surest model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

SETTINGS = {
    "epochs": "Maximum number of training epochs",
    "samples": "Maximum number of samples per label",
    "batch": "Batch Size",
    "patience": "Patience",
}


def read_png(path):
    import tensorflow as tf

    return tf.io.decode_png(Path(path).read_bytes()).numpy()


def write_png(path, pixels):
    import tensorflow as tf

    Path(path).write_bytes(tf.io.encode_png(pixels).numpy())


class Page:
    """A page folder: BGR bytes, and a mask for each layer, cut to the regions (except the
    background)."""

    def __init__(self, folder):
        folder = Path(folder)
        image = read_png(folder / "image.png")
        image = np.repeat(image, 3, axis=2) if image.shape[2] < 3 else image[..., :3]
        self.bgr = np.ascontiguousarray(image[..., ::-1])
        regions = folder / "regions.png"
        full = np.ones(self.bgr.shape[:2], bool)
        self.regions = read_png(regions)[..., 3] == 255 if regions.exists() else full
        self.layers = {}
        for name in ["background.png"] + [f"layer_{n}.png" for n in range(10)]:
            if (folder / name).exists():
                mask = read_png(folder / name)[..., 3] == 255
                self.layers[name] = mask if name == "background.png" else mask & self.regions

    def models(self):
        number = lambda name: name.removeprefix("layer_").removesuffix(".png")
        return [
            "Background Model" if name == "background.png" else f"Model {number(name)}"
            for name in self.layers
        ]


def split(folder, share, into):
    """Writes the upper rows as one page folder and the lower ones as another."""
    parts = [into / "train", into / "test"]
    for part in parts:
        part.mkdir(parents=True)
    for path in sorted(Path(folder).glob("*.png")):
        pixels = read_png(path)
        cut = round(len(pixels) * share)
        write_png(parts[0] / path.name, pixels[:cut])
        write_png(parts[1] / path.name, pixels[cut:])
    return parts


def centres(page, name, options, rng):
    """The patches' centres by the original's rule, or their exact number where few are expected,
    as the product does.
    """
    mask = page.layers[name]
    allowed = np.zeros_like(mask)
    ranges = []
    for length in mask.shape:
        inner = length > 2 * options.patch + 1
        ranges.append(
            slice(options.patch, length - options.patch - 1) if inner else slice(0, length)
        )
    allowed[ranges[0], ranges[1]] = True
    rows, columns = np.nonzero(mask & allowed)
    n = min(options.samples, min(int(m.sum()) for m in page.layers.values()))
    chance = 0.01 * min(1.0, 100.0 * n / mask.sum())
    expected = chance * len(rows)
    if expected < 2 * options.batch:
        count = min(max(round(expected), min(10, max(n, 1))), len(rows))
        chosen = np.sort(rng.choice(len(rows), count, replace=False))
    else:
        chosen = np.nonzero(rng.random(len(rows)) < chance)[0]
    return list(zip(rows[chosen], columns[chosen]))


def build(side):
    import tensorflow as tf

    layers = tf.keras.layers
    conv = lambda filters, kernel, x: layers.Conv2D(
        filters, kernel, padding="same", activation="relu", kernel_initializer="he_normal"
    )(x)
    inputs = tf.keras.Input((side, side, 3))
    first = conv(32, 3, conv(32, 3, inputs))
    second = conv(64, 3, conv(64, 3, layers.MaxPooling2D(2)(first)))
    x = conv(256, 3, conv(256, 3, layers.MaxPooling2D(2)(second)))
    x = layers.concatenate([second, conv(128, 2, layers.UpSampling2D(2)(x))], axis=3)
    x = conv(128, 3, conv(128, 3, x))
    x = layers.concatenate([first, conv(64, 2, layers.UpSampling2D(2)(x))], axis=3)
    x = conv(2, 3, conv(64, 3, conv(64, 3, x)))
    model = tf.keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))
    model.compile(
        optimizer=tf.keras.optimizers.Adam(1e-4), loss="binary_crossentropy", metrics=["accuracy"]
    )
    return model


def train_with_keras(options):
    """One process for one seed: so its memory and time can be told from the rest."""
    import tensorflow as tf

    page = Page(options.page)
    reach = options.patch
    bgr = np.pad(page.bgr, [(reach, reach), (reach, reach), (0, 0)], mode="symmetric")
    accuracies = {}
    for number, (name, model_name) in enumerate(zip(page.layers, page.models())):
        tf.keras.utils.set_random_seed(options.seed * 100 + number)
        mask = np.pad(page.layers[name], reach, mode="symmetric")
        half = options.patch // 2

        def cut(pixels, places):
            return np.stack(
                [
                    pixels[r + half : r + half + reach, c + half : c + half + reach]
                    for r, c in places
                ]
            )

        places = centres(page, name, options, np.random.default_rng([options.seed, number]))
        upper = len(places) * 4 // 5

        class Batches(tf.keras.utils.Sequence):
            def __init__(self, places, shuffle):
                self.x, self.y, self.shuffle = cut(bgr, places), cut(mask, places), shuffle
                self.order = np.arange(len(places))
                self.on_epoch_end()

            def __len__(self):
                return -(-len(self.order) // options.batch)

            def __getitem__(self, index):
                chosen = self.order[index * options.batch : (index + 1) * options.batch]
                x = (255.0 - self.x[chosen].astype(np.float32)) / np.float32(255)
                return x, self.y[chosen][..., None].astype(np.float32)

            def on_epoch_end(self):
                if self.shuffle:
                    np.random.shuffle(self.order)

        model = build(options.patch)
        path = str(Path(options.out) / f"{model_name}.hdf5")
        keep = tf.keras.callbacks.ModelCheckpoint(
            path, monitor="val_accuracy", save_best_only=True, mode="max"
        )
        stop = tf.keras.callbacks.EarlyStopping(
            monitor="val_accuracy", patience=options.patience, mode="max"
        )
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras calls its own HDF5 form legacy.
            history = model.fit(
                Batches(places[:upper], True),
                validation_data=Batches(places[upper:], False),
                epochs=options.epochs,
                callbacks=[keep, stop],
                verbose=0,
            )
        accuracies[model_name] = max(history.history["val_accuracy"])
        print(
            f"  Keras  {model_name}: {len(places)} samples, {len(history.history['loss'])} epochs",
            flush=True,
        )
    (Path(options.out) / "accuracy.json").write_text(json.dumps(accuracies))


def evaluate(trainer, page, models, out):
    """Precision, recall and F1 of each model on a drawn page."""
    command = [trainer, "--evaluate", page, "--models", models, "--json", "--out", out]
    found = subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True
    )
    layers = json.loads(found.stdout)["layers"]
    return {of["model"]: [of["precision"], of["recall"], of["f1"]] for of in layers}


def measured(command):
    """Runs a command; wall and CPU seconds, and its largest resident memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL if "--local" in command else None
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"quality.py: {command[0]} failed")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(prog="bench/quality", description=__doc__.splitlines()[0])
    parser.add_argument("page", help="folder of the page, as for run_trainer --local (PNG)")
    parser.add_argument("test", nargs="?", help="folder of a page that is not trained on")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--patch", type=int, help="side of a patch in pixels")
    for name in SETTINGS:
        parser.add_argument(f"--{name}", type=int, help=SETTINGS[name])
    parser.add_argument(
        "--share",
        type=float,
        default=0.65,
        help="upper part that is trained on, without a test page",
    )
    parser.add_argument("--trainer", help="run_trainer to compare")
    parser.add_argument(
        "--only", choices=["ours", "Keras"], help="one of the trainers, without the other"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting for run_trainer only",
    )
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    given = Path(options.page) / "settings.json"
    given = json.loads(given.read_text()) if given.exists() else {}
    usual = {"epochs": 15, "samples": 10000, "batch": 16, "patience": 3}
    for name, key in SETTINGS.items():
        if getattr(options, name) is None:
            setattr(options, name, given.get(key, usual[name]))
    options.patch = options.patch or given.get("Patch height", 256)
    if options.out:
        return train_with_keras(options)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pages = (
            [options.page, options.test]
            if options.test
            else split(options.page, options.share, work / "pages")
        )
        names = Page(pages[0]).models()
        same = ["--patch", options.patch] + [
            w for n in SETTINGS for w in (f"--{n}", getattr(options, n))
        ]
        results, means = [], {}
        for seed in map(int, options.seeds.split(",")):
            for trainer in [options.only] if options.only else ["ours", "Keras"]:
                out = work / f"{trainer}-{seed}"
                out.mkdir()
                if trainer == "ours":
                    sets = {SETTINGS[n]: getattr(options, n) for n in SETTINGS}
                    sets |= {
                        "Patch height": options.patch,
                        "Patch width": options.patch,
                        "Seed": seed,
                    }
                    command = [options.trainer, "--local", str(pages[0]), "--out", str(out)]
                    command += [
                        word for key, value in sets.items() for word in ("--set", f"{key}={value}")
                    ]
                    command += [word for given in options.set for word in ("--set", given)]
                    cost = measured(command)
                    report = json.loads((out / "training.json").read_text())["layers"]
                    best = lambda layer: layer["history"][layer["best_epoch"] - 1][
                        "validation_accuracy"
                    ]
                    accuracy = {layer["model"]: best(layer) for layer in report}
                    again = {layer["model"]: layer["restarts"] for layer in report}
                else:
                    command = [
                        sys.executable,
                        __file__,
                        str(pages[0]),
                        "--seed",
                        seed,
                        "--out",
                        out,
                        *same,
                    ]
                    cost = measured([str(word) for word in command])
                    accuracy, again = json.loads((out / "accuracy.json").read_text()), {}
                print(
                    f"\n{trainer}, seed {seed}: {cost[0]:.0f} s, {cost[1]:.0f} CPU-s, "
                    f"peak {cost[2]:.0f} MiB"
                )
                print(f"{'':<18}{'accuracy':>9}  |{'trained page':^23}|{'unseen page':^23}")
                print(
                    f"{'model':<18}{'valid.':>9}  |{'prec.':>7}{'recall':>8}{'F1':>7} |"
                    f"{'prec.':>7}{'recall':>8}{'F1':>7}"
                )
                seen = [
                    evaluate(options.trainer, page, out, work / "evaluated") for page in pages
                ]
                for model in names:
                    rows = [of_page[model] for of_page in seen]
                    cells = " |".join(f"{p:>7.3f}{r:>8.3f}{f:>7.3f}" for p, r, f in rows)
                    print(f"{model:<18}{accuracy[model]:>9.4f}  |{cells}", flush=True)
                    for place, row in zip(("trained", "unseen"), rows):
                        means.setdefault((trainer, place), []).append(row[2])
                    results.append(
                        {
                            "trainer": trainer,
                            "seed": seed,
                            "model": model,
                            "accuracy": accuracy[model],
                            "restarts": again.get(model, 0),
                            "trained": rows[0],
                            "unseen": rows[1],
                            "seconds": cost[0],
                            "cpu_seconds": cost[1],
                            "peak_mib": cost[2],
                        }
                    )
                for name, count in again.items():
                    if count:
                        print(
                            f"  {name}: started {count} times more because it had learned nothing"
                        )
        for given in options.set:
            print(f"\nrun_trainer with {given}", end="")
        print(
            f"\nMean F1 of {len(names)} layers, seeds {options.seeds}; {options.epochs} epochs, "
            f"{options.samples} samples, {options.patch}x{options.patch}, batch {options.batch}"
        )
        for place in ("trained", "unseen"):
            found = {
                trainer: float(np.mean(means[trainer, place]))
                for trainer, of in means
                if of == place
            }
            text = ", ".join(f"{trainer} {mean:.4f}" for trainer, mean in found.items())
            if len(found) == 2:
                text += f", difference {found['ours'] - found['Keras']:+.4f}"
            print(f"  {place:<8} page: {text}")
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

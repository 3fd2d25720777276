#!/usr/bin/env python3
"""Opens model files with the Keras that Rodan's classifier runs (TensorFlow 2.15.1).

    check_models.py check PATH...   each .hdf5/.h5 file, or every one in a folder: load it with
                                    every warning an error, evaluate and fit it; beside NAME.hdf5
                                    may lie NAME.x.f32 (input batch) and NAME.y.f32 (the trainer's
                                    predictions): they are compared.
    check_models.py save FOLDER     save models of this network as Keras does: keras.hdf5 (trained,
                                    with Adam slots), masking.hdf5 (with the successor's Masking
                                    layer), both with NAME.x.f32 and NAME.y.f32; open.hdf5, for
                                    images of any size; and other.hdf5, another network.
    check_models.py segment FOLDER  page.png in the folder, segmented by the models in FOLDER/models
                                    as Rodan's classifier does: windows of the models' size in steps
                                    of 51 pixels less, the last moved back to the border, their
                                    outer 25 pixels unused, the page's border replicated, each pixel
                                    to the most confident model (in the order of the files' names).
                                    Writes labels.u8, and gap.f32: by how much the most confident
                                    was more confident than the next.

Raw files are little-endian float32, (N, H, W, channels). Exit status 0 only when all is right.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

# The trainer's arithmetic and TensorFlow's may differ by rounding only.
TOLERANCE = 1e-5


class RaiseOnWarning(logging.Handler):
    """Keras reports a file it half understands by logging, not by the warnings module."""

    def emit(self, record):
        if record.levelno >= logging.WARNING:
            raise RuntimeError("warning: " + record.getMessage())


def load_strictly(path):
    handler = RaiseOnWarning()
    tf.get_logger().addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # Building layers draws on TensorFlow's own deprecated helpers; they say nothing about
            # the file.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return tf.keras.models.load_model(str(path))
    finally:
        tf.get_logger().removeHandler(handler)


def check(path):
    model = load_strictly(path)
    _, height, width, channels = model.input_shape
    assert channels == 3, f"{channels} input channels"
    assert model.count_params() == 1_429_733, f"{model.count_params()} parameters"
    said = ""
    batch, expected = path.with_suffix(".x.f32"), path.with_suffix(".y.f32")
    if batch.exists():
        x = np.fromfile(batch, "<f4").reshape(-1, height, width, 3)
        y = np.fromfile(expected, "<f4").reshape(-1, height, width, 1)
        found = model.predict(x, verbose=0)
        difference = float(np.abs(found - y).max())
        said = f", predictions differ by {difference:.1e} (spread {found.std():.2f})"
        assert difference < TOLERANCE, (
            f"predictions differ by {difference:.2e}, allowed {TOLERANCE:.0e}"
        )
    rng = np.random.default_rng(1)
    x = rng.random((2, height, width, 3), dtype=np.float32)
    y = (rng.random((2, height, width, 1)) > 0.5).astype(np.float32)
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert np.isfinite(loss) and 0 <= accuracy <= 1
    before = model.get_weights()
    history = model.fit(x, y, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert any((a != b).any() for a, b in zip(before, model.get_weights())), "fit changed nothing"
    print(f"ok {path.name}: {height}x{width}, loads without a warning, evaluates and fits{said}")


def build(height, width, masking=False, second_kernel=2):
    layers = tf.keras.layers

    def conv(filters, kernel):
        return layers.Conv2D(
            filters, kernel, padding="same", activation="relu", kernel_initializer="he_normal"
        )

    inputs = tf.keras.Input((height, width, 3))
    x = layers.Masking(mask_value=-1)(inputs) if masking else inputs
    first = conv(32, 3)(conv(32, 3)(x))
    second = conv(64, 3)(conv(64, 3)(layers.MaxPooling2D(2)(first)))
    x = conv(256, 3)(conv(256, 3)(layers.MaxPooling2D(2)(second)))
    x = layers.concatenate([second, conv(128, second_kernel)(layers.UpSampling2D(2)(x))], axis=3)
    x = conv(128, 3)(conv(128, 3)(x))
    x = layers.concatenate([first, conv(64, 2)(layers.UpSampling2D(2)(x))], axis=3)
    x = conv(2, 3)(conv(64, 3)(conv(64, 3)(x)))
    model = tf.keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))
    model.compile(
        optimizer=tf.keras.optimizers.Adam(1e-4), loss="binary_crossentropy", metrics=["accuracy"]
    )
    return model


def save(folder):
    folder.mkdir(parents=True, exist_ok=True)
    tf.keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    # The second model of a session has names such as conv2d_14: only the order tells which weight
    # is which.
    for name, masking in (("keras", False), ("masking", True)):
        model = build(64, 96, masking)
        x = rng.random((3, 64, 96, 3), dtype=np.float32)
        # Where chance closes both ReLUs before the last layer, a model sees the same everywhere.
        kernel, bias = model.layers[-2].get_weights()
        model.layers[-2].set_weights([kernel, bias + 1.0])
        model.fit(x, (x[..., :1] > 0.5).astype(np.float32), epochs=2, verbose=0)
        # Nor is one of them surer than the other everywhere.
        kernel, bias = model.layers[-1].get_weights()
        seen = model.predict(x, verbose=0)
        model.layers[-1].set_weights([kernel, bias - np.log(seen / (1 - seen)).mean()])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras calls its own HDF5 form legacy.
            model.save(str(folder / f"{name}.hdf5"))
        x.astype("<f4").tofile(folder / f"{name}.x.f32")
        model.predict(x, verbose=0).astype("<f4").tofile(folder / f"{name}.y.f32")
        print(f"saved {name}.hdf5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(32, 64, second_kernel=3).save(str(folder / "other.hdf5"))
        build(None, None).save(str(folder / "open.hdf5"))


def segment(folder):
    image = tf.io.decode_png((folder / "page.png").read_bytes(), channels=3).numpy()[..., ::-1]
    padded = np.pad(image, [(25, 25), (25, 25), (0, 0)], mode="edge")
    padded = (255.0 - padded.astype(np.float32)) / 255.0
    seen = []
    for path in sorted((folder / "models").iterdir()):
        model = load_strictly(path)
        height, width = model.input_shape[1:3]
        result = np.zeros(padded.shape[:2], np.float32)
        for row in range(0, padded.shape[0], height - 51):
            for column in range(0, padded.shape[1], width - 51):
                # The last windows are moved back so that they end with the border.
                row = min(row, padded.shape[0] - height)
                column = min(column, padded.shape[1] - width)
                window = padded[None, row : row + height, column : column + width]
                found = model.predict(window, verbose=0)[0, 25:-25, 25:-25, 0]
                result[row + 25 : row + height - 25, column + 25 : column + width - 25] = found
        seen.append(result[25:-25, 25:-25])
    seen = np.stack(seen)
    np.argmax(seen, axis=0).astype(np.uint8).tofile(folder / "labels.u8")
    ordered = np.sort(seen, axis=0)
    (ordered[-1] - ordered[-2]).astype("<f4").tofile(folder / "gap.f32")


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "segment":
        segment(Path(arguments[1]))
        return 0
    if len(arguments) == 2 and arguments[0] == "save":
        save(Path(arguments[1]))
        return 0
    if len(arguments) < 2 or arguments[0] != "check":
        print(__doc__, file=sys.stderr)
        return 2
    files = []
    for path in map(Path, arguments[1:]):
        files += (
            sorted(p for p in path.iterdir() if p.suffix in (".hdf5", ".h5"))
            if path.is_dir()
            else [path]
        )
    if not files:
        print("no model file found", file=sys.stderr)
        return 1
    failed = 0
    for path in files:
        try:
            check(path)
        except Exception as error:  # One bad file must not hide the next one.
            failed += 1
            print(f"FAILED {path}: {type(error).__name__}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

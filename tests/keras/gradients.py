"""Compares the trainer's loss, gradients, predictions and ten Adam steps with TensorFlow 2.15's.

    python gradients.py DUMP_GRADIENTS [--size 64] [--batch 4] [--seed 0]

DUMP_GRADIENTS is the built example `dump_gradients`. The same weights and batch go to it and to
Keras, in float32 and in float64. An error is the norm of a tensor's difference over the norm of
the tensor. Judged is the error against float64: rounding decides where ReLU and pooling switch,
and TensorFlow's own float32 gradients are up to 1.2e-4 from its float64 ones. Exits with 1 when an
error is above --limit (1e-4), or a probability more than 1e-5 from TensorFlow's float32.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf
from tensorflow.keras import layers

STEPS = 10


def model(dtype):
    tf.keras.backend.clear_session()
    tf.keras.backend.set_floatx(dtype)

    def conv(filters, kernel, x):
        return layers.Conv2D(
            filters, kernel, activation="relu", padding="same", kernel_initializer="he_normal"
        )(x)

    image = layers.Input((None, None, 3))
    skip_1 = conv(32, 3, conv(32, 3, image))
    skip_3 = conv(64, 3, conv(64, 3, layers.MaxPooling2D(2)(skip_1)))
    x = conv(256, 3, conv(256, 3, layers.MaxPooling2D(2)(skip_3)))
    x = layers.Concatenate()([skip_3, conv(128, 2, layers.UpSampling2D(2)(x))])
    x = conv(128, 3, conv(128, 3, x))
    x = layers.Concatenate()([skip_1, conv(64, 2, layers.UpSampling2D(2)(x))])
    x = conv(2, 3, conv(64, 3, conv(64, 3, x)))
    net = tf.keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))
    net.compile(optimizer=tf.keras.optimizers.Adam(learning_rate=1e-4), loss="binary_crossentropy")
    return net


def reference(dtype, weights, x, y):
    net = model(dtype)
    net.set_weights(weights)
    x, y = tf.constant(x.astype(dtype)), tf.constant(y.astype(dtype))

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            output = net(x, training=True)
            loss = net.compiled_loss(y, output)
        return output, loss, tape.gradient(loss, net.trainable_variables)

    output, loss, grads = gradients()
    result = {"loss": np.array([loss]), "probability": output.numpy()}
    result |= {f"gradient{i:02}": g.numpy() for i, g in enumerate(grads)}
    step = tf.function(lambda: net.train_step((x, y)))
    for _ in range(STEPS):
        step()
    result |= {f"trained{i:02}": w for i, w in enumerate(net.get_weights())}
    return result, [v.name for v in net.trainable_variables]


def sample(size, batch, seed):
    """Ink-like squares on white (0 after inversion: exact zeros matter to ReLU and pooling); the
    target is the ink.
    """
    random = np.random.default_rng(seed)
    x = np.zeros((batch, size, size, 3), "float32")
    y = np.zeros((batch, size, size, 1), "float32")
    for image in range(batch):
        for _ in range(size // 4):
            r, c = random.integers(0, size - 6, 2)
            h, w = random.integers(2, 7, 2)
            x[image, r : r + h, c : c + w] = random.integers(90, 256, 3) / np.float32(255)
            y[image, r : r + h, c : c + w] = 1
    return x, y


def error(a, b):
    a, b = np.ravel(a).astype("float64"), np.ravel(b).astype("float64")
    norm = np.linalg.norm(b)
    return np.linalg.norm(a - b) / norm if norm > 0 else np.linalg.norm(a)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dump_gradients")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1e-4)
    options = parser.parse_args()

    tf.keras.utils.set_random_seed(options.seed)
    weights = model("float32").get_weights()
    # Biases that aren't 0, so that a lost one shows.
    random = np.random.default_rng(options.seed)
    weights = [
        w if w.ndim > 1 else random.normal(0.02, 0.02, w.shape).astype("float32") for w in weights
    ]
    x, y = sample(options.size, options.batch, options.seed)
    single, names = reference("float32", weights, x, y)
    double, _ = reference("float64", weights, x, y)
    if not all(np.any(single[f"gradient{i:02}"]) for i in range(28)):
        sys.exit(
            "a gradient is all zeros: the comparison would show nothing; choose another --seed"
        )

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, values in [
            ("x", x),
            ("y", y),
            *((f"weight{i:02}", w) for i, w in enumerate(weights)),
        ]:
            values.astype("<f4").tofile(folder / name)
        (folder / "shape.json").write_text(json.dumps([options.batch, options.size, options.size]))
        subprocess.run(
            [options.dump_gradients, str(folder)], check=True, timeout=3600
        )
        ours = {name: np.fromfile(folder / name, "<f4") for name in single}

    print(
        f"batch {options.batch} of {options.size}x{options.size}; relative errors against "
        f"TensorFlow {tf.__version__} in float64,\n"
        "and in the last column the largest of TensorFlow's own float32\n"
    )
    ours_error = {name: error(ours[name], double[name]) for name in single}
    own_error = {name: error(single[name], double[name]) for name in single}
    worst = max(ours_error.values())
    print(f"{'':12}{'gradient':>20}{f'after {STEPS} Adam steps':>22}")
    print(f"{'layer':12}{'kernel':>10}{'bias':>10}{'kernel':>12}{'bias':>10}{'TensorFlow':>14}")
    print("-" * 68)
    # Kernels and biases take turns.
    for i in range(0, len(names), 2):
        tensors = [
            f"{kind}{number:02}" for kind in ("gradient", "trained") for number in (i, i + 1)
        ]
        first, second, third, fourth = (ours_error[name] for name in tensors)
        own = max(own_error[name] for name in tensors)
        layer = names[i].split("/")[0]
        print(f"{layer:12}{first:>10.1e}{second:>10.1e}{third:>12.1e}{fourth:>10.1e}{own:>14.1e}")
    for name in ("loss", "probability"):
        print(f"{name:12}{ours_error[name]:>10.1e}{own_error[name]:>46.1e}")
    print()
    gap = np.abs(ours["probability"] - np.ravel(single["probability"])).max()
    print(
        f"largest difference of a probability {gap:.2e}; worst error {worst:.2e}, "
        f"limit {options.limit:.0e}"
    )
    sys.exit(1 if worst > options.limit or gap > 1e-5 else 0)


if __name__ == "__main__":
    main()

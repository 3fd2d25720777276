"""The TensorFlow side of bench/compare.sh: `step_tensorflow.py BATCH SIDE THREADS`; one training
step for each line read.

Keras's own `train_step` inside one `tf.function`: `fit` and `train_on_batch` take longer around
the same step.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

from quality import build


def main():
    batch, side, threads = map(int, sys.argv[1:4])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.keras.utils.set_random_seed(0)
    model = build(side)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate=1e-4), loss="binary_crossentropy"
    )
    images = np.random.default_rng(0).random((batch, side, side, 3), dtype="float32")
    x, y = (
        tf.constant(images),
        tf.constant((images.mean(-1, keepdims=True) > 0.5).astype("float32")),
    )
    step = tf.function(lambda: model.train_step((x, y)))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(f"{float(step()['loss']):.6f}", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Reads TensorBoard's event files with TensorBoard itself: read_events.py DIRECTORY.

Prints JSON: for each directory below it its scalars, {name: {tag: [[step, value], ...]}}. Every
record of every file is also read by TensorFlow, which checks the checksums.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(folder):
    for file in folder.iterdir():
        events = list(tf.compat.v1.train.summary_iterator(str(file)))
        assert events[0].file_version == "brain.Event:2", file
        assert all(event.wall_time > 1.7e9 for event in events), file
    run = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    run.Reload()
    return {tag: [[e.step, e.value] for e in run.Scalars(tag)] for tag in run.Tags()["scalars"]}


print(json.dumps({f.name: scalars(f) for f in Path(sys.argv[1]).iterdir()}))

"""Rodan's Celery application. STAND_IN_BROKER is Rodan's own broker, not the cluster's."""

import importlib
import json
import os
import pathlib

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rodan.settings")

import django  # noqa: E402
from celery import Celery  # noqa: E402

django.setup()

app = Celery("rodan", broker=os.environ.get("STAND_IN_BROKER", "memory://"))
app.conf.update(
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=4,
)


def register():
    """What registerJobs.yaml names is imported and registered, as Rodan does at its start."""
    text = (pathlib.Path(__file__).parents[3] / "registerJobs.yaml").read_text()
    registered = []
    for package, modules in json.loads("{" + text + "}").items():
        importlib.import_module(package)
        for module, classes in modules.items():
            for name in classes:
                task = getattr(importlib.import_module(module), name)()
                app.register_task(task)
                registered.append(task.name)
    return registered


if os.environ.get("STAND_IN_REGISTER", "1") == "1":
    register()

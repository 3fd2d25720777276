"""The class that all jobs derive from, and the rules that it has for them."""

import contextlib
import inspect
import os
import shutil
import sys
import tempfile
import uuid

from celery import Task
from django.db import transaction

from rodan.constants import task_status
from rodan.models import Input, Job, Output, RunJob, WorkflowRun, store

#: How many arguments a method must have.
_ARGUMENTS = {
    "run_my_task": 4,
    "get_my_interface": 3,
    "validate_my_user_input": 4,
    "test_my_task": 2,
}

_NAMES = ("name", "author", "description", "enabled", "category", "interactive", "settings")
_LONGEST = {"name": 200, "author": 255, "category": 255}


def arguments(function):
    """How many arguments a function has. Python 3.7's Rodan refuses functions with annotations
    here.
    """
    if sys.version_info < (3, 11):
        return len(inspect.getargspec(function).args)
    if function.__annotations__:
        raise ValueError("function has annotations: Rodan on Python 3.7 can't count its arguments")
    return len(inspect.getfullargspec(function).args)


class RodanTaskType(type(Task)):
    """Looks at each class as it is defined, and registers it."""

    def __new__(cls, name, bases, attributes):
        attributes["_abstract"] = attributes.get("abstract")
        if not attributes["_abstract"]:
            module = attributes["__module__"]
            if not module.startswith("rodan.jobs."):
                raise ValueError("a job package must be in rodan/jobs")
            attributes["_package_name"] = ".".join(module.split(".")[:3])
        return super().__new__(cls, name, bases, attributes)

    def __init__(cls, name, bases, attributes):
        super().__init__(name, bases, attributes)
        for method, count in _ARGUMENTS.items():
            if method in attributes and arguments(attributes[method]) != count:
                raise AssertionError(method)
        if attributes["_abstract"]:
            return
        # Rodan reads them from the class itself: what is inherited does not count.
        for attribute in _NAMES:
            value = attributes[attribute]
            if attribute in _LONGEST and len(value) > _LONGEST[attribute]:
                raise ValueError(attribute)
        schema = attributes["settings"]
        queue = schema.get("job_queue", "celery")
        if schema["type"] != "object" or len(queue) > 15:
            raise ValueError("settings")
        for port in attributes["input_port_types"] + attributes["output_port_types"]:
            if len(port["name"]) > 255 or not port["resource_types"]:
                raise ValueError("ports")
            if not 0 <= port["minimum"] <= port["maximum"]:
                raise ValueError("ports")
        cls.row = {"name": attributes["name"], "author": attributes["author"], "job_queue": queue}


class RodanTask(Task, metaclass=RodanTaskType):
    """A job of Rodan's."""

    abstract = True

    def _inputs(self, runjob, with_urls=False):
        inputs = {}
        for row in Input.objects.filter(run_job=runjob).select_related("resource"):
            resource = row.resource
            described = {
                "resource_path": resource.path,
                "resource_type": resource.mimetype,
                "resource_name": resource.name,
            }
            if with_urls:
                described["resource_url"] = resource.url
            inputs.setdefault(row.input_port_type_name, []).append(described)
        return inputs

    def _settings(self, runjob):
        settings = runjob.job_settings
        for name, rule in self.settings.get("properties", {}).items():
            if "enum" in rule:
                settings[name] = rule["enum"].index(settings[name])
        return settings

    @contextlib.contextmanager
    def tempdir(self):
        folder = tempfile.mkdtemp()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def run(self, runjob_id):
        runjob = RunJob.objects.get(uuid=runjob_id)
        settings, inputs = self._settings(runjob), self._inputs(runjob)
        with self.tempdir() as folder:
            outputs, places = {}, []
            for row in Output.objects.filter(run_job=runjob).select_related("resource"):
                path = os.path.join(folder, str(uuid.uuid4()))
                outputs.setdefault(row.output_port_type_name, []).append(
                    {"resource_path": path, "resource_type": row.resource.mimetype}
                )
                places.append((row, path))
            self.run_my_task(inputs, settings, outputs)
            if len(getattr(self, "error_details", "")) > 0:
                raise RuntimeError(self.error_details)
            for row, path in places:
                if not os.path.isfile(path):
                    raise RuntimeError(
                        "The job did not produce the output file for " + row.output_port_type_name
                    )
            if sorted(os.listdir(folder)) != sorted(os.path.basename(path) for _, path in places):
                raise RuntimeError("there is something else beside the outputs")
            for row, path in places:
                store(row.resource, path)
        RunJob.objects.filter(uuid=runjob_id).update(
            status=task_status.FINISHED,
            error_summary=None,
            error_details=None,
            celery_task_id=None,
        )
        self._describe(runjob)
        return "FINISHED"

    def _describe(self, runjob):
        with transaction.atomic():
            run = WorkflowRun.objects.select_for_update().get(uuid=runjob.workflow_run.uuid)
            run.description = (run.description or "") + "\n\n{}:\n    name: {}\n".format(
                runjob.uuid, runjob.job_name
            )
            run.save(update_fields=["description"])

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        try:
            told = self.my_error_information(exc, einfo.traceback)
            summary, details = told["error_summary"], told["error_details"]
        except Exception:
            summary, details = "the job does not explain its errors", str(einfo.traceback)
        RunJob.objects.filter(uuid=args[0]).update(
            status=task_status.FAILED,
            celery_task_id=None,
            error_summary=summary,
            error_details=details,
        )
        runs = RunJob.objects.filter(uuid=args[0]).values_list("workflow_run__uuid", flat=True)
        WorkflowRun.objects.filter(uuid=runs[0]).update(status=task_status.FAILED)


def register_rows(tasks):
    """The jobs in the database, as after ``manage.py migrate``."""
    for task in tasks:
        Job.objects.get_or_create(**type(task).row)

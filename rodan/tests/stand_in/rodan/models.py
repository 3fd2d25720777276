"""The rows that a job sees, with Rodan's names."""

import json
import os
import uuid

from django.conf import settings
from django.db import models


class Job(models.Model):
    """A registered job: what the class said when it was registered."""

    class Meta:
        app_label = "rodan"

    name = models.CharField(max_length=200, unique=True)
    author = models.CharField(max_length=255)
    job_queue = models.CharField(max_length=15)


class WorkflowRun(models.Model):
    class Meta:
        app_label = "rodan"

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    status = models.IntegerField(default=1)
    description = models.TextField(blank=True, null=True)


class RunJob(models.Model):
    class Meta:
        app_label = "rodan"

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    workflow_run = models.ForeignKey(WorkflowRun, models.CASCADE, related_name="run_jobs")
    job_name = models.CharField(max_length=200)
    settings_text = models.TextField(default="{}")
    status = models.IntegerField(default=0)
    celery_task_id = models.CharField(max_length=255, blank=True, null=True)
    error_summary = models.TextField(default="", blank=True, null=True)
    error_details = models.TextField(default="", blank=True, null=True)

    @property
    def job_settings(self):
        return json.loads(self.settings_text)


class Resource(models.Model):
    class Meta:
        app_label = "rodan"

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=255)
    path = models.TextField(default="")
    mimetype = models.CharField(max_length=100)
    url = models.TextField(default="")


class Input(models.Model):
    class Meta:
        app_label = "rodan"

    run_job = models.ForeignKey(RunJob, models.CASCADE, related_name="inputs")
    input_port_type_name = models.CharField(max_length=255)
    resource = models.ForeignKey(Resource, models.CASCADE)


class Output(models.Model):
    class Meta:
        app_label = "rodan"

    run_job = models.ForeignKey(RunJob, models.CASCADE, related_name="outputs")
    output_port_type_name = models.CharField(max_length=255)
    resource = models.ForeignKey(Resource, models.CASCADE)


def store(resource, source):
    """Puts a file where Rodan keeps a resource's."""
    folder = os.path.join(settings.MEDIA_ROOT, "resources", resource.uuid.hex)
    os.makedirs(folder, exist_ok=True)
    resource.path = os.path.join(folder, "original_file")
    with open(source, "rb") as file, open(resource.path, "wb") as target:
        target.write(file.read())
    resource.save(update_fields=["path"])

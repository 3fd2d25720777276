"""What Rodan's user does: upload files, run a workflow of one job, cancel it, run it again.

Used by the tests in this process and by ``python workflow.py``, which makes the database.
"""

# ruff: noqa: I001 - rodan.celery sets Django up, so it comes first

import json
import os

from rodan.celery import app
from django.core.management import call_command
from rodan.constants import task_status
from rodan.models import Input, Job, Output, Resource, RunJob, WorkflowRun, store


def make_database():
    """The tables, and the registered jobs."""
    from rodan.jobs.base import RodanTask, register_rows

    os.makedirs(os.environ["STAND_IN"], exist_ok=True)
    call_command("migrate", run_syncdb=True, verbosity=0)
    register_rows(task for task in app.tasks.values() if isinstance(task, RodanTask))


def upload(path, url):
    """A file becomes a resource; ``url`` is where the cluster finds it."""
    resource = Resource.objects.create(name=os.path.basename(path), url=url)
    store(resource, path)
    return resource


def run(job_name, inputs, outputs, settings, description=""):
    """Runs a job: ``inputs`` gives a resource for each port. Returns the run job."""
    job = Job.objects.get(name=job_name)
    workflow_run = WorkflowRun.objects.create(description=description)
    run_job = RunJob.objects.create(
        workflow_run=workflow_run, job_name=job_name, settings_text=json.dumps(settings)
    )
    for port, resource in inputs.items():
        Input.objects.create(run_job=run_job, input_port_type_name=port, resource=resource)
    for port in outputs:
        resource = Resource.objects.create(name=port)
        Output.objects.create(run_job=run_job, output_port_type_name=port, resource=resource)
    start(run_job, job)
    return run_job


def start(run_job, job=None):
    """What Rodan's master task does with a run job that can run."""
    job = job or Job.objects.get(name=run_job.job_name)
    RunJob.objects.filter(uuid=run_job.uuid).update(status=task_status.PROCESSING)
    sent = app.tasks[job.name].si(str(run_job.uuid)).apply_async(queue=job.job_queue)
    RunJob.objects.filter(uuid=run_job.uuid).update(celery_task_id=sent.id)


def cancel(run_job):
    """The user cancels the workflow run."""
    rows = RunJob.objects.filter(
        uuid=run_job.uuid, status__in=(task_status.SCHEDULED, task_status.PROCESSING)
    )
    for task_id in rows.values_list("celery_task_id", flat=True):
        if task_id is not None:
            app.control.revoke(task_id, terminate=True)
    rows.update(status=task_status.CANCELLED)


def again(run_job):
    """The user runs a failed or cancelled workflow run again."""
    RunJob.objects.filter(uuid=run_job.uuid).update(
        status=task_status.SCHEDULED, error_summary="", error_details=""
    )
    start(run_job)


if __name__ == "__main__":
    make_database()

"""The two jobs, as Rodan wants them. What they do is in the other modules, which know nothing of
Rodan.

The methods that Rodan counts the arguments of carry no annotations: on Python 3.7 it looks at them
with a function that refuses annotated ones.
"""

import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from typing import Any, Dict, Optional

from celery.exceptions import Ignore
from celery.signals import task_revoked
from rodan.jobs.base import RodanTask

from . import attempt, order
from .failure import Failure

logger = logging.getLogger("rodan")

#: Where no retry is possible (Rodan's tests run tasks within one call), the next look comes after
#: so many seconds.
_SECONDS_IN_ONE_CALL = 1

#: A new task that Rodan does not name yet looks again after so many seconds.
_FIRST_WAIT_SECONDS = 2


def _site() -> attempt.Site:
    from django.conf import settings

    return attempt.Site(os.environ, os.path.join(settings.MEDIA_ROOT, "hpc_training"))


class ClusterTraining(RodanTask):
    """What both jobs share."""

    abstract = True

    # A training takes as many looks as it takes; Celery's default is three.
    max_retries = None

    def run(self, runjob_id):  # type: ignore[no-untyped-def]
        """Runs as any job of Rodan does; afterwards nothing of the training is needed any more."""
        result = super().run(runjob_id)
        try:
            attempt.finish(_site(), str(runjob_id))
        except Exception as error:
            # The outputs are with Rodan: what is left behind here expires.
            logger.warning("hpc_training: the files of %s stay: %s", runjob_id, error)
        return result

    def _inputs(self, runjob, with_urls=True):  # type: ignore[no-untyped-def]
        # The cluster fetches the files from Rodan by their addresses.
        return super()._inputs(runjob, with_urls=True)

    def run_my_task(self, inputs, settings, outputs):  # type: ignore[no-untyped-def]
        def make_order() -> order.Order:
            made: order.Order = type(self).ask(inputs, settings, outputs, os.environ)
            return made

        request = self.request
        # Called by Rodan's tests there is neither a run job nor a task id.
        run = str(request.args[0]) if request.args else str(uuid.uuid4())
        task_id = request.id or run
        again = bool(request.retries)
        site = _site()
        # Rodan names a task in its run job after it has started it. One that runs within the call
        # is over by then.
        queued = not request.called_directly and not request.is_eager
        while True:
            if _may_work(run, task_id, again, site, queued):
                waiting = attempt.attempt(site, run, task_id, again, make_order, outputs)
            else:
                waiting = attempt.Waiting(site.poll_seconds if again else _FIRST_WAIT_SECONDS, "")
            if waiting is None:
                _show(run, "trained on the cluster")
                return True
            if waiting.words:
                _show(run, waiting.words)
            if queued:
                # The worker is free for other jobs until then.
                raise self.retry(countdown=waiting.seconds)
            time.sleep(min(waiting.seconds, _SECONDS_IN_ONE_CALL))
            again = True

    def my_error_information(self, exc, traceback):  # type: ignore[no-untyped-def]
        if isinstance(exc, Failure):
            return {"error_summary": exc.summary, "error_details": exc.details or exc.summary}
        if type(exc).__name__ in ("WorkerLostError", "Terminated"):
            return {
                "error_summary": (
                    "Rodan's worker was ended while it looked after this training ({}). Run the "
                    "workflow's job again: it goes on with the same training.".format(exc)
                ),
                "error_details": str(traceback),
            }
        return {
            "error_summary": (
                "The job failed for a reason that it does not know ({}: {}). Send the details to "
                "the developers of hpc-trainer.".format(type(exc).__name__, exc)
            ),
            "error_details": str(traceback),
        }


class ClusterPageTraining(ClusterTraining):
    """The task that Rodan had until 2023: one page, given by its images."""

    name = "Training model for Patchwise Analysis of Music Document - HPC"
    author = "Juliette Regimbal"
    description = "Performs the fast trainer job on a cluster"
    enabled = True
    category = "OMR - Layout analysis"
    interactive = False

    settings = order.PAGE_SETTINGS
    input_port_types = order.PAGE_INPUTS
    output_port_types = order.PAGE_OUTPUTS
    ask = staticmethod(order.page_order)

    def test_my_task(self, testcase):  # type: ignore[no-untyped-def]
        inputs = {"Image": [{"resource_path": testcase.new_available_path()}]}
        _expect_failure(testcase, self, inputs, {"Patch height": 66}, {}, "Patch height")


class ClusterSamplesTraining(ClusterTraining):
    """What Rodan's own trainer does, on a cluster: pages in zips, and models to go on from."""

    name = "Training model for Patchwise Analysis of Music Document, Training, on a cluster"
    author = "hpc-trainer"
    description = (
        "Trains the models for the pixelwise analysis of music documents on a cluster: a model for"
        " the background and one for each layer of the pages."
    )
    enabled = True
    category = "OMR - Layout analysis"
    interactive = False

    settings = order.SAMPLES_SETTINGS
    input_port_types = order.SAMPLES_INPUTS
    output_port_types = order.SAMPLES_OUTPUTS
    ask = staticmethod(order.samples_order)

    def test_my_task(self, testcase):  # type: ignore[no-untyped-def]
        path = testcase.new_available_path()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("Image.png", b"")
        inputs = {"Sample 1": [{"resource_path": path}]}
        _expect_failure(testcase, self, inputs, {}, {}, "rgba PNG - Background layer")


def _expect_failure(
    testcase: Any,
    task: Any,
    inputs: Dict[str, Any],
    settings: Dict[str, Any],
    outputs: Dict[str, Any],
    part: str,
) -> None:
    """What Rodan's own tests can see without a broker: that a wrong input becomes a sentence about
    it.
    """
    with tempfile.TemporaryDirectory() as folder:
        before = dict(os.environ)
        os.environ.update(
            HPC_RABBITMQ_URL="amqp://user:password@localhost/", HPC_WORK_FOLDER=folder
        )
        try:
            task.run_my_task(inputs, settings, outputs)
        except Failure as failure:
            testcase.assertIn(part, failure.summary)
        else:
            testcase.fail("the job took a wrong input")
        finally:
            os.environ.clear()
            os.environ.update(before)


# ── What Rodan knows of the run ──────────────────────────────────────────────────────────────────


def _run_job(run: str) -> Optional[Any]:
    from rodan.models import RunJob

    return RunJob.objects.filter(uuid=run).select_related("workflow_run").first()


def _may_work(run: str, task_id: str, again: bool, site: attempt.Site, queued: bool) -> bool:
    """Whether this task may look after the run job's training now. Ends the task, and its
    training, where the user has cancelled the run; ends it alone where the run job is over.
    """
    run_job = _run_job(run)
    if run_job is None:
        return True
    named = run_job.celery_task_id if queued else None
    action = what_to_do(run_job.status, named, task_id, again)
    if action == CANCEL:
        try:
            attempt.cancel(site, task_id)
        except (Failure, OSError) as error:
            # What is marked is sent when the next training begins.
            logger.warning("hpc_training: %s can't be cancelled now: %s", task_id, error)
        # Ignored, not failed: a failure would be written over the state that the user has chosen.
        raise Ignore("the run was cancelled")
    if action == STOP:
        raise Ignore("the run is over")
    return action == WORK


#: What a task does with its run job.
WORK, WAIT, STOP, CANCEL = "work", "wait", "stop", "cancel"


def what_to_do(status: int, named: Optional[str], task_id: str, again: bool) -> str:
    """What a task has to do, from the state of its run job and from the task that Rodan names
    there.

    Of several tasks of one run job (a user cancelled it and started it again at once, a broker
    delivered an old one once more) the one that Rodan names works, and the others wait until the
    run job is over. Rodan writes the name just after it has started the task: until then the one
    before it is named, or none.
    """
    from rodan.constants import task_status

    if status == task_status.CANCELLED:
        return CANCEL
    if again and status in (task_status.FINISHED, task_status.FAILED):
        return STOP
    return WORK if named in (None, "", task_id) else WAIT


def _show(run: str, words: str) -> None:
    """Says in the workflow run's description where the training stands: the one text that Rodan's
    user sees.
    """
    if os.environ.get("HPC_SHOW_PROGRESS", "1").strip() == "0":
        return
    try:
        from django.db import transaction
        from rodan.models import WorkflowRun

        run_job = _run_job(run)
        if run_job is None:
            return
        mark = "[cluster {}]".format(run.replace("-", "")[:8])
        with transaction.atomic():
            workflow_run = WorkflowRun.objects.select_for_update().get(
                uuid=run_job.workflow_run.uuid
            )
            before = workflow_run.description or ""
            after = attempt.replace_line(before, mark, words)
            if after != before:
                workflow_run.description = after
                workflow_run.save(update_fields=["description"])
    except Exception as error:
        # A description is a courtesy. No training fails for it.
        logger.warning("hpc_training: the description can't be written: %s", error)


# ── Cancelling ───────────────────────────────────────────────────────────────────────────────────


#: Asks the cluster, in a process of its own. Arguments: where the package is, its name, the folder
#: of the trainings, the task.
_CANCEL = """
import importlib, os, sys
sys.path.append(sys.argv[1])
attempt = importlib.import_module(sys.argv[2] + ".attempt")
attempt.cancel(attempt.Site(os.environ, sys.argv[3]), sys.argv[4])
"""


def _cancel_on_cluster(task_id: str) -> None:
    site = _site()
    if not attempt.mark(site, task_id):
        return
    place, package = os.path.split(os.path.dirname(os.path.abspath(__file__)))
    subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", _CANCEL, place, package, site.folder, task_id],
        stdin=subprocess.DEVNULL,
    )
    logger.info("hpc_training: the cluster is asked to cancel the training of %s", task_id)


@task_revoked.connect(weak=False)
def _on_revoked(sender=None, request=None, **_):  # type: ignore[no-untyped-def]
    """Asks for the end of a training when Rodan revokes its task, as it does with a cancelled run.

    A task that waits for its next look is dropped without being called, so it can't do this
    itself. This is the worker's main process. It must not wait; and it starts its children by
    forking, so a thread that held a lock just then (as an import does) would leave a child that
    waits for ever. Hence the process of its own.
    """
    if isinstance(sender, ClusterTraining):
        try:
            _cancel_on_cluster(request.id)
        except Exception as error:
            # What is marked is sent when the next training begins.
            logger.warning("hpc_training: %s can't be cancelled now: %s", request.id, error)

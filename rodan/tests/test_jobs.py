"""Both jobs in Rodan's hands: a real Celery worker, a real RabbitMQ, Rodan's rules for a job.

The cluster's side is played here, through the real broker; test_site.py has the real one.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import HERE, PAGE, FakeCluster, model, png
from test_conversation import done as job_done
from test_conversation import parts_of

STAND_IN = HERE / "stand_in"
PAGE_JOB = "Training model for Patchwise Analysis of Music Document - HPC"
SAMPLES_JOB = "Training model for Patchwise Analysis of Music Document, Training, on a cluster"
FINISHED, FAILED, CANCELLED, PROCESSING = 4, -1, 9, 1
DEADLINE = 60


def until(what, call, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while True:
        found = call()
        if found:
            return found
        assert time.monotonic() < end, "waited in vain for " + what
        time.sleep(0.1)


def noted_as_sent(rodan):
    """Whether the one training's state says that RabbitMQ has its job."""
    states = [folder / "state.json" for folder in rodan.work_folders()]
    return any(
        json.loads(path.read_text())["phase"] == "waiting" for path in states if path.exists()
    )


class Rodan:
    """The stand-in with its worker."""

    def __init__(self, folder, services, environment):
        self.folder = folder
        # Rodan has a broker of its own. Here its queues are beside the cluster's.
        broker = "amqp://{}:{}@{}:{}/{}".format(
            services.admin, services.admin_password, services.host, services.port, services.vhost
        )
        self.variables = {
            "STAND_IN": str(folder),
            "STAND_IN_BROKER": broker,
            "DJANGO_SETTINGS_MODULE": "rodan.settings",
            "HPC_POLL_SECONDS": "1",
        }
        self.variables.update(environment)
        os.environ.update(self.variables)
        sys.path.insert(0, str(STAND_IN))
        import workflow

        self.do = workflow
        workflow.make_database()
        self.worker = None

    def start_worker(self, **more):
        environment = dict(os.environ, PYTHONPATH=str(STAND_IN), **more)
        command = [sys.executable, "-m", "celery"]
        old = subprocess.run(
            [sys.executable, "-c", "import celery; print(celery.__version__)"],
            stdout=subprocess.PIPE,
        ).stdout.startswith(b"4")
        command += ["worker", "-A", "rodan"] if old else ["-A", "rodan", "worker"]
        command += ["-Q", "Python3", "--concurrency=2", "--max-tasks-per-child=1"]
        command += ["-l", "info", "-n", "stand-in@localhost"]
        log = open(str(self.folder / "worker.log"), "ab")  # noqa: SIM115
        self.worker = subprocess.Popen(
            command,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=str(self.folder),
            start_new_session=True,
        )
        log.close()

    def stop_worker(self, how=signal.SIGTERM):
        """SIGTERM: as a container is stopped, with SIGKILL after ten seconds. SIGKILL: a crash."""
        if self.worker is None:
            return
        try:
            if how == signal.SIGTERM:
                self.worker.send_signal(how)
                self.worker.wait(10)
        except subprocess.TimeoutExpired:
            pass
        if self.worker.poll() is None:
            os.killpg(self.worker.pid, signal.SIGKILL)
            self.worker.wait(10)
        self.worker = None

    def log(self):
        return (self.folder / "worker.log").read_text()

    def row(self, run_job):
        from rodan.models import RunJob

        return RunJob.objects.select_related("workflow_run").get(uuid=run_job.uuid)

    def ended(self, run_job, seconds=DEADLINE):
        """The row of a run job that is not processing any more."""

        def look():
            row = self.row(run_job)
            return row if row.status != PROCESSING else None

        try:
            return until("the run job's end", look, seconds)
        except AssertionError:
            raise AssertionError(self.log()[-5000:])

    def output(self, run_job, port):
        from rodan.models import Output

        row = Output.objects.select_related("resource").get(
            run_job=run_job, output_port_type_name=port
        )
        return pathlib.Path(row.resource.path).read_bytes()

    def work_folder(self, run_job):
        return self.folder / "data" / "hpc_training" / str(run_job.uuid)

    def log_of(self, run_job):
        log = self.work_folder(run_job) / "log.txt"
        return log.read_text() if log.exists() else ""

    def work_folders(self):
        folder = self.folder / "data" / "hpc_training"
        if not folder.exists():
            return []
        return [path for path in folder.iterdir() if path.name != "locks"]


@pytest.fixture(scope="module")
def rodan(services, tmp_path_factory):
    pytest.importorskip("celery")
    pytest.importorskip("django")
    environment = {"HPC_RABBITMQ_URL": services.settings["HPC_RABBITMQ_URL"]}
    before = dict(os.environ)
    made = Rodan(tmp_path_factory.mktemp("rodan"), services, environment)
    made.start_worker()
    yield made
    made.stop_worker(signal.SIGKILL)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def uploads(rodan, tmp_path):
    """Uploads a page by its images, or in a zip."""

    class Uploads:
        def file(self, data):
            path = tmp_path / "file"
            path.write_bytes(data)
            return rodan.do.upload(str(path), "/uploads/file")

        def images(self, *layers):
            ports = PAGE + ["rgba PNG - Layer {}".format(n) for n in layers]
            return {port: self.file(png()) for port in ports}

        def zip(self, files, *layers):
            return self.file(pathlib.Path(files.page(*layers)[0]["resource_path"]).read_bytes())

    return Uploads()


def take(cluster):
    """The next job, as `check` takes it."""
    return until("a job", cluster.next)


def send(cluster, job, models, size_of_parts=3):
    for name, data in models.items():
        for part in parts_of(name, data, size_of_parts):
            cluster.say(job, part.kind, part.body, part.message_id, part.headers)
    cluster.say(job, "job.done", job_done(models).body, "end")


PAGE_MODELS = {"Background Model": model(9000, 1), "Model 0": model(9000, 2)}


def run_page(rodan, uploads, **settings):
    return rodan.do.run(PAGE_JOB, uploads.images(0), list(PAGE_MODELS), settings, "My words")


def test_the_removed_task_runs_to_its_models(rodan, uploads, cluster):
    run_job = run_page(rodan, uploads)
    job, body = take(cluster)
    message = json.loads(body.decode())
    assert message["protocol"] == 2
    assert sorted(message["inputs"]) == [
        "Background",
        "Image",
        "Selected Regions",
        "rgba PNG - Layer 0",
    ]
    assert set(message["inputs"].values()) == {"/uploads/file"}
    assert job.correlation_id == rodan.row(run_job).celery_task_id
    # Four looks at least: Celery gives up after three retries unless it is told not to.
    state = {"state": "waiting", "slurm_job": 7}
    for place in range(4, 0, -1):
        state["queue_position"] = place
        cluster.say(job, "job.state", json.dumps(state).encode())
        words = "place {} in the queue".format(place)
        until(words, lambda seen=words: seen in rodan.row(run_job).workflow_run.description)
    assert rodan.row(run_job).status == PROCESSING
    send(cluster, job, PAGE_MODELS)
    row = rodan.ended(run_job)
    assert (row.status, row.error_summary) == (FINISHED, None)
    for port, data in PAGE_MODELS.items():
        assert rodan.output(run_job, port) == data
    # Rodan adds its own lines below.
    lines = row.workflow_run.description.splitlines()
    assert lines[0] == "My words"
    assert lines[1:2] == ["[cluster {}] trained on the cluster".format(run_job.uuid.hex[:8])]
    until("the folder to go", lambda: not rodan.work_folders())
    assert cluster.next() is None


def test_pages_in_zips_run_to_models_log_and_zip(rodan, uploads, files, cluster):
    ports = ["Background Model", "Model 1", "Model 2", "Log File", "Multi-Sample Zip"]
    inputs = {"Sample 1": uploads.zip(files, 1, 2), "Sample 2": uploads.zip(files, 1, 2)}
    inputs["Model 2"] = uploads.file(model())
    run_job = rodan.do.run(SAMPLES_JOB, inputs, ports, {"Batch Size": 4})
    job, body = take(cluster)
    message = json.loads(body.decode())
    assert sorted(message["inputs"]) == ["Model 2", "Sample 1", "Sample 2"]
    assert message["settings"]["Batch Size"] == 4
    models = {name: model(500, n) for n, name in enumerate(ports[:3])}
    send(cluster, job, models)
    assert rodan.ended(run_job).status == FINISHED
    assert rodan.output(run_job, "Model 2") == models["Model 2"]
    assert "Model 2 has arrived" in rodan.output(run_job, "Log File").decode()
    assert rodan.output(run_job, "Multi-Sample Zip").startswith(b"PK")


def test_ten_layers_of_the_usual_size(rodan, uploads, files, cluster):
    """Each message is far below the 16 MiB that RabbitMQ 4 takes."""
    names = ["Background Model"] + ["Model {}".format(n) for n in range(1, 10)]
    inputs = {"Multi-Sample Zip": uploads.zip(files, *range(1, 10))}
    run_job = rodan.do.run(SAMPLES_JOB, inputs, names + ["Log File"], {})
    job, _ = take(cluster)
    send(cluster, job, {name: model(7800000, n) for n, name in enumerate(names)}, 1)
    assert rodan.ended(run_job).status == FINISHED
    for n, name in enumerate(names):
        assert rodan.output(run_job, name) == model(7800000, n)


def test_wrong_input_is_a_sentence_in_rodans_fields(rodan, uploads, cluster):
    run_job = run_page(rodan, uploads, **{"Patch height": 66})
    row = rodan.ended(run_job)
    assert row.status == FAILED
    assert "use 64 or 68" in row.error_summary
    assert cluster.next() is None


def test_a_failed_training_is_explained_and_the_next_one_is_not_touched(rodan, uploads, cluster):
    run_job = run_page(rodan, uploads)
    job, _ = take(cluster)
    failed = {"error": "Out of memory.", "advice": "Ask for more.", "log": ["last words"]}
    cluster.say(job, "job.failed", json.dumps(failed).encode(), "end")
    row = rodan.ended(run_job)
    assert (row.status, row.error_summary) == (FAILED, "Out of memory. Ask for more.")
    assert "last words" in row.error_details
    rodan.do.again(run_job)
    job, _ = take(cluster)
    send(cluster, job, PAGE_MODELS)
    assert rodan.ended(run_job).status == FINISHED


def test_cancelling_between_two_looks_cancels_the_cluster(rodan, uploads, cluster):
    run_job = run_page(rodan, uploads)
    job, _ = take(cluster)
    until(
        "the first look to end", lambda: "was sent" in rodan.row(run_job).workflow_run.description
    )
    rodan.do.cancel(run_job)
    _, body = until("a request to cancel", lambda: cluster.next("hpc-control"))
    assert json.loads(body.decode()) == {
        "cancel": job.correlation_id,
        "reply_to": job.reply_to,
    }
    assert rodan.row(run_job).status == CANCELLED
    rodan.do.again(run_job)
    job_2, _ = take(cluster)
    assert job_2.correlation_id != job.correlation_id
    send(cluster, job_2, PAGE_MODELS)
    assert rodan.ended(run_job).status == FINISHED


def test_cancelled_and_started_again_at_once_it_is_trained_once(rodan, uploads, cluster):
    """Before the worker has dropped the first task: the second one takes its training over."""
    run_job = run_page(rodan, uploads)
    job, _ = take(cluster)
    told = "was sent"
    until(told, lambda: told in rodan.row(run_job).workflow_run.description)
    rodan.do.cancel(run_job)
    rodan.do.again(run_job)
    # Whichever comes first: the training goes on, or it was cancelled and there is another.
    request = None
    until("a look", lambda: "goes on" in rodan.log_of(run_job) or cluster.next("hpc-control"))
    if "goes on" not in rodan.log_of(run_job):
        request, (job, _) = True, take(cluster)
    send(cluster, job, PAGE_MODELS)
    assert rodan.ended(run_job).status == FINISHED
    assert cluster.next() is None
    assert request or cluster.next("hpc-control") is None


def test_a_run_started_again_while_it_is_cancelled_has_exactly_one_training(
    rodan, uploads, cluster
):
    """The cancellation is held back until the second task has found the training busy."""
    from hpc_training import attempt

    run_job = run_page(rodan, uploads)
    job, _ = take(cluster)
    until("the first look", lambda: "was sent" in rodan.row(run_job).workflow_run.description)
    site = attempt.Site(rodan.variables, str(rodan.folder / "data" / "hpc_training"))
    with attempt._alone(site, site.folder_of(str(run_job.uuid))) as alone:
        assert alone
        rodan.do.cancel(run_job)
        rodan.do.again(run_job)
        second = rodan.row(run_job).celery_task_id
        until("the second task", lambda: "[{}] retry".format(second) in rodan.log())
        until("the mark", (rodan.work_folder(run_job) / "cancel").exists)
    # Whoever is first then: the training was cancelled, once, and there is another.
    job_2, _ = take(cluster)
    assert job_2.correlation_id == second
    _, body = until("a request to cancel", lambda: cluster.next("hpc-control"))
    assert json.loads(body.decode())["cancel"] == job.correlation_id
    send(cluster, job_2, PAGE_MODELS)
    assert rodan.ended(run_job).status == FINISHED
    assert cluster.next() is None
    assert cluster.next("hpc-control") is None


def test_a_task_waits_until_rodan_names_it(rodan, uploads, cluster):
    """Rodan writes a task's name after it has started it: until then an older one is named."""
    from rodan.models import RunJob

    run_job = run_page_without_worker(rodan, uploads)
    rows = RunJob.objects.filter(uuid=run_job.uuid)
    rows.update(celery_task_id="an older one")
    sent = rodan.do.app.tasks[PAGE_JOB].si(str(run_job.uuid)).apply_async(queue="Python3")
    until("a look", lambda: "[{}] retry".format(sent.id) in rodan.log())
    assert cluster.next() is None
    rows.update(celery_task_id=sent.id)
    job, _ = take(cluster)
    assert job.correlation_id == sent.id
    send(cluster, job, PAGE_MODELS)
    assert rodan.ended(run_job).status == FINISHED


@pytest.mark.parametrize(
    ("status", "named", "again", "action"),
    [
        (PROCESSING, None, False, "work"),
        (PROCESSING, "", True, "work"),
        (PROCESSING, "me", False, "work"),
        (PROCESSING, "me", True, "work"),
        (PROCESSING, "another", False, "wait"),
        (PROCESSING, "another", True, "wait"),
        (CANCELLED, "me", False, "cancel"),
        (CANCELLED, "another", True, "cancel"),
        (FINISHED, None, True, "stop"),
        (FAILED, None, True, "stop"),
        (FINISHED, "another", False, "wait"),
        (FINISHED, None, False, "work"),
    ],
)
def test_what_a_task_does_with_its_run_job(rodan, status, named, again, action):
    from rodan.jobs.hpc_training.jobs import what_to_do

    assert what_to_do(status, named, "me", again) == action


def test_a_cancellation_that_can_not_be_sent_leaves_the_run_cancelled(
    rodan, uploads, queues, monkeypatch
):
    from rodan.jobs.hpc_training import jobs
    from rodan.models import RunJob

    run_job = run_page_without_worker(rodan, uploads)
    RunJob.objects.filter(uuid=run_job.uuid).update(status=CANCELLED)
    tried = []

    def away(site, task_id):
        tried.append(task_id)
        raise jobs.Failure("RabbitMQ can't be reached.")

    monkeypatch.setattr(jobs.attempt, "cancel", away)
    sent = rodan.do.app.tasks[PAGE_JOB].apply((str(run_job.uuid),))
    assert tried == [sent.id]
    assert rodan.row(run_job).status == CANCELLED


def test_a_restart_of_rodan_loses_nothing(rodan, uploads, cluster):
    run_job = run_page(rodan, uploads)
    job, _ = take(cluster)
    rodan.stop_worker()
    send(cluster, job, PAGE_MODELS)
    assert rodan.row(run_job).status == PROCESSING
    rodan.start_worker()
    assert rodan.ended(run_job).status == FINISHED
    assert cluster.next() is None


def test_a_lost_worker_costs_a_click_and_no_training(rodan, uploads, cluster, queues):
    """SIGKILL: Celery has acknowledged the task, so Rodan never hears of it again."""
    run_job = run_page(rodan, uploads)
    job, _ = take(cluster)
    # RabbitMQ has the job before the worker has noted so. A worker that is killed between the two
    # sends the same message again.
    until("the worker's note that the job was sent", lambda: noted_as_sent(rodan))
    rodan.stop_worker(signal.SIGKILL)
    queues.queue_purge("Python3")
    rodan.do.cancel(run_job)
    rodan.start_worker()
    rodan.do.again(run_job)
    send(cluster, job, PAGE_MODELS)
    assert rodan.ended(run_job).status == FINISHED
    assert cluster.next() is None, "it was trained once"
    assert cluster.next("hpc-control") is None


def test_rodans_own_tests_of_the_jobs_pass(rodan, tmp_path):
    """Rodan calls test_my_task with its test case; no broker, no run job, no worker."""

    class Case:
        def new_available_path(self):
            return str(tmp_path / "new")

        def assertIn(self, part, text):  # noqa: N802
            assert part in text

        def fail(self, words):
            raise AssertionError(words)

    for name in (PAGE_JOB, SAMPLES_JOB):
        rodan.do.app.tasks[name].test_my_task(Case())


def test_eager_tasks_wait_within_one_call(rodan, uploads, services, queues):
    """Rodan's tests run tasks eagerly, where a retry would call itself for ever."""
    run_job = run_page_without_worker(rodan, uploads)
    played = []

    def play():
        cluster = FakeCluster(services)
        job, _ = take(cluster)
        send(cluster, job, PAGE_MODELS)
        cluster.close()
        played.append(job.correlation_id)

    player = threading.Thread(target=play)
    player.start()
    rodan.do.app.tasks[PAGE_JOB].apply((str(run_job.uuid),), throw=True)
    player.join(30)
    assert played
    assert rodan.row(run_job).status == FINISHED


def run_page_without_worker(rodan, uploads):
    from rodan.models import Input, Output, Resource, RunJob, WorkflowRun

    run_job = RunJob.objects.create(
        workflow_run=WorkflowRun.objects.create(), job_name=PAGE_JOB, status=PROCESSING
    )
    for port, resource in uploads.images(0).items():
        Input.objects.create(run_job=run_job, input_port_type_name=port, resource=resource)
    for port in PAGE_MODELS:
        made = Resource.objects.create(name=port)
        Output.objects.create(run_job=run_job, output_port_type_name=port, resource=made)
    return run_job


def test_the_stand_in_keeps_rodans_rules(rodan):
    """The rules are worth nothing if they can't be broken."""
    from rodan.jobs.base import RodanTask, RodanTaskType

    whole = {
        "name": "n",
        "author": "a",
        "description": "d",
        "enabled": True,
        "category": "c",
        "interactive": False,
        "settings": {"type": "object", "job_queue": "Python3"},
        "input_port_types": (),
        "output_port_types": (),
        "__module__": "rodan.jobs.x.y",
    }

    def make(**more):
        return RodanTaskType("X", (RodanTask,), dict(whole, **more))

    def annotated(self, inputs, settings, outputs: dict):
        pass

    assert make()
    for wrong in (
        {"__module__": "elsewhere.x"},
        {"name": "n" * 201},
        {"settings": {"type": "object", "job_queue": "q" * 16}},
        {"run_my_task": lambda self, inputs, settings: None},
        {"run_my_task": annotated},
        {"input_port_types": ({"name": "p", "minimum": 2, "maximum": 1, "resource_types": "x"},)},
    ):
        with pytest.raises((ValueError, AssertionError)):
            make(**wrong)

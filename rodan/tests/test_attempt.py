"""A training from its order to its outputs, look by look, through the real RabbitMQ."""

import json
import os
import threading
import time
import uuid

import pika
import pytest
from conftest import model
from test_conversation import done as job_done
from test_conversation import parts_of

from hpc_training import attempt, broker, conversation, order
from hpc_training.failure import BrokerTrouble, Failure

PORTS = ["Background Model", "Model 1", "Log File", "Multi-Sample Zip"]
MODELS = {"Background Model": model(3000, 1), "Model 3": model(5000, 2)}


class Run:
    """A run job of Rodan's, whose tasks come and go."""

    def __init__(self, files, environment, folder):
        self.files = files
        self.environment = environment
        self.site = attempt.Site(environment, str(folder))
        self.run = str(uuid.uuid4())
        self.task = str(uuid.uuid4())
        self.again = False
        self.inputs = {"Sample 1": files.page(3)}
        self.settings = {}
        self.now = 1000.0
        self.outputs = {}

    def order(self):
        return order.samples_order(self.inputs, self.settings, self.outputs, self.environment)

    def look(self):
        """One look, with outputs of its own, as each of a task's tries has."""
        self.outputs = self.files.outputs(*PORTS)
        waiting = attempt.attempt(
            self.site, self.run, self.task, self.again, self.order, self.outputs, self.now
        )
        self.again = True
        return waiting

    def new_task(self):
        self.task, self.again = str(uuid.uuid4()), False

    def folder_is_empty(self):
        return not os.path.exists(self.site.folder_of(self.run))

    def written(self):
        found = {}
        for port, outputs in self.outputs.items():
            with open(outputs[0]["resource_path"], "rb") as file:
                found[port] = file.read()
        return found


@pytest.fixture
def run(files, environment, tmp_path):
    return Run(files, environment, tmp_path / "work")


def answer(cluster, job, parts=1):
    """Everything that a training that goes well sends."""
    cluster.say(job, "job.state", json.dumps({"state": "running", "slurm_job": 7}).encode())
    for name, data in MODELS.items():
        for part in parts_of(name, data, parts):
            cluster.say(job, part.kind, part.body, part.message_id, part.headers)
    cluster.say(job, "job.report", b"<html>", "report", {"name": "report.html"})
    cluster.say(job, "job.done", job_done(MODELS).body, "end")


def check(run):
    written = run.written()
    assert written["Background Model"] == MODELS["Background Model"]
    assert written["Model 1"] == MODELS["Model 3"]
    log = written["Log File"].decode()
    for part in ("The training runs", "Slurm job 7", "Model 3 has arrived", "seed: 5", "calls"):
        assert part in log
    assert written["Multi-Sample Zip"].startswith(b"PK")
    assert len(run.files.written()) == len(PORTS)


def test_a_training_from_its_order_to_its_outputs(run, cluster, queues):
    waiting = run.look()
    assert waiting.seconds == 30
    assert "was sent" in waiting.words
    job, body = cluster.next()
    assert json.loads(body.decode())["protocol"] == 2
    assert job.correlation_id == run.task
    assert run.look().words == waiting.words
    cluster.say(job, "job.state", b'{"state": "waiting", "slurm_job": 7, "queue_position": 2}')
    assert "place 2 in the queue" in run.look().words
    cluster.say(job, "job.progress", b'{"layer": "Model 3", "epoch": 1, "epochs": 2}')
    assert "epoch 1 of 2" in run.look().words
    answer(cluster, job, parts=3)
    assert run.look() is None
    check(run)
    attempt.finish(run.site, run.run)
    assert run.folder_is_empty()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        queues.queue_declare(job.reply_to, passive=True)
    assert cluster.next() is None, "it was sent once"


def test_a_cluster_of_the_first_protocol_is_understood(run, cluster):
    run.look()
    job, _ = cluster.next()
    import base64

    body = {name: base64.b64encode(data).decode() for name, data in MODELS.items()}
    cluster.say(job, "", json.dumps(body).encode())
    assert run.look() is None
    assert run.written()["Model 1"] == MODELS["Model 3"]


def test_a_failure_is_told_and_nothing_is_left(run, cluster):
    run.look()
    job, _ = cluster.next()
    for _ in range(2):
        cluster.say(job, "job.failed", b'{"error": "The page is blank.", "cause": "input"}', "e")
    with pytest.raises(Failure) as caught:
        run.look()
    assert caught.value.summary == "The page is blank."
    assert "Cause: input" in caught.value.details
    assert run.folder_is_empty()
    assert run.files.written() == []


def test_wrong_input_is_refused_before_anything_is_sent(run, cluster):
    run.settings["Patch height"] = 66
    with pytest.raises(Failure, match="Patch height"):
        run.look()
    assert cluster.next() is None
    assert run.folder_is_empty()


# ── Killed in any place ──────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """The process ends here: nothing catches it."""


#: Where a look changes something: in its folder, at the broker, in the outputs.
STEPS = [
    (conversation, "replace"),
    (conversation.os, "replace"),
    (broker.Broker, "ask"),
    (broker.Broker, "acknowledge"),
    (broker.Broker, "_publish"),
    (attempt.shutil, "copyfile"),
    (attempt, "repack"),
]


class Axe:
    """Kills before or after the nth step."""

    def __init__(self, monkeypatch):
        self.left = None
        self.after = False
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self._step(getattr(owner, name)))

    def _step(self, real):
        def step(*arguments, **named):
            self._count(False)
            result = real(*arguments, **named)
            self._count(True)
            return result

        return step

    def _count(self, after):
        if self.left is None or self.after != after:
            return
        self.left -= 1
        if self.left == 0:
            self.left = None
            raise Killed


def killed_once(run, axe, step, after, new_task):
    """Looks until nothing is left to do, and is killed once meanwhile; false where it was not."""
    axe.left, axe.after = step, after
    killed = False
    for _ in range(20):
        try:
            if run.look() is None:
                return killed
        except Killed:
            killed = True
            # A process that is killed can't tidy up, and its next try gets other outputs.
            if new_task:
                run.new_task()
        run.on_look()
    raise AssertionError("it does not end")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("new_task", [False, True])
def test_killed_anywhere_the_training_comes_to_its_end_once(
    files, environment, tmp_path, cluster, queues, monkeypatch, after, new_task
):
    """Before and after each step; found again by the same task, or by a new one of the same run
    job.
    """
    axe = Axe(monkeypatch)
    steps = 0
    for step in range(1, 100):
        run = Run(files, environment, tmp_path / "work")
        jobs = []

        def on_look(jobs=jobs):
            while True:
                taken = cluster.next()
                if taken is None:
                    return
                if not jobs:
                    answer(cluster, taken[0], parts=2)
                # What is sent again is the same message, which the cluster drops.
                jobs.append((taken[0].correlation_id, taken[1]))

        run.on_look = on_look
        if not killed_once(run, axe, step, after, new_task):
            break
        steps += 1
        check(run)
        sent = len(set(jobs))
        # A task that was killed before it had written anything down has sent nothing.
        assert sent == 1, (step, jobs)
        attempt.finish(run.site, run.run)
        assert run.folder_is_empty()
    assert steps > 15, "the steps were not seen"


# ── A new task for the same run job ──────────────────────────────────────────────────────────────


def test_a_new_task_takes_over_what_a_lost_one_has_asked(run, cluster):
    run.look()
    job, _ = cluster.next()
    run.new_task()
    assert run.look().words
    assert cluster.next() is None
    answer(cluster, job)
    assert run.look() is None
    check(run)


def test_a_new_task_starts_anew_where_the_first_training_failed(run, cluster):
    run.look()
    job, _ = cluster.next()
    cluster.say(job, "job.failed", b'{"error": "Out of memory."}', "e")
    run.new_task()
    run.look()
    assert cluster.next()[0].correlation_id == run.task


def test_a_new_task_with_other_inputs_cancels_the_first(run, cluster):
    run.look()
    first, _ = cluster.next()
    run.new_task()
    run.inputs = {"Sample 1": run.files.page(3)}
    run.look()
    assert cluster.next()[0].correlation_id == run.task
    _, body = cluster.next("hpc-control")
    assert json.loads(body.decode())["cancel"] == first.correlation_id


def busy(run):
    """Another process is at work on the run job's training, for as long as this is held."""
    return attempt._alone(run.site, run.site.folder_of(run.run))


def test_a_new_task_that_came_while_the_old_one_was_cancelled_asks_for_a_training(run, cluster):
    """The cancellation holds the folder at the new task's first look, and removes it then."""
    run.look()
    first, _ = cluster.next()
    with busy(run) as alone:
        assert alone
        run.new_task()
        assert run.look().words == ""
        talk = conversation.Conversation.find(run.site.folder_of(run.run))
        attempt._send_cancel(broker.address(run.environment), talk)
    assert "was sent" in run.look().words
    job, _ = cluster.next()
    assert job.correlation_id == run.task != first.correlation_id
    _, body = cluster.next("hpc-control")
    assert json.loads(body.decode())["cancel"] == first.correlation_id
    answer(cluster, job)
    assert run.look() is None
    check(run)
    assert cluster.next() is None
    assert cluster.next("hpc-control") is None


def test_a_new_task_that_came_before_a_cancellation_was_sent_sends_it(run, cluster):
    """Rodan has marked the training; whoever is there first asks the cluster, and only once."""
    run.look()
    first = run.task
    cluster.next()
    with busy(run):
        run.new_task()
        assert run.look().words == ""
        assert attempt.mark(run.site, first)
    assert "was sent" in run.look().words
    assert not attempt.cancel(run.site, first)
    assert cluster.next()[0].correlation_id == run.task
    assert json.loads(cluster.next("hpc-control")[1].decode())["cancel"] == first
    assert cluster.next("hpc-control") is None
    assert run.look().words


def test_a_new_task_takes_over_after_a_look_in_vain(run, cluster):
    """The old task looks at its training at the same time, and is dropped afterwards."""
    run.look()
    first = run.task
    job, _ = cluster.next()
    with busy(run):
        run.new_task()
        assert run.look().words == ""
    assert "was sent" in run.look().words
    assert not attempt.cancel(run.site, first)
    answer(cluster, job)
    assert run.look() is None
    check(run)
    assert cluster.next() is None
    assert cluster.next("hpc-control") is None


def test_a_task_that_finds_nothing_waits_for_rabbitmq_to_say_whether_it_asked(
    run, cluster, monkeypatch
):
    with busy(run):
        assert run.look().words == ""
    good = run.environment["HPC_RABBITMQ_URL"]
    monkeypatch.setitem(run.environment, "HPC_RABBITMQ_URL", "amqp://u:p@127.0.0.1:1/")
    for _ in range(8):
        assert "can't be reached" in run.look().words
    monkeypatch.setitem(run.environment, "HPC_RABBITMQ_URL", good.replace("rodan:", "rodan:wrong"))
    with pytest.raises(Failure, match="password"):
        run.look()
    monkeypatch.undo()
    assert "was sent" in run.look().words
    assert cluster.next()[0].correlation_id == run.task


def test_what_a_new_task_could_not_cancel_is_cancelled_later(
    run, cluster, files, environment, tmp_path, monkeypatch
):
    """The new task has other inputs, and RabbitMQ is away: the first training goes on."""
    run.look()
    first = run.task
    cluster.next()
    monkeypatch.setitem(run.environment, "HPC_RABBITMQ_URL", "amqp://u:p@127.0.0.1:1/")
    run.new_task()
    run.inputs = {"Sample 1": files.page(3)}
    assert "can't be reached" in run.look().words
    monkeypatch.undo()
    assert "was sent" in run.look().words
    assert cluster.next()[0].correlation_id == run.task
    assert cluster.next("hpc-control") is None
    # Two folders may share a lock: then it takes one training more.
    for _ in range(5):
        other = Run(files, environment, tmp_path / "work")
        other.look()
        request = cluster.next("hpc-control")
        if request:
            break
    assert json.loads(request[1].decode())["cancel"] == first
    assert run.look().words, "the new training is not touched"


def test_two_processes_never_work_on_one_run(run, cluster):
    with busy(run) as alone:
        assert alone
        assert run.look().words == ""
    assert cluster.next() is None


# ── Cancelling ───────────────────────────────────────────────────────────────────────────────────


def test_cancelling_reaches_the_cluster(run, cluster):
    run.look()
    job, _ = cluster.next()
    assert not attempt.cancel(run.site, "another task")
    assert attempt.cancel(run.site, run.task)
    properties, body = cluster.next("hpc-control")
    assert json.loads(body.decode()) == {"cancel": run.task, "reply_to": job.reply_to}
    assert properties.delivery_mode == 2
    assert run.folder_is_empty()


def test_a_cancellation_that_could_not_be_sent_is_sent_by_the_next_training(
    run, cluster, files, environment, tmp_path
):
    run.look()
    cluster.next()
    away = dict(environment, HPC_RABBITMQ_URL="amqp://u:p@127.0.0.1:1/")
    with pytest.raises(BrokerTrouble):
        attempt.cancel(attempt.Site(away, run.site.folder), run.task)
    assert cluster.next("hpc-control") is None
    with pytest.raises(Failure, match="was cancelled"):
        run.look()
    other = Run(files, environment, tmp_path / "work")
    other.look()
    _, body = cluster.next("hpc-control")
    assert json.loads(body.decode())["cancel"] == run.task
    run.new_task()
    run.look()
    ids = {cluster.next()[0].correlation_id, cluster.next()[0].correlation_id}
    assert ids == {run.task, other.task}


def test_a_training_that_was_taken_over_is_not_cancelled_with_its_first_task(run, cluster):
    """The first task is dropped seconds after Rodan's user has started the run again."""
    run.look()
    first = run.task
    run.new_task()
    run.look()
    assert not attempt.mark(run.site, first)
    assert not attempt.cancel(run.site, first)
    answer(cluster, cluster.next()[0])
    assert run.look() is None
    assert cluster.next("hpc-control") is None


def test_a_cancellation_waits_for_a_look_and_then_sees_who_has_the_training(run, cluster):
    run.look()
    first = run.task
    job, _ = cluster.next()
    cancelled = []
    with attempt._alone(run.site, run.site.folder_of(run.run)):
        other = threading.Thread(target=lambda: cancelled.append(attempt.cancel(run.site, first)))
        other.start()
        time.sleep(0.5)
        assert not cancelled
        # In this look a new task takes the training over.
        talk = conversation.Conversation.find(run.site.folder_of(run.run))
        assert talk.phase == conversation.CANCELLED
        talk.hand_over("second")
        talk.save()
        assert talk.phase == conversation.WAITING
    other.join(10)
    assert cancelled == [False]
    assert cluster.next("hpc-control") is None
    run.task, run.again = "second", True
    answer(cluster, job)
    assert run.look() is None


# ── Time, and RabbitMQ away ──────────────────────────────────────────────────────────────────────


def test_a_training_without_an_answer_is_cancelled_at_its_deadline(run, cluster):
    run.look()
    run.now += 240 * 3600
    assert run.look()
    run.now += 1
    with pytest.raises(Failure, match="not answered within 240 hours"):
        run.look()
    _, body = cluster.next("hpc-control")
    assert json.loads(body.decode())["cancel"] == run.task
    assert run.folder_is_empty()


def test_rabbitmq_may_be_away_while_a_training_runs(run, cluster, monkeypatch):
    run.look()
    job, _ = cluster.next()
    monkeypatch.setitem(run.environment, "HPC_RABBITMQ_URL", "amqp://u:p@127.0.0.1:1/")
    for _ in range(8):
        assert "can't be reached" in run.look().words
    run.now += 241 * 3600
    with pytest.raises(Failure, match="can't be reached"):
        run.look()
    # It was never given up: RabbitMQ has the answer, and a new task fetches it.
    monkeypatch.undo()
    answer(cluster, job)
    run.new_task()
    assert run.look() is None
    check(run)


def test_rabbitmq_away_before_anything_is_sent_is_told_after_a_few_tries(
    files, environment, tmp_path, cluster
):
    away = dict(environment, HPC_RABBITMQ_URL="amqp://u:p@127.0.0.1:1/")
    run = Run(files, away, tmp_path / "work")
    for _ in range(4):
        assert "can't be reached" in run.look().words
    with pytest.raises(Failure, match="can't be reached"):
        run.look()
    # Rodan's user tries again when RabbitMQ is back.
    run.site = attempt.Site(environment, run.site.folder)
    run.new_task()
    assert "was sent" in run.look().words
    assert cluster.next()[0].correlation_id != run.task


def test_a_wrong_password_is_told_at_once(files, environment, tmp_path):
    url = environment["HPC_RABBITMQ_URL"].replace("rodan:", "rodan:wrong")
    run = Run(files, {"HPC_RABBITMQ_URL": url}, tmp_path / "work")
    with pytest.raises(Failure, match="password"):
        run.look()


def test_a_reply_queue_that_is_gone_is_told(run, cluster, queues):
    run.look()
    queues.queue_delete(cluster.next()[0].reply_to)
    with pytest.raises(Failure, match="queue for the cluster's answer is gone"):
        run.look()
    assert run.folder_is_empty()


def test_a_folder_that_is_gone_is_told(run, cluster):
    run.look()
    attempt.shutil.rmtree(run.site.folder)
    with pytest.raises(Failure, match="HPC_WORK_FOLDER"):
        run.look()


def test_outputs_that_can_not_be_written_leave_nothing_behind(run, cluster, monkeypatch):
    run.look()
    answer(cluster, cluster.next()[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(attempt, "repack", full)
    with pytest.raises(Failure, match="No space left"):
        run.look()
    assert run.files.written() == []
    monkeypatch.undo()
    run.new_task()
    assert run.look() is None
    check(run)


def test_wrong_settings_of_the_site_are_told(tmp_path):
    for name, value in [("HPC_POLL_SECONDS", "0"), ("HPC_DEADLINE_HOURS", "long")]:
        with pytest.raises(Failure, match=name):
            attempt.Site({name: value}, str(tmp_path))

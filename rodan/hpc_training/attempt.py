"""One look at a training: send it, or see what the cluster has answered, and say when to look
again.

Rodan's worker calls :func:`attempt` again and again, each time in a new process, until it returns
no :class:`Waiting`. Each call takes seconds.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import uuid
import zlib
from typing import Callable, Iterator, List, Mapping, Optional

from .broker import Address, Broker, QueueGone, address, reply_queue
from .conversation import (
    CANCELLED,
    PUBLISHING,
    WAITING,
    Conversation,
    mark_cancelled,
    outline,
    replace,
    words_of_asked,
)
from .failure import BrokerTrouble, Failure
from .order import LOG_FILE, MULTI_SAMPLE, Order, Ports
from .pages import repack

#: So often in a row RabbitMQ may be away before a training that was never sent is given up.
_TRIES_TO_SEND = 5

#: So many messages are read before they are acknowledged together.
_BATCH = 100

#: Folders of trainings that nobody came back for are removed after so many days.
_FORGET_DAYS = 30

#: A look takes seconds, with large models and a slow broker a minute.
_LOOK_SECONDS = 120

#: Trainings share so many locks. Two that meet at one wait for each other, once.
_LOCKS = 256


class Waiting:
    """Nothing to do for so many seconds; ``words`` say where the training stands."""

    def __init__(self, seconds: int, words: str) -> None:
        self.seconds = seconds
        self.words = words


class Site:
    """What Rodan's administrator has set, from the environment."""

    def __init__(self, environment: Mapping[str, str], folder: str) -> None:
        self.environment = environment
        #: All trainings' folders are in here; every worker must see it.
        self.folder = environment.get("HPC_WORK_FOLDER", "").strip() or folder
        self.poll_seconds = self._number("HPC_POLL_SECONDS", 30, 1, 1200)
        self.deadline_seconds = self._number("HPC_DEADLINE_HOURS", 240, 1, 13 * 24) * 3600

    def _number(self, name: str, default: int, least: int, most: int) -> int:
        text = self.environment.get(name, "").strip()
        if not text:
            return default
        if not text.isdigit() or not least <= int(text) <= most:
            raise Failure(
                "{} must be a whole number from {} to {}, not {}. Ask Rodan's administrator to"
                " change it.".format(name, least, most, text[:40])
            )
        return int(text)

    def folder_of(self, run: str) -> str:
        """The folder of one run job's training."""
        return os.path.join(self.folder, re.sub("[^0-9A-Za-z-]", "_", run))


def attempt(
    site: Site,
    run: str,
    task_id: str,
    again: bool,
    order: Callable[[], Order],
    outputs: Ports,
    now: Optional[float] = None,
) -> Optional[Waiting]:
    """Does what can be done now for the training of a run job; ``None`` once its outputs are
    written.

    ``run`` is the run job's name for ever, ``task_id`` that of the task which runs it; it becomes
    the correlation id. ``again`` says that this task was here before. Where an earlier task of the
    same run job was lost, its training is taken over, so that nothing is trained twice.

    Another process may be at work on the training at any look of a task, also at its first. So it
    is the folder that says whose the training is, and RabbitMQ that says whether this task has
    asked for one; ``again`` alone proves neither.
    """
    now = time.time() if now is None else now
    folder = site.folder_of(run)
    with _alone(site, folder) as alone:
        if not alone:
            return Waiting(site.poll_seconds, "")
        where = address(site.environment)
        conversation = Conversation.find(folder)
        if conversation is None and again:
            try:
                _asked_for_nothing(where, task_id, folder)
            except BrokerTrouble as trouble:
                if not trouble.passing:
                    raise
                return Waiting(site.poll_seconds, trouble.summary)
        if conversation is not None and conversation.task != task_id:
            conversation = _take_over(where, conversation, task_id, order)
        if conversation is None:
            _sweep(site, where, now)
            made = order()
            conversation = Conversation.begin(
                folder, task_id, made.body(), made.models, now, made.notes
            )
        try:
            return _go_on(site, where, conversation, order, outputs, now)
        except BrokerTrouble as trouble:
            return _wait_for_broker(site, conversation, trouble, now)
        except OSError as error:
            raise Failure(
                "A file of this training can't be written: {}. Ask Rodan's administrator to make"
                " room; then run the job again: it goes on with this training.".format(error),
                conversation.account(),
            )


def _asked_for_nothing(where: Address, task_id: str, folder: str) -> None:
    """Makes sure that a task which finds no folder has asked for no training: at its earlier looks
    another process may have been at work on the one before, to cancel it.
    """
    with Broker(where) as broker:
        asked = broker.has_reply_queue(task_id)
    if asked:
        raise Failure(
            "What was known of this training is gone: the folder {} does not exist any more."
            " The training may still run on the cluster. Ask Rodan's administrator to set"
            " HPC_WORK_FOLDER to a folder that all workers share and that survives their"
            " restart.".format(folder)
        )


def _go_on(
    site: Site,
    where: Address,
    conversation: Conversation,
    order: Callable[[], Order],
    outputs: Ports,
    now: float,
) -> Optional[Waiting]:
    if conversation.phase == CANCELLED:
        raise Failure(
            "This training was cancelled. Run the workflow's job again to start a new one."
        )
    if conversation.end is None:
        with Broker(where) as broker:
            if conversation.phase == PUBLISHING:
                broker.ask(conversation.body, conversation.id)
                conversation.say("The job was sent to the cluster and waits there")
                conversation.sent(now)
            else:
                _read(broker, conversation)
    conversation.trouble("broker", None)
    end = conversation.end
    if end is not None and "failed" in end:
        failure = conversation.failed()
        _finish(where, conversation)
        raise failure
    if end is not None:
        _write_outputs(conversation, order, outputs, now)
        return None
    if now - conversation.begun > site.deadline_seconds:
        with Broker(where) as broker:
            _cancel(broker, conversation.id)
        failure = Failure(
            "The cluster has not answered within {} hours, so this training was cancelled. Ask the"
            " operator of the cluster about the job; Rodan's administrator can allow more time"
            " with HPC_DEADLINE_HOURS.".format(site.deadline_seconds // 3600),
            conversation.account(),
        )
        _finish(where, conversation)
        raise failure
    return Waiting(site.poll_seconds, conversation.said)


def _read(broker: Broker, conversation: Conversation) -> None:
    """Takes what lies in the reply queue, and acknowledges what is in the folder."""
    unsaved = 0
    tag = None
    try:
        for message in broker.messages(conversation.id):
            conversation.take(message)
            tag, unsaved = message.tag, unsaved + 1
            if unsaved >= _BATCH or message.kind == "job.model" or conversation.end is not None:
                conversation.save()
                broker.acknowledge(tag)
                tag, unsaved = None, 0
            if conversation.end is not None:
                return
    except QueueGone:
        conversation.remove()
        raise Failure(
            "The queue for the cluster's answer is gone from RabbitMQ, and the answer with it:"
            " RabbitMQ lost its data, somebody removed the queue, or Rodan did not look into it"
            " for 14 days. Run the workflow's job again to train anew."
        )
    conversation.save()
    if tag is not None:
        broker.acknowledge(tag)


def _wait_for_broker(
    site: Site, conversation: Conversation, trouble: BrokerTrouble, now: float
) -> Optional[Waiting]:
    """Waits for RabbitMQ: for a training that is under way to its deadline, for one that was not
    sent, briefly.
    """
    tries = conversation.trouble("broker", now)
    if conversation.phase == WAITING:
        if now - conversation.begun <= site.deadline_seconds:
            if tries == 1:
                conversation.log("{} The training goes on meanwhile.".format(trouble.summary))
            return Waiting(site.poll_seconds, trouble.summary + " The training goes on meanwhile.")
    elif trouble.passing and tries < _TRIES_TO_SEND:
        return Waiting(site.poll_seconds, trouble.summary)
    # The folder stays: where RabbitMQ has the job after all, the next run takes it over.
    raise Failure(
        trouble.summary, "{}\n\n{}".format(trouble.details, conversation.account()).strip()
    )


def _take_over(
    where: Address, conversation: Conversation, task_id: str, order: Callable[[], Order]
) -> Optional[Conversation]:
    """What an earlier task of the same run job left behind, if it is the same training and can
    still succeed.
    """
    same = conversation.phase != CANCELLED and order().body() == conversation.body
    if same and conversation.phase == WAITING and conversation.end is None:
        try:
            with Broker(where) as broker:
                _read(broker, conversation)
        except BrokerTrouble:
            pass  # It is tried again below, where that is explained.
        except Failure:
            return None
    end = conversation.end
    if same and (end is None or "done" in end):
        conversation.log("A new task goes on with this training; the one before it was lost.")
        conversation.hand_over(task_id)
        conversation.save()
        conversation.trouble("broker", None)
        return conversation
    if end is None:
        try:
            _send_cancel(where, conversation)
        except BrokerTrouble:
            # It must not be forgotten: it would train beside the next one.
            _put_aside(conversation)
    conversation.remove()
    return None


def _put_aside(conversation: Conversation) -> None:
    """Makes room for the run job's next training, and leaves this one to :func:`_sweep`, which
    cancels it.
    """
    mark_cancelled(conversation.folder, conversation.task)
    os.rename(conversation.folder, "{}-{}".format(conversation.folder, uuid.uuid4().hex[:8]))


def finish(site: Site, run: str) -> None:
    """Forgets a training whose outputs are with Rodan. Without RabbitMQ its queue expires by
    itself.
    """
    conversation = Conversation.find(site.folder_of(run))
    if conversation is not None:
        _finish(address(site.environment), conversation)


def _finish(where: Address, conversation: Conversation) -> None:
    with contextlib.suppress(BrokerTrouble), Broker(where) as broker:
        broker.forget(conversation.id)
    conversation.remove()


# ── Cancelling ───────────────────────────────────────────────────────────────────────────────────


def mark(site: Site, task_id: str) -> bool:
    """Notes that the training of a task is cancelled; false where it looks after none.

    A training that a later task of the same run job has taken over is not the first one's.
    """
    found = _of_task(site, task_id)
    if found is None:
        return False
    try:
        mark_cancelled(found.folder, task_id)
    except FileNotFoundError:
        return False  # It ended, or was cancelled, just now.
    return True


def cancel(site: Site, task_id: str) -> bool:
    """Cancels the training of a task on the cluster; false where it looks after none.

    What can't be sent now is sent when the next training begins.
    """
    if not mark(site, task_id):
        return False
    # A look may be under way: it may be about to take the training over.
    end = time.monotonic() + _LOOK_SECONDS
    while time.monotonic() < end:
        found = _of_task(site, task_id)
        if found is None:
            return False
        with _alone(site, found.folder) as alone:
            if alone:
                found = _of_task(site, task_id)
                if found is not None:
                    _send_cancel(address(site.environment), found)
                return found is not None
        time.sleep(0.2)
    return True


def _of_task(site: Site, task_id: str) -> Optional[Conversation]:
    for folder in _folders(site):
        conversation = _find(folder)
        if conversation is not None and conversation.task == task_id and conversation.end is None:
            return conversation
    return None


def _send_cancel(where: Address, conversation: Conversation) -> None:
    with Broker(where) as broker:
        _cancel(broker, conversation.id)
    # The reply queue stays for the cluster's last word, and expires. The folder is not needed any
    # more.
    conversation.remove()


def _cancel(broker: Broker, correlation_id: str) -> None:
    request = {"cancel": correlation_id, "reply_to": reply_queue(correlation_id)}
    broker.cancel(correlation_id, json.dumps(request).encode("utf-8"))


def _sweep(site: Site, where: Address, now: float) -> None:
    """Sends what could not be cancelled, and removes what nobody came back for."""
    for folder in _folders(site):
        conversation = _find(folder)
        if conversation is None:
            continue
        if conversation.phase == CANCELLED:
            with contextlib.suppress(BrokerTrouble), _alone(site, folder) as alone:
                if alone and os.path.exists(folder):
                    _send_cancel(where, conversation)
        elif now - conversation.begun > _FORGET_DAYS * 86400:
            conversation.remove()


def _folders(site: Site) -> List[str]:
    try:
        return [entry.path for entry in os.scandir(site.folder) if entry.is_dir()]
    except OSError:
        return []


def _find(folder: str) -> Optional[Conversation]:
    try:
        return Conversation.find(folder)
    except Failure:
        return None


@contextlib.contextmanager
def _alone(site: Site, folder: str) -> Iterator[bool]:
    """Whether this process alone is at work on a training. The lock ends with it."""
    # A fixed number of files, never removed: a lock on a file that somebody removes would lock
    # nobody out.
    number = zlib.crc32(os.path.basename(folder).encode("utf-8")) % _LOCKS
    try:
        os.makedirs(os.path.join(site.folder, "locks"), mode=0o700, exist_ok=True)
        lock = open(os.path.join(site.folder, "locks", str(number)), "w")  # noqa: SIM115
    except OSError as error:
        raise Failure(
            "Rodan can't keep the training's files in {}: {}. Ask Rodan's administrator to make"
            " the folder writable for the workers, or to set HPC_WORK_FOLDER to one that all of"
            " them share.".format(site.folder, error.strerror or error)
        )
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


# ── Outputs ──────────────────────────────────────────────────────────────────────────────────────


def _write_outputs(
    conversation: Conversation, order: Callable[[], Order], outputs: Ports, now: float
) -> None:
    """Writes all outputs, or none: each is made beside its place, and moved there when all are
    whole.
    """
    made: List[str] = []
    try:
        for port, source in conversation.files().items():
            for output in outputs.get(port, []):
                made.append(output["resource_path"])
                shutil.copyfile(source, made[-1] + ".new")
        for output in outputs.get(MULTI_SAMPLE, []):
            made.append(output["resource_path"])
            repack(order().samples, made[-1] + ".new")
        for output in outputs.get(LOG_FILE, []):
            made.append(output["resource_path"])
            replace(made[-1] + ".new", _log_file(conversation, now).encode("utf-8"))
        for path in made:
            os.replace(path + ".new", path)
    except BaseException:
        for path in made:
            for name in (path, path + ".new", path + ".new.new"):
                with contextlib.suppress(OSError):
                    os.remove(name)
        raise


def _log_file(conversation: Conversation, now: float) -> str:
    """The text for the output port "Log File"."""
    done = (conversation.end or {}).get("done", {})
    lines = [
        "Training on a cluster",
        "Correlation id: {}".format(conversation.id),
        "From asking to the models: {:.0f} minutes".format((now - conversation.begun) / 60),
        words_of_asked(done.get("asked")),
        "",
        conversation.log_text(),
    ]
    rest = {key: value for key, value in done.items() if key not in ("asked", "at")}
    lines += outline(rest)
    return "\n".join(lines) + "\n"


# ── Words for Rodan's user ───────────────────────────────────────────────────────────────────────

#: A description is read by people: no line grows longer than this.
_LONGEST_LINE = 300


def replace_line(text: str, mark: str, words: str) -> str:
    """Puts ``mark words`` in the place of the line that begins with ``mark``, or at the end."""
    line = "{} {}".format(mark, " ".join(words.split()))
    if len(line) > _LONGEST_LINE:
        line = line[: _LONGEST_LINE - 3] + "..."
    lines = text.split("\n") if text else []
    for number, old in enumerate(lines):
        if old.startswith(mark):
            lines[number] = line
            return "\n".join(lines)
    return "\n".join(lines + [line])

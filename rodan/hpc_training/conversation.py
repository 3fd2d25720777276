"""What the cluster has said about one training, kept in a folder of the training's own.

Between two looks nothing of the task survives but this folder. A message is acknowledged only
after what it says is on disk here. The messages are described in docs/protocol.md, "The
conversation"; an answer of a cluster that does not know it (one JSON object with all models) is
understood too.
"""

import base64
import binascii
import contextlib
import datetime
import errno
import hashlib
import json
import os
import re
import shutil
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .broker import Message
from .failure import Failure
from .pages import is_model

#: Phases of a training, as they are written down.
PUBLISHING = "publishing"
WAITING = "waiting"
CANCELLED = "cancelled"

#: Kinds of messages that may come twice and must count once. The others say what is so now.
_SURE = ("job.model", "job.done", "job.failed", "")

#: So many lines of the training's log go into the details of an error.
TAIL = 30

#: Most parts of a model.
MAX_PARTS = 10000

#: Most levels of objects and lists in one another. No message has more than five.
_MAX_DEPTH = 50

_STATE = "state.json"
_LOG = "log.txt"
_CANCEL = "cancel"


def replace(path: str, data: bytes) -> None:
    """Writes a file so that it is there whole, or as it was before, whatever happens meanwhile."""
    beside = path + ".new"
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    _sync_folder(os.path.dirname(path))


def _sync_folder(folder: str) -> None:
    """Puts a folder's entries on disk: without that a power failure takes the new ones back."""
    handle = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems know no such thing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


class Conversation:
    """One training's folder: what was asked, what has been answered, and where the models lie."""

    def __init__(self, folder: str, state: Dict[str, Any]) -> None:
        self.folder = folder
        self._state = state
        #: Lines of the log that :meth:`save` writes.
        self._lines: List[str] = []
        #: Files that the state on disk still needs, and the next one does not.
        self._over: List[str] = []

    # ── The folder ───────────────────────────────────────────────────────────────────────────────

    @classmethod
    def find(cls, folder: str) -> Optional["Conversation"]:
        """The conversation that is kept in a folder, if there is one."""
        try:
            with open(os.path.join(folder, _STATE), "rb") as file:
                state = json.loads(file.read().decode("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Failure(
                "What is known of this training, in {}, can't be read: {}. Ask Rodan's"
                " administrator to look at that folder; without it training starts anew.".format(
                    folder, error
                )
            )
        return cls(folder, state)

    @classmethod
    def begin(
        cls,
        folder: str,
        correlation_id: str,
        body: bytes,
        models: Dict[str, str],
        now: float,
        notes: Sequence[str] = (),
    ) -> "Conversation":
        """Writes down what is about to be asked, before anything is sent."""
        state: Dict[str, Any] = {
            "version": 1,
            "id": correlation_id,
            "task": correlation_id,
            "body": body.decode("utf-8"),
            "models": models,
            "phase": PUBLISHING,
            "begun": now,
            "seen": [],
            "arrived": {},
            "parts": {},
            "said": "",
            "end": None,
        }
        try:
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(os.path.join(folder, "models"), mode=0o700, exist_ok=True)
            _sync_folder(os.path.dirname(folder))
            conversation = cls(folder, state)
            for note in notes:
                conversation.log(note)
            conversation.save()
        except OSError as error:
            raise Failure(
                "Rodan can't keep the training's files in {}: {}. Ask Rodan's administrator to"
                " make the folder writable for the workers, or to set HPC_WORK_FOLDER to one that"
                " all of them share.".format(folder, error.strerror or error)
            )
        return conversation

    def save(self) -> None:
        """Puts the state and the log on disk."""
        lines, self._lines = self._lines, []
        if lines:
            with open(os.path.join(self.folder, _LOG), "a", encoding="utf-8") as file:
                file.write("".join(lines))
        replace(os.path.join(self.folder, _STATE), json.dumps(self._state).encode("utf-8"))
        over, self._over = self._over, []
        for path in over:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def remove(self) -> None:
        """Removes all that was kept: the training is over, and its files are with Rodan."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def id(self) -> str:
        """The correlation id."""
        return str(self._state["id"])

    @property
    def task(self) -> str:
        """The task that looks after the training: the one that asked for it, or a later one."""
        return str(self._state["task"])

    def hand_over(self, task: str) -> None:
        """Notes that another task looks after the training from now on."""
        self._state["task"] = task

    @property
    def body(self) -> bytes:
        """The job message."""
        return str(self._state["body"]).encode("utf-8")

    @property
    def models(self) -> Dict[str, str]:
        """Output port -> model."""
        return dict(self._state["models"])

    @property
    def phase(self) -> str:
        """One of the phases above. Only the task that looks after the training can cancel it."""
        try:
            marked = _read(os.path.join(self.folder, _CANCEL)).decode("utf-8")
        except OSError:
            marked = ""
        return CANCELLED if marked == self.task else str(self._state["phase"])

    def sent(self, now: float) -> None:
        """Notes, on disk, that RabbitMQ has the job."""
        self._state["phase"] = WAITING
        self._state["begun"] = now
        self.save()

    @property
    def begun(self) -> float:
        """When the training was asked for, in seconds since 1970."""
        return float(self._state["begun"])

    def trouble(self, name: str, now: Optional[float]) -> int:
        """Counts failures in a row of one kind; ``None`` ends the row. Returns how many there
        were.
        """
        counts = self._state.setdefault("trouble", {})
        if now is None:
            if counts.pop(name, None) is not None:
                self.save()
            return 0
        counts[name] = counts.get(name, 0) + 1
        self.save()
        return int(counts[name])

    # ── The log ──────────────────────────────────────────────────────────────────────────────────

    def log(self, line: str) -> None:
        """Adds a line to the training's log."""
        self._lines.append("{:%Y-%m-%d %H:%M:%S}  {}\n".format(datetime.datetime.now(), line))

    def log_text(self) -> str:
        """The whole log."""
        try:
            with open(os.path.join(self.folder, _LOG), encoding="utf-8") as file:
                written = file.read()
        except OSError:
            written = ""
        return written + "".join(self._lines)

    @property
    def said(self) -> str:
        """Where the training stands, in a few words."""
        return str(self._state["said"])

    def say(self, words: str, about: Any = None) -> None:
        """Notes where the training stands. It goes into the log where ``about`` is not what it was
        last time.
        """
        about = words if about is None else about
        if words and about != self._state.get("about"):
            self.log(words)
        self._state["about"] = about
        self._state["said"] = words or self._state["said"]

    # ── Messages ─────────────────────────────────────────────────────────────────────────────────

    @property
    def end(self) -> Optional[Dict[str, Any]]:
        """How the training ended: ``{"done": …}`` or ``{"failed": …}``, once it has."""
        end = self._state["end"]
        return None if end is None else dict(end)

    def take(self, message: Message) -> None:
        """Reads one message. Its models are on disk afterwards; the rest after :meth:`save`."""
        if message.correlation_id not in ("", self.id):
            self.log(
                "A message of another training ({}) was passed over.".format(
                    message.correlation_id[:60]
                )
            )
            return
        if self.end is not None or message.message_id in self._state["seen"]:
            return
        if message.kind == "job.model":
            self._take_model(message)
        elif message.kind == "job.state":
            state = _object(message.body)
            # A place in the queue changes all the time, and is nothing for the log.
            self.say(
                words_of_state(state),
                [state.get("state"), state.get("slurm_job"), state.get("asked")],
            )
        elif message.kind == "job.progress":
            progress = _object(message.body)
            # One line an epoch: the step within it changes every few seconds.
            self.say(words_of_progress(progress), [progress.get("layer"), progress.get("epoch")])
        elif message.kind == "job.done":
            self._state["end"] = {"done": _object(message.body)}
        elif message.kind == "job.failed":
            self._state["end"] = {"failed": _object(message.body)}
        elif message.kind == "":
            self._take_first_protocol(message.body)
        elif message.kind != "job.report":
            self.log(
                'A message of an unknown kind was passed over: "{}".'.format(message.kind[:60])
            )
        if message.kind in _SURE and message.message_id:
            self._state["seen"].append(message.message_id)

    def _take_model(self, message: Message) -> None:
        headers = message.headers
        name, digest = _text(headers.get("name")), _text(headers.get("sha256")).lower()
        part, parts = _number(headers.get("part"), 1), _number(headers.get("parts"), 1)
        if (
            not name
            or not re.match("^[0-9a-f]{64}$", digest)
            or not 1 <= part <= parts <= MAX_PARTS
        ):
            self.log("A model without a name, a SHA-256 or a number was passed over.")
            return
        if digest in self._state["arrived"]:
            return
        if parts == 1:
            self._keep(name, digest, message.body)
            return
        # A model that is sent again may be cut into another number of parts.
        cut = "{}.of{}".format(digest, parts)
        replace(self._model("{}.part{}".format(cut, part)), message.body)
        known = self._state["parts"].setdefault(cut, [])
        if part not in known:
            known.append(part)
        if len(known) == parts:
            files = [self._model("{}.part{}".format(cut, number)) for number in sorted(known)]
            whole = b"".join(_read(file) for file in files)
            self._keep(name, digest, whole)
            del self._state["parts"][cut]
            self._over += files

    def _keep(self, name: str, digest: str, data: bytes) -> None:
        """Keeps a model under its SHA-256, if it is the right one."""
        if hashlib.sha256(data).hexdigest() != digest:
            self.log(
                "{} arrived damaged: its SHA-256 is not the one that the cluster gives.".format(
                    name
                )
            )
            self._state.setdefault("damaged", {})[name] = digest
            return
        replace(self._model(digest), data)
        self._state["arrived"][digest] = {"name": name, "size": len(data)}
        self._state.get("damaged", {}).pop(name, None)
        self.log("{} has arrived ({}).".format(name, size(len(data))))

    def _model(self, digest: str) -> str:
        return os.path.join(self.folder, "models", digest)

    def _take_first_protocol(self, body: bytes) -> None:
        """The one answer of a cluster that does not know the conversation."""
        answer = _object(body)
        error = answer.get("error")
        if isinstance(error, str):
            self._state["end"] = {"failed": {"error": error}}
            return
        if not answer:
            self._state["end"] = {"failed": _no_answer("it is no JSON object")}
            return
        models = []
        for name, text in sorted(answer.items()):
            try:
                data = base64.b64decode(text.encode("ascii"), validate=True)
            except (AttributeError, ValueError, binascii.Error):
                self._state["end"] = {"failed": _no_answer('"{}" is no base64'.format(name[:60]))}
                return
            digest = hashlib.sha256(data).hexdigest()
            self._keep(name, digest, data)
            models.append({"name": name, "sha256": digest, "size": len(data)})
        self._state["end"] = {"done": {"models": models}}

    # ── The end ──────────────────────────────────────────────────────────────────────────────────

    def files(self) -> Dict[str, str]:
        """Output port -> the file of its model, when the training has ended well and all models
        are here.
        """
        done = (self.end or {}).get("done", {})
        listed = dict(_listed(done.get("models")))
        files = {}
        for port, name in self.models.items():
            digest = listed.get(name)
            if digest is None:
                raise Failure(
                    'The cluster has ended the training without a model for the output "{}". Run'
                    " the workflow again; if this happens again, send this text to the operator of"
                    " the cluster.".format(port),
                    self.account(),
                )
            path = self._model(digest)
            if digest not in self._state["arrived"] or not os.path.exists(path):
                damaged = name in self._state.get("damaged", {})
                raise Failure(
                    'The model for the output "{}" {}. Run the workflow again; if this happens'
                    " again, send this text to the operator of the cluster.".format(
                        port,
                        (
                            "arrived damaged (its SHA-256 differs from the one that the cluster"
                            " gives)"
                            if damaged
                            else "did not arrive, though the cluster says that it was sent"
                        ),
                    ),
                    self.account(),
                )
            with open(path, "rb") as file:
                head = file.read(8)
            if not is_model(head):
                raise Failure(
                    'What the cluster sent for the output "{}" is no Keras model in HDF5 format.'
                    " Send this text to the operator of the cluster.".format(port),
                    self.account(),
                )
            files[port] = path
        return files

    def failed(self) -> Failure:
        """The failure that the cluster has told of."""
        failed = (self.end or {}).get("failed", {})
        summary = (
            _text(failed.get("error"))
            or "The training failed on the cluster, which gives no reason."
        )
        advice = _text(failed.get("advice"))
        if advice and advice not in summary:
            summary = "{} {}".format(summary, advice)
        lines = []
        if failed.get("cause"):
            lines.append("Cause: {}".format(_text(failed["cause"])))
        lines += [words_of_asked(failed.get("asked"))]
        if failed.get("used"):
            lines += outline({"used": failed["used"]})
        log = failed.get("log")
        if log:
            text = "\n".join(str(line) for line in log) if isinstance(log, list) else _text(log)
            lines += ["", "The end of the training's log on the cluster:"] + text.splitlines()[
                -TAIL:
            ]
        lines += ["", self.account()]
        return Failure(summary, "\n".join(lines).strip())

    def account(self) -> str:
        """Which training it was, and the last lines of its log: for the details of an error."""
        lines = self.log_text().splitlines()
        return "\n".join(["Correlation id {}".format(self.id), ""] + lines[-TAIL:])


def mark_cancelled(folder: str, task: str) -> None:
    """Notes that a task was cancelled, without touching the state: another process may write it.

    Where another task has taken the training over meanwhile, this says nothing.
    """
    replace(os.path.join(folder, _CANCEL), task.encode("utf-8"))


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────


def _object(body: bytes) -> Dict[str, Any]:
    """A JSON object; what is none is an empty one: it must not stop those behind it."""
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict) or _is_deep(value):
        return {}
    if re.search(rb"\\u[dD][89a-fA-F]", body):
        # JSON can escape one half of a surrogate pair, and no file takes that.
        whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        return dict(json.loads(whole.decode("utf-8")))
    return value


def _is_deep(value: Any) -> bool:
    """Whether it is nested so deep that what is called for each level might not get to its end."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner: List[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        if not inner:
            return False
        level = inner
    return True


def _listed(models: Any) -> List[Tuple[str, str]]:
    """Names and digests of ``job.done``'s models."""
    if isinstance(models, dict):
        models = [
            dict(about, name=name) for name, about in models.items() if isinstance(about, dict)
        ]
    found = []
    for model in models if isinstance(models, list) else []:
        if isinstance(model, dict):
            found.append((_text(model.get("name")), _text(model.get("sha256")).lower()))
    return found


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.strip() if isinstance(value, str) else ""


def _number(value: Any, otherwise: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return otherwise


def _no_answer(problem: str) -> Dict[str, Any]:
    return {
        "error": (
            "The cluster's answer can't be used: {}. Send this text to the operator of the "
            "cluster.".format(problem)
        )
    }


# ── Words ────────────────────────────────────────────────────────────────────────────────────────

_STATES = {
    "taken": "The cluster has taken the job",
    "submitted": "The job is with Slurm",
    "waiting": "The job waits in Slurm's queue",
    "running": "The training runs",
    "requeued": "Slurm starts the training again; it goes on where it was",
    "cancelling": "The job is being cancelled",
}

_ORIGINS = {
    "job": "from the job's settings",
    "site": "the site's setting",
    "estimate": "estimated from the job's settings",
    "measured": "from finished jobs",
    "raised": "more than at first, which was not enough",
}


def words_of_state(state: Dict[str, Any]) -> str:
    """Where a job stands, from a ``job.state``: the cluster's own words, if there are any."""
    name, detail = _text(state.get("state")), _text(state.get("detail"))
    words = detail[:1].upper() + detail[1:] if detail else _STATES.get(name, name)
    if not words:
        return ""
    about = []
    number = state.get("slurm_job")
    if number is not None and str(number) not in detail:
        about.append("Slurm job {}".format(number))
    if state.get("queue_position") is not None:
        about.append("place {} in the queue".format(state["queue_position"]))
    if state.get("starts_at"):
        about.append("expected to start at {}".format(_moment(state["starts_at"])))
    if about:
        words += " ({})".format(", ".join(about))
    # What was asked for stays so: once is enough.
    asked = words_of_asked(state.get("asked")) if name in ("taken", "requeued") else ""
    return "{} [{}]".format(words, asked) if asked else words


def words_of_asked(asked: Any) -> str:
    """What Slurm was asked for, and what each value was chosen by."""
    if not isinstance(asked, dict):
        return ""
    words = []
    for name, text in (("cpus", "{} CPUs"), ("memory_mb", "{} MB"), ("time_seconds", "{}")):
        value = asked.get(name)
        if isinstance(value, int):
            shown = _span(value) if name == "time_seconds" else str(value)
            origin = _text(asked.get(name.split("_")[0] + "_from"))
            words.append(
                text.format(shown)
                + (" ({})".format(_ORIGINS.get(origin, origin)) if origin else "")
            )
    tasks = asked.get("instances")
    if words and isinstance(tasks, dict) and isinstance(tasks.get("number"), int):
        origin = _text(tasks.get("from"))
        words[0] = "{} tasks{}, each with {}".format(
            tasks["number"],
            " ({})".format(_ORIGINS.get(origin, origin)) if origin else "",
            words[0],
        )
    return "asked of Slurm: " + ", ".join(words) if words else ""


def words_of_progress(progress: Dict[str, Any]) -> str:
    """Where a training stands, from a ``job.progress``."""
    words = []
    if progress.get("layer") is not None:
        words.append("layer {}".format(_short(progress["layer"])))
        if progress.get("layer_number") and progress.get("layers"):
            words[-1] += " ({} of {})".format(progress["layer_number"], progress["layers"])
    if progress.get("epoch") is not None:
        epoch, epochs = progress["epoch"], progress.get("epochs")
        words.append("epoch {}{}".format(epoch, " of {}".format(epochs) if epochs else ""))
    for name in ("loss", "accuracy", "F1"):
        value = progress.get(name, progress.get(name.lower()))
        if isinstance(value, (int, float)):
            words.append("{} {}".format(name, _figure(value)))
    end = progress.get("expected_end")
    if end:
        words.append("expected to end at {}".format(_moment(end)))
    return "The training runs: {}".format(", ".join(words)) if words else ""


def _span(seconds: int) -> str:
    try:
        return str(datetime.timedelta(seconds=seconds))
    except OverflowError:
        return "{} seconds".format(seconds)


def _figure(value: Any) -> str:
    try:
        return "{:.4g}".format(value)
    except OverflowError:  # A whole number that no float can hold.
        return "out of range"


def _moment(value: Any) -> str:
    """A moment as the cluster gives it: a text in UTC, which is made easier to read."""
    text = str(value)[:40]
    parts = re.match(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)[:.\d]*Z$", text)
    return "{} {} UTC".format(*parts.groups()) if parts else text


def _short(value: Any) -> str:
    if isinstance(value, float):
        return "{:.4g}".format(value)
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def outline(value: Any, indent: str = "") -> List[str]:
    """JSON as indented lines that a person can read."""
    lines = []
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, (dict, list)) and inner:
                lines.append("{}{}:".format(indent, key))
                lines += outline(inner, indent + "  ")
            else:
                lines.append("{}{}: {}".format(indent, key, _short(inner)))
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                lines.append(
                    indent + ", ".join("{} {}".format(k, _short(v)) for k, v in inner.items())
                )
            else:
                lines.append(indent + _short(inner))
    else:
        lines.append(indent + _short(value))
    return lines


def size(number: int) -> str:
    """A number of bytes, to be read."""
    if number >= 1 << 20:
        return "{:.1f} MiB".format(number / (1 << 20))
    return "{:.1f} KiB".format(number / 1024)

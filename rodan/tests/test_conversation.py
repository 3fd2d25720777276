"""What the cluster says, and what is kept of it: without RabbitMQ."""

import base64
import hashlib
import json
import os
import random
import stat

import pytest
from conftest import model

from hpc_training import attempt
from hpc_training import conversation as c
from hpc_training.broker import Message
from hpc_training.failure import BrokerTrouble, Failure

MODELS = {"Background Model": "Background Model", "Model 1": "Model 4"}


@pytest.fixture
def talk(tmp_path):
    return c.Conversation.begin(str(tmp_path / "run"), "c-1", b"{}", MODELS, 0.0)


def message(kind, body=b"", message_id="", headers=None, correlation_id="c-1"):
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    return Message(body, kind, message_id, correlation_id, headers)


def parts_of(name, data, count=1):
    """The messages of a model that is cut into parts of about the same size."""
    digest = hashlib.sha256(data).hexdigest()
    step = -(-len(data) // count)
    for number in range(count):
        headers = {
            "name": name,
            "sha256": digest,
            "size": len(data),
            "part": number + 1,
            "parts": count,
        }
        piece = data[number * step : (number + 1) * step]
        yield message("job.model", piece, "m-{}-{}-{}".format(name, number, count), headers)


def done(models):
    listed = [
        {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in models.items()
    ]
    return message("job.done", {"models": listed, "seed": 5}, "end")


def contents(talk):
    return {port: open(path, "rb").read() for port, path in talk.files().items()}


def test_models_in_parts_in_any_order_with_copies_come_out_whole(tmp_path):
    for seed in range(50):
        chance = random.Random(seed)
        talk = c.Conversation.begin(str(tmp_path / str(seed)), "c-1", b"{}", MODELS, 0.0)
        models = {
            "Background Model": model(chance.randrange(20, 300), chance.randrange(256)),
            "Model 4": model(chance.randrange(20, 300), chance.randrange(256)),
        }
        messages = []
        for name, data in models.items():
            # A model that is sent again may be cut otherwise.
            for _ in range(chance.randrange(1, 3)):
                messages += list(parts_of(name, data, chance.randrange(1, 12)))
        messages += [chance.choice(messages) for _ in range(5)]
        chance.shuffle(messages)
        for one in messages:
            talk.take(one)
            if chance.random() < 0.3:
                talk.save()
                talk = c.Conversation.find(talk.folder)
        talk.take(done(models))
        talk.save()
        talk = c.Conversation.find(talk.folder)
        assert contents(talk) == {
            "Background Model": models["Background Model"],
            "Model 1": models["Model 4"],
        }


def test_a_layer_that_was_trained_again_counts_as_the_end_says(talk):
    first, second, other = model(50, 1), model(50, 2), model(50, 3)
    for one in [*parts_of("Model 4", first), *parts_of("Background Model", other)]:
        talk.take(one)
    for one in parts_of("Model 4", second, 3):
        talk.take(one)
    talk.take(done({"Model 4": second, "Background Model": other}))
    assert contents(talk)["Model 1"] == second


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda h: h.update(sha256="0" * 64), "arrived damaged"),
        (lambda h: h.pop("sha256"), "did not arrive"),
        (lambda h: h.pop("name"), "did not arrive"),
        (lambda h: h.update(part=0), "did not arrive"),
        (lambda h: h.update(parts=2), "did not arrive"),
        (lambda h: h.update(part=3, parts=2), "did not arrive"),
        (lambda h: h.update(parts=10**9), "did not arrive"),
    ],
)
def test_a_model_that_can_not_be_trusted_is_no_model(talk, spoil, words):
    good, bad = model(50, 1), model(50, 2)
    for one in parts_of("Background Model", good):
        talk.take(one)
    for one in parts_of("Model 4", bad):
        spoil(one.headers)
        talk.take(one)
    end = done({"Background Model": good, "Model 4": bad})
    if words == "arrived damaged":
        listed = json.loads(end.body.decode())
        listed["models"][1]["sha256"] = "0" * 64
        end.body = json.dumps(listed).encode()
    talk.take(end)
    with pytest.raises(Failure) as caught:
        talk.files()
    assert 'the output "Model 1" ' + words in caught.value.summary


def test_an_end_without_a_model_or_with_another_file_is_told(talk):
    data = b"<html>no model</html>"
    for one in parts_of("Background Model", data):
        talk.take(one)
    talk.take(done({"Background Model": data}))
    with pytest.raises(Failure) as caught:
        talk.files()
    assert "no Keras model" in caught.value.summary
    other = c.Conversation.begin(talk.folder, "c-1", b"{}", MODELS, 0.0)
    other.take(message("job.done", b"{}", "end"))
    with pytest.raises(Failure, match="without a model for"):
        other.files()


def test_the_first_end_counts_and_nothing_after_it(talk):
    talk.take(message("job.failed", {"error": "first."}, "e1"))
    talk.take(message("job.failed", {"error": "second."}, "e2"))
    talk.take(message("job.done", {}, "e3"))
    assert talk.failed().summary == "first."


def test_a_failure_has_its_sentence_cause_and_log(talk):
    talk.say("The training runs")
    failed = {
        "error": "The job used more memory than it asked for.",
        "cause": "out_of_memory",
        "advice": 'Raise "Maximum memory (MB)" to 8000.',
        "asked": {"cpus": 2, "cpus_from": "site", "memory_mb": 4000, "time_seconds": 3600},
        "used": {"memory_mb": 4100},
        "log": ["line {}".format(n) for n in range(100)],
    }
    talk.take(message("job.failed", failed, "e"))
    failure = talk.failed()
    assert failure.summary.startswith("The job used more memory")
    assert failure.summary.endswith("to 8000.")
    for part in (
        "Cause: out_of_memory",
        "2 CPUs (the site's setting)",
        "4000 MB",
        "1:00:00",
        "memory_mb: 4100",
        "line 99",
        "Correlation id c-1",
        "The training runs",
    ):
        assert part in failure.details
    assert "line 69\n" not in failure.details


def test_an_answer_of_the_first_protocol_is_understood(talk):
    models = {"Background Model": model(50, 1), "Model 4": model(90, 2)}
    answer = {name: base64.b64encode(data).decode() for name, data in models.items()}
    talk.take(message("", answer, "r"))
    assert contents(talk) == {
        "Background Model": models["Background Model"],
        "Model 1": models["Model 4"],
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "The page is missing."}', "The page is missing."),
        (b"", "no JSON object"),
        (b"[]", "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b'{"Model 4": "!!"}', "no base64"),
        (b'{"Model 4": 5}', "no base64"),
    ],
)
def test_an_answer_of_the_first_protocol_that_is_no_model(talk, body, words):
    talk.take(message("", body, "r"))
    assert words in talk.failed().summary


def test_states_and_progress_are_told_in_words(talk):
    state = {
        "state": "waiting",
        "slurm_job": 12,
        "queue_position": 3,
        "starts_at": "2026-11-28T21:05:09.123Z",
        "detail": "waits for cores",
        "asked": {"cpus": 2, "cpus_from": "estimate", "memory_mb": 4000, "memory_from": "job"},
    }
    talk.take(message("job.state", state))
    assert (
        talk.said == "Waits for cores (Slurm job 12, place 3 in the queue, expected to start at "
        "2026-11-28 21:05 UTC)"
    )
    silent = {"state": "taken", "asked": state["asked"]}
    assert (
        c.words_of_state(silent)
        == "The cluster has taken the job [asked of Slurm: 2 CPUs (estimated from the job's "
        "settings), 4000 MB (from the job's settings)]"
    )
    tasks = {"cpus": 2, "memory_mb": 4000}
    for instances, words in (
        ({"number": 3, "from": "site"}, "3 tasks (the site's setting), each with 2 CPUs, 4000 MB"),
        ({"number": 2}, "2 tasks, each with 2 CPUs, 4000 MB"),
        ("many", "2 CPUs, 4000 MB"),
    ):
        told = c.words_of_asked(dict(tasks, instances=instances))
        assert told == "asked of Slurm: " + words
    talk.take(message("job.state", dict(state, queue_position=2)))
    progress = {"layer": "Model 4", "layer_number": 2, "layers": 2, "epoch": 3, "epochs": 15}
    for step in range(50):
        more = dict(progress, step=step, loss=0.5, accuracy=None, f1=0.25)
        more["expected_end"] = "2026-11-28T23:59:00Z"
        # What the log says of an epoch is in the other values.
        more["ended_epochs"] = [{"layer": "Model 4", "epoch": 2, "training_loss": 0.5}]
        talk.take(message("job.progress", more))
    assert (
        talk.said == "The training runs: layer Model 4 (2 of 2), epoch 3 of 15, loss 0.5, F1 0.25,"
        " expected to "
        "end at 2026-11-28 23:59 UTC"
    )
    assert len(talk.log_text().splitlines()) == 2, talk.log_text()


def test_nothing_that_comes_stops_what_is_behind_it(talk):
    """Whatever is in the queue: it is read, and the end behind it is still seen."""
    chance = random.Random(1)
    kinds = ["job.state", "job.progress", "job.model", "job.report", "job.later"]
    values = [None, 5, "x", [], {}, {"a": 1}, True, -1, "2026", [1, {"b": 2}], 1e300]
    names = ["state", "asked", "detail", "layer", "epoch", "loss", "expected_end", "starts_at"]
    names += ["name", "sha256", "part", "parts", "size", "slurm_job", "queue_position"]
    for _ in range(3000):
        body = {name: chance.choice(values) for name in chance.sample(names, 4)}
        headers = {name: chance.choice(values) for name in chance.sample(names, 4)}
        raw = json.dumps(body).encode()
        if chance.random() < 0.2:
            raw = bytes(chance.randrange(256) for _ in range(chance.randrange(30)))
        talk.take(message(chance.choice(kinds), raw, str(chance.random()), headers))
    talk.take(message("job.failed", {"error": "Over."}, "e", correlation_id="another"))
    assert talk.end is None
    talk.take(message("job.failed", {"error": "Over."}, "e"))
    talk.save()
    assert talk.failed().summary == "Over."


def test_what_is_beyond_all_measure_stops_nothing_behind_it(talk):
    for depth in (60, 100000):
        deep = b'{"state": "taken", "layer": 1, "asked": ' + b"[" * depth + b"]" * depth + b"}"
        for kind in ("job.state", "job.progress"):
            talk.take(message(kind, deep))
    assert talk.said == ""
    asked = {"cpus": 2, "time_seconds": 10**15}
    talk.take(message("job.state", {"state": "taken", "asked": asked}))
    assert talk.said.endswith("2 CPUs, 1000000000000000 seconds]")
    talk.take(message("job.progress", {"epoch": 1, "loss": 10**400}))
    assert talk.said == "The training runs: epoch 1, loss out of range"
    for part, parts in ((float("inf"), 1), (1, float("inf"))):
        headers = {"name": "Model 4", "sha256": "0" * 64, "part": part, "parts": parts}
        talk.take(message("job.model", b"", "m", headers))
    talk.take(message("job.state", b'{"detail": "half a pair: \\ud800, a pair: \\ud83d\\ude00"}'))
    talk.save()
    assert talk.said == "Half a pair: ?, a pair: \U0001f600"
    talk.take(message("job.failed", {"error": "Over.", "asked": asked}, "e"))
    assert "1000000000000000 seconds" in talk.failed().details


def test_what_is_replaced_is_on_disk_with_its_name(tmp_path, monkeypatch):
    steps = []
    sync, move = os.fsync, os.replace

    def note_sync(handle):
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def note_move(*paths):
        steps.append("move")
        move(*paths)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_move)
    c.replace(str(tmp_path / "file"), b"data")
    assert steps == ["file", "move", "folder"]
    steps.clear()
    c.Conversation.begin(str(tmp_path / "run"), "c-1", b"{}", MODELS, 0.0)
    assert steps == ["folder", "file", "move", "folder"]


def test_a_folder_that_can_not_be_read_or_made_is_told(tmp_path, talk):
    (tmp_path / "run" / "state.json").write_text("{torn")
    with pytest.raises(Failure, match="can't be read"):
        c.Conversation.find(str(tmp_path / "run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="HPC_WORK_FOLDER"):
        c.Conversation.begin(str(tmp_path / "file" / "run"), "c", b"", {}, 0.0)


def test_a_line_is_replaced_and_others_stay():
    text = attempt.replace_line("The user's words\n", "[cluster 1]", "waits")
    assert text == "The user's words\n\n[cluster 1] waits"
    text = attempt.replace_line(text + "\nmore", "[cluster 1]", "runs\nnow")
    assert text == "The user's words\n\n[cluster 1] runs now\nmore"
    assert attempt.replace_line("", "[cluster 2]", "x" * 1000).endswith("x...")
    assert len(attempt.replace_line("", "[cluster 2]", "x" * 1000)) == 300


def test_failures_survive_the_way_between_processes():
    import pickle

    for failure in (Failure("a", "b"), BrokerTrouble("a", "b", passing=False)):
        copy = pickle.loads(pickle.dumps(failure))
        assert (copy.summary, copy.details, str(copy)) == ("a", "b", "a")
    assert copy.passing is False

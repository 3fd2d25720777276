"""The trial without Rodan."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import PACKAGE, FakeCluster, model, png
from test_conversation import done as job_done
from test_conversation import parts_of
from test_jobs import take


@pytest.fixture
def page(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    for name in ("image", "background", "regions", "layer_0", "layer_2"):
        (folder / (name + ".png")).write_bytes(png())
    (folder / "README.md").write_text("not an image")
    (folder / "settings.json").write_text(json.dumps({"Patch height": 64, "Seed": 3}))
    return folder


def start(page, tmp_path, environment):
    uploads = tmp_path / "uploads"
    uploads.mkdir(exist_ok=True)
    command = [sys.executable, str(PACKAGE / "send"), str(page)]
    command += ["--uploads", str(uploads), "--out", str(tmp_path / "out")]
    return subprocess.Popen(
        command,
        env=dict(os.environ, TMPDIR=str(tmp_path), **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_page_becomes_models(page, tmp_path, environment, services, queues):
    names = ["Background Model", "Model 0", "Model 2"]

    def play():
        cluster = FakeCluster(services)
        job, body = take(cluster)
        assert json.loads(body.decode())["settings"]["Seed"] == 3
        for n, name in enumerate(names):
            for part in parts_of(name, model(300, n)):
                cluster.say(job, part.kind, part.body, part.message_id, part.headers)
        end = job_done({name: model(300, n) for n, name in enumerate(names)})
        cluster.say(job, "job.done", end.body)
        cluster.close()

    player = threading.Thread(target=play)
    player.start()
    sender = start(page, tmp_path, environment)
    said = sender.communicate(timeout=60)[0].decode().splitlines()
    player.join(10)
    assert sender.returncode == 0, said
    job = said[0].split("published ")[1]
    folder = tmp_path / "out" / job
    assert said[-1] == "models {}".format(folder)
    found = sorted(path.name for path in folder.iterdir())
    assert found == sorted([name + ".hdf5" for name in names] + ["Log File.txt"])
    assert (folder / "Model 2.hdf5").read_bytes() == model(300, 2)
    assert list(tmp_path.glob("hpc-send.*")) == []


def test_what_is_refused_is_told(page, tmp_path, environment, queues):
    (page / "settings.json").write_text(json.dumps({"Patch height": 66}))
    sender = start(page, tmp_path, environment)
    said = sender.communicate(timeout=60)[0].decode()
    assert sender.returncode == 9
    assert said.startswith("error ")
    assert "use 64 or 68" in said
    sender = start(tmp_path / "nowhere", tmp_path, environment)
    assert "nowhere" in sender.communicate(timeout=60)[0].decode()
    assert sender.returncode == 11
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_that_can_not_be_written_is_told_before_anything_is_sent(
    page, tmp_path, environment, cluster
):
    (tmp_path / "out").write_text("a file")
    sender = start(page, tmp_path, environment)
    assert str(tmp_path / "out") in sender.communicate(timeout=60)[0].decode()
    assert sender.returncode == 1
    assert cluster.next() is None
    assert list(tmp_path.glob("hpc-send.*")) == []


def test_models_that_can_not_be_put_into_their_place_are_kept(
    page, tmp_path, environment, cluster
):
    sender = start(page, tmp_path, environment)
    job, _ = take(cluster)
    (tmp_path / "out" / job.correlation_id).rmdir()
    models = {name: model(300, 1) for name in ("Background Model", "Model 0", "Model 2")}
    for name, data in models.items():
        for part in parts_of(name, data):
            cluster.say(job, part.kind, part.body, part.message_id, part.headers)
    cluster.say(job, "job.done", job_done(models).body)
    said = sender.communicate(timeout=60)[0].decode()
    assert sender.returncode == 1
    [kept] = tmp_path.glob("hpc-send.*")
    assert "is in {}".format(kept) in said
    assert (kept / "Model 1").read_bytes() == models["Model 0"]


def test_a_trial_that_is_ended_leaves_the_job_alone(page, tmp_path, environment, cluster):
    sender = start(page, tmp_path, environment)
    assert sender.stdout.readline().startswith(b"published")
    sender.send_signal(signal.SIGTERM)
    sender.communicate(timeout=30)
    assert cluster.next() is not None
    assert cluster.next("hpc-control") is None
    assert list(tmp_path.glob("hpc-send.*")) == []

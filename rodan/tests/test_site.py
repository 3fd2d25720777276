"""Both jobs against a real site: RabbitMQ, `check`, Slurm, the trainer, and a web server for
Rodan's files.

HPC_TRAINER_TEST_BINARIES names the directory with the programs; the services are those of
`./run_tests services`. Without them this is skipped: `./run_tests --only rodan` has them.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile

import pytest
from conftest import ROOT, png

from hpc_training import attempt, order
from hpc_training.failure import Failure

BINARIES = os.environ.get("HPC_TRAINER_TEST_BINARIES")

#: A page of this width and height; each layer has a few pixels around its middle, so that all of
#: them together are trained in seconds.
SIDE = 160
PORTS = [
    "Image",
    "rgba PNG - Selected regions",
    "rgba PNG - Background layer",
    "rgba PNG - Layer 0",
    "rgba PNG - Layer 2",
]


def drawn(number):
    """The image for the port of this number."""

    def pixel(x, y):
        if number == 0:
            return x, y, 99, 255
        inside = abs(x - SIDE // 2) < 16 and abs(y - SIDE // 2) < 16
        is_its = number == 1 or (x % 8 == 2 * number - 4 and y % 8 == 0)
        return 0, 0, 0, 255 if inside and is_its else 0

    return png(SIDE, SIDE, pixel)


PAGE = {port: drawn(number) for number, port in enumerate(PORTS)}
#: A training of seconds.
SMALL = {
    "Maximum number of training epochs": 1,
    "Maximum number of samples per label": 100,
    "Patch height": 64,
    "Patch width": 64,
    "CPUs": 1,
    "Maximum memory (MB)": 3000,
    "Maximum time (D-HH:MM)": "0-00:30",
}

pytestmark = pytest.mark.skipif(
    not BINARIES or "SLURM_CONF" not in os.environ,
    reason="needs HPC_TRAINER_TEST_BINARIES and a Slurm",
)


class Site:
    """An installation of the cluster's side, as ./demo makes one."""

    def __init__(self, services):
        # Slurm wants short names.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hpcs.", dir="/tmp"))
        self.uploads = self.folder / "uploads"
        site = self.folder / "site"
        for folder in (self.uploads, site / "bin", site / "slurm"):
            folder.mkdir(parents=True)
        for name in ("run_check", "hpc_training.sh", "slurm/handle_failure.sh"):
            shutil.copy(str(ROOT / name), str(site / name))
        binaries = pathlib.Path(BINARIES)
        for name in ("check", "run_trainer"):
            os.symlink(str((binaries / name).resolve()), str(site / "bin" / name))
        self.run_check = str(site / "run_check")
        self.server = subprocess.Popen(
            [str(binaries / "examples" / "stand_in_rodan"), "serve", str(self.uploads)],
            stdout=subprocess.PIPE,
        )
        lines = [self.server.stdout.readline().decode() for _ in range(3)]
        names = ("RABBITMQ_HOST", "RABBITMQ_USER", "RABBITMQ_PASSWORD")
        lines += ["{}={}\n".format(name, services.settings[name]) for name in names]
        (site / "credentials.env").write_text("".join(lines) + "WATCHER=0\n")
        (site / "credentials.env").chmod(0o600)

    def check(self, *arguments):
        """What cron starts."""
        done = subprocess.run(
            [self.run_check, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.returncode, done.stdout.decode()

    def page(self):
        """The inputs of a page by its images."""
        return {port: self.upload(data) for port, data in PAGE.items()}

    def upload(self, data):
        name = uuid.uuid4().hex
        (self.uploads / name).write_bytes(data)
        return [{"resource_path": str(self.uploads / name), "resource_url": "/uploads/" + name}]

    def close(self):
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()
        shutil.rmtree(str(self.folder), ignore_errors=True)


@pytest.fixture
def site(services, queues):
    made = Site(services)
    yield made
    made.close()


def train(site, environment, tmp_path, make, outputs, on_pass=lambda: None):
    """Looks and passes of check in turn, until the training has ended."""
    work = attempt.Site(environment, str(tmp_path / "work"))
    run, task, again, said = str(uuid.uuid4()), str(uuid.uuid4()), False, []
    end = time.monotonic() + 240
    while time.monotonic() < end:
        waiting = attempt.attempt(work, run, task, again, make, outputs)
        again = True
        if waiting is None:
            return said
        if waiting.words not in said:
            said.append(waiting.words)
        code, output = site.check()
        assert code in (0, 8, 10), output
        on_pass()
        time.sleep(0.5)
    raise AssertionError("no end after {}: {}".format(said, site.check("status", "--all")[1]))


def outputs_in(folder, *ports):
    folder.mkdir()
    return {port: [{"resource_path": str(folder / uuid.uuid4().hex)}] for port in ports}


def assert_model(outputs, port):
    data = pathlib.Path(outputs[port][0]["resource_path"]).read_bytes()
    assert data.startswith(b"\x89HDF\r\n\x1a\n")
    assert len(data) > 100000


def test_a_page_by_its_images(site, environment, tmp_path):
    inputs = site.page()
    outputs = outputs_in(tmp_path / "out", "Background Model", "Model 0", "Model 2")
    train(
        site,
        environment,
        tmp_path,
        lambda: order.page_order(inputs, SMALL, outputs, environment),
        outputs,
    )
    for port in outputs:
        assert_model(outputs, port)


def test_pages_in_a_zip_going_on_from_models(site, environment, tmp_path):
    """Two trainings: the second goes on from the models of the first."""
    path = tmp_path / "page.zip"
    with zipfile.ZipFile(str(path), "w") as archive:
        for port, data in PAGE.items():
            inside = port.replace("Layer 2", "Layer 3").replace("Layer 0", "Layer 1")
            archive.writestr(inside + ".png", data)
    inputs = {"Sample 1": site.upload(path.read_bytes())}
    ports = ["Background Model", "Model 1", "Model 2", "Log File", "Multi-Sample Zip"]
    for number in (1, 2):
        outputs = outputs_in(tmp_path / str(number), *ports)

        def make(outputs=outputs):
            return order.samples_order(inputs, dict(SMALL, Seed="3"), outputs, environment)

        train(site, environment, tmp_path, make, outputs)
        log = pathlib.Path(outputs["Log File"][0]["resource_path"]).read_text()
        assert 'The output "Model 2" is the model that the cluster calls "Model 3".' in log
        for port in ports[:3]:
            assert_model(outputs, port)
            written = pathlib.Path(outputs[port][0]["resource_path"])
            inputs[port] = site.upload(written.read_bytes())


def test_a_cancelled_run_ends_the_training_on_the_cluster(site, environment, tmp_path, queues):
    inputs = site.page()
    outputs = outputs_in(tmp_path / "out", "Background Model", "Model 0", "Model 2")
    endless = dict(SMALL, **{"Maximum number of training epochs": 10000})
    work = attempt.Site(environment, str(tmp_path / "work"))
    task = str(uuid.uuid4())

    def look(again):
        def make():
            return order.page_order(inputs, endless, outputs, environment)

        waiting = attempt.attempt(work, "run", task, again, make, outputs)
        return waiting.words

    def until(words, call):
        end = time.monotonic() + 120
        while words not in call():
            assert time.monotonic() < end, call()
            time.sleep(0.5)

    look(False)
    until("state           running", lambda: site.check() and site.check("status", task)[1])
    until("The training runs", lambda: look(True))
    assert attempt.cancel(work, task)
    until("state           answered", lambda: site.check() and site.check("status", task)[1])
    ends = []
    while True:
        frame, properties, body = queues.basic_get("hpc-reply-" + task, auto_ack=True)
        if frame is None:
            break
        if properties.type in ("job.done", "job.failed"):
            ends.append((properties.type, json.loads(body.decode()).get("cause")))
    assert ends == [("job.failed", "cancelled")]
    assert queues.queue_declare("hpc-control", passive=True).method.message_count == 0


def test_what_the_cluster_refuses_is_told(site, environment, tmp_path):
    """A file that is gone when the cluster comes for it."""
    inputs = site.page()
    inputs["Image"][0]["resource_url"] = "/uploads/gone"
    outputs = outputs_in(tmp_path / "out", "Background Model", "Model 0", "Model 2")
    with pytest.raises(Failure) as caught:
        train(
            site,
            environment,
            tmp_path,
            lambda: order.page_order(inputs, SMALL, outputs, environment),
            outputs,
        )
    assert "can't be downloaded" in caught.value.summary
    assert "Correlation id" in caught.value.details
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(sys.version_info < (3, 8), reason="bench/ is not for Rodan's older image")
def test_what_is_asked_can_be_compared_with_what_is_used():
    """bench/estimate, at a size that takes seconds."""
    command = [sys.executable, "-B", str(ROOT / "bench" / "estimate.py"), "--programs", BINARIES]
    command += ["--patches", "64", "--batches", "4", "--samples", "4", "--size", "800x600"]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=200)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0, lines
    patch, batch, asked, used, share, _, seconds = lines[1].split()
    assert (patch, batch) == ("64x64", "4")
    assert 0 < int(used) < int(asked)
    assert int(seconds) > 0
    assert share.endswith("%")

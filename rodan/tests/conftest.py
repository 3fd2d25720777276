"""A real RabbitMQ, set up as an operator sets it up, and what the tests make of files."""

import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid
import zipfile
import zlib

import pika
import pytest

HERE = pathlib.Path(__file__).parent
PACKAGE = HERE.parent
ROOT = PACKAGE.parent
CLUSTER = ROOT / "slurm" / "test-cluster"

sys.path.insert(0, str(PACKAGE))


class Services:
    """The private RabbitMQ of the tests, and a vhost in it with the users of set_up_broker."""

    def __init__(self, variables):
        self.host = variables["HPC_TRAINER_TEST_AMQP_HOST"]
        self.port = int(variables["HPC_TRAINER_TEST_AMQP_PORT"])
        self.tls_port = int(variables["HPC_TRAINER_TEST_AMQPS_PORT"])
        self.ca = variables["HPC_TRAINER_TEST_CA"]
        self.admin = variables["HPC_TRAINER_TEST_AMQP_USER"]
        self.admin_password = variables["HPC_TRAINER_TEST_AMQP_PASSWORD"]
        self.folder = pathlib.Path(variables["HPC_TRAINER_TEST_SERVICES"])
        self.ctl = str(self.folder / "broker" / "ctl")
        self.vhost = "rodan-" + uuid.uuid4().hex[:8]
        self.rodan = self.vhost + "-rodan"
        self.cluster = self.vhost + "-cluster"
        self.settings = {}

    def set_up(self, file):
        command = [sys.executable, str(PACKAGE / "set_up_broker"), "--vhost", self.vhost]
        command += ["--rodan", self.rodan, "--cluster", self.cluster]
        command += ["--rabbitmqctl", self.ctl]
        command += ["--url", "amqp://{}:{}".format(self.host, self.port), str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = [line for line in file.read_text().splitlines() if "=" in line]
        self.settings = dict(line.split("=", 1) for line in lines)
        rights = ["set_permissions", "-p", self.vhost, self.admin, ".*", ".*", ".*"]
        self.run(*rights)

    def take_away(self):
        """All that :meth:`set_up` has made, in one start of rabbitmqctl: each takes seconds."""
        names = (self.vhost, self.rodan, self.cluster)
        commands = 'rabbit_vhost:delete(<<"{}">>, <<"test">>),' + ",".join(
            ['rabbit_auth_backend_internal:delete_user(<<"{}">>, <<"test">>)'] * 2
        )
        self.run("eval", commands.format(*names) + ".")

    def run(self, *arguments):
        subprocess.run([self.ctl, *arguments], check=True, stdout=subprocess.DEVNULL)

    def parameters(self, user=None, password=None, vhost=None):
        return pika.ConnectionParameters(
            self.host,
            self.port,
            vhost or self.vhost,
            pika.PlainCredentials(user or self.admin, password or self.admin_password),
        )

    def as_cluster(self):
        return self.parameters(self.cluster, self.settings["RABBITMQ_PASSWORD"])


@pytest.fixture(scope="session")
def services(tmp_path_factory):
    """The services that run already (./run_tests services), or a RabbitMQ for this run."""
    started = None
    variables = os.environ
    if "HPC_TRAINER_TEST_AMQP_PORT" not in os.environ:
        started = tempfile.mkdtemp(prefix="hpcr.", dir="/tmp")
        environment = dict(os.environ, PARTS="broker", VHOSTS="1")
        subprocess.run([str(CLUSTER / "up"), started], env=environment, check=True)
        text = (pathlib.Path(started) / "env.sh").read_text()
        lines = [line[len("export ") :].split("=", 1) for line in text.splitlines()]
        variables = {name: value.strip("'") for name, value in lines}
    found = Services(variables)
    try:
        found.set_up(tmp_path_factory.mktemp("broker") / "settings")
        yield found
        found.take_away()
    finally:
        if started:
            subprocess.run([str(CLUSTER / "down"), started], check=True)


class FakeCluster:
    """The cluster's side of the conversation, played by a test through the real broker.

    It logs in as the cluster's user, so that the rights of set_up_broker are tried too.
    """

    def __init__(self, services):
        self._connection = pika.BlockingConnection(services.as_cluster())
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def close(self):
        if self._connection.is_open:
            self._connection.close()

    def next(self, queue="hpc-jobs"):
        """The next message of a queue, taken out of it: properties and body, or nothing."""
        frame, properties, body = self._channel.basic_get(queue, auto_ack=True)
        return None if frame is None else (properties, body)

    def say(self, job, kind, body, message_id=None, headers=None):
        """Publishes to the job's reply queue."""
        properties = pika.BasicProperties(
            type=kind or None,
            message_id=message_id or uuid.uuid4().hex,
            correlation_id=job.correlation_id,
            headers=headers,
            delivery_mode=2,
            app_id="hpc-trainer/0.0.0",
        )
        self._channel.basic_publish("", job.reply_to, body, properties, mandatory=True)


@pytest.fixture
def queues(services):
    """Empties the vhost's queues before a test."""
    connection = pika.BlockingConnection(services.parameters())
    channel = connection.channel()
    for queue in ("hpc-jobs", "hpc-control"):
        channel.queue_declare(queue, durable=True)
        channel.queue_purge(queue)
    yield channel
    if connection.is_open:
        connection.close()


@pytest.fixture
def cluster(services, queues):
    played = FakeCluster(services)
    yield played
    played.close()


@pytest.fixture
def environment(services):
    """What Rodan's administrator sets."""
    return {"HPC_RABBITMQ_URL": services.settings["HPC_RABBITMQ_URL"]}


def png(width=64, height=48, pixel=None):
    """An RGBA image of a size: black, or with the four bytes that ``pixel(x, y)`` gives."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    if pixel is None:
        rows = (b"\0" + b"\0\0\0\xff" * width) * height
    else:
        rows = b"".join(
            b"\0" + b"".join(bytes(pixel(x, y)) for x in range(width)) for y in range(height)
        )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def model(size=1000, fill=7):
    """Bytes that begin as an HDF5 file does."""
    return b"\x89HDF\r\n\x1a\n" + bytes([fill]) * (size - 8)


PAGE = ["Image", "rgba PNG - Selected regions", "rgba PNG - Background layer"]


@pytest.fixture
def files(tmp_path):
    """Makes files as they lie on Rodan, and describes them as Rodan does."""
    return Files(tmp_path)


class Files:
    def __init__(self, folder):
        self.folder = folder / "rodan"
        self.folder.mkdir()

    def file(self, data, name=None):
        path = self.folder / (name or uuid.uuid4().hex)
        path.write_bytes(data)
        return [{"resource_path": str(path), "resource_url": "/uploads/" + path.name}]

    def archive(self, names, data=None):
        """A zip; a name without a dot is an image of a page."""
        path = self.folder / uuid.uuid4().hex
        with zipfile.ZipFile(str(path), "w") as out:
            for name in names:
                out.writestr(name if "." in name else name + ".png", data or png())
        return [{"resource_path": str(path), "resource_url": "/uploads/" + path.name}]

    def page(self, *layers):
        return self.archive(PAGE + ["rgba PNG - Layer {}".format(n) for n in layers])

    def images(self, *layers):
        """The inputs of the job that takes a page by its images."""
        ports = PAGE + ["rgba PNG - Layer {}".format(n) for n in layers]
        return {port: self.file(png()) for port in ports}

    def outputs(self, *ports):
        folder = self.folder / "outputs"
        if folder.exists():
            shutil.rmtree(str(folder))
        folder.mkdir()
        return {port: [{"resource_path": str(folder / uuid.uuid4().hex)}] for port in ports}

    def written(self):
        return sorted(path.name for path in (self.folder / "outputs").iterdir())

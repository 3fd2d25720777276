"""RabbitMQ as it is: addresses, refusals, and the rights that set_up_broker gives."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading

import pika
import pytest
from conftest import PACKAGE

from hpc_training.broker import Address, Broker, QueueGone, address
from hpc_training.failure import BrokerTrouble, Failure

# ── The address ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"HPC_RABBITMQ_URL": "amqps://ro%40dan:p%2Fw@broker.example.org/hpc"},
            ("broker.example.org", 5671, "hpc", "ro@dan", "p/w", True),
        ),
        ({"HPC_RABBITMQ_URL": "amqp://u:p@[::1]:7000/%2F"}, ("::1", 7000, "/", "u", "p", False)),
        (
            {
                "HPC_RABBITMQ_URL": "amqp://h/",
                "HPC_RABBITMQ_USER": "u",
                "HPC_RABBITMQ_PASSWORD": "p",
                "HPC_RABBITMQ_HOST": "elsewhere",
            },
            ("h", 5672, "/", "u", "p", False),
        ),
        (
            {
                "HPC_RABBITMQ_HOST": "h",
                "HPC_RABBITMQ_USER": "u",
                "HPC_RABBITMQ_PASSWORD": "p",
            },
            ("h", 5672, "/", "u", "p", False),
        ),
        (
            {
                "HPC_RABBITMQ_HOST": "h:99",
                "HPC_RABBITMQ_USER": "u",
                "HPC_RABBITMQ_PASSWORD": "p",
            },
            ("h", 99, "/", "u", "p", False),
        ),
    ],
)
def test_addresses(variables, expected):
    where = address(variables)
    assert (
        where.host,
        where.port,
        where.vhost,
        where.user,
        where.password,
        where.tls,
    ) == expected
    assert ":{}@".format(where.password) not in str(where) + repr(where)
    secret = Address("h", 1, "/", "u", "s3cret")
    assert "s3cret" not in str(secret) + repr(secret)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "HPC_RABBITMQ_URL"),
        ({"HPC_RABBITMQ_URL": "broker.example.org"}, "can't be read"),
        ({"HPC_RABBITMQ_URL": "http://u:p@h/"}, "can't be read"),
        ({"HPC_RABBITMQ_URL": "amqp://u:secret@h:port/"}, "can't be read"),
        ({"HPC_RABBITMQ_URL": "amqp://h/"}, "user or password is missing"),
        ({"HPC_RABBITMQ_HOST": "h", "HPC_RABBITMQ_USER": "u"}, "user or password is missing"),
    ],
)
def test_addresses_that_are_none(variables, words):
    with pytest.raises(Failure) as caught:
        address(variables)
    assert words in caught.value.summary
    assert "secret" not in caught.value.summary + caught.value.details


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────


def trouble(where, use=lambda broker: None):
    with pytest.raises(BrokerTrouble) as caught, Broker(where) as broker:
        use(broker)
    assert where.password not in caught.value.summary + caught.value.details
    return caught.value


@pytest.fixture
def where(environment):
    return address(environment)


def changed(where, **differences):
    return Address(**dict(vars(where), **differences))


def test_nobody_listens(where):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failure = trouble(changed(where, port=port))
    assert failure.passing
    assert "can't be reached" in failure.summary
    assert str(port) in failure.summary
    unknown = trouble(changed(where, host="no-such-host.invalid"))
    assert unknown.passing
    assert "no-such-host.invalid" in unknown.summary


def test_somebody_listens_who_says_nothing(where, monkeypatch):
    monkeypatch.setattr("hpc_training.broker._CONNECT_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        failure = trouble(changed(where, port=silent.getsockname()[1]))
    assert failure.passing
    assert "can't be reached" in failure.summary


def test_wrong_password_and_vhost(where):
    failure = trouble(changed(where, password="wrong"))
    assert not failure.passing
    assert "refuses the user" in failure.summary
    failure = trouble(changed(where, vhost="nowhere"))
    assert not failure.passing
    assert "vhost" in failure.summary


def test_tls_with_the_right_ca_and_without(where, services):
    tls = changed(where, host="localhost", port=services.tls_port, tls=True, ca_file=services.ca)
    with Broker(tls):
        pass
    failure = trouble(changed(tls, ca_file=None))
    assert not failure.passing
    assert "HPC_RABBITMQ_CA_FILE" in failure.summary
    failure = trouble(changed(tls, ca_file="/nowhere/ca.pem"))
    assert "/nowhere/ca.pem" in failure.summary
    plain = changed(tls, port=services.port)
    assert trouble(plain).summary


def test_a_broker_that_hangs_up_during_the_handshake_may_come_back(where):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(5)

        def hang_up():
            heard, _ = listening.accept()
            heard.recv(1 << 16)
            heard.close()

        listener = threading.Thread(target=hang_up)
        listener.start()
        port = listening.getsockname()[1]
        failure = trouble(changed(where, host="127.0.0.1", port=port, tls=True))
        listener.join(10)
    assert "SSL" in failure.details
    assert failure.passing
    assert "can't be reached" in failure.summary


def test_a_right_that_is_missing_is_named(services, queues, where):
    as_cluster = changed(
        where, user=services.cluster, password=services.settings["RABBITMQ_PASSWORD"]
    )
    failure = trouble(as_cluster, lambda broker: broker.ask(b"{}", "c-rights"))
    assert not failure.passing
    assert "denies" in failure.summary
    assert "set_up_broker" in failure.summary


def test_a_reply_queue_that_is_declared_otherwise(queues, where):
    queues.queue_declare("hpc-reply-other", durable=False)
    failure = trouble(where, lambda broker: broker.ask(b"{}", "other"))
    queues.queue_delete("hpc-reply-other")
    assert not failure.passing
    assert "other arguments" in failure.summary


def test_a_job_queue_that_is_declared_otherwise_is_used_as_it_is(queues, where):
    queues.queue_delete("hpc-jobs")
    queues.queue_declare("hpc-jobs", durable=False)
    with Broker(where) as broker:
        broker.ask(b"{}", "transient")
        broker.forget("transient")
    assert queues.queue_declare("hpc-jobs", passive=True).method.message_count == 1
    queues.queue_delete("hpc-jobs")


def test_absent_queues_are_declared_durable_where_that_is_allowed(services, queues, where):
    admin = changed(where, user=services.admin, password=services.admin_password)
    for queue in ("hpc-jobs", "hpc-control"):
        queues.queue_delete(queue)
    refused = trouble(where, lambda broker: broker.ask(b"{}", "absent"))
    assert "denies" in refused.summary
    with Broker(admin) as broker:
        broker.ask(b"{}", "absent")
        broker.cancel("absent", b"{}")
        broker.forget("absent")
    for queue in ("hpc-jobs", "hpc-control"):
        assert queues.queue_declare(queue, durable=True).method.message_count == 1


def test_a_full_queue_is_told(services, queues, where):
    limit = json.dumps({"max-length": 0, "overflow": "reject-publish"})
    services.run(
        "set_policy", "-p", services.vhost, "full", "^hpc-jobs$", limit, "--priority", "9"
    )
    failure = trouble(where, lambda broker: broker.ask(b"{}", "full"))
    services.run("clear_policy", "-p", services.vhost, "full")
    assert "is full" in failure.summary


def test_what_is_asked_is_persistent_and_its_reply_queue_is_there(queues, where):
    with Broker(where) as broker:
        broker.ask(b'{"a": 1}', "c-2")
        broker.ask(b'{"a": 1}', "c-2")
        assert list(broker.messages("c-2")) == []
        for _ in range(2):
            _, properties, body = queues.basic_get("hpc-jobs", auto_ack=True)
            assert body == b'{"a": 1}'
            assert properties.delivery_mode == 2
            assert properties.reply_to == "hpc-reply-c-2"
            assert properties.correlation_id == "c-2"
        broker.forget("c-2")
        with pytest.raises(QueueGone):
            list(broker.messages("c-2"))


# ── set_up_broker ────────────────────────────────────────────────────────────────────────────────


def set_up(*arguments):
    return subprocess.run(
        [sys.executable, str(PACKAGE / "set_up_broker"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_settings_are_private_and_stay(tmp_path):
    file = tmp_path / "broker.env"
    first = set_up("--print", "--url", "amqps://b.example.org:5671", str(file))
    assert first.returncode == 0, first.stderr
    assert stat.S_IMODE(os.stat(str(file)).st_mode) == 0o600
    text = file.read_text()
    assert "RABBITMQ_HOST=amqps://b.example.org:5671/hpc\n" in text
    set_up("--print", "--url", "amqps://b.example.org:5671", str(file))
    assert file.read_text() == text
    made = json.loads(first.stdout.decode())
    password = text.split("HPC_RABBITMQ_URL=amqps://rodan:")[1].split("@")[0]
    assert password not in first.stdout.decode()
    assert [user["name"] for user in made["users"]] == ["rodan", "cluster"]
    quorum = json.loads(set_up("--print", "--quorum", str(file)).stdout.decode())
    assert quorum["queues"][0]["arguments"] == {"x-queue-type": "quorum"}


def test_what_was_begun_beside_the_settings_is_not_written_into(tmp_path):
    file, beside, elsewhere = (tmp_path / name for name in ("b.env", "b.env.new", "elsewhere"))
    beside.write_text("begun")
    beside.chmod(0o644)
    assert set_up("--print", str(file)).returncode == 0
    assert stat.S_IMODE(os.stat(str(file)).st_mode) == 0o600
    elsewhere.write_text("another's")
    beside.symlink_to(elsewhere)
    assert set_up("--print", str(file)).returncode == 0
    assert elsewhere.read_text() == "another's"
    assert not file.is_symlink()


def test_the_passwords_of_other_users_stay(tmp_path):
    file = tmp_path / "broker.env"
    set_up("--print", str(file))
    first = file.read_text()
    made = json.loads(set_up("--print", "--rodan", "gateway", str(file)).stdout.decode())
    assert [user["name"] for user in made["users"]] == ["gateway", "cluster"]
    assert first.splitlines()[:2] == file.read_text().splitlines()[:2]
    set_up("--print", str(file))
    assert set(first.splitlines()) < set(file.read_text().splitlines())


def test_wrong_use_is_explained(tmp_path):
    file = str(tmp_path / "f")
    assert b"--url is amqps" in set_up("--url", "amqps://u:p@h/v", file).stderr
    assert b"no-such-command" in set_up("--rabbitmqctl", "no-such-command", file).stderr
    failed = set_up("--rabbitmqctl", "sh -c 'echo refused; exit 1' --", file)
    assert failed.returncode == 1
    assert b"refused" in failed.stderr
    assert set_up("/nowhere/f").returncode == 1


def test_each_user_may_do_its_part_and_nothing_else(services, queues):
    """As the two sides, tried at the broker itself."""
    rodan = services.parameters(
        services.rodan, services.settings["HPC_RABBITMQ_URL"].split(":")[2].split("@")[0]
    )

    def allowed(parameters, use):
        connection = pika.BlockingConnection(parameters)
        try:
            use(connection.channel())
            return True
        except pika.exceptions.ChannelClosedByBroker as error:
            assert error.reply_code == 403
            return False
        finally:
            if connection.is_open:
                connection.close()

    assert not allowed(rodan, lambda channel: channel.basic_get("hpc-jobs"))
    assert not allowed(rodan, lambda channel: channel.queue_delete("hpc-jobs"))
    assert not allowed(rodan, lambda channel: channel.queue_declare("other"))
    as_cluster = services.as_cluster()
    assert allowed(as_cluster, lambda channel: channel.basic_get("hpc-jobs"))
    assert allowed(as_cluster, lambda channel: channel.basic_get("hpc-control"))
    assert allowed(as_cluster, lambda channel: channel.queue_declare("hpc-jobs", passive=True))
    assert not allowed(as_cluster, lambda channel: channel.queue_declare("hpc-reply-x"))
    assert not allowed(as_cluster, lambda channel: channel.queue_purge("hpc-reply-x"))

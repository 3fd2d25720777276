"""RabbitMQ between Rodan and the cluster: its address, and what a training asks of it.

Nothing here waits for a training. A connection is opened for one look and closed again.
"""

import contextlib
import logging
import ssl
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional
from urllib.parse import unquote, urlsplit

from .failure import BrokerTrouble, Failure

JOBS = "hpc-jobs"
CONTROL = "hpc-control"
REPLY_PREFIX = "hpc-reply-"

#: How long RabbitMQ keeps a reply queue that nobody looks into, in milliseconds.
REPLY_QUEUE_EXPIRES = 14 * 24 * 3600 * 1000

_CONNECT_SECONDS = 15
_HEARTBEAT_SECONDS = 30


def reply_queue(correlation_id: str) -> str:
    """The name of the reply queue that belongs to one training."""
    return REPLY_PREFIX + correlation_id


class Address:
    """Where RabbitMQ is, and who we are there. Its text never shows the password."""

    def __init__(
        self,
        host: str,
        port: int,
        vhost: str,
        user: str,
        password: str,
        tls: bool = False,
        ca_file: Optional[str] = None,
    ) -> None:
        self.host = host
        self.port = port
        self.vhost = vhost
        self.user = user
        self.password = password
        self.tls = tls
        self.ca_file = ca_file

    def __str__(self) -> str:
        scheme = "amqps" if self.tls else "amqp"
        return "{}://{}:{} (vhost {})".format(scheme, self.host, self.port, self.vhost)

    __repr__ = __str__


def address(environment: Mapping[str, str]) -> Address:
    """Reads RabbitMQ's address: ``HPC_RABBITMQ_URL``, or else the three variables of the first
    task.

    Those three are ``HPC_RABBITMQ_HOST``, ``HPC_RABBITMQ_USER`` and ``HPC_RABBITMQ_PASSWORD``; the
    last two also complete a URL that has no user or password in it.
    """
    url = environment.get("HPC_RABBITMQ_URL", "").strip()
    host = environment.get("HPC_RABBITMQ_HOST", "").strip()
    if not url and not host:
        raise Failure(
            "Rodan does not know where the cluster's RabbitMQ is. Ask Rodan's administrator to set"
            " HPC_RABBITMQ_URL (such as amqps://rodan:PASSWORD@broker.example.org:5671/hpc) in the"
            " service that runs the queue Python3, and to start that service again."
        )
    variable = "HPC_RABBITMQ_URL" if url else "HPC_RABBITMQ_HOST"
    if not url:
        url = host if "://" in host else "amqp://" + host
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        raise Failure(
            "{} can't be read. It has the form amqps://USER:PASSWORD@HOST:PORT/VHOST; characters"
            " such as /, @ or # in user, password and vhost are written as %2F, %40, %23. Ask"
            " Rodan's administrator to mend it.".format(variable)
        )
    tls = parts.scheme == "amqps"
    user = unquote(parts.username or "") or environment.get("HPC_RABBITMQ_USER", "")
    password = unquote(parts.password or "") or environment.get("HPC_RABBITMQ_PASSWORD", "")
    if not user or not password:
        raise Failure(
            "RabbitMQ's user or password is missing. Ask Rodan's administrator to put both into "
            "HPC_RABBITMQ_URL, or into HPC_RABBITMQ_USER and HPC_RABBITMQ_PASSWORD."
        )
    ca_file = environment.get("HPC_RABBITMQ_CA_FILE", "").strip() or None
    # A path of "/" alone and no path at all both stand for the vhost "/", as in most clients.
    vhost = unquote(parts.path[1:]) or "/"
    return Address(
        parts.hostname, port or (5671 if tls else 5672), vhost, user, password, tls, ca_file
    )


class Message:
    """A message of a reply queue. ``tag`` acknowledges it on the channel that brought it."""

    def __init__(
        self,
        body: bytes,
        kind: str = "",
        message_id: str = "",
        correlation_id: str = "",
        headers: Optional[Dict[str, Any]] = None,
        tag: int = 0,
    ) -> None:
        self.body = body
        self.kind = kind
        self.message_id = message_id
        self.correlation_id = correlation_id
        self.headers = headers or {}
        self.tag = tag


class QueueGone(Exception):
    """The reply queue does not exist any more."""


class Broker:
    """A connection to RabbitMQ, for a short while. Use it as a context manager."""

    def __init__(self, where: Address) -> None:
        self._where = where
        self._connection: Any = None
        self._channel: Any = None

    def __enter__(self) -> "Broker":
        with self._explained("connecting"):
            self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        import pika.exceptions

        # What was confirmed or acknowledged stays so without a good-bye.
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            self._connection.close()

    def _connect(self) -> None:
        import pika

        # It logs each failure several times, with its stack. What matters is in our sentence.
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        where = self._where
        options = None
        if where.tls:
            try:
                context = ssl.create_default_context(cafile=where.ca_file)
            except OSError as error:
                raise BrokerTrouble(
                    "The file of certificates in HPC_RABBITMQ_CA_FILE ({}) can't be read: {}. Ask"
                    " Rodan's administrator to put the CA of RabbitMQ's certificate there.".format(
                        where.ca_file, error
                    ),
                    passing=False,
                )
            options = pika.SSLOptions(context, where.host)
        parameters = pika.ConnectionParameters(
            host=where.host,
            port=where.port,
            virtual_host=where.vhost,
            credentials=pika.PlainCredentials(where.user, where.password),
            ssl_options=options,
            heartbeat=_HEARTBEAT_SECONDS,
            socket_timeout=_CONNECT_SECONDS,
            stack_timeout=_CONNECT_SECONDS,
            blocked_connection_timeout=_CONNECT_SECONDS,
            client_properties={"connection_name": "Rodan, hpc_training"},
        )
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()

    def ask(self, body: bytes, correlation_id: str) -> None:
        """Publishes a job, so that it is in ``hpc-jobs`` on disk when this returns.

        The reply queue is declared first: whoever takes the job finds it.
        """
        import pika

        queue = reply_queue(correlation_id)
        with self._explained("declaring the reply queue"):
            self._channel.queue_declare(
                queue, durable=True, arguments={"x-expires": REPLY_QUEUE_EXPIRES}
            )
        properties = pika.BasicProperties(
            reply_to=queue,
            correlation_id=correlation_id,
            message_id=correlation_id,
            type="job",
            app_id="rodan",
            content_type="application/json",
            delivery_mode=2,
            timestamp=int(time.time()),
        )
        self._publish(JOBS, body, properties)

    def cancel(self, correlation_id: str, body: bytes) -> None:
        """Asks the cluster to cancel a job; ``body`` is the request."""
        import pika

        properties = pika.BasicProperties(
            correlation_id=correlation_id,
            type="job.cancel",
            app_id="rodan",
            content_type="application/json",
            delivery_mode=2,
            timestamp=int(time.time()),
        )
        self._publish(CONTROL, body, properties)

    def _publish(self, queue: str, body: bytes, properties: Any) -> None:
        """Publishes to a queue that is there already, or that is declared durable now."""
        import pika.exceptions

        self._must_exist(queue)
        with self._explained("publishing to " + queue):
            self._channel.confirm_delivery()
            try:
                self._channel.basic_publish("", queue, body, properties, mandatory=True)
            except pika.exceptions.UnroutableError:
                raise BrokerTrouble(
                    "RabbitMQ's queue {} vanished while the job was sent. Run the workflow again;"
                    " if this happens again, ask the operator of the cluster.".format(queue)
                )
            except pika.exceptions.NackError:
                raise BrokerTrouble(
                    "RabbitMQ does not take the job: its queue {} is full, or the broker is in"
                    " trouble. Run the workflow later; tell the operator of the cluster.".format(
                        queue
                    )
                )

    def _must_exist(self, queue: str) -> None:
        if self._exists(queue):
            return
        with self._explained("declaring " + queue):
            self._channel.queue_declare(queue, durable=True)

    def _exists(self, queue: str) -> bool:
        import pika.exceptions

        with self._explained("looking at " + queue):
            try:
                self._channel.queue_declare(queue, passive=True)
                return True
            except pika.exceptions.ChannelClosedByBroker as error:
                self._channel = self._connection.channel()
                if error.reply_code == 404:
                    return False
                raise

    def has_reply_queue(self, correlation_id: str) -> bool:
        """Whether a training with this id was asked for, and is not forgotten yet."""
        return self._exists(reply_queue(correlation_id))

    def messages(self, correlation_id: str) -> Iterator[Message]:
        """Gives the messages that lie in a training's reply queue, in their order.

        They stay in the queue until :meth:`acknowledge`.
        """
        queue = reply_queue(correlation_id)
        if not self._exists(queue):
            raise QueueGone(queue)
        while True:
            with self._explained("reading " + queue):
                frame, properties, body = self._channel.basic_get(queue, auto_ack=False)
            if frame is None:
                return
            yield Message(
                body,
                properties.type or "",
                properties.message_id or "",
                properties.correlation_id or "",
                properties.headers,
                frame.delivery_tag,
            )

    def acknowledge(self, tag: int) -> None:
        """Takes this message, and all before it, out of the queue."""
        with self._explained("acknowledging"):
            self._channel.basic_ack(tag, multiple=True)
            # Sends what is buffered, and hears of a connection that broke.
            self._connection.process_data_events(0)

    def forget(self, correlation_id: str) -> None:
        """Removes a training's reply queue: nobody asks any more."""
        with self._explained("removing the reply queue"):
            self._channel.queue_delete(reply_queue(correlation_id))

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turns pika's exceptions into sentences."""
        import pika.exceptions
        from pika.adapters.utils.connection_workflow import AMQPConnectorException

        try:
            yield
        except (BrokerTrouble, QueueGone):
            raise
        except (pika.exceptions.AMQPError, AMQPConnectorException, OSError) as error:
            raise self._trouble(action, error)

    def _trouble(self, action: str, error: BaseException) -> BrokerTrouble:
        import pika.exceptions as known

        where, all_errors = self._where, _chain(error)
        text = "; ".join(_words(one) for one in all_errors)
        details = "While {}: {}".format(action, text)
        if _is(all_errors, known.ProbableAuthenticationError, known.AuthenticationError) or (
            "ACCESS_REFUSED - Login" in text
        ):
            return BrokerTrouble(
                'RabbitMQ at {} refuses the user "{}" or its password. Ask Rodan\'s administrator'
                " to set the right ones in HPC_RABBITMQ_URL and to start the worker again.".format(
                    where, where.user
                ),
                details,
                passing=False,
            )
        if _is(all_errors, known.ProbableAccessDeniedError) or "NOT_ALLOWED" in text:
            return BrokerTrouble(
                'RabbitMQ at {} does not let the user "{}" into this vhost, or has no such vhost.'
                " Ask the operator of RabbitMQ (set_up_broker makes vhost and users).".format(
                    where, where.user
                ),
                details,
                passing=False,
            )
        for one in all_errors:
            if isinstance(one, known.ChannelClosedByBroker):
                return self._refusal(one, action, details)
            if isinstance(one, ssl.SSLError) and not _hung_up(one):
                return BrokerTrouble(
                    "RabbitMQ at {} can't be trusted: {}. Ask Rodan's administrator to look at the"
                    " host name in HPC_RABBITMQ_URL and at HPC_RABBITMQ_CA_FILE.".format(
                        where, _words(one)
                    ),
                    details,
                    passing=False,
                )
        return BrokerTrouble(
            "RabbitMQ at {} can't be reached. If this lasts, ask Rodan's administrator whether it"
            " runs and whether HPC_RABBITMQ_URL names the right host and port.".format(where),
            details,
        )

    def _refusal(self, error: Any, action: str, details: str) -> BrokerTrouble:
        where = self._where
        if error.reply_code == 403:
            return BrokerTrouble(
                'RabbitMQ at {} denies the user "{}" a right it needs ({}): {}. Ask the operator'
                " of RabbitMQ to give the rights that set_up_broker gives.".format(
                    where, where.user, action, error.reply_text
                ),
                details,
                passing=False,
            )
        if error.reply_code == 406:
            return BrokerTrouble(
                "RabbitMQ at {} has one of the queues with other arguments than this job needs"
                " ({}): {}. Ask the operator of RabbitMQ to remove that queue, or the policy that"
                " changes it.".format(where, action, error.reply_text),
                details,
                passing=False,
            )
        return BrokerTrouble(
            "RabbitMQ at {} refuses ({}): {} {}. Ask the operator of RabbitMQ.".format(
                where, action, error.reply_code, error.reply_text
            ),
            details,
            passing=False,
        )


def _chain(error: Optional[BaseException]) -> List[BaseException]:
    """An exception and all that lie behind it: pika wraps the interesting one several times."""
    found: List[BaseException] = []
    waiting: List[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or one in found:
            continue
        found.append(one)
        waiting += [one.__cause__, one.__context__, getattr(one, "exception", None)]
        waiting += list(one.args)
    return found


def _is(errors: List[BaseException], *kinds: type) -> bool:
    return any(isinstance(error, kinds) for error in errors)


def _hung_up(error: ssl.SSLError) -> bool:
    """Whether the broker closed the connection during the handshake, as one does that is just
    starting: that says nothing about trust.
    """
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return True
    # Python 3.7 has no name of its own for what OpenSSL 3 says.
    return "unexpected eof while reading" in str(error)


def _words(error: BaseException) -> str:
    text = str(error).strip()
    name = type(error).__name__
    return "{}: {}".format(name, text) if text else name

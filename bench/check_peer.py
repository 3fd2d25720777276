"""The least that a Python program does to look for a job over TLS: connect, look for the queue,
get, close.

`check_peer.py PORT VHOST`; the rest as in the tests, from HPC_TRAINER_TEST_AMQP_USER, …_PASSWORD
and HPC_TRAINER_TEST_CA.
"""

import os
import ssl
import sys

import pika


def main():
    tls = ssl.create_default_context(cafile=os.environ["HPC_TRAINER_TEST_CA"])
    user, password = (os.environ[f"HPC_TRAINER_TEST_AMQP_{name}"] for name in ("USER", "PASSWORD"))
    connection = pika.BlockingConnection(
        pika.ConnectionParameters(
            "127.0.0.1",
            int(sys.argv[1]),
            sys.argv[2],
            pika.PlainCredentials(user, password),
            ssl_options=pika.SSLOptions(tls, "127.0.0.1"),
        )
    )
    channel = connection.channel()
    channel.queue_declare("hpc-jobs", passive=True)
    method, _, _ = channel.basic_get("hpc-jobs")
    connection.close()
    sys.exit(0 if method is None else 1)


if __name__ == "__main__":
    main()

"""MLflow's own server, as `mlflow server --serve-artifacts` runs it, at a port that is free.

usage: mlflow_server.py FOLDER; prints the port. It ends with its standard input.
"""

import os
import sys
import threading

folder = sys.argv[1]
# What the command sets for its workers. Without the command itself, whose imports take seconds.
os.environ.update(
    _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{folder}/mlflow.sqlite",
    _MLFLOW_SERVER_ARTIFACT_ROOT="mlflow-artifacts:/",
    _MLFLOW_SERVER_ARTIFACT_DESTINATION=f"{folder}/artifacts",
    _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
)

from mlflow.server import app  # noqa: E402
from mlflow.server.handlers import _get_tracking_store  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

_get_tracking_store()
server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()

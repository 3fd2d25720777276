"""Runs schemathesis against a gateway: all of its checks, on every operation of the description.

usage: schemathesis_run.py ADDRESS FOLDER [EXAMPLES]

The token comes by GATEWAY_TOKEN, the picture that stands for each file of a page by
GATEWAY_PICTURE. The description is taken from the gateway. A few things that a schema can't say
are put into a copy of it: which pages there are, that a grid makes 200 runs at most, that a shift
depends on the patch. So what schemathesis takes for right has to be accepted.
"""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

HOOKS = "schemathesis_hooks"

# A run is there at once, and its files when it is over. All checks are on by default; --checks all
# would switch this one on again.
SETTINGS = """
headers = { Authorization = "Bearer ${GATEWAY_TOKEN}" }

[[operations]]
include-path-regex = "^/v1/runs/.id./(report|log|models|layers|files)"
checks.ensure_resource_availability.enabled = false
"""


def asked(address, path):
    token = os.environ["GATEWAY_TOKEN"]
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def narrowed(document, page):
    """The description for a gateway that has this one page."""
    schemas = document["components"]["schemas"]
    schemas["PageId"] = {"type": "string", "enum": [page]}
    settings = schemas["Settings"]["properties"]
    grid = schemas["Grid"]["properties"]
    for name in list(settings):
        settings[name] = settings[name]["anyOf"][0]
    settings["Augmentation: shift (pixels)"]["maximum"] = 8
    settings["Maximum time (D-HH:MM)"] = {"enum": ["0-02:00", "30", None]}
    settings["Slurm Notification Email"] = {"enum": ["", "a@example.org", None]}
    # One list, of a setting that is not among the others.
    schemas["Grid"]["properties"] = {"Seed": grid["Seed"]}
    del settings["Seed"]
    schemas["Grid"]["properties"]["Seed"]["items"] = {"enum": [1, 2, 3, None]}
    for name in ("RunRequest", "RunChanges"):
        schemas[name]["properties"]["models_from"] = {"enum": [1, None]}
    # They are for a cluster, whose account is another.
    for path in ("/api/auth/token/", "/uploads/{key}/{name}"):
        del document["paths"][path]
    # No server may be asked for an image here.
    for form in ("PageForm", "ImageForm"):
        del schemas[form]["properties"]["image_url"]
    for methods in document["paths"].values():
        for operation in methods.values():
            parameters = operation.get("parameters", [])
            # A key belongs to one request, and a range to one file; no schema says which.
            operation["parameters"] = [
                each for each in parameters if each["name"] not in ("Idempotency-Key", "Range")
            ]
            # A run that waits behind others is answered when the wait is over, and the time of an
            # answer is limited.
            for each in operation["parameters"]:
                if each["name"] == "wait":
                    each["example"] = "2s"
    form = schemas["PageForm"]
    for name in [f"layer_{number}" for number in range(1, 10)] + ["archive"]:
        del form["properties"][name]
    form["required"] = ["image", "background", "layer_0"]
    return document


def main():
    address, folder = sys.argv[1], Path(sys.argv[2])
    examples = sys.argv[3] if len(sys.argv) > 3 else "4"
    page = asked(address, "/v1/pages")["pages"][0]["id"]
    document = folder / "openapi.json"
    document.write_text(json.dumps(narrowed(asked(address, "/openapi.json"), page)))
    here = Path(__file__).resolve().parent
    settings = folder / "schemathesis.toml"
    settings.write_text(SETTINGS)
    environment = dict(os.environ, PYTHONPATH=str(here), SCHEMATHESIS_HOOKS=HOOKS)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings),
        "run", str(document), "--url", f"http://{address}",
        "--max-examples", examples, "--generation-deterministic",
        "--continue-on-failure", "--no-color",
        "--warnings", "off", "--request-timeout", "70",
    ]  # fmt: skip
    return subprocess.run(command, check=False, cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())

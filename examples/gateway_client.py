#!/usr/bin/env python3
"""Sends a page to a gateway, shows what becomes of it, and fetches its models: a client of the
gateway's interface with nothing but Python.

usage: gateway_client.py ADDRESS PAGE --out DIR

ADDRESS is the gateway's, such as http://127.0.0.1:9090. PAGE is a folder as «run_trainer --local»
takes it: image.png or image.jpg, background.png, layer_0.png to layer_9.png, regions.png, and
settings.json with settings by Rodan's names. The token of an account comes by GATEWAY_TOKEN.
Models, report and training.json go into a folder named like the run in that of --out.

It says «run NUMBER», then «state …» at each change, and at the end «models FOLDER» or «error …».

Exit codes: 0 the models are there, 2 wrong usage, 9 the gateway refused it, or the run failed, 11
the page can't be read or the gateway not be reached.
"""

import argparse
import json
import os
import sys
import uuid
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

ENDS = ("succeeded", "failed", "cancelled")
# The address is this machine's or one that was given: no proxy has to know it.
OPENER = build_opener(ProxyHandler({}))


class Refused(Exception):
    """The gateway's words about what it does not do."""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
    )
    parser.add_argument("address", metavar="ADDRESS")
    parser.add_argument("page", metavar="PAGE")
    parser.add_argument("--out", metavar="DIR", required=True)
    asked = parser.parse_args()
    try:
        return send(asked.address.rstrip("/"), asked.page, asked.out)
    except Refused as refused:
        say("error {}".format(" ".join(str(refused).split())))
        return 9
    except (OSError, ValueError, URLError) as error:
        print("gateway_client: {}: {}".format(asked.page, error), file=sys.stderr)
        return 11


def say(text):
    print(text, flush=True)


def send(address, page, out):
    """Uploads the page, asks for a run, waits for its end, and fetches its files."""
    body, kind = form(page)
    uploaded = ask(address, "/v1/pages", body, kind)
    settings = {}
    if os.path.exists(os.path.join(page, "settings.json")):
        with open(os.path.join(page, "settings.json"), encoding="utf-8") as file:
            settings = json.load(file)
    request = {"name": uploaded["name"], "pages": [uploaded["id"]], "settings": settings}
    run = ask(address, "/v1/runs", json.dumps(request).encode(), "application/json")
    say("run {}".format(run["id"]))
    told = None
    while True:
        if state(run) != told:
            told = state(run)
            say("state {}".format(told))
        if run["state"] in ENDS:
            break
        # It answers when the run is over, or after a second.
        run = ask(address, "/v1/runs/{}?wait=1s".format(run["id"]))
    if run["state"] != "succeeded":
        raise Refused(run["error"] or "The run was cancelled.")
    folder = os.path.join(out, "run-{}".format(run["id"]))
    os.makedirs(folder, exist_ok=True)
    for file in run["files"]:
        if file["kind"] in ("model", "report", "record"):
            with open(os.path.join(folder, os.path.basename(file["name"])), "wb") as target:
                target.write(fetch(address, file["href"]))
    say("models {}".format(folder))
    return 0


def state(run):
    """Where a run is, in a line."""
    progress, words = run["progress"], run["state"]
    if run["state"] == "running" and progress["layer"]:
        words += ": {} ({} of {}), epoch {} of at most {}".format(
            progress["model"],
            progress["layer"],
            progress["layers"],
            max(progress["epoch"], 1),
            progress["epochs"],
        )
    elif run["detail"]:
        words += ": " + run["detail"]
    return words


def form(page):
    """The files of a page as multipart/form-data."""
    edge = uuid.uuid4().hex
    names = ["image.png", "image.jpg", "background.png", "regions.png"]
    names += ["layer_{}.png".format(number) for number in range(10)]
    parts = [part(edge, 'name="name"', os.path.basename(os.path.normpath(page)).encode())]
    for name in names:
        path = os.path.join(page, name)
        if os.path.exists(path):
            with open(path, "rb") as file:
                head = 'name="files"; filename="{}"'.format(name)
                parts.append(part(edge, head, file.read()))
    parts.append("--{}--\r\n".format(edge).encode())
    return b"".join(parts), "multipart/form-data; boundary=" + edge


def part(edge, disposition, content):
    head = "--{}\r\nContent-Disposition: form-data; {}\r\n\r\n".format(edge, disposition)
    return head.encode() + content + b"\r\n"


def ask(address, path, body=None, kind=None):
    return json.loads(fetch(address, path, body, kind).decode())


def fetch(address, path, body=None, kind=None):
    headers = {"Authorization": "Bearer {}".format(os.environ.get("GATEWAY_TOKEN", ""))}
    if kind:
        headers["Content-Type"] = kind
    url = address + quote(path, safe="/?=&%")
    try:
        with OPENER.open(Request(url, data=body, headers=headers), timeout=120) as answer:
            return answer.read()
    except HTTPError as error:
        # What is wrong is said by a problem document (RFC 9457).
        try:
            problem = json.loads(error.read().decode())
            wrong = ["{pointer}: {detail}".format(**each) for each in problem.get("errors", [])]
            raise Refused("; ".join(wrong) or problem["detail"]) from None
        except (ValueError, KeyError):
            raise Refused("it answered with the status {}".format(error.code)) from None


if __name__ == "__main__":
    sys.exit(main())

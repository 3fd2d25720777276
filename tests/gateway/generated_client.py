"""Trains a page by a client that is generated from the gateway's description.

usage: generated_client.py ADDRESS FOLDER PAGE

The token comes by GATEWAY_TOKEN; PAGE is a folder with a page's files. The client is made in
FOLDER, and the model is written there as model.hdf5.
"""

import importlib
import os
import subprocess
import sys
import urllib.request
from pathlib import Path


def generated(address, folder):
    """Makes the client and imports it."""
    document = folder / "openapi.json"
    with urllib.request.urlopen(f"http://{address}/openapi.json") as answer:
        document.write_bytes(answer.read())
    settings = folder / "generator.yaml"
    # It would format and lint what it has written.
    files = ["application/zip", "application/x-hdf5", "image/jpeg", "image/png"]
    bytes_of = "".join(f"  {kind}: application/octet-stream\n" for kind in files)
    settings.write_text(
        "post_hooks: []\npackage_name_override: gateway_client\n"
        f"content_type_overrides:\n{bytes_of}"
    )
    command = [
        sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document),
        "--config", str(settings), "--meta", "none", "--fail-on-warning",
        "--output-path", str(folder / "gateway_client"),
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    return importlib.import_module("gateway_client")


def main():
    address, folder, page = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    package = generated(address, folder)
    from gateway_client.api.pages import upload_page
    from gateway_client.api.runs import model, place_run, run
    from gateway_client.models import PageForm, RunRequest, Settings, StateView
    from gateway_client.types import File

    client = package.AuthenticatedClient(
        base_url=f"http://{address}", token=os.environ["GATEWAY_TOKEN"], timeout=90.0
    )
    parts = {}
    for part in ("image", "background", "regions", "layer_0", "layer_1", "layer_2"):
        name = f"{part}.png"
        payload = (page / name).open("rb")
        parts[part] = File(payload=payload, file_name=name, mime_type="image/png")
    uploaded = upload_page.sync(client=client, body=PageForm(name="A page", **parts))
    print("page", uploaded.id, [layer.name for layer in uploaded.layers])

    settings = Settings.from_dict(
        {
            "Patch height": 32,
            "Patch width": 32,
            "Maximum number of training epochs": 1,
            "Maximum number of samples per label": 20,
        }
    )
    wanted = RunRequest(pages=[uploaded.id], name="by a generated client", settings=settings)
    placed = place_run.sync(client=client, body=wanted)
    for _ in range(5):
        found = run.sync(placed.id, client=client, wait="30s")
        if found.state in (StateView.SUCCEEDED, StateView.FAILED):
            break
    print("run", found.id, found.state, found.error)
    assert found.state == StateView.SUCCEEDED
    names = [file.name for file in found.files if file.kind == "model"]
    print("models", names)
    answer = model.sync_detailed(found.id, names[-1], client=client)
    assert answer.status_code == 200 and answer.content[:4] == b"\x89HDF", answer.status_code
    (folder / "model.hdf5").write_bytes(answer.content)


if __name__ == "__main__":
    main()

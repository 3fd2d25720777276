"""The measurement behind bench/estimate: what was asked of Slurm, and what the job has used."""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = {
    "Image": "image.png",
    "rgba PNG - Layer 0 (Background)": "background.png",
    "rgba PNG - Layer 1": "layer_0.png",
}


def numbers(text):
    return [int(number) for number in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(prog="bench/estimate", description=__doc__)
    parser.add_argument("--patches", type=numbers, default=[64, 128, 256], help="64,128,256")
    parser.add_argument("--batches", type=numbers, default=[4, 8, 16], help="4,8,16")
    parser.add_argument("--samples", type=int, default=40, help="samples a layer (40)")
    parser.add_argument("--size", default="1600x1200", help="of the page (1600x1200)")
    parser.add_argument("--programs", help="the directory of check and run_trainer")
    return parser.parse_args()


OPTIONS = arguments()
os.environ["HPC_TRAINER_TEST_BINARIES"] = OPTIONS.programs
sys.path.insert(0, str(ROOT / "rodan" / "tests"))

import test_site  # noqa: E402
from conftest import Services, png  # noqa: E402

from hpc_training import attempt, order  # noqa: E402
from hpc_training.conversation import Conversation  # noqa: E402


def train(site, environment, folder, inputs, settings):
    """Asks for a training, and gives its end."""
    outputs = {port: [] for port in ("Background Model", "Model 1", "Log File")}
    work, run, again = attempt.Site(environment, str(folder)), str(uuid.uuid4()), False

    def ask():
        return order.samples_order(inputs, settings, outputs, environment)

    while attempt.attempt(work, run, run, again, ask, outputs) is not None:
        again = True
        code, said = site.check()
        if code != 0:
            sys.exit("bench/estimate: check ended with {}:\n{}".format(code, said))
        time.sleep(0.5)
    done = Conversation.find(work.folder_of(run)).end["done"]
    attempt.finish(work, run)
    return done


def main():
    services = Services(os.environ)
    folder = pathlib.Path(tempfile.mkdtemp())
    services.set_up(folder / "settings")
    environment = {"HPC_RABBITMQ_URL": services.settings["HPC_RABBITMQ_URL"]}
    # The example page alone holds too few large patches to fill a batch.
    tiled = folder / "page"
    tile = [pathlib.Path(OPTIONS.programs) / "examples" / "tile_page", ROOT / "examples" / "page"]
    margin = str(max(OPTIONS.patches) + 1)
    subprocess.run([*map(str, tile), str(tiled), OPTIONS.size, margin], check=True)
    page = folder / "page.zip"
    with zipfile.ZipFile(str(page), "w") as archive:
        for port, name in PAGE.items():
            archive.write(str(tiled / name), port + ".png")
        # All of it is selected.
        width, height = OPTIONS.size.split("x")
        archive.writestr("rgba PNG - Selected regions.png", png(int(width), int(height)))
    site = test_site.Site(services)
    with open(str(site.folder / "site" / "credentials.env"), "a") as file:
        file.write("SITE_GRES=none\n")
    print("patch      batch   asked, MB   used, MB   used   asked, s   used, s")
    try:
        inputs = {"Sample 1": site.upload(page.read_bytes())}
        for patch in OPTIONS.patches:
            for batch in OPTIONS.batches:
                settings = {
                    "Maximum number of training epochs": 1,
                    "Maximum number of samples per label": OPTIONS.samples,
                    "Patch height": patch,
                    "Patch width": patch,
                    "Batch Size": batch,
                    "Seed": "1",
                }
                done = train(site, environment, folder / "work", inputs, settings)
                asked, used = done["asked"], done["used"]
                print(
                    "{:9} {:6} {:11} {:10} {:5.0%} {:10} {:9}".format(
                        "{0}x{0}".format(patch),
                        batch,
                        asked["memory_mb"],
                        used["memory_mb"],
                        used["memory_mb"] / asked["memory_mb"],
                        asked["time_seconds"],
                        used["seconds"],
                    ),
                    flush=True,
                )
    finally:
        site.close()
        services.take_away()


main()

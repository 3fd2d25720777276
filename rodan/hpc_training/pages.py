"""Pages in zips, looked at before anything is sent: what is in them, and whether they can be
trained on.

Only the zips' directories and the first bytes of their images are read. The rules are the
cluster's own (docs/protocol.md, "The job message"), so that most of what it would refuse hours
later is refused here. It alone sees the rest: whether an image can be decoded, the size of a JPEG,
whether a layer has an alpha channel, how large a zip is when unpacked.
"""

import re
import shutil
import stat
import struct
import zipfile
import zlib
from typing import Dict, List, Optional, Tuple

from .failure import Failure

IMAGE = "Image"
REGIONS = "Selected Regions"
BACKGROUND = "Background Model"

#: Most files in a zip, and most pages in a Multi-Sample Zip, that the cluster takes.
MAX_FILES = 10000
MAX_PAGES = 100

#: Most pixels in an image that the cluster takes.
MAX_PIXELS = 150_000_000

_PNG = b"\x89PNG\r\n\x1a\n"
_HDF5 = b"\x89HDF\r\n\x1a\n"

#: What an image of a page is, by its file's name without extension. Layers are named by their
#: model.
_NAMES = {
    "Image": IMAGE,
    "Selected Regions": REGIONS,
    "rgba PNG - Selected regions": REGIONS,
    "Background": BACKGROUND,
    "rgba PNG - Background layer": BACKGROUND,
    "rgba PNG - Layer 0 (Background)": BACKGROUND,
    "Music Layer": "Music Symbol Model",
    "rgba PNG - Music symbol layer": "Music Symbol Model",
    "Staff Layer": "Staff Lines Model",
    "rgba PNG - Staff lines layer": "Staff Lines Model",
    "Text": "Text Model",
    "rgba PNG - Text": "Text Model",
}
_NAMES.update({"rgba PNG - Layer {}".format(n): "Model {}".format(n) for n in range(10)})

#: All models there can be, in the order of their layers: background first.
MODELS = [BACKGROUND] + ["Model {}".format(n) for n in range(10)]
MODELS += ["Music Symbol Model", "Staff Lines Model", "Text Model"]


class Page:
    """A page in a zip: which of its files is the image, the regions, or a model's layer."""

    def __init__(self, label: str, folder: str, files: Dict[str, str]) -> None:
        self.label = label
        #: Its folder in the zip; empty at the top.
        self.folder = folder
        #: What it is (:data:`IMAGE`, :data:`REGIONS` or a model's name) -> the file's name in the
        #: zip.
        self.files = files

    def models(self) -> List[str]:
        """The models that this page has a layer for, background first."""
        return [model for model in MODELS if model in self.files]


def pages_in(path: str, port: str, most: int) -> List[Page]:
    """The pages of the zip at an input port, in the order of their folders, at most ``most`` of
    them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pages = _find_pages(archive, port, most)
            for page in pages:
                _check_page(archive, port, page)
            return pages
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,  # among them a name that is said to be UTF-8, and is not
    ) as error:
        raise Failure(
            'The input "{}" is not a zip that can be read ({}). Make the zip again.'.format(
                port, error
            )
        )


def _find_pages(archive: zipfile.ZipFile, port: str, most: int) -> List[Page]:
    entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise Failure(
            'The input "{}" has {} files, and the cluster takes {} in one zip. Send the pages in'
            " several zips.".format(port, len(entries), MAX_FILES)
        )
    found: Dict[str, Dict[str, str]] = {}
    for entry in entries:
        place = _place(entry, port)
        if place is None:
            continue
        folder, what = place
        files = found.setdefault(folder, {})
        if what in files:
            raise Failure(
                'The input "{}" has an image twice: "{}" and "{}". Leave one of them.'.format(
                    port, files[what], entry.filename
                )
            )
        files[what] = entry.filename
    if not found:
        raise Failure(
            'The input "{}" has no page in it. A page needs the files Image, rgba PNG - Background'
            " layer and rgba PNG - Layer 1.".format(port)
        )
    if len(found) > most:
        raise Failure(
            'The input "{}" has {} pages, and takes {}. {}'.format(
                port,
                len(found),
                "one" if most == 1 else most,
                (
                    'Connect it to the port "Multi-Sample Zip" instead.'
                    if most == 1
                    else "Send the pages in several zips."
                ),
            )
        )
    pages = []
    for folder in sorted(found):
        label = '"{}"'.format(port) + (', folder "{}"'.format(folder) if folder else "")
        pages.append(Page(label, folder, found[folder]))
    return pages


def _place(entry: zipfile.ZipInfo, port: str) -> Optional[Tuple[str, str]]:
    """The folder of a file's page, and what the file is; nothing for what is no image."""
    name = entry.orig_filename

    def refuse(problem: str) -> Failure:
        shown = name if len(name) <= 80 else name[:77] + "..."
        return Failure('The input "{}": the file "{}" {}'.format(port, shown, problem))

    inner = name[:-1] if name.endswith("/") else name
    parts = inner.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\\0:]", name):
        raise refuse("has a name that leads out of the zip. Make the zip again.")
    if name.endswith("/") or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return None
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise refuse("is a link. Put the file itself into the zip.")
    if entry.flag_bits & 1:
        raise refuse("is encrypted. Make the zip without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refuse("is packed by a method that the cluster does not read. Pack it by Deflate.")
    stem = parts[-1].rsplit(".", 1)[0]
    what = _NAMES.get(stem)
    if what is None:
        raise refuse(
            "is no image of a page. The names are Image, rgba PNG - Selected regions, rgba PNG -"
            " Background layer and rgba PNG - Layer 1 to 9; rename it or take it out."
        )
    return "/".join(parts[:-1]), what


def _check_page(archive: zipfile.ZipFile, port: str, page: Page) -> None:
    missing = [
        name
        for what, name in ((IMAGE, "Image"), (BACKGROUND, "rgba PNG - Background layer"))
        if what not in page.files
    ]
    if len(page.models()) < 2 and not missing:
        missing = ["rgba PNG - Layer 1"]
    if missing:
        raise Failure(
            "The page in {} has no {}. Add the image under this name.".format(
                page.label, " and no ".join('"{}"'.format(name) for name in missing)
            )
        )
    heads = {}
    for what, name in page.files.items():
        with archive.open(name) as file:
            heads[what] = (name, file.read(33))
    check_images("the page in {}".format(page.label), heads)


def check_images(page: str, heads: Dict[str, Tuple[str, bytes]]) -> None:
    """Looks at the first 33 bytes of a page's images: layers are PNG, and all PNGs have one size,
    which is not too large.

    ``heads`` gives for each what it is, how to name it to the user, and its bytes.
    """
    first: Optional[Tuple[str, Tuple[int, int]]] = None
    for what, (name, head) in heads.items():
        size = _png_size(head)
        if size is None:
            if what == IMAGE and head.startswith(b"\xff\xd8\xff"):
                continue
            kind = "PNG or JPEG image" if what == IMAGE else "PNG image"
            raise Failure('In {}, "{}" is no {}. Save it again as one.'.format(page, name, kind))
        if size[0] * size[1] > MAX_PIXELS:
            raise Failure(
                'In {}, "{}" has {} x {} pixels, and the cluster takes {} million in an image.'
                " Scale the page and its layers down.".format(
                    page, name, size[0], size[1], MAX_PIXELS // 1_000_000
                )
            )
        if first is None:
            first = (name, size)
        elif size != first[1]:
            raise Failure(
                'In {0}, "{1}" has {3} x {4} pixels and "{2}" has {5} x {6}. All images of a page'
                " must have the same size.".format(page, first[0], name, *(first[1] + size))
            )


def _png_size(head: bytes) -> Optional[Tuple[int, int]]:
    if len(head) < 24 or not head.startswith(_PNG) or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def is_model(head: bytes) -> bool:
    """True for the first bytes of an HDF5 file, as every Keras model for Rodan is one."""
    return head.startswith(_HDF5)


def repack(samples: List[Tuple[str, str, List[Page]]], target: str) -> None:
    """Writes all pages of several zips into one zip with a folder for each page.

    ``samples`` gives port, path and pages of each. Folders keep their names where they have one
    that is free.
    """
    taken = set()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as out:
        for port, path, pages in samples:
            with zipfile.ZipFile(path) as archive:
                for page in pages:
                    folder = page.folder.replace("/", " ") or port
                    number, name = 1, folder
                    while name in taken:
                        number += 1
                        name = "{} {}".format(folder, number)
                    taken.add(name)
                    for file in page.files.values():
                        inside = zipfile.ZipInfo(name + "/" + file.rsplit("/", 1)[-1])
                        inside.external_attr = 0o644 << 16
                        with archive.open(file) as source, out.open(
                            inside, "w", force_zip64=True
                        ) as sink:
                            shutil.copyfileobj(source, sink, 1 << 20)

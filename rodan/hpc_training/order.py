"""What a training asks of the cluster: settings and ports, checked, and the message made of them.

Everything here is decided before anything is sent, and without Rodan or RabbitMQ. The cluster
checks the settings once more: how a time or an address is written, and the site's own limits, are
its matter alone.
"""

import json
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .failure import Failure
from .pages import (
    BACKGROUND,
    IMAGE,
    MAX_PAGES,
    MODELS,
    REGIONS,
    Page,
    check_images,
    is_model,
    pages_in,
)

#: Rodan's ``inputs`` and ``outputs``: port -> what is connected to it.
Ports = Mapping[str, List[Dict[str, str]]]

EPOCHS = "Maximum number of training epochs"
SAMPLES = "Maximum number of samples per label"
PATCH_HEIGHT = "Patch height"
PATCH_WIDTH = "Patch width"
BATCH = "Batch Size"
PATIENCE = "Patience"
SHIFT = "Augmentation: shift (pixels)"
CPUS = "CPUs"
MEMORY = "Maximum memory (MB)"
TIME = "Maximum time (D-HH:MM)"
EMAIL = "Slurm Notification Email"
INSTANCES = "Parallel instances"

MULTI_SAMPLE = "Multi-Sample Zip"
LOG_FILE = "Log File"

#: Rodan's classifier looks at a window less a frame of 25 pixels on each side and one more. With a
#: smaller patch it calls the whole page background.
SMALLEST_PATCH = 52

#: The network halves a patch twice.
PATCH_STEP = 4

#: The most that every cluster takes (docs/settings.md); a site may take less. They are not in the
#: schemas, because Rodan asks at an upgrade about a job whose schema has changed.
LARGEST_PATCH = 4096
_MOST = {EPOCHS: 10_000, SAMPLES: 10_000_000, PATIENCE: 10_000, CPUS: 4096, MEMORY: 100_000_000}

#: Where a setting that may be left to the cluster gets its value from instead.
_SITE_DEFAULTS = {
    CPUS: "HPC_DEFAULT_CPUS",
    MEMORY: "HPC_DEFAULT_MEMORY_MB",
    TIME: "HPC_DEFAULT_TIME",
}


def _integer(
    default: int, minimum: int, maximum: Optional[int] = None, step: int = 1
) -> Dict[str, Any]:
    schema = {"type": "integer", "minimum": minimum, "default": default}
    if maximum is not None:
        schema["maximum"] = maximum
    if step > 1:
        schema["multipleOf"] = step
    return schema


def _text(default: str, pattern: str = "", description: str = "") -> Dict[str, Any]:
    schema = {"type": "string", "default": default}
    if pattern:
        schema["pattern"] = pattern
    if description:
        schema["description"] = description
    return schema


def _described(schema: Dict[str, Any], description: str) -> Dict[str, Any]:
    return dict(schema, description=description)


#: The settings of the task that Rodan had until 2023, as they were.
PAGE_SETTINGS = {
    "title": "Training parameters",
    "type": "object",
    "job_queue": "Python3",
    "properties": {
        EPOCHS: _integer(15, 1),
        SAMPLES: _integer(10000, 100),
        PATCH_HEIGHT: _integer(256, 64),
        PATCH_WIDTH: _integer(256, 64),
        TIME: _text("0-06:00"),
        MEMORY: _integer(257000, 1024),
        CPUS: _integer(6, 1),
        EMAIL: _text(""),
    },
}

#: What that task's trainer did without asking; always sent, so that a default of the cluster
#: changes nothing.
PAGE_FIXED = {BATCH: 16, PATIENCE: 3}

# A choice is a text with a pattern: Rodan turns an "enum" into the number of the choice.
_WORDS = "One of: "

#: The settings of Rodan's own trainer, and what the cluster can do beyond it.
SAMPLES_SETTINGS = {
    "title": "Training parameters",
    "type": "object",
    "job_queue": "Python3",
    "properties": {
        BATCH: _integer(8, 1, 64),
        EPOCHS: _integer(50, 1),
        SAMPLES: _integer(1000, 1),
        PATIENCE: _integer(15, 0),
        PATCH_HEIGHT: _integer(256, SMALLEST_PATCH, step=PATCH_STEP),
        PATCH_WIDTH: _integer(256, SMALLEST_PATCH, step=PATCH_STEP),
        "Early stopping metric": _text(
            "accuracy", "^(accuracy|F1|loss)$", _WORDS + "accuracy, F1, loss"
        ),
        "Patch selection": _text("random", "^(random|covering)$", _WORDS + "random, covering"),
        "Patches around other layers (%)": _integer(33, 0, 90),
        "Augmentation: brightness (%)": _integer(0, 0, 50),
        SHIFT: _integer(0, 0),
        "Augmentation: flip": _text(
            "none",
            "^(none|horizontal|vertical|both)$",
            _WORDS + "none, horizontal, vertical, both",
        ),
        "Averaged steps": _integer(0, 0, 10000),
        "Keep of the given models (%)": _integer(25, 0, 90),
        "Calibrate": _text("yes", "^(yes|no)$", _WORDS + "yes, no"),
        "Seed": _text("", "^[0-9]{0,19}$", "A whole number; empty: a new one for each training"),
        CPUS: _described(_integer(0, 0), "0: the cluster chooses"),
        MEMORY: _described(_integer(0, 0), "0: the cluster chooses"),
        TIME: _text("", description="Such as 0-06:00; empty: the cluster chooses"),
        INSTANCES: _text(
            "1",
            "^([1-9]|[1-5][0-9]|6[0-4]|auto|)$",
            "1 to 64, or auto for all; so many layers are trained side by side, each with these"
            " CPUs and this memory",
        ),
        EMAIL: _text(""),
    },
}


def _ports(
    names: Sequence[str], kinds: Sequence[str], least: int = 0
) -> Tuple[Dict[str, Any], ...]:
    return tuple(
        {"name": name, "minimum": least, "maximum": 1, "resource_types": list(kinds)}
        for name in names
    )


_PNG_KIND, _MODEL_KIND, _ZIP_KIND = ["image/rgba+png"], ["keras/model+hdf5"], ["application/zip"]
_REGIONS_PORT = "rgba PNG - Selected regions"
_BACKGROUND_PORT = "rgba PNG - Background layer"

PAGE_INPUTS = (
    _ports(["Image"], ["image/rgb+png", "image/rgb+jpg"], 1)
    + _ports([_REGIONS_PORT, _BACKGROUND_PORT, "rgba PNG - Layer 0"], _PNG_KIND, 1)
    + _ports(["rgba PNG - Layer {}".format(n) for n in range(1, 10)], _PNG_KIND)
)
PAGE_OUTPUTS = _ports([BACKGROUND, "Model 0"], _MODEL_KIND, 1) + _ports(
    ["Model {}".format(n) for n in range(1, 10)], _MODEL_KIND
)

SAMPLES_INPUTS = (
    _ports([MULTI_SAMPLE], _ZIP_KIND)
    + _ports([BACKGROUND] + ["Model {}".format(n) for n in range(1, 5)], _MODEL_KIND)
    + _ports(["Sample {}".format(n) for n in range(1, 21)], _ZIP_KIND)
)
SAMPLES_OUTPUTS = (
    _ports([MULTI_SAMPLE], _ZIP_KIND)
    + _ports([LOG_FILE], ["text/plain"], 1)
    + _ports([BACKGROUND, "Model 1"], _MODEL_KIND, 1)
    + _ports(["Model {}".format(n) for n in range(2, 10)], _MODEL_KIND)
)


class Order:
    """A training as it is asked of the cluster."""

    def __init__(
        self, inputs: Dict[str, str], settings: Dict[str, Any], models: Dict[str, str]
    ) -> None:
        #: The message's inputs: name -> path on Rodan.
        self.inputs = inputs
        self.settings = settings
        #: Output port -> the name of the model that the cluster sends for it.
        self.models = models
        #: Lines for the log.
        self.notes: List[str] = []
        #: The zips, for the output port "Multi-Sample Zip": port, path and pages of each.
        self.samples: List[Tuple[str, str, List[Page]]] = []

    def body(self) -> bytes:
        """The job message. The same order has the same bytes."""
        message = {"protocol": 2, "inputs": self.inputs, "settings": self.settings}
        return json.dumps(message, sort_keys=True).encode("utf-8")


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────


def fill(
    given: Mapping[str, Any], schema: Mapping[str, Any], environment: Mapping[str, str]
) -> Dict[str, Any]:
    """The settings as they are sent: what the user gave, checked, and the schema's defaults for
    the rest.

    Older workflows lack settings, and Rodan's import does not add them. All problems are told at
    once.
    """
    problems: List[str] = []
    filled: Dict[str, Any] = {}
    for name, rule in schema["properties"].items():
        value = given.get(name)
        if value is None:
            value = rule["default"]
        if name in (PATCH_HEIGHT, PATCH_WIDTH):
            # Which sizes are right, and why, is told below.
            rule = dict(rule, minimum=1)
        if name in _MOST:
            rule = dict(rule, maximum=_MOST[name])
        if rule["type"] == "integer":
            value = _whole_number(name, value, rule, problems)
        else:
            value = str(value).strip()
            if not re.match(rule.get("pattern", ""), value):
                words = rule.get("description", "").replace(_WORDS, "one of: ")
                problems.append('"{}" must be {}, not "{}"'.format(name, words, value[:40]))
        filled[name] = value
    for name in (PATCH_HEIGHT, PATCH_WIDTH):
        _check_patch(name, filled[name], problems)
    if not problems and filled.get(SHIFT, 0) > min(filled[PATCH_HEIGHT], filled[PATCH_WIDTH]) // 2:
        problems.append('"{}" must be at most half of the patch\'s smaller side'.format(SHIFT))
    for name, variable in _SITE_DEFAULTS.items():
        if filled[name] in (0, ""):
            filled[name] = _site_default(variable, environment, problems)
    if problems:
        raise Failure("Change these settings of the job: {}.".format("; ".join(problems)))
    for name in ("Seed", INSTANCES):
        if str(filled.get(name, "")).isdigit():
            filled[name] = int(filled[name])
    # What is left open is left out: the cluster chooses.
    return {name: value for name, value in filled.items() if value not in ("", None)}


def _whole_number(name: str, value: Any, rule: Mapping[str, Any], problems: List[str]) -> int:
    least, most = rule["minimum"], rule.get("maximum")
    limits = (
        "from {} to {}".format(least, most) if most is not None else "of at least {}".format(least)
    )
    try:
        number = float(value)
        whole = int(number)
        if whole != number or isinstance(value, bool):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or whole < least or (most is not None and whole > most):
        problems.append(
            '"{}" must be a whole number {}, not {}'.format(name, limits, str(value)[:40])
        )
        return int(rule["default"])
    return whole


def _check_patch(name: str, side: int, problems: List[str]) -> None:
    if side < SMALLEST_PATCH:
        problems.append(
            '"{}" must be at least {}, not {}: with smaller patches Rodan\'s classifier calls'
            " everything background".format(name, SMALLEST_PATCH, side)
        )
    elif side > LARGEST_PATCH:
        problems.append(
            '"{}" must be at most {}, not {}'.format(name, LARGEST_PATCH, str(side)[:40])
        )
    elif side % PATCH_STEP:
        below = side // PATCH_STEP * PATCH_STEP
        problems.append(
            '"{}" must be a multiple of {}, not {}: use {} or {}'.format(
                name, PATCH_STEP, side, below, below + PATCH_STEP
            )
        )


def _site_default(variable: str, environment: Mapping[str, str], problems: List[str]) -> Any:
    value = environment.get(variable, "").strip()
    if not value or variable == _SITE_DEFAULTS[TIME]:
        return value
    if value.isdigit() and int(value) > 0:
        return int(value)
    problems.append(
        "Rodan's administrator has set {} to {}, which is no number".format(variable, value[:40])
    )
    return None


# ── A page by its images: the task that Rodan had ────────────────────────────────────────────────


def page_order(
    inputs: Ports, settings: Mapping[str, Any], outputs: Ports, environment: Mapping[str, str]
) -> Order:
    """The order of the job that takes one page by its images."""
    filled = dict(fill(settings, PAGE_SETTINGS, environment), **PAGE_FIXED)
    layers = [n for n in range(10) if "rgba PNG - Layer {}".format(n) in inputs]
    models = [n for n in range(10) if "Model {}".format(n) in outputs]
    for number in layers:
        if number not in models:
            raise Failure(
                'The layer at the input port "rgba PNG - Layer {0}" has no output port for its'
                ' model. Add the output port "Model {0}", or remove the layer.'.format(number)
            )
    for number in models:
        if number not in layers:
            raise Failure(
                'The output port "Model {0}" has no layer. Connect the input port "rgba PNG -'
                ' Layer {0}", or remove the output port.'.format(number)
            )
    names = {"Image": "Image", _REGIONS_PORT: "Selected Regions", _BACKGROUND_PORT: "Background"}
    names.update(
        {"rgba PNG - Layer {}".format(n): "rgba PNG - Layer {}".format(n) for n in layers}
    )
    kinds = {"Image": IMAGE, _REGIONS_PORT: REGIONS}
    heads = {
        kinds.get(port, port): (port, _head(inputs, port)) for port in names if port in inputs
    }
    check_images("this job", heads)
    ports = [BACKGROUND] + ["Model {}".format(n) for n in layers]
    order = Order(
        {name: _url(inputs, port) for port, name in names.items()},
        filled,
        {port: port for port in ports},
    )
    for port in ports:
        _must_have(outputs, port)
    return order


# ── Pages in zips: what Rodan's own trainer takes ────────────────────────────────────────────────


def samples_order(
    inputs: Ports, settings: Mapping[str, Any], outputs: Ports, environment: Mapping[str, str]
) -> Order:
    """The order of the job that takes pages in zips, and models to go on from."""
    filled = fill(settings, SAMPLES_SETTINGS, environment)
    ports = [port["name"] for port in SAMPLES_INPUTS if port["name"] in inputs]
    samples = []
    for port in ports:
        if port not in MODELS:
            most = MAX_PAGES if port == MULTI_SAMPLE else 1
            samples.append((port, _path(inputs, port), pages_in(_path(inputs, port), port, most)))
    if not samples:
        raise Failure(
            'There is no page to learn from. Connect a zip to "Sample 1" or to "Multi-Sample Zip".'
        )
    pages = [page for _, _, found in samples for page in found]
    trained = [model for model in MODELS if any(model in page.files for page in pages)]
    models = _ports_of_models(trained, [port for port in outputs if port in MODELS])
    sent = {port: _url(inputs, port) for port, _, _ in samples}
    for port in ports:
        if port in MODELS:
            if port not in models:
                raise Failure(
                    'The model at the input port "{}" belongs to no layer: the pages have {}'
                    " layers besides the background. Remove the model.".format(
                        port, len(trained) - 1
                    )
                )
            if not is_model(_head(inputs, port)):
                raise Failure(
                    'The file at the input port "{}" is no Keras model in HDF5 format. Connect a'
                    " model that a training has made.".format(port)
                )
            sent[models[port]] = _url(inputs, port)
    order = Order(sent, filled, models)
    order.samples = samples
    for port, model in models.items():
        if port != model:
            order.notes.append(
                'The output "{}" is the model that the cluster calls "{}".'.format(port, model)
            )
    for page in pages:
        missing = [model for model in trained if model not in page.files]
        if missing:
            order.notes.append(
                "The page in {} has no layer for {}; it teaches the others only.".format(
                    page.label, ", ".join(missing)
                )
            )
    return order


def _ports_of_models(trained: Sequence[str], present: Sequence[str]) -> Dict[str, str]:
    """Output port -> model. As in Rodan's own trainer, "Model 2" is the second layer, whatever its
    number.
    """
    ports = [BACKGROUND] + ["Model {}".format(n) for n in range(1, len(trained))]
    if len(ports) > 10:
        raise Failure(
            "The pages have {} layers besides the background, and this job has ports for 9. Take"
            " layers out of the zips.".format(len(trained) - 1)
        )
    layers = "{} besides the background".format(_count(len(trained) - 1, "layer"))
    for port in ports:
        if port not in present:
            raise Failure(
                'The pages have {}, and the output port "{}" is missing. Add the port, or take the'
                " layer out of the zips.".format(layers, port)
            )
    for port in present:
        if port not in ports:
            raise Failure(
                'The pages have {}, and the output port "{}" would stay empty. Remove the port, or'
                " add the layer to the zips.".format(layers, port)
            )
    return dict(zip(ports, trained))


def _count(number: int, word: str) -> str:
    return "{} {}{}".format(number, word, "" if number == 1 else "s")


# ── Ports ────────────────────────────────────────────────────────────────────────────────────────


def _first(ports: Ports, port: str) -> Dict[str, str]:
    connected = ports.get(port)
    if not connected:
        raise Failure('Nothing is connected to the port "{}". Connect it.'.format(port))
    return connected[0]


def _must_have(outputs: Ports, port: str) -> None:
    if port not in outputs:
        raise Failure('The output port "{}" is missing. Add it to the job.'.format(port))


def _path(inputs: Ports, port: str) -> str:
    return _first(inputs, port)["resource_path"]


def _url(inputs: Ports, port: str) -> str:
    url = _first(inputs, port).get("resource_url", "")
    if not url:
        raise Failure(
            'Rodan gives no address for the file at the port "{}", and the cluster could not fetch'
            " it. Upload the file again.".format(port)
        )
    return url


def _head(inputs: Ports, port: str) -> bytes:
    try:
        with open(_path(inputs, port), "rb") as file:
            return file.read(33)
    except OSError as error:
        raise Failure(
            'The file at the port "{}" can\'t be read: {}. Upload it again.'.format(
                port, error.strerror or error
            )
        )

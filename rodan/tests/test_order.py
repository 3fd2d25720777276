"""Settings and ports: what is sent, and what is refused before anything is sent."""

import json
import stat
import struct
import zipfile

import pytest
from conftest import PAGE, model, png

from hpc_training import order, pages
from hpc_training.failure import Failure

LAYERS = ["Background Model", "Model 1", "Model 2"]


def refused(call, *parts):
    with pytest.raises(Failure) as caught:
        call()
    for part in parts:
        assert part in caught.value.summary
    assert caught.value.summary.endswith(".")


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("schema", [order.PAGE_SETTINGS, order.SAMPLES_SETTINGS])
def test_all_defaults_can_be_sent(schema):
    filled = order.fill({}, schema, {})
    assert filled["Patch height"] == 256
    assert "" not in filled.values()
    for rule in schema["properties"].values():
        assert "enum" not in rule  # Rodan would hand over the number of the choice.


def test_the_removed_task_sends_what_it_sent_and_its_trainers_fixed_values(files):
    outputs = files.outputs("Background Model", "Model 0")
    made = order.page_order(files.images(0), {}, outputs, {})
    assert made.settings == {
        "Maximum number of training epochs": 15,
        "Maximum number of samples per label": 10000,
        "Patch height": 256,
        "Patch width": 256,
        "Maximum time (D-HH:MM)": "0-06:00",
        "Maximum memory (MB)": 257000,
        "CPUs": 6,
        "Batch Size": 16,
        "Patience": 3,
    }


def test_what_is_left_to_the_cluster_is_left_out_or_the_sites_default():
    filled = order.fill({}, order.SAMPLES_SETTINGS, {})
    assert not {"CPUs", "Maximum memory (MB)", "Maximum time (D-HH:MM)", "Seed"} & set(filled)
    assert (filled["Batch Size"], filled["Patience"]) == (8, 15)
    site = {
        "HPC_DEFAULT_CPUS": "4",
        "HPC_DEFAULT_MEMORY_MB": "8000",
        "HPC_DEFAULT_TIME": "0-02:00",
    }
    filled = order.fill({"CPUs": 2, "Seed": "42"}, order.SAMPLES_SETTINGS, site)
    assert (filled["CPUs"], filled["Maximum memory (MB)"]) == (2, 8000)
    assert (filled["Maximum time (D-HH:MM)"], filled["Seed"]) == ("0-02:00", 42)
    refused(
        lambda: order.fill({}, order.SAMPLES_SETTINGS, {"HPC_DEFAULT_CPUS": "many"}),
        "HPC_DEFAULT_CPUS to many",
    )


def test_numbers_come_as_numbers_whatever_they_came_as():
    filled = order.fill({"CPUs": 4.0, "Batch Size": "16"}, order.SAMPLES_SETTINGS, {})
    assert json.dumps([filled["CPUs"], filled["Batch Size"]]) == "[4, 16]"


def test_layers_are_trained_side_by_side_where_that_is_asked_for():
    name = "Parallel instances"
    for given, sent in (
        (None, 1),
        ("1", 1),
        (" 64 ", 64),
        (4, 4),
        ("auto", "auto"),
    ):
        filled = order.fill({name: given}, order.SAMPLES_SETTINGS, {})
        assert filled[name] == sent and type(filled[name]) is type(sent)
    assert name not in order.fill({name: ""}, order.SAMPLES_SETTINGS, {})
    for wrong in ("0", "65", "100", "-1", "2.5", "all", "auto 2", "1\n2"):
        refused(
            lambda wrong=wrong: order.fill({name: wrong}, order.SAMPLES_SETTINGS, {}),
            '"Parallel instances" must be 1 to 64, or auto for all',
        )
    assert name not in order.PAGE_SETTINGS["properties"]


def test_layers_are_calibrated_unless_that_is_refused():
    for given, sent in ((None, "yes"), ("no", "no"), ("yes", "yes")):
        assert order.fill({"Calibrate": given}, order.SAMPLES_SETTINGS, {})["Calibrate"] == sent
    refused(
        lambda: order.fill({"Calibrate": "perhaps"}, order.SAMPLES_SETTINGS, {}),
        '"Calibrate"',
    )


def test_all_wrong_settings_are_told_at_once():
    given = {
        "Patch height": 66,
        "Patch width": 48,
        "Batch Size": 65,
        "Patience": -1,
        "Early stopping metric": "speed",
        "Maximum number of training epochs": "some",
        "CPUs": True,
    }
    refused(
        lambda: order.fill(given, order.SAMPLES_SETTINGS, {}),
        '"Patch height" must be a multiple of 4, not 66: use 64 or 68',
        '"Patch width" must be at least 52, not 48: with smaller patches',
        '"Batch Size" must be a whole number from 1 to 64, not 65',
        '"Patience" must be a whole number from 0 to 10000, not -1',
        '"Early stopping metric" must be one of: accuracy, F1, loss, not "speed"',
        '"Maximum number of training epochs" must be a whole number from 1 to 10000, not some',
        '"CPUs" must be',
    )
    refused(lambda: order.fill({"Patch width": 65}, order.PAGE_SETTINGS, {}), "use 64 or 68")
    shift = {order.SHIFT: 60, "Patch height": 100}
    refused(lambda: order.fill(shift, order.SAMPLES_SETTINGS, {}), "half of the patch's")


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("Maximum number of training epochs", 10000),
        ("Maximum number of samples per label", 10000000),
        ("Patch height", 4096),
        ("Patch width", 4096),
        ("CPUs", 4096),
        ("Maximum memory (MB)", 100000000),
        ("Patience", 10000),
    ],
)
def test_what_is_more_than_any_cluster_takes_is_refused(name, most):
    for schema in (order.PAGE_SETTINGS, order.SAMPLES_SETTINGS):
        if name in schema["properties"]:
            assert order.fill({name: most}, schema, {})[name] == most
            with pytest.raises(Failure) as caught:
                order.fill({name: most + 4}, schema, {})
            told = caught.value.summary
            assert '"{}" must be '.format(name) in told
            assert "{}, not {}".format(most, most + 4) in told


# ── The page by its images ───────────────────────────────────────────────────────────────────────


def test_a_page_is_sent_by_the_names_of_the_contract(files):
    inputs = files.images(0, 3)
    made = order.page_order(
        inputs, {}, files.outputs("Background Model", "Model 0", "Model 3"), {}
    )
    message = json.loads(made.body().decode())
    assert message["protocol"] == 2
    assert sorted(message["inputs"]) == [
        "Background",
        "Image",
        "Selected Regions",
        "rgba PNG - Layer 0",
        "rgba PNG - Layer 3",
    ]
    assert message["inputs"]["Image"] == inputs["Image"][0]["resource_url"]
    assert made.models == {name: name for name in ("Background Model", "Model 0", "Model 3")}
    assert order.page_order(inputs, {}, files.outputs(*made.models), {}).body() == made.body()


def test_layers_and_models_must_match(files):
    outputs = files.outputs("Background Model", "Model 0")
    refused(
        lambda: order.page_order(files.images(0, 1), {}, outputs, {}),
        '"rgba PNG - Layer 1" has no output port',
    )
    outputs = files.outputs("Background Model", "Model 0", "Model 2")
    refused(
        lambda: order.page_order(files.images(0, 1), {}, files.outputs("Model 0"), {}), "Layer 1"
    )
    refused(lambda: order.page_order(files.images(0), {}, outputs, {}), '"Model 2" has no layer')


def test_images_of_another_size_or_kind_are_refused(files):
    outputs = files.outputs("Background Model", "Model 0")
    inputs = dict(files.images(0), Image=files.file(png(65, 48)))
    refused(lambda: order.page_order(inputs, {}, outputs, {}), "65 x 48", "64 x 48", "same size")
    inputs["Image"] = files.file(b"\xff\xd8\xff a JPEG")
    assert order.page_order(inputs, {}, outputs, {})
    inputs["Image"] = files.file(b"II*\0 a TIFF")
    refused(lambda: order.page_order(inputs, {}, outputs, {}), '"Image" is no PNG or JPEG')
    inputs = dict(files.images(0), **{"rgba PNG - Layer 0": files.file(b"")})
    refused(lambda: order.page_order(inputs, {}, outputs, {}), '"rgba PNG - Layer 0" is no PNG')
    inputs["Image"] = [{"resource_path": "/nowhere", "resource_url": "/uploads/x"}]
    refused(lambda: order.page_order(inputs, {}, outputs, {}), '"Image" can\'t be read', "Upload")
    for port in inputs:
        inputs[port] = files.file(png()[:16] + struct.pack(">II", 15000, 10000))
    assert order.page_order(inputs, {}, outputs, {})
    inputs["rgba PNG - Layer 0"] = files.file(png()[:16] + struct.pack(">II", 15000, 10001))
    refused(
        lambda: order.page_order(inputs, {}, outputs, {}),
        '"rgba PNG - Layer 0" has 15000 x 10001 pixels, and the cluster takes 150 million',
    )
    inputs = files.images(0)
    del inputs["Image"][0]["resource_url"]
    refused(lambda: order.page_order(inputs, {}, outputs, {}), "no address", '"Image"')


# ── Pages in zips ────────────────────────────────────────────────────────────────────────────────


def test_pages_and_models_to_go_on_from_are_sent(files):
    inputs = {
        "Sample 1": files.page(1, 2),
        "Sample 7": files.page(1, 2),
        "Model 1": files.file(model()),
        "Background Model": files.file(model()),
    }
    made = order.samples_order(inputs, {}, files.outputs(*(LAYERS + ["Log File"])), {})
    assert sorted(made.inputs) == ["Background Model", "Model 1", "Sample 1", "Sample 7"]
    assert made.models == {name: name for name in LAYERS}
    assert made.notes == []


def test_gaps_in_the_layers_close_as_in_rodans_own_trainer(files):
    inputs = {"Sample 1": files.page(2, 5), "Model 2": files.file(model())}
    made = order.samples_order(inputs, {}, files.outputs(*LAYERS), {})
    assert made.models == {
        "Background Model": "Background Model",
        "Model 1": "Model 2",
        "Model 2": "Model 5",
    }
    assert made.inputs["Model 5"] == inputs["Model 2"][0]["resource_url"]
    assert 'The output "Model 1" is the model that the cluster calls "Model 2".' in made.notes


def test_the_names_of_pixel_js_are_known(files):
    names = ["Image", "rgba PNG - Layer 0 (Background)", "rgba PNG - Layer 1"]
    made = order.samples_order(
        {"Sample 3": files.archive(names)}, {}, files.outputs("Background Model", "Model 1"), {}
    )
    assert made.models == {"Background Model": "Background Model", "Model 1": "Model 1"}


def test_a_layer_that_only_some_pages_have_is_noted(files):
    inputs = {"Sample 1": files.page(1), "Sample 2": files.page(1, 2)}
    made = order.samples_order(inputs, {}, files.outputs(*LAYERS), {})
    assert made.notes == [
        'The page in "Sample 1" has no layer for Model 2; it teaches the others only.'
    ]


def test_ports_must_match_the_layers(files):
    inputs = {"Sample 1": files.page(1, 2)}

    def make(*ports):
        return lambda: order.samples_order(inputs, {}, files.outputs(*ports), {})

    refused(make("Background Model", "Model 1"), "2 layers", '"Model 2" is missing')
    refused(make("Background Model", "Model 2", "Model 3"), '"Model 1" is missing')
    refused(make(*(LAYERS + ["Model 3"])), '"Model 3" would stay empty')
    inputs["Model 3"] = files.file(model())
    refused(make(*LAYERS), '"Model 3" belongs to no layer')
    del inputs["Model 3"]
    inputs["Model 2"] = files.file(b"PK zip")
    refused(make(*LAYERS), '"Model 2" is no Keras model')
    inputs.clear()
    refused(make(*LAYERS), "no page to learn from")
    inputs["Sample 1"] = files.page(*range(10))
    refused(make(*LAYERS), "10 layers", "ports for 9")


def test_the_tables_of_ports_are_those_of_the_two_tasks():
    def names(ports, least=0):
        return [port["name"] for port in ports if port["minimum"] >= least]

    assert names(order.PAGE_INPUTS, 1) == [
        "Image",
        "rgba PNG - Selected regions",
        "rgba PNG - Background layer",
        "rgba PNG - Layer 0",
    ]
    assert len(order.PAGE_INPUTS) == 13
    assert names(order.PAGE_OUTPUTS, 1) == ["Background Model", "Model 0"]
    assert len(order.PAGE_OUTPUTS) == 11
    assert names(order.SAMPLES_INPUTS, 1) == []
    assert len(order.SAMPLES_INPUTS) == 1 + 5 + 20
    assert names(order.SAMPLES_OUTPUTS, 1) == ["Log File", "Background Model", "Model 1"]
    assert len(order.SAMPLES_OUTPUTS) == 12
    every = order.PAGE_INPUTS + order.PAGE_OUTPUTS + order.SAMPLES_INPUTS + order.SAMPLES_OUTPUTS
    assert all(port["maximum"] == 1 for port in every)


# ── Zips ─────────────────────────────────────────────────────────────────────────────────────────


def look(files, names, most=1, data=None):
    path = files.archive(names, data)[0]["resource_path"]
    return lambda: pages.pages_in(path, "Sample 1", most)


ONE_LAYER = PAGE + ["rgba PNG - Layer 1"]


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([], ["no page in it"]),
        ([".hidden.png", "__MACOSX/Image.png"], ["no page in it"]),
        (ONE_LAYER[1:], ['no "Image"']),
        (["Image", "rgba PNG - Layer 1"], ['no "rgba PNG - Background layer"']),
        (PAGE, ['no "rgba PNG - Layer 1"']),
        (ONE_LAYER + ["notes.txt"], ['"notes.txt"', "is no image of a page"]),
        (ONE_LAYER + ["rgba PNG - Layer 10"], ["is no image of a page"]),
        (ONE_LAYER + ["../Image.png"], ["leads out of the zip"]),
        (ONE_LAYER + ["/Image.png"], ["leads out of the zip"]),
        (ONE_LAYER + ["a\\Image.png"], ["leads out of the zip"]),
        (ONE_LAYER + ["Image.jpg"], ["an image twice", "Image.png", "Image.jpg"]),
        (ONE_LAYER + ["p2/" + name for name in ONE_LAYER], ["2 pages", "Multi-Sample Zip"]),
    ],
)
def test_zips_that_the_cluster_would_refuse(files, names, parts):
    refused(look(files, names), *parts)


def test_damaged_linked_and_encrypted_zips(files, tmp_path):
    path = tmp_path / "zip"
    path.write_bytes(b"PK\x03\x04 not a zip")
    refused(lambda: pages.pages_in(str(path), "Sample 1", 1), "not a zip that can be read")
    with zipfile.ZipFile(str(path), "w") as out:
        link = zipfile.ZipInfo("Image.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(link, "/etc/passwd")
    refused(lambda: pages.pages_in(str(path), "Sample 1", 1), "is a link")
    with open(files.page(1)[0]["resource_path"], "rb") as file:
        whole = bytearray(file.read())
    at = whole.index(b"PK\x01\x02")
    whole[at + 8] |= 1
    path.write_bytes(bytes(whole))
    refused(lambda: pages.pages_in(str(path), "Sample 1", 1), "is encrypted")
    whole[at + 8] &= ~1
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93):
        whole[at + 10] = method
        path.write_bytes(bytes(whole))
        refused(lambda: pages.pages_in(str(path), "Sample 1", 1), "is packed by a method")
    whole[at + 10] = zipfile.ZIP_STORED
    path.write_bytes(bytes(whole))
    assert pages.pages_in(str(path), "Sample 1", 1)
    whole[at + 9] |= 8  # The name is UTF-8.
    whole[at + 46] = 0xFF
    path.write_bytes(bytes(whole))
    refused(lambda: pages.pages_in(str(path), "Sample 1", 1), "not a zip that can be read")
    with zipfile.ZipFile(str(path), "w") as out:
        for name in ONE_LAYER:
            out.writestr(name + ".png", png(64 if "Layer" in name else 32))
    refused(lambda: pages.pages_in(str(path), "Sample 1", 1), "same size")
    refused(look(files, ONE_LAYER, data=b"GIF89a"), "no PNG")


def test_pages_in_folders_are_found_and_repacked(files, tmp_path):
    names = ["{}/{}".format(folder, name) for folder in ("b", "a/c") for name in ONE_LAYER]
    multi = files.archive(names + ["b/.DS_Store"])[0]["resource_path"]
    found = pages.pages_in(multi, "Multi-Sample Zip", 100)
    assert [page.folder for page in found] == ["a/c", "b"]
    assert found[0].label == '"Multi-Sample Zip", folder "a/c"'
    single = files.page(1)[0]["resource_path"]
    samples = [
        ("Multi-Sample Zip", multi, found),
        ("Sample 1", single, pages.pages_in(single, "Sample 1", 1)),
    ]
    target = str(tmp_path / "all.zip")
    pages.repack(samples, target)
    again = pages.pages_in(target, "Multi-Sample Zip", 100)
    assert [page.folder for page in again] == ["Sample 1", "a c", "b"]
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert archive.read("b/Image.png") == png()
        assert len(archive.namelist()) == 12

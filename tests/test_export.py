from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dscnet.build import build_segmenter
from dscnet.config import Config, ScaleConfig, SegmentConfig
from dscnet.export import Scores, export, export_coco
from dscnet.files.label_images import read_labels, write_label
from dscnet.models.checkpoint import store
from dscnet.prepare import prepare_coco
from dscnet.run_folder import RunFolder, write_text
from dscnet.types import DscnetError


@pytest.fixture(scope="module", params=["deeplabv3plus", "deeplabv1"])
def run_folder(request, tmp_path_factory):
    """A run with an untrained network: what is exported does not depend on training."""
    folder = RunFolder(tmp_path_factory.mktemp("export"))
    config = Config(segment=SegmentConfig(network=request.param, decoder_channels=16))
    if request.param == "deeplabv1":
        # The default backbone is exported once, in the default network: tracing it takes seconds.
        config.segment = replace(config.segment, backbone="test_resnet", weights="none")
    torch.manual_seed(0)
    model = build_segmenter(config, 3)
    folder.write_config(config)
    write_text(
        folder.model_card,
        json.dumps({"classes": ["cat", "dog"], "mean": model.mean, "std": model.std}),
    )
    store(model, folder.segmenter_weights)
    return folder, model.eval()


def test_safetensors_are_the_weights(run_folder, tmp_path):
    folder, model = run_folder
    export(folder.root, tmp_path / "out", "safetensors")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert json.loads((tmp_path / "out" / "model.json").read_text())["classes"] == [
        "background",
        "cat",
        "dog",
    ]


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_onnx_gives_the_same_scores(run_folder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, model = run_folder
    target = tmp_path / "net.onnx"
    assert "largest difference" in export(folder.root, target, "onnx", (64, 96))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    photos = torch.randn(5, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    (got,) = session.run(None, {"image": photos.numpy()})
    with torch.inference_mode():
        expected = Scores(model)(photos).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [
        "background",
        "cat",
        "dog",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_folder_without_a_network_is_refused(tmp_path):
    RunFolder(tmp_path).write_config(Config())
    with pytest.raises(DscnetError, match="dscnet segment"):
        export(tmp_path, tmp_path / "net.onnx", "onnx")


@pytest.mark.parametrize("place", [".", "segmenter", "labels", "new"])
def test_weights_do_not_go_into_a_run(run_folder, tmp_path, place):
    folder, _ = run_folder
    before = folder.model_card.read_bytes()
    with pytest.raises(DscnetError, match=r"expected a folder outside of runs.*another --out"):
        export(folder.root, folder.root / place, "safetensors")
    RunFolder(tmp_path).write_config(Config())
    with pytest.raises(DscnetError, match="expected a folder outside of runs"):
        export(folder.root, tmp_path / place, "safetensors")
    assert folder.model_card.read_bytes() == before
    assert not (folder.root / "new").exists()


@pytest.mark.parametrize("place", ["model.json", "metrics.json", "labels/one.png", "rounds/a.json"])
def test_a_file_does_not_take_the_place_of_a_runs(run_folder, tmp_path, place):
    folder, _ = run_folder
    before = folder.model_card.read_bytes()
    write_label(tmp_path / "masks" / "one.png", np.zeros((3, 1), np.uint8))
    with pytest.raises(DscnetError, match="used by the run .*; choose another --out"):
        export(folder.root, folder.root / place, "onnx")
    with pytest.raises(DscnetError, match="used by the run .*; choose another --out"):
        export_coco(folder.root, folder.root / place, tmp_path / "masks")
    assert folder.model_card.read_bytes() == before
    own = folder.root / "coco.json"
    for _ in ("once", "and again"):
        assert "1 photos" in export_coco(folder.root, own, tmp_path / "masks")


def test_a_target_of_the_wrong_kind_is_refused_first(run_folder, tmp_path):
    folder, _ = run_folder
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(DscnetError, match="expected a file to write, found a folder"):
        export(folder.root, tmp_path / "folder", "onnx")
    with pytest.raises(DscnetError, match="expected a file to write, found a folder"):
        export_coco(folder.root, tmp_path / "folder")
    with pytest.raises(DscnetError, match="expected a folder to write to, found a file"):
        export(folder.root, tmp_path / "file", "safetensors")
    photo = tmp_path / "photo.jpg"
    photo.touch()
    with pytest.raises(DscnetError, match=r"photo\.jpg: expected a file ending in \.onnx"):
        export(folder.root, photo, "onnx")
    with pytest.raises(DscnetError, match=r"photo\.jpg: expected a file ending in \.json"):
        export_coco(folder.root, photo)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "photo.jpg"]
    assert photo.stat().st_size == 0


def test_a_failed_export_leaves_no_file(run_folder, tmp_path, monkeypatch):
    folder, _ = run_folder
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    def save(model, file):
        file.write_bytes(b"half of it")
        raise OSError("no space left on device")

    program = SimpleNamespace(model_proto=onnx.ModelProto())
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: program)
    monkeypatch.setattr(onnx, "save", save)
    with pytest.raises(OSError, match="no space left"):
        export(folder.root, tmp_path / "net.onnx", "onnx", (64, 96))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (ScaleConfig(), (304, 304)),
        (ScaleConfig(side=300), (304, 304)),
        (ScaleConfig(relative_to="photo"), (320, 320)),
    ],
)
def test_by_default_a_network_takes_photos_as_large_as_it_was_trained_on(
    run_folder, tmp_path, monkeypatch, scale, expected
):
    folder, _ = run_folder
    folder.write_config(replace(folder.read_config(), scale=scale))
    taken = []
    monkeypatch.setattr("dscnet.export._export_onnx", lambda *given: taken.append(given) or 0.0)
    export(folder.root, tmp_path / "net.onnx", "onnx")
    ((_, _, card, size),) = taken
    assert size == expected
    assert card["long_side"] == (None if scale.relative_to == "photo" else scale.side or 304)


def test_a_size_that_does_not_fit_is_refused(run_folder, tmp_path):
    folder, _ = run_folder
    with pytest.raises(ValueError, match="multiples of the output stride 16"):
        export(folder.root, tmp_path / "net.onnx", "onnx", (64, 100))


def test_masks_as_coco_annotations(run_folder, tmp_path):
    folder, _ = run_folder
    with pytest.raises(DscnetError, match="no label PNGs"):
        export_coco(folder.root, tmp_path / "labels.json")
    masks = {"one": np.array([[0, 1], [2, 255]], np.uint8), "two": np.zeros((3, 1), np.uint8)}
    for name, labels in masks.items():
        write_label(tmp_path / "masks" / f"{name}.png", labels)
    target = tmp_path / "labels.json"
    assert "2 photos, 2 masks" in export_coco(folder.root, target, tmp_path / "masks")
    content = json.loads(target.read_text())
    assert [image["file_name"] for image in content["images"]] == ["one.png", "two.png"]
    assert [category["name"] for category in content["categories"]] == ["cat", "dog"]


def test_classes_of_a_run_on_labels_made_elsewhere(tmp_path):
    """Such a run trains no CAM network, which alone writes ``model.json``."""
    data, folder, target = tmp_path / "pets", RunFolder(tmp_path / "run"), tmp_path / "labels.json"
    for tag in ("cat", "dog"):
        (data / tag).mkdir(parents=True)
        Image.new("RGB", (1, 3)).save(data / tag / "a.png")
    folder.write_config(Config(data=str(data)))
    write_label(folder.labels / "cat__a.png", np.ones((3, 1), np.uint8))

    def names():
        export_coco(folder.root, target)
        return [category["name"] for category in json.loads(target.read_text())["categories"]]

    assert names() == ["cat", "dog"]
    write_text(folder.segmenter_card, json.dumps({"classes": ["bird", "cow"]}))
    assert names() == ["bird", "cow"]
    folder.segmenter_card.unlink()
    data.rename(tmp_path / "gone")
    with pytest.raises(DscnetError, match="expected class names in .*pets"):
        export_coco(folder.root, target)


def test_coco_files_are_named_as_the_photos_that_masks_are_of(run_folder, tmp_path):
    folder, _ = run_folder
    photos, masks, target = tmp_path / "new", tmp_path / "masks", tmp_path / "labels.json"
    for place in ("trip/one.jpg", "two.png"):
        (photos / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1, 3)).save(photos / place)
    for name in ("trip__one", "two", "gone"):
        write_label(masks / f"{name}.png", np.zeros((3, 1), np.uint8))
    said = export_coco(folder.root, target, masks, photos)
    assert "1 match no photo in" in said
    names = [image["file_name"] for image in json.loads(target.read_text())["images"]]
    assert names == ["gone.png", "trip/one.jpg", "two.png"]


@pytest.mark.parametrize("crowd", [0, 1])
def test_what_is_exported_is_read_back_pixel_by_pixel(tmp_path, crowd):
    """Whatever the flag says: exports of old flagged all as crowds."""
    coco = pytest.importorskip("pycocotools.coco")
    run, data, target = RunFolder(tmp_path / "run"), tmp_path / "data", tmp_path / "data/own.json"
    run.write_config(Config())
    write_text(run.model_card, json.dumps({"classes": ["cat", "dog"]}))
    generator = np.random.default_rng(0)
    labels = {"a": generator.choice([0, 1, 2, 255], (9, 7)), "trip__b": np.zeros((3, 4))}
    for name, mask in labels.items():
        write_label(tmp_path / "labels" / f"{name}.png", mask.astype(np.uint8))
    for name, size in (("a.jpg", (7, 9)), ("trip/b.jpg", (4, 3))):
        (data / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(data / "images" / name)
    said = export_coco(run.root, target, tmp_path / "labels", data / "images")
    assert "ignored pixels (255) of 1 photos are omitted" in said
    whole = coco.COCO(str(target))
    assert [x["category_id"] for x in whole.loadAnns(whole.getAnnIds(iscrowd=0))] == [1, 2]
    for annotation in whole.dataset["annotations"]:
        expected = labels["a"] == annotation["category_id"]
        np.testing.assert_array_equal(whole.annToMask(annotation).astype(bool), expected)
    content = json.loads(target.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = crowd
    target.write_text(json.dumps(content))
    said = prepare_coco(target).text()
    assert ("are read as objects" in said) == bool(crowd)
    for name, mask in labels.items():
        got = read_labels(data / "masks" / f"{name}.png")
        np.testing.assert_array_equal(got, np.where(mask == 255, 0, mask))

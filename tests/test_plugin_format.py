"""The input format of docs/extending.md, run as a plugin by the command line."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dscnet.cli import main
from dscnet.data import Format, formats, open_dataset, register_format
from dscnet.data.scenes import write_scenes
from dscnet.plugins import VARIABLE, load_plugins
from dscnet.predictor import predict
from dscnet.types import DataError

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
# A few steps of small networks; networks that have learned nothing suggest no threshold.
TINY = [
    *("--scale.side", "64", "--augment.crop_size", "64", "--augment.long_side", "[64,96]"),
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--model.output_stride", "8"),
    *("--train.iterations", "2", "--train.batch_size", "4", "--train.accelerator", "cpu"),
    *("--cam.scales", "[1.0]", "--cam.flip", "false", "--segment.accelerator", "cpu"),
    *("--segment.network", "deeplabv1", "--segment.iterations", "2", "--segment.batch_size", "4"),
]


def example(heading: str) -> str:
    """The first Python block below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return section.split("```python\n")[1].split("```")[0]


@pytest.fixture(autouse=True)
def unregistered(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(formats, "_registered", [])
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The example as a module outside the package, named in the environment."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "toy_format.py").write_text(example("An input format"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv(VARIABLE, "toy_format")
    yield
    sys.modules.pop("toy_format", None)


@pytest.fixture
def pics(tmp_path) -> Path:
    """Generated scenes in the example's form."""
    scenes, root = tmp_path / "scenes", tmp_path / "own"
    write_scenes(scenes, num_train=8, num_val=0, size=64)
    root.mkdir()
    (scenes / "JPEGImages").rename(root / "pics")
    with (scenes / "ImageSets" / "tags.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [f"{row['image_id']}: {row['labels'].replace(';', ' ')}\n" for row in rows]
    (root / "labels.txt").write_text("".join(lines), encoding="utf-8")
    return root


def test_the_example_is_short():
    assert 15 <= len([line for line in example("An input format").splitlines() if line]) <= 25


def test_a_data_set_of_a_plugins_format_is_checked_and_run(plugin, pics, tmp_path, capsys, untried):
    assert main(["check", str(pics)]) == 0
    text = capsys.readouterr().out
    assert "own: 8 photos" in text
    assert "read by the format 'pics', which a plugin registered" in text

    out = tmp_path / "run"
    argv = ["run", "--config", "demo", "--data", str(pics), "--out", str(out), *TINY]
    assert main(argv) == 0, capsys.readouterr().err
    assert "which a plugin registered" in (out / "report.html").read_text(encoding="utf-8")
    ids = {path.stem for path in (pics / "pics").iterdir()}
    labels = {path.stem: np.asarray(Image.open(path)) for path in (out / "labels").glob("*.png")}
    assert len(ids) == 8 and set(labels) == ids
    assert all(label.shape == (64, 64) for label in labels.values())
    tags = {sample.image_id: set(sample.tags) for sample in open_dataset(pics).samples}
    for image_id, label in labels.items():
        assert set(np.unique(label)) - {0, 255} <= {tag + 1 for tag in tags[image_id]}

    assert predict([str(pics / "pics")], out, tmp_path / "predicted") == []
    assert {path.stem for path in (tmp_path / "predicted" / "masks").glob("*.png")} == ids


def test_without_the_plugin_the_folder_is_read_as_class_folders(pics):
    """Why registered formats are tried first."""
    assert open_dataset(pics).classes == ("pics",)


def test_a_taken_name_is_refused():
    def toy(name):
        return Format(name, lambda path: False, lambda path: None, looked_for="toys/")

    register_format(toy("toys"))
    for name in ("toys", *(known.name for known in formats.FORMATS)):
        with pytest.raises(ValueError, match=f"name must be new, got '{name}'; taken: .*toys, voc"):
            register_format(toy(name))


YAML_KEYS = "name, images, tags, classes, masks, saliency, splits"


def test_messages_name_what_was_looked_for(tmp_path):
    (tmp_path / "a.zip").touch()
    folder = (
        f"{tmp_path}: no known layout. Looked for JPEGImages/ (VOC), for images/ with tags.csv,"
        " .json or .jsonl, for one subfolder of photos per class, and for tar archives of photos"
        f" and tags (WebDataset); or give a YAML file that names the parts ({YAML_KEYS})"
    )
    file = (
        f"{tmp_path / 'a.zip'}: not a data set; give a VOC folder, images/ with a tag file, one"
        " subfolder per class, a COCO instances file (.json), tar archives (.tar) or a YAML file"
    )
    assert said(tmp_path) == folder
    assert said(tmp_path / "a.zip") == file
    register_format(Format("x", lambda path: False, lambda path: None, looked_for="x/"))
    register_format(
        Format("y", lambda path: False, lambda path: None, looked_for="a .y file", is_file=True)
    )
    assert said(tmp_path) == folder.replace("Looked for", "Looked for x/, for")
    assert said(tmp_path / "a.zip") == file.replace("give", "give x/, a .y file,")


def test_a_folder_whose_sub_folder_is_a_data_set_is_told_so(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.jpg").touch()
    advice = f"; give {tmp_path / 'train'}, whose subfolders contain photos; or give a YAML file"
    assert advice in said(tmp_path)


def said(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        formats.find_layout(path)
    return str(caught.value)

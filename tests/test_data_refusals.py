"""What `check` refuses of a data set, `run` and `train` refuse in the same words."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dscnet.cli import main
from helpers import SMALL_NETWORK

RNG = np.random.default_rng(0)


pytestmark = pytest.mark.usefixtures("untried")


def mask(root: Path, number: int, label: int) -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[8:24, 8:24] = label
    Image.fromarray(labels).save(root / "masks" / f"p{number}.png")


@pytest.fixture
def farm(tmp_path) -> Path:
    """Six photos of cow and sheep with masks; four to train on, two to measure on."""
    for folder in ("images", "masks", "splits"):
        (tmp_path / "farm" / folder).mkdir(parents=True)
    root = tmp_path / "farm"
    for number in range(6):
        pixels = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"p{number}.png")
        mask(root, number, 1 + number % 2)
    rows = "".join(f"p{n},{('cow', 'sheep')[n % 2]}\n" for n in range(6))
    (root / "tags.csv").write_text("image_id,labels\n" + rows)
    (root / "classes.txt").write_text("cow\nsheep\n")
    (root / "splits" / "train.txt").write_text("p0\np1\np2\np3\n")
    (root / "splits" / "val.txt").write_text("p4\np5\n")
    return root


def other_order(root: Path) -> None:
    (root / "classes.txt").write_text("sheep\ncow\n")


def other_order_in_val(root: Path) -> None:
    mask(root, 4, 2)
    mask(root, 5, 1)


def blank_line(root: Path) -> None:
    (root / "classes.txt").write_text("cow\n\nsheep\n")


def only_ignored(root: Path) -> None:
    for number in (4, 5):
        mask(root, number, 255)


def foreign_masks(root: Path) -> None:
    for number in range(6):
        mask(root, number, 0)


def shared_ids(root: Path) -> None:
    (root / "splits" / "val.txt").write_text("p3\np4\n")


def shared_pixels(root: Path) -> None:
    (root / "images" / "p4.png").write_bytes((root / "images" / "p0.png").read_bytes())


def empty_val(root: Path) -> None:
    (root / "splits" / "val.txt").write_text("\n")


def labels_beyond(root: Path) -> None:
    mask(root, 4, 3)


def damaged(root: Path) -> None:
    shutil.rmtree(root / "masks")
    for number in range(2):
        (root / "images" / f"p{number}.png").write_text("no picture")


def too_many(root: Path) -> None:
    (root / "classes.txt").write_text("\n".join(["cow", "sheep", *map(str, range(253))]))


@pytest.mark.parametrize(
    ("spoil", "said", "verb"),
    [
        (other_order, "farm, split train: masks number the classes differently", "run"),
        (other_order_in_val, "farm, split val: masks number the classes differently", "train"),
        (blank_line, "a blank line follows 'cow'", "run"),
        (only_ignored, "farm, split val: no mask contains a class", "train"),
        (foreign_masks, "farm, split train: 4 of 4 masks contain none of the classes", "run"),
        (shared_ids, "1 of 2 validation photos are training photos (p3)", "train"),
        (shared_pixels, "1 of 2 validation photos have the same pixels", "run"),
        (empty_val, "val.txt: lists no photo", "train"),
        (labels_beyond, "p4.png: has labels 3, but 2 classes", "run"),
        (damaged, "p0.png: cannot be decoded", "run"),
        (too_many, "255 classes, but masks have room for 254", "train"),
    ],
)
def test_check_and_training_refuse_the_same(farm, tmp_path, capsys, spoil, said, verb):
    spoil(farm)
    assert main(["check", str(farm)]) == 1
    output = capsys.readouterr()
    told = [x for x in (output.out + output.err).splitlines() if x.startswith("error: ")]
    assert said in told[0]
    assert main([verb, "--data", str(farm), "--out", str(tmp_path / verb)]) == 1
    refusal = capsys.readouterr().err
    assert all(line.removeprefix("error: ") in refusal for line in told)
    assert not (tmp_path / verb).exists()


def test_what_is_spoiled_was_good(farm):
    assert main(["check", str(farm)]) == 0


def test_a_missing_val_list_is_told_by_run_too(farm, tmp_path, capsys, caplog):
    (farm / "splits" / "val.txt").rename(farm / "splits" / "test.txt")
    assert main(["check", str(farm)]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "no split 'val'" in x]
    mask(farm, 0, 9)  # no need to train
    with caplog.at_level("INFO", logger="dscnet"):
        assert main(["run", "--data", str(farm), "--out", str(tmp_path / "run")]) == 1
    assert f"data: {line}" in caplog.text


def test_a_class_without_a_photo_trains_and_keeps_its_number(farm, tmp_path):
    (farm / "classes.txt").write_text("animals\ncow\nsheep\n")
    for number in range(6):
        mask(farm, number, 2 + number % 2)
    assert main(["check", str(farm)]) == 0
    settings = SMALL_NETWORK | {
        "augment.crop_size": 32,
        "augment.long_side": [32, 48],
        "train.iterations": 1,
        "train.batch_size": 2,
        "segment.iterations": 1,
        "segment.batch_size": 2,
    }
    small = [f"--{name}={value}" for name, value in settings.items()]
    assert main(["run", "--data", str(farm), "--out", str(tmp_path / "run"), *small]) == 0

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dscnet.data import scenes
from dscnet.data.scenes import MIN_SHARE, SCENE_CLASSES, Scene, render_scene, write_scenes
from dscnet.files.label_images import voc_palette
from dscnet.types import DataError

SIZE = 64


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [render_scene(np.random.default_rng([3, i]), SIZE) for i in range(200)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(root, num_train=36, num_val=6, size=SIZE, seed=1)
    return root


def split_ids(root: Path, split: str) -> list[str]:
    return (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()


def read_tags(root: Path) -> dict[str, set[str]]:
    with (root / "ImageSets" / "tags.csv").open(newline="") as file:
        return {
            row["image_id"]: set(filter(None, row["labels"].split(";")))
            for row in csv.DictReader(file)
        }


def mask_classes(root: Path, image_id: str) -> set[str]:
    mask = np.asarray(Image.open(root / "SegmentationClass" / f"{image_id}.png"))
    return {SCENE_CLASSES[label - 1] for label in np.unique(mask[mask > 0])}


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def picture(root: Path, image_id: str) -> tuple[bytes, ...]:
    parts = ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "saliency/{}.png")
    return tuple((root / part.format(image_id)).read_bytes() for part in parts)


def test_the_same_generator_state_gives_the_same_scene() -> None:
    first, second = (render_scene(np.random.default_rng(4), SIZE) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)
    assert not np.array_equal(first.image, render_scene(np.random.default_rng(5), SIZE).image)


def test_shapes_types_and_labels(many: list[Scene]) -> None:
    for scene in many:
        assert scene.image.shape == (SIZE, SIZE, 3) and scene.image.dtype == np.uint8
        assert scene.mask.shape == (SIZE, SIZE) and scene.mask.dtype == np.uint8
        assert tuple(np.unique(scene.mask[scene.mask > 0]) - 1) == scene.labels
        assert scene.image.std() > 5


def test_every_class_that_shows_is_large_enough(many: list[Scene]) -> None:
    for scene in many:
        for label in scene.labels:
            assert (scene.mask == label + 1).mean() >= MIN_SHARE


@pytest.mark.parametrize("chosen", range(len(SCENE_CLASSES)))
def test_part_and_body_both_belong_to_the_mask(chosen: int) -> None:
    drawn = [render_scene(np.random.default_rng(i), SIZE, classes=[chosen]) for i in range(8)]
    for scene in drawn:
        assert scene.labels == (chosen,)
        assert not (scene.part & (scene.mask == 0)).any()
    shares = [scene.part.sum() / (scene.mask > 0).sum() for scene in drawn]
    assert 0.04 < np.mean(shares) < 0.4  # the body is most of it: that is what a CAM misses


def test_requested_classes_show_and_objects_are_of_no_other() -> None:
    for i in range(10):
        rng = np.random.default_rng(i)
        assert render_scene(rng, SIZE, classes=[4, 0, 2]).labels == (0, 2, 4)
        negative = render_scene(rng, SIZE, classes=[])
        assert negative.labels == () and not negative.mask.any() and not negative.part.any()


def test_surroundings_tell_the_class_but_not_always(many: list[Scene]) -> None:
    for chosen in range(len(SCENE_CLASSES)):
        inside = [chosen in s.labels for s in many if chosen in s.grounds]
        outside = [chosen in s.labels for s in many if chosen not in s.grounds]
        assert np.mean(inside) > 0.7, SCENE_CLASSES[chosen]
        assert np.mean(outside) < 0.15, SCENE_CLASSES[chosen]
    assert any(set(s.grounds) - set(s.labels) for s in many)
    assert any(set(s.labels) - set(s.grounds) for s in many)


def test_objects_are_in_their_own_surroundings() -> None:
    above = []
    for i in range(40):
        scene = render_scene(np.random.default_rng(i), 32, classes=[0, 1])
        boat, plane = (np.nonzero(scene.mask == label)[0].mean() for label in (1, 2))
        if scene.grounds == (0, 1):  # the sky above the water
            above.append(plane < boat)
    assert len(above) > 15 and all(above)


def test_bodies_share_their_colours_and_grounds_do_not() -> None:
    bodies, grounds = [], []
    for chosen in range(len(SCENE_CLASSES)):
        drawn = [render_scene(np.random.default_rng(i), 32, classes=[chosen]) for i in range(20)]
        bodies.append(np.mean([s.image[(s.mask > 0) & ~s.part].mean(0) for s in drawn], axis=0))
        grounds.append(np.mean([s.image[s.mask == 0].mean(0) for s in drawn], axis=0))
    assert np.std(bodies, axis=0).max() < np.std(grounds, axis=0).min()


def test_one_or_two_classes_and_sometimes_none(many: list[Scene]) -> None:
    counts = np.bincount([len(scene.labels) for scene in many], minlength=3) / len(many)
    assert counts.sum() == pytest.approx(1.0) and len(counts) == 3
    assert 0 < counts[0] < 0.08
    assert counts[2] > 0.2


def test_tags_say_what_the_masks_show(root: Path) -> None:
    tags = read_tags(root)
    assert list(tags) == [f"scene_{i:05d}" for i in range(1, 43)]
    assert split_ids(root, "train") + split_ids(root, "val") == list(tags)
    for image_id, names in tags.items():
        assert names == mask_classes(root, image_id), image_id


def test_every_class_is_in_every_split(root: Path) -> None:
    tags = read_tags(root)
    for split in ("train", "val"):
        assert set().union(*(tags[i] for i in split_ids(root, split))) == set(SCENE_CLASSES)


def test_one_picture_in_33_is_negative(root: Path) -> None:
    assert [i for i, names in read_tags(root).items() if not names] == ["scene_00033"]


def test_files_are_as_voc_has_them(root: Path) -> None:
    assert (root / "classes.txt").read_text().split() == ["background", *SCENE_CLASSES]
    assert "seed=1" in (root / "README.txt").read_text()
    for image_id in read_tags(root):
        with Image.open(root / "JPEGImages" / f"{image_id}.jpg") as photo:
            assert (photo.mode, photo.size) == ("RGB", (SIZE, SIZE))
        with Image.open(root / "SegmentationClass" / f"{image_id}.png") as mask:
            assert (mask.mode, mask.size) == ("P", (SIZE, SIZE))
            used = mask.getpalette()
            assert used is not None and used == voc_palette()[: len(used)]
        with Image.open(root / "saliency" / f"{image_id}.png") as saliency:
            assert (saliency.mode, saliency.size) == ("L", (SIZE, SIZE))


def test_saliency_is_near_the_mask_and_wrong_in_places(root: Path) -> None:
    overlaps = []
    for image_id, names in read_tags(root).items():
        saliency = np.asarray(Image.open(root / "saliency" / f"{image_id}.png")) > 110
        mask = np.asarray(Image.open(root / "SegmentationClass" / f"{image_id}.png")) > 0
        if names:
            overlaps.append((saliency & mask).sum() / (saliency | mask).sum())
        else:
            assert not saliency.any()
    assert 0.6 < np.mean(overlaps) < 0.95
    assert min(overlaps) < 0.75


def test_saliency_misses_the_part_at_times() -> None:
    scene = render_scene(np.random.default_rng(0), 128, classes=[4])
    body = (scene.mask > 0) & ~scene.part
    rng = np.random.default_rng(1)
    maps = [scenes._imperfect_saliency(rng, scene) for _ in range(40)]
    missed = [float(m[scene.part].mean()) < 0.7 * float(m[body].mean()) for m in maps]
    assert 0.1 < np.mean(missed) < 0.6


def test_the_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", num_train=36, num_val=6, size=SIZE, seed=1)
    assert files(tmp_path / "again") == files(root)
    write_scenes(tmp_path / "other", num_train=1, num_val=0, size=SIZE, seed=2)
    assert picture(tmp_path / "other", "scene_00001") != picture(root, "scene_00001")


def test_a_picture_depends_on_its_split_and_place_only(root: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    write_scenes(fewer, num_train=3, num_val=2, size=SIZE, seed=1)
    assert picture(fewer, "scene_00003") == picture(root, "scene_00003")
    assert picture(fewer, "scene_00005") == picture(root, "scene_00038")  # both val's second
    assert picture(fewer, "scene_00004") != picture(root, "scene_00001")  # val's and train's first


def test_a_split_without_pictures_has_no_list(tmp_path: Path) -> None:
    write_scenes(tmp_path / "train_only", num_train=1, num_val=0, size=32)
    lists = tmp_path / "train_only" / "ImageSets" / "Segmentation"
    assert [path.name for path in lists.iterdir()] == ["train.txt"]


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        write_scenes(tmp_path, num_train=1, num_val=1, size=32)
    assert files(tmp_path) == {"keep.txt": b"mine"}


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "deep" / "er"):
        write_scenes(root, num_train=1, num_val=0, size=32)
        assert (root / "JPEGImages" / "scene_00001.jpg").is_file()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(scenes, "_write_scene", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scenes(tmp_path / "scenes", num_train=1, num_val=1, size=32)
    assert not any(tmp_path.iterdir())


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="size must be at least 32, got 31"):
        render_scene(rng, 31)
    for classes in ([6], [-1], [1, 1], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="classes must be at most 3 different values in 0..5"):
            render_scene(rng, SIZE, classes=classes)
    good = {"num_train": 1, "num_val": 1, "size": 32, "seed": 0}
    for name, value in (("num_train", -1), ("num_val", -1), ("size", 8), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name} must be at least .*, got {value}"):
            write_scenes(tmp_path / "x", **(good | {name: value}))
    assert not any(tmp_path.iterdir())

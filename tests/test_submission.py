from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dscnet.cli import main
from dscnet.data.formats import VOC_CLASSES
from dscnet.files.label_images import voc_palette, write_label
from dscnet.predictor import Predictor
from dscnet.submission import check_submission, masks_in, photos_to_submit, submit_voc2012
from dscnet.types import DataError, ModelOutput

HALF = (0.5, 0.5, 0.5)
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
FIRST = f"{FOLDER}/2008_000001.png"
SIZES = {"2008_000001": (4, 6), "2008_000002": (5, 3), "2008_000003": (4, 4)}


class Bright(nn.Module):
    """Label 15 where the photo is bright."""

    def forward(self, image, tags=None):
        scores = torch.zeros(1, 21, *image.shape[-2:])
        scores[:, 15] = image.mean(1)
        return ModelOutput(seg_logits=scores)


@pytest.fixture
def run(monkeypatch):
    """A run whose network needs no training."""

    def from_run(classes=VOC_CLASSES):
        made = Predictor(Bright(), classes, mean=HALF, std=HALF, flip=False)
        monkeypatch.setattr(Predictor, "from_run", lambda root: made)
        return "runs/x"

    return from_run


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOC2012"
    (root / "JPEGImages").mkdir(parents=True)
    for name, (height, width) in SIZES.items():
        image = np.zeros((height, width, 3), np.uint8)
        image[:2] = 255
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.png")
    (root / "JPEGImages/._2008_000001.png").write_bytes(b"\0\5\26\7")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/test.txt").write_text("2008_000002\n2008_000001\n")
    return root


def members(path):
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}


def test_the_archive_has_the_servers_form(voc, run, tmp_path):
    out = tmp_path / "new" / "results.tgz"
    assert submit_voc2012(run(), voc, out) == 2
    files = members(out)
    assert sorted(files) == [FIRST, f"{FOLDER}/2008_000002.png"]
    with Image.open(io.BytesIO(files[FIRST])) as image:
        assert image.mode == "P" and image.size == (6, 4)
        assert image.getpalette()[:63] == voc_palette()[:63]
        assert np.array(image).tolist() == [[15] * 6] * 2 + [[0] * 6] * 2
    assert [path.name for path in out.parent.iterdir()] == ["results.tgz"]


def test_through_the_command_line(voc, run, tmp_path, capsys):
    out, ids = tmp_path / "r.tgz", tmp_path / "ids.txt"
    ids.write_text("2008_000003\n")
    argv = ["submit", "voc2012", "--model", run(), "--images", str(voc), "--out", str(out)]
    assert main([*argv, "--comp", "comp5", "--ids", str(ids)]) == 0
    assert list(members(out)) == [FOLDER.replace("comp6", "comp5") + "/2008_000003.png"]
    check = ["submit", "voc2012", "--check", str(out)]
    assert main(check) == 0
    said = capsys.readouterr().out
    assert f"{out}: ok" in said
    assert "ids were not checked" in said
    assert "it contains 1 masks, the test set has 1,456 photos" in said
    assert main([*check, "--ids", str(ids)]) == 0
    assert "not checked" not in capsys.readouterr().out
    ids.write_text("2008_000003.jpg\n")
    assert main([*check, "--ids", str(ids)]) == 0
    assert main([*check, "--ids", str(ids), "--images", str(voc)]) == 0
    assert main([*check, "--images", str(voc)]) == 1
    said = capsys.readouterr().out
    assert "expected 2 masks, found 1; 2 missing: 2008_000001, 2008_000002" in said
    assert "1 extra: 2008_000003" in said
    assert main(["submit", "voc2012", "--model", "x"]) == 2
    assert "give --images, --out" in capsys.readouterr().err


def test_which_photos_are_submitted(voc):
    def ids(*arguments):
        return [sample.image_id for sample in photos_to_submit(*arguments).samples]

    assert ids(voc) == ["2008_000002", "2008_000001"]
    assert ids(voc / "JPEGImages") == sorted(SIZES)
    (voc / "ImageSets/Segmentation/test.txt").write_text("2008_000009\n")
    with pytest.raises(DataError, match=r"JPEGImages: expected the 1 photos .*found 0; missing"):
        ids(voc)
    (voc / "ImageSets/Segmentation/test.txt").write_text("")
    with pytest.raises(DataError, match=r"test\.txt: expected image ids, one per line, found none"):
        ids(voc)
    (voc / "ImageSets/Segmentation/test.txt").unlink()
    with pytest.raises(DataError, match=r"test\.txt: expected the list .*unpack VOC2012test\.tar"):
        ids(voc)


def test_the_kit_is_found_below_a_folder(voc, tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    voc.rename(tmp_path / "VOCdevkit/VOC2012")
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit/VOC2012"):
        photos = photos_to_submit(root)
        assert [sample.image_id for sample in photos.samples] == ["2008_000002", "2008_000001"]


def test_what_are_no_photos_of_voc_is_refused(voc, tmp_path):
    (voc / "JPEGImages").rename(voc / "photos")
    with pytest.raises(DataError, match=r"VOC2012: expected photos, found none; subfolders are"):
        photos_to_submit(voc)
    for name in ("mask", "2008_00001", "2008_0000011"):
        write_label(voc / "photos" / f"{name}.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match=r"photos: expected VOC ids, .* found other ids: 2008_0000"):
        photos_to_submit(voc / "photos")
    (tmp_path / "ids.txt").write_text("mask\n")
    with pytest.raises(DataError, match=r"ids\.txt: expected VOC ids, .* found other ids: mask"):
        photos_to_submit(voc / "photos", tmp_path / "ids.txt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "got the folder .*folder"),
        ("folder.tgz", "got the folder .*folder.tgz"),
        ("r.zip", r"out must end in \.tgz or \.tar\.gz, got .*r\.zip"),
        ("r", r"out must end in \.tgz"),
        ("r.tar", r"out must end in \.tgz"),
    ],
)
def test_the_archives_name_is_looked_at_first(voc, tmp_path, monkeypatch, name, message):
    for folder in ("folder", "folder.tgz"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(Predictor, "from_run", lambda root: pytest.fail("read the network"))
    with pytest.raises(ValueError, match=message):
        submit_voc2012("runs/x", voc, tmp_path / name)


def test_either_ending_of_an_archive(voc, run, tmp_path):
    assert submit_voc2012(run(), voc, tmp_path / "r.tar.gz") == 2
    assert masks_in(tmp_path / "r.tar.gz") == {"2008_000001", "2008_000002"}


def test_a_network_of_other_classes_is_refused(voc, run, tmp_path):
    with pytest.raises(DataError, match=r"expected a network for VOC's 20 classes .*found 2 \(cat"):
        submit_voc2012(run(("cat", "dog")), voc, tmp_path / "r.tgz")
    with pytest.raises(DataError, match="VOC's 20 classes"):
        submit_voc2012(run(VOC_CLASSES[::-1]), voc, tmp_path / "r.tgz")
    assert not (tmp_path / "r.tgz").exists()


def test_a_broken_photo_leaves_no_archive(voc, run, tmp_path):
    (voc / "JPEGImages/2008_000002.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"some photos .*\n.*2008_000002\.png"):
        submit_voc2012(run(), voc, tmp_path / "new/r.tgz")
    assert list((tmp_path / "new").iterdir()) == []


def png(labels, mode="P", palette=None, kind="PNG"):
    image = Image.fromarray(np.asarray(labels, np.uint8))
    if mode == "P":
        image.putpalette(palette or voc_palette())
    file = io.BytesIO()
    image.convert(mode).save(file, kind)
    return file.getvalue()


GOOD = png(np.zeros((4, 6)))


@pytest.fixture
def save(tmp_path):
    def write(*files):
        path = tmp_path / "results.tgz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path

    return write


def test_a_good_archive(save, tmp_path):
    path = save((FIRST, GOOD))
    assert check_submission(path, ids=["2008_000001"], sizes={"2008_000001": (4, 6)}) == []
    write_label(tmp_path / "own.png", np.full((4, 6), 20, np.uint8))
    own = (FIRST, (tmp_path / "own.png").read_bytes())
    assert check_submission(save(own)) == []
    short = png(np.full((4, 6), 8), palette=voc_palette()[: 3 * 16])
    with Image.open(io.BytesIO(short)) as image:
        assert len(image.getpalette()) == 3 * 16
    assert check_submission(save((FIRST, short))) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", GOOD, "a.png: expected only files results/VOC2012"),
        (f"{FOLDER}/sub/a.png", GOOD, "expected only files"),
        (f"{FOLDER}/._a.png", GOOD, "expected only files"),
        (f"{FOLDER}/a.jpg", GOOD, "a.jpg: expected only files"),
        (f"{FOLDER.replace('comp6', 'comp3')}/2008_000001.png", GOOD, "(or comp5)"),
        (FIRST, png(np.zeros((4, 6)), "L"), "mode P (palette), found PNG of mode L"),
        (FIRST, png(np.zeros((4, 6)), "RGB"), "found PNG of mode RGB"),
        (FIRST, png(np.zeros((4, 6)), "L", kind="JPEG"), "found JPEG of mode L"),
        (FIRST, png(np.zeros((4, 6)), palette=[7] * 768), "VOC's palette, found an"),
        (FIRST, png(np.full((4, 6), 21)), "expected labels 0 to 20, found 21"),
        (FIRST, png(np.full((4, 6), 255)), "expected labels 0 to 20, found 255"),
        (FIRST, png(np.zeros((6, 4))), "expected 6 x 4 pixels, found 4 x 6"),
        (
            FIRST,
            png(np.full((4, 6), 8), palette=voc_palette()[:24]),
            "labels 0 to 8, found 8 colours",
        ),
        (FIRST, b"text", "expected a PNG, found a damaged file"),
        (FIRST, GOOD[:-20], "expected a PNG, found a damaged file"),
    ],
)
def test_a_wrong_mask_is_named(save, name, content, message):
    path = save((name, content), (f"{FOLDER}/2008_000002.png", GOOD))
    problems = check_submission(path, sizes={"2008_000001": (4, 6)})
    assert len(problems) == 1 and name.rpartition("/")[2] in problems[0]
    assert message in problems[0]


def test_missing_extra_and_double_masks_are_named(save):
    path = save(
        *((f"{FOLDER}/{name}.png", GOOD) for name in ("2008_000001", "2008_000001", "2008_000002"))
    )
    problems = check_submission(path, ids=["2008_000002", "2008_000003"])
    assert "2008_000001.png: occurs 2 times" in problems
    assert any("expected 2 masks, found 2; 1 missing: 2008_000003" in line for line in problems)
    assert any("1 extra: 2008_000001" in line for line in problems)


def test_ids_of_another_form_are_named(save):
    strange = f"{FOLDER}/VOC2012__SegmentationClass__2007_000001.png"
    (problem,) = check_submission(save((FIRST, GOOD), (strange, GOOD)))
    assert "results.tgz: expected VOC ids, such as 2008_000001, found other ids: VOC2012" in problem


def test_two_competitions_or_none_are_refused(save):
    both = ((f"{FOLDER.replace('comp6', comp)}/{comp}.png", GOOD) for comp in ("comp5", "comp6"))
    assert any("found both" in line for line in check_submission(save(*both)))
    assert any("expected masks, found none" in line for line in check_submission(save()))


def test_what_is_no_archive_is_an_error(tmp_path, capsys):
    path = tmp_path / "r.tgz"
    path.write_bytes(b"no archive")
    assert main(["submit", "voc2012", "--check", str(path)]) == 1
    assert "r.tgz: expected a .tgz archive, found none" in capsys.readouterr().err
    absent = tmp_path / "absent.tgz"
    for words in ([str(absent)], [str(absent), "--ids", "x.txt"]):
        assert main(["submit", "voc2012", "--check", *words]) == 1
    assert "absent.tgz: expected a .tgz archive, found no such file\n" in capsys.readouterr().err
    with pytest.raises(DataError, match="expected a .tgz archive, found a folder"):
        check_submission(tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:xz", "w:bz2"])
def test_other_archives_are_refused(tmp_path, mode):
    path = tmp_path / "r.tgz"
    (tmp_path / "a.png").write_bytes(GOOD)
    with tarfile.open(path, mode) as archive:
        archive.add(tmp_path / "a.png", FIRST)
    with pytest.raises(
        DataError, match=r"r\.tgz: expected a \.tgz archive, found none \(not a gzip"
    ):
        check_submission(path)

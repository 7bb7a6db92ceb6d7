from __future__ import annotations

import csv
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dscnet.cli import main
from dscnet.data import (
    EvalTransform,
    PhotoDataset,
    check_path,
    image_size,
    make_loader,
    open_dataset,
    open_photos,
    read_image,
    read_mask,
)
from dscnet.data.formats import find_layout
from dscnet.data.photo_places import photo_places
from dscnet.pipeline.job import data_fingerprint
from dscnet.pipeline.runner import run
from dscnet.predictor import predict
from dscnet.types import DataError, DscnetError
from helpers import small_config

PAGE = Path(__file__).parent.parent / "docs" / "data.md"


def encoded(kind="JPEG", mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (20, 16), 1).save(file, kind)
    return file.getvalue()


JPG, PNG, MASK = encoded(), encoded("PNG"), encoded("PNG", "L")


def pack(path, **members):
    """An archive of members; their names have a comma for each dot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            raw = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name.replace(",", "."))
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def tags(path):
    photos = open_dataset(path)
    return {s.image_id: [photos.classes[c] for c in s.tags] for s in photos.samples}


def refusal(path, *names):
    with pytest.raises(DataError) as caught:
        open_dataset(path, *names)
    return str(caught.value)


def test_members_of_a_key_are_one_photo(tmp_path):
    shard = pack(
        tmp_path / "set" / "0.tar",
        **{
            "in/a,JPG": JPG,
            "in/a,txt": "cat; dog",
            "in/a,seg,png": MASK,
            "in/a,saliency,png": MASK,
            "b,jpeg": JPG,
            "b,png": MASK,
            "b,json": '{"labels": ["dog"], "url": "x"}',
            "b,txt": "a caption of a dog",
            "c,png": PNG,
            "c,txt": "",
            "c,depth,npy": b"?",
            "__meta__": "x",
            "__MACOSX/a,jpg": b"",
            ",_b,jpg": b"",
        },
    )
    layout = find_layout(shard.parent)
    assert layout.name == "set"
    photos = {"b": shard / "b.jpeg", "c": shard / "c.png", "in__a": shard / "in/a.JPG"}
    assert layout.photos == photos and list(layout.photos) == sorted(photos)
    assert layout.masks == {"b": shard / "b.png", "in__a": shard / "in/a.seg.png"}
    assert layout.saliency == {"in__a": shard / "in/a.saliency.png"}
    assert tags(shard.parent) == {"b": ["dog"], "c": [], "in__a": ["cat", "dog"]}
    assert read_image(layout.photos["b"]).shape == (3, 16, 20)
    assert read_mask(layout.masks["b"]).unique().tolist() == [1]
    ignored = "2 members of the archives are ignored: .txt (1), .depth.npy (1)"
    assert ignored in layout.notes


def test_numbers_count_the_lines_of_the_class_list(tmp_path):
    members = {"a,jpg": JPG, "a,cls": "1\n", "b,jpg": JPG, "b,cls": "0 2", "c,jpg": JPG}
    shard = pack(tmp_path / "0.tar", **members, **{"c,json": "[0, 2]"})
    assert tags(tmp_path) == {"a": ["1"], "b": ["0", "2"], "c": ["0", "2"]}
    (tmp_path / "classes.txt").write_text("cat\ndog\ncow\n")
    assert tags(tmp_path) == {"a": ["dog"], "b": ["cat", "cow"], "c": ["cat", "cow"]}
    (tmp_path / "classes.txt").write_text("background\ndog\ncow\n")
    assert tags(shard) == {"a": ["dog"], "b": ["cow"], "c": ["cow"]}
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert f"{shard}/b.cls: 2 is not the number of a class (0 to 1, the lines" in refusal(shard)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('["traffic light", "car"]', ["car", "traffic light"]),
        ('{"label": "car"}', ["car"]),
        ('{"tags": ["car", "bus"]}', ["bus", "car"]),
        ('"car;traffic light"', ["car", "traffic light"]),
        ('{"cls": 3}', ["3"]),
        ("null", []),
    ],
)
def test_json_members(tmp_path, text, names):
    more = {"z,jpg": JPG, "z,cls": "other"}
    pack(tmp_path / "0.tar", **{"a,jpg": JPG, "a,json": text}, **more)
    assert tags(tmp_path)["a"] == names


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a,jpg": JPG}, "0.tar/a.jpg: has no tags (1 photos in 0.tar); add a member of its key"),
        ({"a,cls": "1"}, "0.tar: a.cls without a photo; add a.jpg (or another of"),
        ({"b,seg,png": MASK}, "0.tar: b.seg.png without a photo"),
        ({"a,jpg": JPG, "a,webp": JPG}, "0.tar: a.jpg and a.webp are two photos of one key"),
        ({"a,jpg": JPG, "a,JPG": JPG}, "0.tar: a.jpg and a.JPG are two .jpg members of one key"),
        ({"a,jpg": JPG, "a,png": MASK, "a,seg,png": MASK}, "a.png and a.seg.png are two masks of"),
        ({"a/b,jpg": JPG, "a__b,jpg": JPG}, "b.jpg and a__b.jpg are two photos of one key"),
        ({"a,jpg": JPG, "a,json": "{"}, "0.tar/a.json: not valid JSON"),
        ({"a,jpg": JPG, "a,json": '{"url": 1}'}, "0.tar/a.json: expected tags under one of the"),
        ({"a,jpg": JPG, "a,json": "[true]"}, "0.tar/a.json: labels must be names or numbers"),
        ({"a,jpg": JPG, "a,json": '["a, b"]'}, "0.tar/a.json: 'a, b' seems to be several"),
        ({"a,jpg": JPG, "a,cls": "-1"}, "0.tar/a.cls: -1 is not the number of a class"),
        ({"a,jpg": JPG, "a,txt": b"\xff"}, "0.tar/a.txt: is not UTF-8 text"),
        ({"a,npy": b""}, "no photo found"),
    ],
)
def test_refusals(tmp_path, members, said):
    pack(tmp_path / "0.tar", **members)
    assert said in refusal(tmp_path)


def test_unknown_tags_name_the_member(tmp_path):
    pack(tmp_path / "0.tar", **{"a,jpg": JPG, "a,txt": "catt"})
    (tmp_path / "classes.txt").write_text("cat\n")
    assert f"{tmp_path}/0.tar/a.txt: 'catt' is not a class, did you mean" in refusal(tmp_path)


def test_two_shards_with_the_same_key_are_refused(tmp_path):
    for name in ("0.tar", "1.tar"):
        pack(tmp_path / name, **{"a,jpg": JPG, "a,txt": "cat"})
    assert "1.tar/a.jpg and " in refusal(tmp_path) and "same image id 'a'" in refusal(tmp_path)


def test_tags_may_be_in_a_file_beside_the_archives(tmp_path):
    pack(tmp_path / "0.tar", **{"a,jpg": JPG, "b,jpg": JPG})
    (tmp_path / "tags.csv").write_text("image_id,labels\na,cat\n")
    assert tags(tmp_path) == {"a": ["cat"], "b": []}
    pack(tmp_path / "1.tar", **{"c,jpg": JPG, "c,cls": "cat"})
    assert "both contain tags; keep one of them" in refusal(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.tar", "train-1.tar", "val-0.tar"),
        ("pets-training.0.tar", "pets-training.1.tar", "pets-validation.0.tar"),
        ("train/0.tar", "train/1.tar", "val/0.tar"),
    ],
)
def test_names_of_shards_tell_the_split(tmp_path, names):
    for key, name in zip("cab", names, strict=True):
        pack(tmp_path / name, **{f"{key},jpg": JPG, f"{key},txt": "cat"})
    assert [s.image_id for s in open_dataset(tmp_path, "train").samples] == ["a", "c"]
    assert [s.image_id for s in open_dataset(tmp_path, "val").samples] == ["b"]
    assert "its splits are train, val" in refusal(tmp_path, "test")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("b\n")
    assert [s.image_id for s in open_dataset(tmp_path, "train").samples] == ["b"]


def test_a_pattern_may_span_folders(tmp_path):
    for key, name in (("a", "train/0.tar"), ("b", "val/0.tar"), ("c", "other/0.tar")):
        pack(tmp_path / name, **{f"{key},jpg": JPG, f"{key},cls": "0"})
    (tmp_path / "classes.txt").write_text("cat\n")
    pattern = tmp_path / "{train,val}" / "0.tar"
    photos = open_dataset(pattern, "train")
    assert photos.classes == ("cat",) and [s.image_id for s in photos.samples] == ["a"]
    assert f"add it to {tmp_path}/splits: x.txt" in refusal(pattern, "x")


def test_predictions_are_not_written_into_a_folder_of_archives(tmp_path):
    pack(tmp_path / "0.tar", **{"a,jpg": JPG})
    with pytest.raises(DscnetError, match=r"found a data set \(0\.tar\)"):
        predict([str(tmp_path)], "run", tmp_path)


def test_names_that_tell_a_split_only_for_some_shards_are_refused(tmp_path):
    for key, name in zip("abc", ("train-0.tar", "val-0.tar", "1.tar"), strict=True):
        pack(tmp_path / name, **{f"{key},jpg": JPG, f"{key},txt": "cat"})
    assert "others none or several: 1.tar; rename them" in refusal(tmp_path)


def test_patterns_choose_shards(tmp_path):
    for number in range(12):
        pack(tmp_path / f"{number:03}.tar", **{f"{number:02},jpg": JPG, f"{number:02},txt": "cat"})
    for pattern, ids in (
        ("{000..002}.tar", ["00", "01", "02"]),
        ("{008..010}.tar", ["08", "09", "10"]),
        ("00{1,3}.tar", ["01", "03"]),
        ("01*.tar", ["10", "11"]),
        ("005.tar", ["05"]),
    ):
        assert [s.image_id for s in open_dataset(tmp_path / pattern).samples] == ids
        places = photo_places([str(tmp_path / pattern)])
        assert [s.image_id for s in open_photos(*places).samples] == ids
    assert "012.tar: cannot be read" in refusal(tmp_path / "{010..012}.tar")
    assert "no file matches" in refusal(tmp_path / "x*.tar")


def test_compressed_archives_are_pointed_to(tmp_path):
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz"):
        pass
    assert "decompress 0.tar.gz" in refusal(tmp_path)


def test_photos_are_collected_without_tags(tmp_path):
    shard = pack(tmp_path / "0.tar", **{"in/a,jpg": JPG, "b,jpg": JPG, "b,png": MASK})
    for place in (tmp_path, shard):
        assert [s.image_id for s in open_photos(place).samples] == ["b", "in__a"]
    (only,) = open_photos(shard / "in" / "a.jpg").samples
    assert image_size(only.image_path) == (16, 20)


def test_a_damaged_photo_is_named_with_its_shard(tmp_path):
    pack(tmp_path / "0.tar", **{"a,jpg": JPG[:300], "a,txt": "cat", "b,jpg": JPG, "b,txt": "cat"})
    (error,) = check_path(tmp_path).errors
    assert error.startswith(f"{tmp_path}/0.tar/a.jpg: cannot be decoded")


def commands_for(photos):
    """The commands of docs/data.md that make archives of a number of photos."""
    section = PAGE.read_text(encoding="utf-8").split("(WebDataset)\n")[1]
    one, many = section.split("```\n")[1].split("\n\n")
    assert one.startswith("tar --sort=name -cf shards/000000.tar") and "5000" in many
    return many.replace("5000", str(photos))


@pytest.fixture(scope="module")
def shards(scenes, tmp_path_factory) -> Path:
    """The shared scenes in shards, made by the commands of docs/data.md."""
    root = tmp_path_factory.mktemp("shards")
    folder = root / "members"
    folder.mkdir()
    with (scenes / "ImageSets" / "tags.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            (folder / f"{row['image_id']}.txt").write_text(row["labels"], encoding="utf-8")
    for path in (scenes / "JPEGImages").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for path in (scenes / "SegmentationClass").iterdir():
        (folder / f"{path.stem}.seg.png").write_bytes(path.read_bytes())
    out = root / "shards"
    (out / "splits").mkdir(parents=True)
    for split in ("train", "val"):
        lines = (scenes / "ImageSets" / "Segmentation" / f"{split}.txt").read_text(encoding="utf-8")
        (out / "splits" / f"{split}.txt").write_text(lines, encoding="utf-8")
    (out / "classes.txt").write_bytes((scenes / "classes.txt").read_bytes())
    subprocess.run(["bash", "-ec", commands_for(photos=6)], check=True, cwd=root)
    assert len(list(out.glob("*.tar"))) == 2
    return out


def test_shards_have_the_fingerprint_of_their_photos(shards, scenes):
    for split in ("train", "val"):
        marks = {data_fingerprint(open_dataset(p, split), masks=True) for p in (shards, scenes)}
        assert len(marks) == 1


def test_workers_read_what_one_process_reads(shards, scenes):
    def epoch(path, workers):
        half = (0.5, 0.5, 0.5)
        data = PhotoDataset(open_dataset(path, "val"), EvalTransform(half, half), use_masks=True)
        return list(make_loader(data, batch_size=1, seed=0, shuffle=True, num_workers=workers))

    for plain, alone, shared in zip(
        epoch(scenes, 0), epoch(shards, 0), epoch(shards, 2), strict=True
    ):
        for batch in (alone, shared):
            assert batch.ids == plain.ids
            assert torch.equal(batch.image, plain.image) and torch.equal(batch.mask, plain.mask)


def pixels(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(value, second[name]) for name, value in first.items()
    )


def test_a_run_over_shards_is_that_over_the_folder(shards, scenes, tmp_path, capsys):
    """All stages: checks, training, CAMs, refinement by the CRF, labels, network, report."""
    outs = {}
    for name, data, photos in (
        ("plain", scenes, scenes / "JPEGImages"),
        ("packed", shards, shards),
    ):
        out = outs[name] = tmp_path / name
        run(small_config(data, {"refine.steps": ["crf"]}), out, progress=False)
        assert predict([str(photos)], out, tmp_path / f"{name}_predicted") == []
    assert len(pixels(outs["plain"] / "labels")) == 8
    for part in ("labels", "masks"):
        assert same(pixels(outs["plain"] / part), pixels(outs["packed"] / part)), part
    metrics = [json.loads((out / "metrics.json").read_text()) for out in outs.values()]
    for part in ("cam", "pseudo_label", "segmenter", "tags"):
        assert metrics[0][part] == metrics[1][part], part
    pages = [(out / "report.html").read_text(encoding="utf-8") for out in outs.values()]
    assert pages[0].count("<img") == pages[1].count("<img") > 0
    predicted = [pixels(tmp_path / f"{name}_predicted" / "masks") for name in outs]
    assert len(predicted[0]) == 11 and same(*predicted)
    assert len(list((tmp_path / "packed_predicted" / "overlays").glob("*.jpg"))) == 11

    coco = tmp_path / "coco.json"
    argv = ["export", "--format", "coco", "--model", str(outs["packed"]), "--out", str(coco)]
    assert main(argv) == 0, capsys.readouterr().err
    images = json.loads(coco.read_text(encoding="utf-8"))["images"]
    assert {image["file_name"].split("/")[0] for image in images} <= {"000000.tar", "000001.tar"}
    assert main(["check", str(shards)]) == 0, capsys.readouterr().err

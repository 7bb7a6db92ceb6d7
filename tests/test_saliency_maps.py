"""Tests of ``dscnet.prepare.saliency``, with a stand-in for rembg: its weights are a download."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dscnet.cli import main
from dscnet.data.io import read_saliency
from dscnet.prepare.saliency import make_saliency
from dscnet.types import DscnetError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)).save(folder / "a.png")
    Image.new("L", (6, 4), 200).save(folder / "b.png")
    return folder


@pytest.fixture
def rembg(monkeypatch):
    """What rembg answers: the red channel as the map; it notes which network was asked for."""
    asked = []

    def remove(photo, *, session, only_mask):
        assert only_mask and session == "the network"
        return photo.getchannel("R")

    def new_session(name):
        if name == "nothing":
            raise ValueError("No session class found for model 'nothing'")
        asked.append(name)
        return "the network"

    monkeypatch.setitem(
        sys.modules, "rembg", SimpleNamespace(new_session=new_session, remove=remove)
    )
    return asked


def test_a_map_a_photo_of_its_name_and_size(photos, rembg, tmp_path):
    out = tmp_path / "saliency"
    assert main(["saliency", str(photos), "--out", str(out), "--model", "isnet"]) == 0
    assert rembg == ["isnet"]
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]
    red = np.asarray(Image.open(photos / "a.png"))[..., 0] / 255
    np.testing.assert_allclose(read_saliency(out / "a.png")[0].numpy(), red, atol=1e-6)
    assert read_saliency(out / "b.png").shape == (1, 4, 6)


def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_done(photos, rembg, tmp_path):
    (photos / "0.jpg").write_bytes(b"no photo")
    failures = make_saliency(photos, tmp_path / "out")
    assert len(failures) == 1 and "0.jpg" in failures[0]
    assert (tmp_path / "out" / "a.png").exists()


def test_photos_are_not_replaced_by_their_maps(photos, rembg, capsys):
    before = (photos / "a.png").read_bytes()
    for given in (photos, photos / "a.png"):
        assert main(["saliency", str(given), "--out", str(photos)]) == 1
        assert "a.png: expected a file to write, found one of the photos" in capsys.readouterr().err
    assert (photos / "a.png").read_bytes() == before


def test_maps_among_the_photos_are_none_of_them(photos, rembg):
    out = photos / "saliency"
    for _ in ("once", "and again"):
        assert make_saliency(photos, out) == []
        assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]


def test_what_is_missing_is_said(photos, rembg, tmp_path, monkeypatch, capsys):
    with pytest.raises(DscnetError, match="cannot provide its network 'nothing'"):
        make_saliency(photos, tmp_path / "out", model="nothing")
    monkeypatch.setitem(sys.modules, "rembg", None)
    assert main(["saliency", str(photos), "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'dscnet[saliency]'" in capsys.readouterr().err


def test_networks_of_several_maps_are_refused_by_name(photos, rembg, tmp_path, capsys):
    for name in ("u2net_cloth_seg", "sam"):
        out = tmp_path / "out"
        assert main(["saliency", str(photos), "--out", str(out), "--model", name]) == 1
        assert f"--model {name} returns a m" in capsys.readouterr().err
        assert rembg == [] and not out.exists()


def test_a_map_of_another_size_is_a_failure(photos, rembg, tmp_path, monkeypatch):
    def stacked(photo, *, session, only_mask):
        times = 3 if photo.width == 10 else 1
        return Image.new("L", (photo.width, times * photo.height))

    monkeypatch.setattr(sys.modules["rembg"], "remove", stacked)
    (failure,) = make_saliency(photos, tmp_path / "out")
    assert "a.png: network 'u2net' gave 10 x 24 pixels for a photo of 10 x 8" in failure
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


def test_a_map_that_cannot_be_written_does_not_stop_the_others(photos, rembg, tmp_path):
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    (failure,) = make_saliency(photos, tmp_path / "out")
    assert "a.png: its output cannot be written" in failure
    assert (tmp_path / "out" / "b.png").is_file()


def test_linked_photos_get_maps_and_hidden_ones_are_told(photos, rembg, tmp_path, caplog):
    (photos / ".hidden").mkdir()
    Image.new("L", (6, 4)).save(photos / ".hidden" / "c.png")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "trip").symlink_to(photos)
    assert make_saliency(tmp_path / "all", tmp_path / "out") == []
    assert (tmp_path / "out" / "trip__a.png").exists()
    assert "1 hidden or system files" in caplog.text

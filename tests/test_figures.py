from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dscnet.data import open_dataset
from dscnet.data.scenes import write_scenes
from dscnet.tables import figures
from dscnet.tables.figures import draw, write_photos
from dscnet.tables.files import Entry
from dscnet.tables.plots import draw_bars, draw_surface

ENTRIES = [
    Entry(f"SEAM, alpha {a}", f"beta {b}", "%", {} if a == b else {0: 60 + a, 1: 61 + b}, 64.5)
    for a in (1, 2)
    for b in (1, 2)
]


@pytest.mark.parametrize("surface", [False, True])
def test_plots_are_drawn_whatever_is_missing(tmp_path, surface):
    pytest.importorskip("matplotlib")
    for name, entries in (("some", ENTRIES), ("none", [ENTRIES[0]])):
        draw(tmp_path / f"{name}.png", entries, "Figure 6", surface=surface)
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        assert picture.std() > 5, "not an empty page"


def test_nothing_to_draw_is_an_empty_page(tmp_path):
    pytest.importorskip("matplotlib")
    draw_bars(tmp_path / "bars.png", "x", [("val", "%", [("SEAM", None, None, None)])])
    draw_surface(tmp_path / "surface.png", "x", [])
    for name in ("bars", "surface"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 50


def test_without_matplotlib_it_is_said_and_nothing_drawn(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(figures, "can_plot", lambda: False)
    draw(tmp_path / "x.png", ENTRIES, "x")
    assert not list(tmp_path.iterdir())
    assert "dscnet[tables]" in caplog.text


def test_photos_lie_beside_their_masks(tmp_path):
    write_scenes(tmp_path / "scenes", num_train=2, num_val=3, size=64, seed=0)
    photos = open_dataset(tmp_path / "scenes", "val")
    masks = tmp_path / "scenes" / "SegmentationClass"
    write_photos(tmp_path / "photos.png", photos, {"baseline": masks, "M4": masks}, 2)
    sheet = np.asarray(Image.open(tmp_path / "photos.png"))
    # Two rows of four pictures of 64 pixels, with 6 between and a heading of 18.
    assert sheet.shape == (18 + 2 * 70, 6 + 4 * 70, 3)
    truth, baseline = sheet[18:82, 76:140], sheet[18:82, 146:210]
    assert (truth == baseline).all()
    photo = np.asarray(Image.open(photos.samples[0].image_path).convert("RGB"))
    assert (sheet[18:82, 6:70] == photo).all()

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from dscnet.metrics.evaluation import evaluate_cams, evaluate_pairs
from dscnet.report.page import (
    EXTRA,
    MAX_POINTS,
    MAX_SIDE,
    ReportRow,
    downsample,
    line_chart,
    write_report,
)

VOID = {"meta", "img", "br", "path", "circle", "polyline"}


class Page(HTMLParser):
    """What a browser would see: elements, text, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.text, self.elements, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def find(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def make_row(**changes):
    rng = np.random.default_rng(0)
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[2:, 3:] = 2
    values = {
        "image_id": "photo_7",
        "tags": "cow",
        "photo": rng.integers(0, 256, (6, 8, 3), dtype=np.uint8),
        "cam": rng.random((6, 8)),
        "refined": rng.random((6, 8)),
        "pseudo_label": labels,
        "prediction": labels,
        "truth": np.where(labels == 2, np.uint8(255), labels),
    }
    return ReportRow(**(values | changes))


def make_metrics():
    gt = np.array([[0, 0, 0, 2]])
    return {
        "schema": 1,
        "cam": evaluate_cams(
            [(np.array([[[0.0, 0.2, 0.4, 0.9]]]), [1], gt)],
            ["boat", "cow"],
            split="train",
            bg_score=0.3,
        ),
        "pseudo_label": evaluate_pairs([(gt, gt)], ["boat", "cow"], split="train", bg_score=0.3),
        "segmenter": None,
        "tags": {"map": 0.875, "mask_f1": 0.625},
    }


def render(tmp_path, **changes):
    arguments = {
        "title": "a run",
        "metrics": make_metrics(),
        "rows": [make_row()],
        "classes": ["boat", "cow"],
        "curves": {"cls": [(0.0, 0.7), (10.0, 0.25)]},
        "settings": "seed: 0\n",
        "notes": ["one note"],
    }
    path = tmp_path / "report.html"
    write_report(path, **(arguments | changes))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    return Page(path.read_text(encoding="utf-8"))


def picture_of(element):
    head, data = element["src"].split(",", 1)
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_headline_numbers(tmp_path):
    words = render(tmp_path).words
    # IoU of the maps: background 2/3, cow 1/2; at 0.4 both are 1.
    assert "CAM: mIoU 58.3 % 1 photos of train, background threshold 0.3" in words
    assert "best background threshold (chosen on masks): 100.0 % at 0.4" in words
    assert "Pseudo label: mIoU 100.0 %" in words
    assert "Segmentation network: mIoU not measured" in words
    assert "mean average precision 87.5 %" in words
    assert "Agreement of masks with tags: F1 62.5 %" in words
    assert words.count("best background threshold") == 1


def test_the_table_of_classes(tmp_path):
    page = render(tmp_path)
    assert "background 66.7 % 100.0 % not measured" in page.words
    assert "boat not measured not measured not measured" in page.words
    assert "cow 50.0 % 100.0 % not measured" in page.words
    assert "mean 58.3 % 100.0 % not measured" in page.words
    assert [b["style"] for b in page.find("b")] == [
        f"width:{share}%" for share in ("66.7", "100.0", "50.0", "100.0", "58.3", "100.0")
    ]


def test_nothing_measured(tmp_path):
    metrics = dict.fromkeys(("cam", "pseudo_label", "segmenter")) | {"tags": {"map": None}}
    page = render(tmp_path, metrics=metrics, curves={}, rows=[], notes=[])
    assert page.words.count("not measured") == 6
    assert "No photos." in page.words
    assert "No curve was logged" in page.words
    assert not re.search(r"\d %", page.words)


def test_sections_without_photos(tmp_path):
    empty = evaluate_cams([], ["boat"], split="train", bg_score=0.3)
    page = render(tmp_path, metrics={"cam": empty})
    assert "CAM: mIoU not measured" in page.words


def test_the_page_needs_nothing_from_outside(tmp_path):
    page = render(tmp_path)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
    raw = (tmp_path / "report.html").read_text()
    assert "http" not in raw
    assert "url(" not in raw
    assert "@import" not in raw


def test_pictures_of_a_row(tmp_path):
    page = render(tmp_path)
    images = page.find("img")
    assert [image["alt"] for image in images] == [
        "photo photo_7",
        "CAM of photo_7",
        "Refined CAM of photo_7",
        "Pseudo label of photo_7",
        "Prediction of photo_7",
        "Ground truth of photo_7",
    ]
    assert all(picture_of(image).size == (8, 6) for image in images)
    assert "photo_7: cow" in page.words
    # Labels 2 (cow) and 255 are shown; boat is not.
    assert "Photos cow ignored Photo CAM" in page.words


def test_pictures_show_what_they_are_called(tmp_path):
    grey = np.full((64, 64, 3), 100, dtype=np.uint8)
    low, high = np.zeros((64, 64)), np.ones((64, 64))
    row = make_row(
        photo=grey,
        cam=low,
        refined=high,
        pseudo_label=np.full((64, 64), 1, np.uint8),
        prediction=np.full((64, 64), 2, np.uint8),
        truth=np.zeros((64, 64), np.uint8),
    )
    images = render(tmp_path, rows=[row]).find("img")
    means = [np.array(picture_of(image)).mean((0, 1)) for image in images]
    photo, cam, refined, label, prediction, truth = means
    assert abs(photo - 100).max() <= 2
    assert abs(truth - 100).max() <= 2
    assert cam.max() < 50
    assert refined.min() > 130
    assert label.argmax() == 0  # red
    assert prediction.argmax() == 1  # green


def test_labels_that_not_every_run_has_stand_beside_the_others(tmp_path):
    extra = {name: np.full((6, 8), 1, np.uint8) for name in EXTRA}
    page = render(tmp_path, rows=[make_row(**extra)])
    columns = "Label before refinement Pseudo label Label of the last round Prediction"
    assert columns in page.words
    assert "Photos boat cow ignored Photo" in page.words, "boat is in the last round's label alone"


def test_large_photos_are_made_smaller(tmp_path):
    size = (MAX_SIDE, 3 * MAX_SIDE)
    row = make_row(
        photo=np.zeros((*size, 3), np.uint8),
        cam=np.zeros(size),
        refined=None,
        pseudo_label=None,
        prediction=None,
        truth=np.zeros(size, np.uint8),
    )
    for image in render(tmp_path, rows=[row]).find("img"):
        assert max(picture_of(image).size) == MAX_SIDE


def test_what_is_missing_is_said(tmp_path):
    rows = [make_row(refined=None), make_row(refined=None, truth=None, image_id="photo_8")]
    page = render(tmp_path, rows=rows)
    assert "Not available for these photos: Refined CAM." in page.words
    assert len(page.find("img")) == 2 * 5 - 1
    assert page.words.count(" none ") == 1  # in place of the missing ground truth
    columns = "Photo CAM Pseudo label Prediction Ground truth"
    assert columns in page.words


def test_a_label_without_a_name_is_shown_by_number(tmp_path):
    row = make_row(truth=np.full((6, 8), 9, dtype=np.uint8))
    assert "label 9" in render(tmp_path, rows=[row]).words


def test_text_is_escaped(tmp_path):
    nasty = "<script>alert('&amp;')</script>\"x"
    metrics = {"cam": evaluate_pairs([], [nasty], split=nasty)}
    page = render(
        tmp_path,
        title=nasty,
        metrics=metrics,
        rows=[make_row(image_id=nasty, tags=nasty)],
        curves={nasty: [(0.0, 1.0), (1.0, 2.0)]},
        settings=nasty,
        notes=[nasty],
    )
    assert not page.find("script")
    assert page.words.count(nasty) >= 6
    assert page.find("svg")[0]["aria-label"] == f"{nasty} against step"


def test_pictures_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have the size of the photo"):
        write_report(
            tmp_path / "r.html",
            title="",
            metrics={},
            rows=[make_row(cam=np.zeros((3, 3)))],
            classes=["boat", "cow"],
            curves={},
            settings="",
            notes=[],
        )
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------- curves


def points_of(svg):
    text = re.search(r'<polyline[^>]* points="([^"]*)"', svg).group(1)
    return [tuple(float(value) for value in pair.split(",")) for pair in text.split()]


def test_a_curve_spans_its_axes():
    svg = line_chart([(0, 5.0), (10, 1.0), (30, 3.0)], label="cls")
    (x0, y0), (x1, y1), (x2, y2) = points_of(svg)
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 3, abs=1e-3)
    assert (y2 - y0) / (y1 - y0) == pytest.approx(1 / 2, abs=1e-3)
    assert y0 < y1  # pictures count from the top
    assert re.findall(r">([^<>]+)</text>", svg) == ["1", "5", "30", "0", "step"]


@pytest.mark.parametrize("points", [[(3, 2.5)], [(0, 2.5), (1, 2.5)]])
def test_a_flat_curve_is_drawn_in_the_middle(points):
    svg = line_chart(points, label="cls")
    assert all(10 < y < 120 for _, y in points_of(svg))
    assert svg.count(">2.5</text>") == 1


def test_thinning_keeps_means():
    short = [(float(x), x / 2) for x in range(5)]
    assert downsample(short) == short
    long = [(float(x), float(x % 3)) for x in range(3 * MAX_POINTS)]
    assert downsample(long) == [(3 * i + 1.0, 1.0) for i in range(MAX_POINTS)]


def test_what_was_left_out_of_a_curve_is_said(tmp_path):
    curves = {
        "cls": [(0.0, 1.0), (1.0, math.nan), (2.0, 0.5)],
        "er": [(0.0, math.inf)],
        "seg": [(float(x), 1.0) for x in range(2 * MAX_POINTS)],
    }
    page = render(tmp_path, curves=curves)
    assert "last 0.5, 1 values not finite" in page.words
    assert "er no finite value" in page.words
    assert "last 1, each point is the mean of 2 values" in page.words
    assert len(page.find("svg")) == 2

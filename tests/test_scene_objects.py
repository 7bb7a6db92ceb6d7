from __future__ import annotations

import numpy as np
import pytest

from dscnet.data import scene_objects as objects
from dscnet.data.scene_objects import Brush, Canvas

WHITE = Brush((1.0, 1.0, 1.0))
DRAWINGS = (
    *(objects.draw_boat, objects.draw_plane, objects.draw_sheep),
    *(objects.draw_car, objects.draw_house, objects.draw_bird),
)


def test_an_ellipse_covers_its_area() -> None:
    canvas = Canvas(40.0, angle=0.7, stretch=1.2)  # wider and flatter: the same area
    canvas.body(objects.ellipse(0.1, -0.2, 0.6, 0.3), WHITE)
    expected = np.pi * 0.6 * 0.3 * 40**2
    assert canvas.layer().alpha.sum() == pytest.approx(expected, rel=0.03)


def test_edges_are_antialiased_and_colours_are_times_coverage() -> None:
    canvas = Canvas(20.0)
    canvas.body(objects.ellipse(0, 0, 0.8, 0.8), Brush((0.5, 0.5, 0.5)))
    layer = canvas.layer()
    assert set(np.unique(layer.alpha)) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert np.all(layer.colour <= layer.alpha[..., None] * 0.5 * 1.11)
    assert layer.colour[layer.alpha == 1].min() > 0.35


def test_a_turn_is_clockwise_and_a_flip_mirrors() -> None:
    def centroid(**pose: float) -> np.ndarray:
        canvas = Canvas(30.0, **pose)
        canvas.body(objects.box(0.5, -0.1, 0.9, 0.1), WHITE)
        alpha = canvas.layer().alpha
        rows, columns = np.nonzero(alpha)
        return np.float64([columns.mean(), rows.mean()]) + 0.5 - len(alpha) / 2

    assert centroid() == pytest.approx([21, 0], abs=1)
    assert centroid(angle=np.pi / 2) == pytest.approx([0, 21], abs=1)
    assert centroid(flip=True) == pytest.approx([-21, 0], abs=1)
    assert centroid(stretch=1.2) == pytest.approx([25.2, 0], abs=1)


def test_body_painted_over_a_part_hides_it() -> None:
    canvas = Canvas(20.0)
    canvas.part(objects.box(-0.5, -0.5, 0.5, 0.5), WHITE)
    assert canvas.layer().part.sum() == pytest.approx(400, rel=0.1)
    canvas.body(objects.box(-0.5, -0.5, 0.0, 0.5), WHITE)
    assert canvas.layer().part.sum() == pytest.approx(200, rel=0.1)


def test_smooth_cuts_every_corner_three_times() -> None:
    corners = [(-1.0, -0.5), (1.0, -1.0), (0.3, 0.8), (-0.4, 1.0)]
    expected = corners
    for _ in range(3):
        cut = []
        for i, (u, v) in enumerate(expected):
            after_u, after_v = expected[(i + 1) % len(expected)]
            cut.append((0.75 * u + 0.25 * after_u, 0.75 * v + 0.25 * after_v))
            cut.append((0.25 * u + 0.75 * after_u, 0.25 * v + 0.75 * after_v))
        expected = cut
    assert objects.smooth(corners) == pytest.approx(np.float32(expected), abs=1e-6)


def test_patterns_by_hand() -> None:
    u, v = np.float32([0.0, 0.3, 0.6]), np.float32([0.0, 0.0, 0.1])
    assert objects.stripes(0.5)(u, v).tolist() == [1, 0, 1]
    assert objects.stripes(0.5, slope=2.0)(u, v).tolist() == [1, 0, 0]
    assert objects.rings(0, 0, 0.2)(u, v).tolist() == [0, 1, 1]
    assert objects.lattice(0.5, 0.15)(u, v).tolist() == [0, 0, 0]
    assert objects.lattice(0.5, 0.05)(u, v).tolist() == [0, 0, 1]
    around = np.float32([0.1, 1.1, 2.1, 3.1])
    assert objects.spokes(0, 0, 3)(np.cos(around), np.sin(around)).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_parts_are_patterned_and_bodies_plain(draw: objects.Callable[..., None]) -> None:
    part_contrast, body_contrast = [], []
    for seed in range(12):
        canvas = Canvas(40.0)
        draw(canvas, np.random.default_rng(seed))
        layer = canvas.layer()
        body = (layer.alpha == 1) & ~layer.part
        assert 0.03 < layer.part.sum() / (layer.alpha >= 0.5).sum() < 0.4
        assert (layer.alpha > 0)[[0, -1]].sum() + (layer.alpha > 0)[:, [0, -1]].sum() == 0
        part_contrast.append(layer.colour[layer.part].std(0).max())
        body_contrast.append(layer.colour[body].std(0).max())
    assert np.mean(part_contrast) > 1.5 * np.mean(body_contrast)


def test_clutter_has_no_part() -> None:
    for seed in range(20):
        canvas = Canvas(20.0)
        objects.draw_clutter(canvas, np.random.default_rng(seed))
        layer = canvas.layer()
        assert layer.alpha.any() and not layer.part.any()

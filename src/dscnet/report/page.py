"""Self-contained HTML report of a run: metrics, example masks, losses."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from dscnet.files.atomic import whole_file
from dscnet.files.label_images import voc_palette
from dscnet.report.overlay import heat, overlay
from dscnet.types import BACKGROUND, IGNORE_INDEX

STAGES = {"cam": "CAM", "pseudo_label": "Pseudo label", "segmenter": "Segmentation network"}
"""Sections of the metrics with IoU, and their titles."""

PICTURES = {
    "cam": "CAM",
    "refined": "Refined CAM",
    "unrefined_label": "Label before refinement",
    "pseudo_label": "Pseudo label",
    "self_training_label": "Label of the last round",
    "prediction": "Prediction",
    "truth": "Ground truth",
}
"""Pictures in a row next to the photo, and their titles."""

EXTRA = ("unrefined_label", "self_training_label")
"""Pictures that exist only with refinement or self-training."""

MAX_SIDE = 320
"""Maximum longer side of embedded pictures, pixels."""

MAX_POINTS = 200
"""Maximum points of a curve; longer curves are averaged over equal intervals."""


@dataclass(frozen=True)
class ReportRow:
    """A photo and the results of each stage; None = no result.

    Attributes:
        image_id: Image id.
        tags: Its tags, as text.
        photo: ``(H, W, 3)`` uint8 RGB.
        cam: Maximum class score of each pixel, ``(H, W)`` in [0, 1].
        refined: The same for the refined CAM.
        unrefined_label: ``(H, W)`` uint8 labels before the refinement steps.
        pseudo_label: ``(H, W)`` uint8 labels.
        self_training_label: ``(H, W)`` uint8 labels of the last round of self-training.
        prediction: ``(H, W)`` uint8 labels of the segmentation network.
        truth: ``(H, W)`` uint8 ground truth.
    """

    image_id: str
    tags: str
    photo: NDArray[np.uint8]
    cam: NDArray[np.floating] | None
    refined: NDArray[np.floating] | None
    pseudo_label: NDArray[np.uint8] | None
    prediction: NDArray[np.uint8] | None
    truth: NDArray[np.uint8] | None
    unrefined_label: NDArray[np.uint8] | None = None
    self_training_label: NDArray[np.uint8] | None = None


def write_report(
    path: Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    rows: Sequence[ReportRow],
    classes: Sequence[str],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    settings: str,
    notes: Sequence[str],
    timing: Mapping[str, Mapping[str, float | None]] | None = None,
) -> None:
    """Write the report; it loads no external resources.

    Args:
        path: File to write; replaced if it exists.
        title: Heading.
        metrics: As from ``evaluation.read_metrics``; None is shown as "not measured".
        rows: Photos to show, one per row.
        classes: Foreground class names.
        curves: ``(step, value)`` points of each loss term.
        settings: The settings as text.
        notes: Notes for the reader.
        timing: ``seconds``, ``cpu_seconds`` and ``photos_per_second`` by stage; None = unknown.

    Raises:
        ValueError: If a picture and its photo differ in size.
    """
    sections = {stage: metrics.get(stage) for stage in STAGES}
    rounds = metrics.get("rounds") or []
    measured = [name for name in STAGES if any(row[name] for row in rounds)]
    shown = [name for name in PICTURES if any(getattr(row, name) is not None for row in rows)]
    template = _environment().get_template("report.html.j2")
    page = template.render(
        title=title,
        stages=STAGES,
        sections=sections,
        tags=metrics.get("tags") or {},
        rounds=rounds,
        round_stages=measured or list(STAGES),
        class_rows=_class_rows(sections),
        legend=_legend(classes, rows),
        columns=[PICTURES[name] for name in shown],
        absent=[PICTURES[name] for name in PICTURES if name not in (*shown, *EXTRA)],
        refinement=metrics.get("refine"),
        rows=[(row, _data_uri(row.photo), [_picture(row, name) for name in shown]) for row in rows],
        charts=[(name, *_chart(name, points)) for name, points in curves.items()],
        settings=settings,
        notes=notes,
        timing=timing or {},
    )
    with whole_file(Path(path)) as file:
        file.write(page.encode())


def line_chart(points: Sequence[tuple[float, float]], *, label: str) -> Markup:
    """Draw a curve as inline SVG with minimum and maximum marked on the axes.

    Args:
        points: ``(x, y)``, finite, ascending in x; at least one.
        label: Name of the curve, for screen readers.

    Returns:
        An ``<svg>`` element, styled by the page.
    """
    width, height, left, right, top, bottom = 300, 150, 52, 10, 10, 30
    xs, ys = zip(*points, strict=True)
    x_of = _scale(min(xs), max(xs), left, width - right)
    y_of = _scale(min(ys), max(ys), height - bottom, top)
    line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
    y_ticks = "".join(
        f'<path class="grid" d="M{left} {y_of(y):.1f}H{width - right}"/>'
        f'<text x="{left - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{_number(y)}</text>'
        for y in sorted({min(ys), max(ys)})
    )
    below = height - bottom + 16
    x_ticks = "".join(
        f'<text x="{x_of(x):.1f}" y="{below}" text-anchor="{anchor}">{_number(x)}</text>'
        for x, anchor in {max(xs): "end", min(xs): "start"}.items()
    )
    middle = (left + width - right) / 2
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)} against step">'
        f'{y_ticks}{x_ticks}<text x="{middle}" y="{height - 4}" text-anchor="middle">step</text>'
        f'<polyline class="curve" points="{line}"/>'
        f'<circle class="end" cx="{x_of(xs[-1]):.1f}" cy="{y_of(ys[-1]):.1f}" r="3"/></svg>'
    )


def downsample(
    points: Sequence[tuple[float, float]], max_points: int = MAX_POINTS
) -> list[tuple[float, float]]:
    """Average a curve over equal intervals if it has more than ``max_points`` points."""
    if len(points) <= max_points:
        return list(points)
    intervals = np.array_split(np.asarray(points, dtype=np.float64), max_points)
    return [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in intervals)]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dscnet", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["number"] = _rounded
    return environment


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _rounded(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.3g}"


def _scale(low: float, high: float, start: float, end: float) -> Any:
    """Linear function from [low, high] to [start, end]; to the middle if low equals high."""
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _chart(name: str, points: Sequence[tuple[float, float]]) -> tuple[Markup | None, str]:
    """A chart and its caption."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return None, "no finite values"
    averaged = downsample(finite)
    caption = [f"last {_number(averaged[-1][1])}"]
    if len(averaged) < len(finite):
        caption.append(f"each point is the mean of {len(finite) / len(averaged):.0f} values")
    if len(finite) < len(points):
        caption.append(f"{len(points) - len(finite)} values not finite")
    return line_chart(averaged, label=name), ", ".join(caption)


def _class_rows(sections: Mapping[str, Any]) -> list[tuple[str, str, list[float | None]]]:
    """Colour, name and IoU at each stage, for each class in the metrics."""
    ious = [section["iou"] if section else {} for section in sections.values()]
    return [
        (_colour(label), name, [iou.get(name) for iou in ious])
        for label, name in enumerate(_class_names(sections))
    ]


def _class_names(sections: Mapping[str, Any]) -> list[str]:
    """Class names by label, background first, from the first section with metrics."""
    return next((list(section["iou"]) for section in sections.values() if section), [])


def _legend(classes: Sequence[str], rows: Sequence[ReportRow]) -> list[tuple[str, str]]:
    """Colour and name of each label in the pictures, except background."""
    masks = [
        mask
        for row in rows
        for mask in (row.pseudo_label, row.self_training_label, row.prediction, row.truth)
    ]
    shown = {int(label) for mask in masks if mask is not None for label in np.unique(mask)}
    names = dict(enumerate(classes, start=1)) | {IGNORE_INDEX: "ignored"}
    labels = sorted(shown - {BACKGROUND})
    return [(_colour(label), names.get(label, f"label {label}")) for label in labels]


def _colour(label: int) -> str:
    red, green, blue = voc_palette()[3 * label : 3 * label + 3]
    return f"#{red:02x}{green:02x}{blue:02x}"


def _picture(row: ReportRow, name: str) -> str | None:
    """A picture of a row as a data URI; None if there is none."""
    values = getattr(row, name)
    if values is None:
        return None
    if name in ("cam", "refined"):
        return _data_uri(heat(row.photo, values))
    return _data_uri(overlay(row.photo, values, alpha=0.65))


def _data_uri(picture: NDArray[np.uint8]) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

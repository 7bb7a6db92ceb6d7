"""Plots of tables; they need matplotlib (extra ``tables``)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dscnet.files.atomic import whole_file


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


Bar = tuple[str, float | None, float | None, float | None]
"""Row, our mean, our standard deviation, the paper's value; None = missing."""


def draw_bars(path: Path, title: str, panels: Sequence[tuple[str, str, Sequence[Bar]]]) -> None:
    """Draw our and the paper's numbers, one panel per column of a table.

    Args:
        path: PNG to write.
        title: Title of the plot.
        panels: Column, unit and bars; bars without any number are skipped.
    """
    drawn = [
        (name, unit, [bar for bar in bars if bar[1] is not None or bar[3] is not None])
        for name, unit, bars in panels
    ]
    drawn = [panel for panel in drawn if panel[2]]
    most = max((len(bars) for *_, bars in drawn), default=1)
    figure, axes = _figure(len(drawn), height=1.2 + 0.45 * most)
    for axis, (name, unit, bars) in zip(axes, drawn, strict=True):
        for offset, label, colour, place in ((-0.2, "ours", "C0", 1), (0.2, "paper", "0.7", 3)):
            values = [bar[place] for bar in bars]
            errors = [bar[2] or 0.0 for bar in bars] if place == 1 else None
            axis.barh(
                [index + offset for index in range(len(bars))],
                [value or 0.0 for value in values],
                height=0.4,
                xerr=errors,
                color=colour,
                label=label,
            )
        axis.set_yticks(range(len(bars)), [bar[0] for bar in bars])
        axis.invert_yaxis()
        axis.set_xlabel(f"{name} ({unit})")
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    _save(figure, path, title)


def draw_surface(
    path: Path,
    title: str,
    panels: Sequence[tuple[str, Sequence[str], Sequence[str], Sequence[Sequence[float | None]]]],
) -> None:
    """Draw a grid of numbers as a heat map, one panel per base.

    Args:
        path: PNG to write.
        title: Title of the plot.
        panels: Name, row names, column names, and the values row by row; None = not run.
    """
    import numpy as np

    figure, axes = _figure(len(panels), height=4.5)
    for axis, (name, rows, columns, values) in zip(axes, panels, strict=True):
        grid = np.array([[np.nan if v is None else v for v in row] for row in values])
        axis.imshow(np.ma.masked_invalid(grid), cmap="viridis", origin="lower", aspect="auto")
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(rows)), rows)
        axis.set_title(name)
        for (row, column), value in np.ndenumerate(grid):
            text = "not run" if np.isnan(value) else f"{value:.1f}"
            axis.text(column, row, text, ha="center", va="center", backgroundcolor="1")
    _save(figure, path, title)


def _figure(panels: int, *, height: float) -> tuple[Any, list[Any]]:
    # Without pyplot: no global state and no window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * max(1, panels), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, max(1, panels), squeeze=False)[0][:panels])


def _save(figure: Any, path: Path, title: str) -> None:
    figure.suptitle(title)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)

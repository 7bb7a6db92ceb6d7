"""Statistics over runs: means, paired differences, tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MEASURES = (
    "cam.miou",
    "cam.miou_best_bg",
    "cam_strict.miou_best_bg",
    "pseudo_label.miou",
    "segmenter.miou",
    "tags.map",
)
"""Metrics (``SECTION.KEY`` of ``metrics.json``) that are compared, in column order."""

STUDENT_95 = (
    (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    + (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
    + (2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)
)
"""97.5 % quantile of Student's t distribution for 1 to 30 degrees of freedom."""


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean, sample standard deviation and number of seeds of each metric and variant.

    Returns:
        ``{variant: {measure: {"mean": x, "std": y, "seeds": n}}}`` with x, y in [0, 1]; y is None
        for one seed. Metrics that no run has are left out.
    """
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], []).append(row)
    return {
        variant: {
            measure: mean_and_std(values)
            for measure in MEASURES
            if (values := [value for row in own if (value := lookup(row, measure)) is not None])
        }
        for variant, own in by_variant.items()
    }


def paired(
    rows: Iterable[Mapping[str, Any]], base: str
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Difference of each variant from ``base``, paired by seed.

    Returns:
        ``{variant: {measure: {"mean": d, "low": l, "high": h, "seeds": n}}}`` over the n seeds that
        both have; l and h are the 95 % confidence interval (Student's t), None for one seed.
    """
    rows = list(rows)
    differences: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for variant in dict.fromkeys(row["variant"] for row in rows if row["variant"] != base):
        differences[variant] = {}
        for measure in MEASURES:
            ours, theirs = _by_seed(rows, variant, measure), _by_seed(rows, base, measure)
            gains = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
            if gains:
                differences[variant][measure] = _interval(gains)
    return differences


def by_round(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rounds of AuxSegNet or self-training as separate rows, with variant ``NAME, round N``."""
    return [
        {**one, "variant": f"{row['variant']}, round {one['round']}", "seed": row["seed"]}
        for row in rows
        for one in row.get("rounds") or ()
    ]


def gains_of_rounds(
    rows: Iterable[Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Difference of each further round from round 1 of its variant, paired by seed.

    Round 0 is skipped, as it only makes labels.

    Returns:
        As :func:`paired`, by ``NAME, round N``.
    """
    rows = list(rows)
    gains: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        trained = by_round(row for row in rows if row["variant"] == variant)
        gains |= paired([one for one in trained if one["round"] > 0], f"{variant}, round 1")
    return gains


def table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown table of what :func:`summarise` returns, in percent."""
    return _markdown(summary, lambda entry: _spread(entry["mean"], entry["std"], entry["seeds"]))


def difference_table(differences: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown table of what :func:`paired` returns, in percentage points."""
    return _markdown(differences, gain_text)


def _markdown(rows: Mapping[str, Mapping[str, Any]], cell: Callable[[Any], str]) -> str:
    measures = [measure for measure in MEASURES if any(measure in row for row in rows.values())]
    lines = ["| variant | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for variant, row in rows.items():
        cells = [cell(row[measure]) if measure in row else "not run" for measure in measures]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(mean: float, std: float | None, seeds: int) -> str:
    spread = "" if std is None else f" ± {100 * std:.1f}"
    return f"{100 * mean:.1f}{spread} ({seeds})"


def gain_text(entry: Mapping[str, Any]) -> str:
    """Text of an entry of :func:`paired`, in percentage points: mean, interval, seeds."""
    low, high = entry["low"], entry["high"]
    interval = "" if low is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * entry['mean']:+.1f}{interval} ({entry['seeds']})"


def mean_and_std(values: Sequence[float]) -> dict[str, Any]:
    """``mean``, sample ``std`` (None for one value) and their number, ``seeds``."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "seeds": len(values)}


def _interval(gains: Sequence[float]) -> dict[str, float | int | None]:
    mean, count = statistics.fmean(gains), len(gains)
    if count == 1:
        return {"mean": mean, "low": None, "high": None, "seeds": 1}
    reach = student_95(count - 1) * statistics.stdev(gains) / math.sqrt(count)
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "seeds": count}


def student_95(degrees: int) -> float:
    """97.5 % quantile of Student's t distribution."""
    # Beyond the table: the normal distribution, at most 0.08 lower.
    return STUDENT_95[degrees - 1] if degrees <= len(STUDENT_95) else 1.96


def _by_seed(rows: Sequence[Mapping[str, Any]], variant: str, measure: str) -> dict[int, float]:
    values = {r["seed"]: lookup(r, measure) for r in rows if r["variant"] == variant}
    return {seed: value for seed, value in values.items() if value is not None}


def lookup(row: Mapping[str, Any], measure: str) -> float | None:
    """A metric of a row, e.g. ``segmenter.miou``; None if it was not measured."""
    section, key = measure.split(".")
    value = (row.get(section) or {}).get(key)
    return None if value is None else float(value)

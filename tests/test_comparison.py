from __future__ import annotations

import math

import pytest

from dscnet.experiments.comparison import (
    STUDENT_95,
    by_round,
    difference_table,
    gains_of_rounds,
    paired,
    student_95,
    summarise,
    table,
)


def row(variant: str, seed: int, miou: float | None) -> dict:
    section = None if miou is None else {"miou": miou / 2, "miou_best_bg": miou}
    return {"variant": variant, "seed": seed, "cam": section, "tags": {"map": None}}


def test_summary_is_mean_and_sample_deviation():
    summary = summarise([row("M1", 0, 0.5), row("M1", 1, 0.7), row("M2", 0, 0.4)])
    assert summary["M1"]["cam.miou_best_bg"] == {
        "mean": pytest.approx(0.6),
        "std": pytest.approx(0.1 * 2**0.5),
        "seeds": 2,
    }
    assert summary["M2"]["cam.miou_best_bg"]["std"] is None


def test_what_was_not_measured_is_left_out():
    assert summarise([row("M1", 0, None)]) == {"M1": {}}


def test_table_says_not_run():
    text = table(summarise([row("M1", 0, 0.5), row("M2", 0, None)]))
    assert "| M1 | 25.0 (1) | 50.0 (1) |" in text
    assert "| M2 | not run | not run |" in text


def test_differences_are_taken_seed_by_seed():
    rows = [row("base", 0, 0.5), row("base", 1, 0.3), row("base", 2, 0.9)]
    rows += [row("M1", 1, 0.35), row("M1", 0, 0.57)]
    gain = paired(rows, "base")["M1"]["cam.miou_best_bg"]
    assert (gain["mean"], gain["seeds"]) == (pytest.approx(0.06), 2)
    reach = 12.706 * 0.01 * 2**0.5 / 2**0.5
    assert gain["high"] - 0.06 == pytest.approx(reach)
    assert 0.06 - gain["low"] == pytest.approx(reach)
    assert "+6.0 [-6.7, +18.7] (2)" in difference_table(paired(rows, "base"))


def test_one_seed_has_no_interval_and_a_failed_run_no_difference():
    rows = [row("base", 0, 0.5), row("M1", 0, 0.6), {"variant": "M2", "seed": 0, "error": "x"}]
    gains = paired(rows, "base")
    assert gains["M1"]["cam.miou_best_bg"]["low"] is None
    assert gains["M2"] == {}
    assert "| M1 | +5.0 (1) | +10.0 (1) |" in difference_table(gains)


def run_of_rounds(variant: str, seed: int, *mious: float) -> dict:
    rounds = [{"round": i, "cam": None, "segmenter": {"miou": v}} for i, v in enumerate(mious)]
    return {"variant": variant, "seed": seed, "rounds": rounds}


def test_rounds_are_rows_of_their_own():
    rows = by_round([run_of_rounds("M4", 3, 0.2, 0.4), row("M1", 0, 0.5)])
    assert [(r["variant"], r["seed"]) for r in rows] == [("M4, round 0", 3), ("M4, round 1", 3)]
    assert "| M4, round 1 | 40.0 (1) |" in table(summarise(rows))


def test_rounds_are_held_against_the_first_training_of_their_variant():
    rows = [run_of_rounds("base", seed, 0.1, 0.5, 0.5 + gain) for seed, gain in ((0, 0), (1, 0.1))]
    rows += [run_of_rounds("M4", 0, 0.1, 0.6, 0.55, 0.7), row("M1", 0, 0.5)]
    gains = {name: own["segmenter.miou"] for name, own in gains_of_rounds(rows).items()}
    assert list(gains) == ["base, round 2", "M4, round 2", "M4, round 3"]
    assert gains["base, round 2"]["mean"] == pytest.approx(0.05)
    assert gains["base, round 2"]["seeds"] == 2
    assert gains["M4, round 2"]["mean"] == pytest.approx(-0.05)


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 19, 30])
def test_student_bounds_hold_95_percent(degrees):
    assert len(STUDENT_95) == 30
    # Simpson's rule on the density, in the angle that makes its support finite.
    bound = math.atan(student_95(degrees) / math.sqrt(degrees))
    steps = 2000
    heights = [math.cos(bound * i / steps) ** (degrees - 1) for i in range(steps + 1)]
    area = heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
    area *= bound / steps / 3
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(math.pi)
    assert 2 * scale * area == pytest.approx(0.95, abs=1e-4)


def test_many_seeds_use_the_normal_bound():
    assert student_95(31) == 1.96

from __future__ import annotations

import csv
import io

import pytest

from dscnet.tables.files import Entry, long_rows, to_csv, to_markdown

ENTRIES = [
    Entry("CPN", "val", "%", {}, 67.8, published=True),
    # Mean 62, deviations -2, 0, 2: the sample's deviation is sqrt(8 / 2) = 2.
    Entry("SEAM", "val", "%", {0: 60.0, 1: 62.0, 2: 64.0}, 64.5),
    Entry("DSCNet+SEAM", "val", "%", {1: 65.0}, 67.7),
    Entry("AuxSegNet", "val", "%", {}, 69.0),
    # Mean 0.75, deviations 0.25: sqrt(0.125) = 0.35355.
    Entry("SEAM", "seconds", "s", {0: 0.5, 1: 1.0}),
]


def test_mean_and_deviation_by_hand():
    assert (ENTRIES[1].mean, ENTRIES[1].std) == (pytest.approx(62), pytest.approx(2))
    assert (ENTRIES[2].mean, ENTRIES[2].std) == (65, None)
    assert (ENTRIES[3].mean, ENTRIES[3].std) == (None, None)


def test_the_csv_has_a_number_a_line_and_only_what_there_is():
    rows = list(csv.DictReader(io.StringIO(to_csv(long_rows("II", ENTRIES)))))
    found = {(r["row"], r["column"], r["seed"]): float(r["value"]) for r in rows}
    assert found == {
        ("CPN", "val", "published"): 67.8,
        ("SEAM", "val", "0"): 60,
        ("SEAM", "val", "1"): 62,
        ("SEAM", "val", "2"): 64,
        ("SEAM", "val", "mean"): 62,
        ("SEAM", "val", "std"): 2,
        ("SEAM", "val", "paper"): 64.5,
        ("DSCNet+SEAM", "val", "1"): 65,
        ("DSCNet+SEAM", "val", "mean"): 65,
        ("DSCNet+SEAM", "val", "paper"): 67.7,
        ("AuxSegNet", "val", "paper"): 69,
        ("SEAM", "seconds", "0"): 0.5,
        ("SEAM", "seconds", "1"): 1,
        ("SEAM", "seconds", "mean"): 0.75,
        ("SEAM", "seconds", "std"): pytest.approx(0.125**0.5),
    }
    assert {(r["table"], r["unit"]) for r in rows} == {("II", "%"), ("II", "s")}


def test_the_markdown_has_ours_beside_the_papers():
    text = to_markdown("Table II: x", ENTRIES, ["Paper: y."])
    assert text.splitlines() == [
        "# Table II: x",
        "",
        "|  | val, ours | val, paper | seconds, ours |",
        "|---|---|---|---|",
        "| CPN | - | 67.8 | - |",
        "| SEAM | 62.0 ± 2.0 (3) | 64.5 | 0.75 ± 0.3536 (2) |",
        "| DSCNet+SEAM | 65.0 (1) | 67.7 | - |",
        "| AuxSegNet | not run | 69.0 | - |",
        "",
        "- Paper: y.",
    ]

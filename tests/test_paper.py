from __future__ import annotations

import pytest

from dscnet.tables.paper import paper_table
from dscnet.tables.specs import BASES, TABLES, table_spec


@pytest.mark.parametrize(
    ("name", "row", "column", "value"),
    [
        ("II", "OAA+ [ICCV19], ResNet101", "val", 65.2),
        ("II", "ICD [CVPR20], ResNet101", "test", 68.0),
        ("II", "EDAM [CVPR21], ResNet38", "val", 70.9),
        ("II", "DSCNet+SEAM", "test", 68.5),
        ("II", "DSCNet+AuxSegNet", "test", 71.1),
        ("III", "IAL [IJCV20], VGG16", "val", 20.4),
        ("III", "DSCNet+AuxSegNet", "val", 35.8),
        ("IV", "SEAM +M2", "val", 65.4),
        ("IV", "AuxSegNet +M1", "val", 69.6),
        ("V", "SEAM", "pixels s/iteration", 1.84),
        ("V", "AuxSegNet", "groups s/iteration", 1.51),
        ("V", "AuxSegNet", "groups val", 69.7),
    ],
)
def test_numbers_are_the_papers(name, row, column, value):
    assert paper_table(name).value(row, column) == value


def test_quoted_rows_are_marked_and_unknown_ones_have_no_number():
    assert [row.published for row in paper_table("II").rows] == [True] * 11 + [False] * 4
    assert [row.published for row in paper_table("III").rows] == [True] * 5 + [False] * 4
    assert paper_table("II").value("SEAM", "train") is None
    assert paper_table("II").value("nothing", "val") is None


def test_the_gains_that_the_paper_prints_follow_from_its_rows():
    """Its tables print each gain beside the number: a check of both readings."""
    gains = {"+M1": 1.6, "+M2": 0.9, "+M3": 2.1, "+M4": 3.2}
    ablation = paper_table("IV")
    for name, gain in gains.items():
        found = ablation.value(f"SEAM {name}", "val") - ablation.value("SEAM", "val")
        assert found == pytest.approx(gain)
    for name, gain in {"+M1": 0.6, "+M2": 0.4, "+M3": 0.9, "+M4": 1.3}.items():
        found = ablation.value(f"AuxSegNet {name}", "val") - ablation.value("AuxSegNet", "val")
        assert found == pytest.approx(gain)
    for table, base, column, gain in (
        ("II", "SEAM", "val", 3.2),
        ("II", "SEAM", "test", 2.8),
        ("II", "AuxSegNet", "val", 1.3),
        ("II", "AuxSegNet", "test", 2.5),
        ("III", "SEAM", "val", 2.7),
        ("III", "AuxSegNet", "val", 1.9),
    ):
        rows = paper_table(table)
        found = rows.value(f"DSCNet+{base}", column) - rows.value(base, column)
        assert found == pytest.approx(gain)


def test_the_optimum_of_figure_6():
    assert paper_table("figure6").optimum == {"pgcl_weight": 0.6, "sgcl_weight": 0.4}


@pytest.mark.parametrize("name", TABLES)
def test_our_rows_and_columns_are_called_as_the_papers(name):
    spec, paper = table_spec(name), paper_table(name)
    numbers = [number for base in BASES for number in spec.numbers(base)]
    assert {number.column for number in numbers} <= set(spec.columns)
    assert {number.variant for number in numbers} == set(spec.variants)
    if name != "figure6":
        assert {number.row for number in numbers} == {r.row for r in paper.rows if not r.published}
    assert {column for row in paper.rows for column in row.values} <= set(spec.columns)
